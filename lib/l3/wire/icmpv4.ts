// ICMP (RFC 792) at buf[t]:  0 type   1 code   2 checksum   4 rest of header (id and sequence; next-hop MTU)   8 body

import { putU16 } from '../../core/index.js';
import { checksum } from './checksum.js';

export const ICMP_HEADER = 8;

export const Icmp4 = {
  echoReply: 0,
  unreachable: 3,
  sourceQuench: 4,
  redirect: 5,
  echoRequest: 8,
  timeExceeded: 11,
  parameterProblem: 12,
} as const;

/** Codes of Icmp4.unreachable (RFC 792, RFC 1122 §3.2.2.1, RFC 1812 §5.2.7.1). */
export const Unreachable4 = { net: 0, host: 1, protocol: 2, port: 3, fragmentationNeeded: 4, prohibited: 13 } as const;

/** RFC 1812 §4.3.2.7 lists them: an ICMP error is never answered with another. Unknown types count as errors. */
export function isIcmp4Error(type: number): boolean {
  switch (type) {
    case Icmp4.echoReply:
    case Icmp4.echoRequest:
    case 13: // timestamp
    case 14:
    case 9: // router advertisement and solicitation
    case 10:
      return false;
    default:
      return true;
  }
}

/** Completes the checksum of the message at buf[t, end). */
export function putIcmp4Checksum(buf: Uint8Array, t: number, end: number): void {
  putU16(buf, t + 2, 0);
  putU16(buf, t + 2, checksum(buf, t, end));
}

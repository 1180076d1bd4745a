// ICMPv6 (RFC 4443) at buf[t]:  0 type   1 code   2 checksum with pseudo-header   4 rest of header (id and sequence; MTU)   8 body

import { putU16 } from '../../core/index.js';
import { checksum, pseudoSum6 } from './checksum.js';
import { Protocol } from './protocol.js';

export const Icmp6 = {
  unreachable: 1,
  packetTooBig: 2,
  timeExceeded: 3,
  parameterProblem: 4,
  echoRequest: 128,
  echoReply: 129,
} as const;

/** Codes of Icmp6.unreachable (RFC 4443 §3.1). */
export const Unreachable6 = { noRoute: 0, prohibited: 1, address: 3, port: 4 } as const;

/** Types below 128 are errors (RFC 4443 §2.1); a redirect (137) must not be answered either (§2.4 (e.2)). */
export function isIcmp6Error(type: number): boolean {
  return type < 128 || type === 137;
}

/** Completes the checksum of the message at buf[t, end) of the packet at `p`. */
export function putIcmp6Checksum(buf: Uint8Array, p: number, t: number, end: number): void {
  putU16(buf, t + 2, 0);
  putU16(buf, t + 2, checksum(buf, t, end, pseudoSum6(buf, p, Protocol.icmpv6, end - t)));
}

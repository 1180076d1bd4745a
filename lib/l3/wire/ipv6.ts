// The IPv6 header and its extension headers (RFC 8200) at buf[p]. Readers assume that `isIpv6` held once.
//
//      0  version, traffic class, flow label   4  payload length   6  next header   7  hop limit   8  source   24  destination

import { getU16, putU16, putU32 } from '../../core/index.js';
import { Protocol } from './protocol.js';

export const IPV6_HEADER = 40;

/** Every IPv6 link carries packets of this size (RFC 8200 §5). */
export const IPV6_MIN_MTU = 1280;

/** Extension headers looked through before a packet counts as unreadable; RFC 8504 §5.3 lets a node set such a limit. */
const MAX_EXTENSIONS = 8;

export const payloadLength6 = (buf: Uint8Array, p: number): number => getU16(buf, p + 4);
export const nextHeader6 = (buf: Uint8Array, p: number): number => buf[p + 6]!;
export const hopLimit6 = (buf: Uint8Array, p: number): number => buf[p + 7]!;

/** Version and payload length fit a packet of exactly `length` bytes. */
export function isIpv6(buf: Uint8Array, p: number, length: number): boolean {
  return length >= IPV6_HEADER && buf[p]! >>> 4 === 6 && payloadLength6(buf, p) + IPV6_HEADER === length;
}

/**
 * Finds the upper-layer header behind all extension headers: protocol * 0x10000 + its offset from `p`. The protocol is
 * Protocol.fragment for a fragment other than the first (RFC 8200 §4.5: there is no upper-layer header in it), and the
 * result -1 where the chain does not end in the packet.
 */
export function upperLayer6(buf: Uint8Array, p: number, length: number): number {
  let next = buf[p + 6]!;
  let at = IPV6_HEADER;
  for (let i = 0; i <= MAX_EXTENSIONS; i++) {
    switch (next) {
      case Protocol.hopByHop:
      case Protocol.routing:
      case Protocol.destinationOptions:
        if (at + 8 > length) return -1;
        next = buf[p + at]!;
        at += (buf[p + at + 1]! + 1) << 3;
        break;
      case Protocol.authentication: // RFC 4302 §2.2: length in 4-octet units, minus 2
        if (at + 8 > length) return -1;
        next = buf[p + at]!;
        at += (buf[p + at + 1]! + 2) << 2;
        break;
      case Protocol.fragment:
        if (at + 8 > length) return -1;
        if ((getU16(buf, p + at + 2) & 0xfff8) !== 0) return Protocol.fragment * 0x10000 + at;
        next = buf[p + at]!;
        at += 8;
        break;
      default:
        return at > length ? -1 : next * 0x10000 + at;
    }
    if (at > length) return -1;
  }
  return -1;
}

/** Writes a header with flow label and traffic class 0. `length` is that of the whole packet. */
export function putIpv6(
  buf: Uint8Array,
  p: number,
  next: number,
  length: number,
  source: Uint8Array,
  destination: Uint8Array,
  hopLimit: number,
): void {
  putU32(buf, p, 0x60000000);
  putU16(buf, p + 4, length - IPV6_HEADER);
  buf[p + 6] = next;
  buf[p + 7] = hopLimit;
  buf.set(source, p + 8);
  buf.set(destination, p + 24);
}

// The IPv4 header (RFC 791 §3.1) at buf[p]. Readers assume that `isIpv4` held once.
//
//      0  version, IHL     1  DSCP, ECN    2  total length     4  identification   6  flags, fragment offset
//      8  TTL              9  protocol    10  checksum        12  source          16  destination       20  options

import { getU16, getU32, putU16 } from '../../core/index.js';
import { checksum, updateChecksum } from './checksum.js';

export const IPV4_HEADER = 20;

/** Every IPv4 host takes packets of this size (RFC 791 §3.1), and no link may ask for fragments below 68 (§3.2). */
export const IPV4_MIN_MTU = 68;

const DONT_FRAGMENT = 0x40;
const MORE_FRAGMENTS = 0x20;

export const headerLength4 = (buf: Uint8Array, p: number): number => (buf[p]! & 0x0f) << 2;
export const totalLength4 = (buf: Uint8Array, p: number): number => getU16(buf, p + 2);
export const identification4 = (buf: Uint8Array, p: number): number => getU16(buf, p + 4);
export const ttl4 = (buf: Uint8Array, p: number): number => buf[p + 8]!;
export const protocol4 = (buf: Uint8Array, p: number): number => buf[p + 9]!;
export const source4 = (buf: Uint8Array, p: number): number => getU32(buf, p + 12);
export const destination4 = (buf: Uint8Array, p: number): number => getU32(buf, p + 16);
export const dontFragment4 = (buf: Uint8Array, p: number): boolean => (buf[p + 6]! & DONT_FRAGMENT) !== 0;
export const moreFragments4 = (buf: Uint8Array, p: number): boolean => (buf[p + 6]! & MORE_FRAGMENTS) !== 0;
/** In bytes. */
export const fragmentOffset4 = (buf: Uint8Array, p: number): number => (getU16(buf, p + 6) & 0x1fff) << 3;
/** True for every piece of a fragmented packet. */
export const isFragment4 = (buf: Uint8Array, p: number): boolean => (getU16(buf, p + 6) & 0x3fff) !== 0;

/** Version, header length and total length fit a packet of exactly `length` bytes. */
export function isIpv4(buf: Uint8Array, p: number, length: number): boolean {
  if (length < IPV4_HEADER || buf[p]! >>> 4 !== 4) return false;
  const header = headerLength4(buf, p);
  return header >= IPV4_HEADER && header <= length && totalLength4(buf, p) === length;
}

/** The header's checksum is right. */
export function checksumOk4(buf: Uint8Array, p: number): boolean {
  if ((buf[p]! & 0x0f) !== 5) return checksum(buf, p, p + headerLength4(buf, p)) === 0;
  const sum =
    getU16(buf, p) +
    getU16(buf, p + 2) +
    getU16(buf, p + 4) +
    getU16(buf, p + 6) +
    getU16(buf, p + 8) +
    getU16(buf, p + 10) +
    getU16(buf, p + 12) +
    getU16(buf, p + 14) +
    getU16(buf, p + 16) +
    getU16(buf, p + 18);
  // Ten words: at most nine carries, so one fold may leave 0x10000 only if the low half was 0xffff, which is no zero.
  return (sum & 0xffff) + (sum >>> 16) === 0xffff;
}

export function putChecksum4(buf: Uint8Array, p: number): void {
  putU16(buf, p + 10, 0);
  putU16(buf, p + 10, checksum(buf, p, p + headerLength4(buf, p)));
}

/** Decrements the TTL, which must not be 0, and mends the checksum (RFC 1624). */
export function decrementTtl4(buf: Uint8Array, p: number): void {
  const before = (buf[p + 8]! << 8) | buf[p + 9]!;
  putU16(buf, p + 10, updateChecksum(getU16(buf, p + 10), before, before - 0x100));
  buf[p + 8]!--;
}

/** Writes a header without options; identification 0 and DF set: such a packet is never fragmented (RFC 6864 §4.1). */
export function putIpv4(
  buf: Uint8Array,
  p: number,
  protocol: number,
  length: number,
  source: Uint8Array,
  destination: Uint8Array,
  ttl: number,
): void {
  buf[p] = 0x45;
  buf[p + 1] = 0;
  putU16(buf, p + 2, length);
  putU16(buf, p + 4, 0);
  putU16(buf, p + 6, DONT_FRAGMENT << 8);
  buf[p + 8] = ttl;
  buf[p + 9] = protocol;
  buf.set(source, p + 12);
  buf.set(destination, p + 16);
  putChecksum4(buf, p);
}

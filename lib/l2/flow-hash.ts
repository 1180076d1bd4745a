// Core: one number per flow, from the packet itself. Fragments hash by their addresses only, so all of a datagram's
// fragments stay together (and with nothing else in order, which is right).

import { getU16, getU32, HEADER } from '../core/index.js';

const TCP = 6;
const UDP = 17;

/**
 * Hash of the flow of the packet whose frame starts at `off`; any bytes give some number. With a `seed` that nobody else knows nobody can
 * choose ports whose flow shares its hash with another's.
 */
export function flowHash(buf: Uint8Array, off: number, length: number, seed = 0): number {
  const ip = off + HEADER;
  if (length < 20) return 0;
  const version = buf[ip]! >>> 4;
  let h: number;
  let protocol: number;
  let l4: number;
  if (version === 4) {
    h = Math.imul(getU32(buf, ip + 12) ^ seed, 0x9e3779b1) ^ Math.imul(getU32(buf, ip + 16) ^ seed, 0x85ebca77);
    protocol = buf[ip + 9]!;
    l4 = ip + (buf[ip]! & 15) * 4;
    if ((getU16(buf, ip + 6) & 0x3fff) !== 0) l4 = Number.POSITIVE_INFINITY; // a fragment
  } else if (version === 6 && length >= 40) {
    h = seed;
    for (let i = 8; i < 40; i += 4) h = Math.imul(h ^ getU32(buf, ip + i), 0x9e3779b1);
    protocol = buf[ip + 6]!;
    l4 = ip + 40;
  } else return 0;
  h ^= Math.imul(protocol, 0xc2b2ae3d);
  if ((protocol === TCP || protocol === UDP) && l4 + 4 <= ip + length)
    h ^= Math.imul(getU32(buf, l4) ^ seed, 0x27d4eb2f);
  h ^= h >>> 15;
  h = Math.imul(h, 0x2c1b3c6d);
  h ^= h >>> 13;
  return h >>> 0;
}

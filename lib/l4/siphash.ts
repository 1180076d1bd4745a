// SipHash-2-4 (Aumasson and Bernstein 2012), the keyed hash behind initial sequence numbers, ports and SYN cookies.
//
// 64-bit words are pairs of 32-bit integers (high, low) in locals; the message is a list of 32-bit words, which all
// users here have. Returns the low and the high half through `out`, so nothing is allocated.

import type { Random } from '../core/index.js';

/** 128 bits of secret as four words. */
export type SipKey = Int32Array;

export function sipKey(random: Random): SipKey {
  const bytes = new Uint8Array(16);
  random.fill(bytes);
  return new Int32Array(bytes.buffer);
}

const v = new Int32Array(8);

/** v[i] += v[j] for 64-bit lanes whose low half is at an even index. */
function add(i: number, j: number): void {
  const low = (v[i]! >>> 0) + (v[j]! >>> 0);
  v[i] = low;
  v[i + 1] = v[i + 1]! + v[j + 1]! + (low > 0xffffffff ? 1 : 0);
}

/** v[i] = rotl(v[i], bits) ^ v[j]; bits below 32. */
function rotateXor(i: number, bits: number, j: number): void {
  const low = v[i]!;
  const high = v[i + 1]!;
  v[i] = ((low << bits) | (high >>> (32 - bits))) ^ v[j]!;
  v[i + 1] = ((high << bits) | (low >>> (32 - bits))) ^ v[j + 1]!;
}

function swap(i: number): void {
  const low = v[i]!;
  v[i] = v[i + 1]!;
  v[i + 1] = low;
}

function round(): void {
  add(0, 2);
  rotateXor(2, 13, 0);
  swap(0);
  add(4, 6);
  rotateXor(6, 16, 4);
  add(0, 6);
  rotateXor(6, 21, 0);
  add(4, 2);
  rotateXor(2, 17, 4);
  swap(4);
}

/** Hash of words[0, count). `out[0]` is the low half of the result, `out[1]` the high half. */
export function sipHash(key: SipKey, words: ArrayLike<number>, count: number, out: Int32Array): void {
  const [k0, k1, k2, k3] = [key[0]!, key[1]!, key[2]!, key[3]!];
  v[0] = k0 ^ 0x70736575;
  v[1] = k1 ^ 0x736f6d65;
  v[2] = k2 ^ 0x6e646f6d;
  v[3] = k3 ^ 0x646f7261;
  v[4] = k0 ^ 0x6e657261;
  v[5] = k1 ^ 0x6c796765;
  v[6] = k2 ^ 0x79746573;
  v[7] = k3 ^ 0x74656462;
  let i = 0;
  for (; i + 1 < count; i += 2) absorb(words[i]!, words[i + 1]!);
  // The last block: the rest of the message, and its length in bytes in the top byte.
  absorb(i < count ? words[i]! : 0, (4 * count) << 24);
  v[4] = v[4]! ^ 0xff;
  round();
  round();
  round();
  round();
  out[0] = v[0]! ^ v[2]! ^ v[4]! ^ v[6]!;
  out[1] = v[1]! ^ v[3]! ^ v[5]! ^ v[7]!;
}

function absorb(low: number, high: number): void {
  v[6] = v[6]! ^ low;
  v[7] = v[7]! ^ high;
  round();
  round();
  v[0] = v[0]! ^ low;
  v[1] = v[1]! ^ high;
}

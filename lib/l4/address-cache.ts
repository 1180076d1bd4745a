// Addresses as arrays that many connections share: two small arrays for each of them would cost more than the rest of its
// configuration. A cache, not a table: what falls out is only made once more.

import { copyOf } from './bytes.js';

const SLOTS = 256;

export class AddressCache {
  private readonly slots: (Uint8Array | undefined)[] = new Array(SLOTS).fill(undefined);

  /** The address of `length` bytes at `buf[at]`, as an array that nobody changes. */
  at(buf: Uint8Array, at: number, length: number): Uint8Array {
    let hash = length;
    for (let i = 0; i < length; i++) hash = (Math.imul(hash, 31) + buf[at + i]!) | 0;
    const slot = (hash ^ (hash >>> 8)) & (SLOTS - 1);
    const known = this.slots[slot];
    if (known !== undefined && known.length === length && same(known, buf, at)) return known;
    const fresh = copyOf(buf, at, at + length);
    this.slots[slot] = fresh;
    return fresh;
  }
}

function same(a: Uint8Array, buf: Uint8Array, at: number): boolean {
  for (let i = 0; i < a.length; i++) if (a[i] !== buf[at + i]) return false;
  return true;
}

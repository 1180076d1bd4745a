// Longest-prefix match for IPv4: a trie with a stride of 8 bits whose thin ends are buckets.
//
// A subtree of up to 32 prefixes is one bucket: (bits, value and length) pairs, longest first, scanned in one or two
// cache lines. A fuller one becomes a node of 256 entries (child, value); prefixes that end inside the node are pushed
// to the entries they cover, so a lookup reads one entry per level. Nothing is pushed below a node, so adding a short
// prefix above a million others touches one node.
//
//     node    [ (child, value) x 256 | own: values of the prefixes that end here, as a binary heap of 512 ]
//             own[1] = all, own[2], own[3] = 1 bit, ... own[256..511] = 8 bits; own[0] = how many children and own values
//     bucket  [ count, class | (bits, value << 5 | 32 - length) x 4, 8, 16 or 32 ]
//     ref     0 = nothing; offset * 2 + 1 = node; offset * 2 = bucket
//
// A table of more than 65,536 prefixes no longer fits the caches of the processor, and a walk costs two or three waits for memory
// (measured: 5 M lookups/s at 1 M routes). It gets a table of results per /24 beside it, 64 MB of address space of which only the
// touched pages exist, filled by lookups and cleared by changes of the covering range: one wait.

import { Arena } from './arena.js';

const OWN = 512;
const NODE_WORDS = 1024;
const BUCKET_MAX = 32;
const BUCKET_HEAD = 2;

/** Prefixes from which on results are kept, and below which they are given up again. */
const FLAT_FROM = 65_536;
const FLAT_UNTIL = 32_768;

/** In a table of results: nothing known; the /24 has longer prefixes in it; otherwise the value + 2. */
const UNKNOWN = 0;
const LONGER = 1;

const bucketWords = (capacity: number) => BUCKET_HEAD + capacity * 2;

/** Values are integers in [1, 2^27); 0 means no match. Addresses and prefix bits are 32-bit integers, signed or not. */
export class Lpm4 {
  private readonly arena: Arena;
  private mem: Uint32Array;
  private root = 0;
  /** Value of 0.0.0.0/0. */
  private all = 0;
  /** Result for each /24, or null while the table is small. */
  private flat: Uint32Array | null = null;
  /** Prefixes in the table. */
  size = 0;

  constructor() {
    this.arena = new Arena(32);
    this.mem = this.arena.words;
  }

  /** Bytes of the trie; the results of a large table come on top. */
  get bytes(): number {
    return this.arena.bytes;
  }

  lookup(address: number): number {
    if (this.flat !== null) {
      const known = this.flat[address >>> 8]!;
      if (known > LONGER) return known - 2;
      if (known === UNKNOWN) this.flat[address >>> 8] = this.hasLonger(address) ? LONGER : this.walk(address) + 2;
    }
    return this.walk(address);
  }

  private walk(address: number): number {
    const mem = this.mem;
    let best = this.all;
    let ref = this.root;
    let shift = 24;
    while ((ref & 1) !== 0) {
      const entry = (ref >>> 1) + (((address >>> shift) & 0xff) << 1);
      const value = mem[entry + 1]!;
      if (value !== 0) best = value;
      ref = mem[entry]!;
      shift -= 8;
    }
    if (ref === 0) return best;
    const bucket = ref >>> 1;
    const end = bucket + BUCKET_HEAD + (mem[bucket]! << 1);
    for (let i = bucket + BUCKET_HEAD; i < end; i += 2) {
      const meta = mem[i + 1]!;
      // A shift uses only the low five bits of its count, so `meta` itself serves.
      if ((mem[i]! ^ address) >>> meta === 0) return meta >>> 5;
    }
    return best;
  }

  /** The /24 of the address has prefixes longer than 24 bits in it. */
  private hasLonger(address: number): boolean {
    let ref = this.root;
    let shift = 24;
    for (; (ref & 1) !== 0 && shift >= 8; shift -= 8)
      ref = this.mem[(ref >>> 1) + (((address >>> shift) & 0xff) << 1)]!;
    if (ref === 0) return false;
    if (shift < 8) return true;
    const bucket = ref >>> 1;
    const end = bucket + BUCKET_HEAD + this.mem[bucket]! * 2;
    for (let i = bucket + BUCKET_HEAD; i < end; i += 2) {
      // Longest first.
      if ((this.mem[i + 1]! & 31) >= 8) return false;
      if ((this.mem[i]! ^ address) >>> 8 === 0) return true;
    }
    return false;
  }

  /** Forgets the results that a change of this prefix may have changed. */
  private forget(bits: number, length: number): void {
    if (this.flat === null) {
      if (this.size >= FLAT_FROM) this.flat = new Uint32Array(1 << 24);
    } else if (this.size < FLAT_UNTIL) this.flat = null;
    // A new array is cheaper than clearing all of the old one: its pages do not exist yet.
    else if (length < 4) this.flat = new Uint32Array(1 << 24);
    else {
      const first = bits >>> 8;
      this.flat.fill(UNKNOWN, first, first + (length >= 24 ? 1 : 1 << (24 - length)));
    }
  }

  /** Value of exactly this prefix; 0 if it is not in the table. */
  get(bits: number, length: number): number {
    if (length === 0) return this.all;
    let ref = this.root;
    let depth = 0;
    while ((ref & 1) !== 0) {
      const node = ref >>> 1;
      if (length <= depth + 8) return this.mem[node + OWN + heapIndex(bits, depth, length)]!;
      ref = this.mem[node + (((bits >>> (24 - depth)) & 0xff) << 1)]!;
      depth += 8;
    }
    const at = ref === 0 ? 0 : this.find(ref >>> 1, bits, length);
    return at === 0 ? 0 : this.mem[at + 1]! >>> 5;
  }

  /** Adds the prefix or changes its value. The bits behind `length` must be zero. */
  set(bits: number, length: number, value: number): void {
    this.insert(bits, length, value);
    this.forget(bits, length);
  }

  private insert(bits: number, length: number, value: number): void {
    if (length === 0) {
      if (this.all === 0) this.size++;
      this.all = value;
      return;
    }
    let slot = 0; // where the ref is kept: 0 = this.root
    let parent = 0;
    let depth = 0;
    for (;;) {
      let ref = slot === 0 ? this.root : this.mem[slot]!;
      if (ref === 0) {
        ref = this.alloc(bucketWords(4)) << 1;
        this.mem[(ref >>> 1) + 1] = 4;
        if (parent !== 0) this.mem[parent + OWN]!++;
        this.setRef(slot, ref);
      }
      if ((ref & 1) === 0) {
        if (this.setInBucket(slot, ref >>> 1, bits, length, value)) return;
        this.burst(slot, ref >>> 1, depth);
        continue;
      }
      const node = ref >>> 1;
      if (length <= depth + 8) {
        this.setOwn(node, heapIndex(bits, depth, length), value);
        return;
      }
      parent = node;
      slot = node + (((bits >>> (24 - depth)) & 0xff) << 1);
      depth += 8;
    }
  }

  /** Returns whether the prefix was there. */
  remove(bits: number, length: number): boolean {
    let had = this.all !== 0;
    if (length === 0) {
      if (had) this.size--;
      this.all = 0;
    } else had = this.removeBelow(0, 0, bits, length);
    if (had) this.forget(bits, length);
    return had;
  }

  private removeBelow(slot: number, depth: number, bits: number, length: number): boolean {
    const mem = this.mem;
    const ref = slot === 0 ? this.root : mem[slot]!;
    if (ref === 0) return false;
    if ((ref & 1) === 0) {
      const bucket = ref >>> 1;
      const at = this.find(bucket, bits, length);
      if (at === 0) return false;
      this.size--;
      const count = --mem[bucket]!;
      mem.copyWithin(at, at + 2, bucket + BUCKET_HEAD + (count + 1) * 2);
      if (count === 0) {
        this.arena.release(bucket, bucketWords(mem[bucket + 1]!));
        this.setRef(slot, 0);
      }
      return true;
    }
    const node = ref >>> 1;
    if (length <= depth + 8) {
      const h = heapIndex(bits, depth, length);
      if (mem[node + OWN + h] === 0) return false;
      this.size--;
      mem[node + OWN]!--;
      mem[node + OWN + h] = 0;
      let up = h >>> 1;
      while (up > 0 && mem[node + OWN + up] === 0) up >>>= 1;
      this.paint(node, h, up === 0 ? 0 : mem[node + OWN + up]!);
    } else {
      const child = node + (((bits >>> (24 - depth)) & 0xff) << 1);
      if (!this.removeBelow(child, depth + 8, bits, length)) return false;
      if (mem[child] === 0) mem[node + OWN]!--;
    }
    if (mem[node + OWN] === 0) {
      this.arena.release(node, NODE_WORDS);
      this.setRef(slot, 0);
    }
    return true;
  }

  private setOwn(node: number, h: number, value: number): void {
    const at = node + OWN + h;
    if (this.mem[at] === 0) {
      this.size++;
      this.mem[node + OWN]!++;
    }
    this.mem[at] = value;
    this.paint(node, h, value);
  }

  /** Gives `value` to all entries under heap position `h` that no longer prefix of this node covers. */
  private paint(node: number, h: number, value: number): void {
    if (h >= 256) {
      this.mem[node + ((h - 256) << 1) + 1] = value;
      return;
    }
    for (let child = h << 1; child <= ((h << 1) | 1); child++) {
      if (child >= 256) {
        if (this.mem[node + OWN + child] === 0) this.mem[node + ((child - 256) << 1) + 1] = value;
      } else if (this.mem[node + OWN + child] === 0) this.paint(node, child, value);
    }
  }

  /** Offset of the pair, 0 if the prefix is not in the bucket. */
  private find(bucket: number, bits: number, length: number): number {
    const mem = this.mem;
    const end = bucket + BUCKET_HEAD + mem[bucket]! * 2;
    for (let i = bucket + BUCKET_HEAD; i < end; i += 2) {
      if (mem[i] === bits >>> 0 && (mem[i + 1]! & 31) === 32 - length) return i;
    }
    return 0;
  }

  /** False when the bucket is full. */
  private setInBucket(slot: number, bucket: number, bits: number, length: number, value: number): boolean {
    const meta = ((value << 5) | (32 - length)) >>> 0;
    const old = this.find(bucket, bits, length);
    if (old !== 0) {
      this.mem[old + 1] = meta;
      return true;
    }
    const count = this.mem[bucket]!;
    const capacity = this.mem[bucket + 1]!;
    if (count === capacity) {
      if (capacity === BUCKET_MAX) return false;
      const larger = this.alloc(bucketWords(capacity * 2));
      this.mem.copyWithin(larger, bucket, bucket + bucketWords(capacity));
      this.mem[larger + 1] = capacity * 2;
      this.arena.release(bucket, bucketWords(capacity));
      this.setRef(slot, larger << 1);
      bucket = larger;
    }
    // Longest first: the first match is the answer.
    let i = bucket + BUCKET_HEAD + count * 2;
    for (; i > bucket + BUCKET_HEAD && (this.mem[i - 1]! & 31) > 32 - length; i -= 2) {
      this.mem[i] = this.mem[i - 2]!;
      this.mem[i + 1] = this.mem[i - 1]!;
    }
    this.mem[i] = bits;
    this.mem[i + 1] = meta;
    this.mem[bucket] = count + 1;
    this.size++;
    return true;
  }

  /** Turns a full bucket into a node; its prefixes end in the node or go to buckets one level down. */
  private burst(slot: number, bucket: number, depth: number): void {
    const count = this.mem[bucket]!;
    const pairs = this.mem.slice(bucket + BUCKET_HEAD, bucket + BUCKET_HEAD + count * 2);
    this.arena.release(bucket, bucketWords(this.mem[bucket + 1]!));
    const node = this.alloc(NODE_WORDS);
    this.setRef(slot, (node << 1) | 1);
    this.size -= count;
    for (let i = 0; i < pairs.length; i += 2) {
      const bits = pairs[i]!;
      const length = 32 - (pairs[i + 1]! & 31);
      const value = pairs[i + 1]! >>> 5;
      if (length <= depth + 8) {
        this.setOwn(node, heapIndex(bits, depth, length), value);
        continue;
      }
      const child = node + (((bits >>> (24 - depth)) & 0xff) << 1);
      let ref = this.mem[child]!;
      if (ref === 0) {
        ref = this.alloc(bucketWords(4)) << 1;
        this.mem[(ref >>> 1) + 1] = 4;
        this.mem[node + OWN]!++;
        this.mem[child] = ref;
      }
      this.setInBucket(child, ref >>> 1, bits, length, value);
    }
  }

  private alloc(words: number): number {
    const offset = this.arena.alloc(words);
    this.mem = this.arena.words;
    return offset;
  }

  private setRef(slot: number, ref: number): void {
    if (slot === 0) this.root = ref;
    else this.mem[slot] = ref;
  }
}

/** Position in a node's heap of own values of the prefix that ends `length - depth` (0 to 8) bits into it. */
function heapIndex(bits: number, depth: number, length: number): number {
  const k = length - depth;
  return (1 << k) | (((bits << depth) >>> 24) >>> (8 - k));
}

// Longest-prefix match for IPv6: the trie of lpm4.ts (read first) with path compression, because overlay addresses
// share 64 to 120 leading bits: a node says at which depth it stands and which bits lead to it.
//
//     node    [ count, depth, 4 words of leading bits, -, - | (child, value) x 256 | own: heap of 512 ]
//     bucket  [ count, capacity | (4 words of bits, value << 8 | length) x 4, 8, 16 or 32 ]
//
// Depths are multiples of 8. A prefix is kept in the first node whose depth + 8 reaches its length; with depth equal
// to its length it is own[1].

import { Arena } from './arena.js';

const PAIRS = 8;
const OWN = PAIRS + 512;
const NODE_WORDS = OWN + 512;
const BUCKET_MAX = 32;
const BUCKET_HEAD = 2;
const STRIDE = 5;

const bucketWords = (capacity: number) => BUCKET_HEAD + capacity * STRIDE;

/** An address as four 32-bit words, most significant first, signed or not. */
export type Words6 = readonly [number, number, number, number];

/** Values are integers in [1, 2^24); 0 means no match. */
export class Lpm6 {
  private readonly arena: Arena;
  private mem: Uint32Array;
  private root = 0;
  /** Value of ::/0. */
  private all = 0;
  /** Prefixes in the table. */
  size = 0;

  constructor() {
    this.arena = new Arena(32);
    this.mem = this.arena.words;
  }

  get bytes(): number {
    return this.arena.bytes;
  }

  lookup(a: number, b: number, c: number, d: number): number {
    const mem = this.mem;
    let best = this.all;
    let ref = this.root;
    let expected = 0;
    while ((ref & 1) !== 0) {
      const node = ref >>> 1;
      const depth = mem[node + 1]!;
      if (depth !== expected && !this.leadsTo(node, depth, a, b, c, d)) return best;
      const word = depth < 64 ? (depth < 32 ? a : b) : depth < 96 ? c : d;
      const entry = node + PAIRS + (((word >>> (24 - (depth & 31))) & 0xff) << 1);
      const value = mem[entry + 1]!;
      if (value !== 0) best = value;
      ref = mem[entry]!;
      expected = depth + 8;
    }
    if (ref === 0) return best;
    const bucket = ref >>> 1;
    const end = bucket + BUCKET_HEAD + mem[bucket]! * STRIDE;
    for (let i = bucket + BUCKET_HEAD; i < end; i += STRIDE) {
      const meta = mem[i + 4]!;
      const length = meta & 0xff;
      if (length <= 32) {
        if ((mem[i]! ^ a) >>> (32 - length) === 0) return meta >>> 8;
        continue;
      }
      if ((mem[i]! ^ a) !== 0) continue;
      if (length <= 64) {
        if ((mem[i + 1]! ^ b) >>> (64 - length) === 0) return meta >>> 8;
        continue;
      }
      if ((mem[i + 1]! ^ b) !== 0) continue;
      if (length <= 96) {
        if ((mem[i + 2]! ^ c) >>> (96 - length) === 0) return meta >>> 8;
        continue;
      }
      if ((mem[i + 2]! ^ c) === 0 && (mem[i + 3]! ^ d) >>> (128 - length) === 0) return meta >>> 8;
    }
    return best;
  }

  /** Value of exactly this prefix; 0 if it is not in the table. */
  get(key: Words6, length: number): number {
    if (length === 0) return this.all;
    let ref = this.root;
    while ((ref & 1) !== 0) {
      const node = ref >>> 1;
      const depth = this.mem[node + 1]!;
      if (length < depth || !this.leadsTo(node, depth, ...key)) return 0;
      if (length <= depth + 8) return this.mem[node + OWN + heapIndex(key, depth, length)]!;
      ref = this.mem[node + PAIRS + (byteAt(key, depth) << 1)]!;
    }
    const at = ref === 0 ? 0 : this.find(ref >>> 1, key, length);
    return at === 0 ? 0 : this.mem[at + 4]! >>> 8;
  }

  /** Adds the prefix or changes its value. The bits behind `length` must be zero. */
  set(key: Words6, length: number, value: number): void {
    if (length === 0) {
      if (this.all === 0) this.size++;
      this.all = value;
      return;
    }
    let slot = 0; // where the ref is kept: 0 = this.root
    let parent = 0;
    for (;;) {
      let ref = slot === 0 ? this.root : this.mem[slot]!;
      if (ref === 0) {
        ref = this.alloc(bucketWords(4)) << 1;
        this.mem[(ref >>> 1) + 1] = 4;
        if (parent !== 0) this.mem[parent]!++;
        this.setRef(slot, ref);
      }
      if ((ref & 1) === 0) {
        if (this.setInBucket(slot, ref >>> 1, key, length, value)) return;
        this.burst(slot, ref >>> 1);
        continue;
      }
      let node = ref >>> 1;
      const depth = this.mem[node + 1]!;
      const common = Math.min(length, this.commonBits(node, depth, key));
      if (common < depth) {
        // The prefix ends or branches off above the node: a node with fewer leading bits goes between.
        const between = this.makeNode(key, common & ~7);
        const words = this.mem.slice(node + 2, node + 6) as Uint32Array & Words6;
        this.mem[between + PAIRS + (byteAt(words, common & ~7) << 1)] = ref;
        this.mem[between] = 1;
        this.setRef(slot, (between << 1) | 1);
        node = between;
      }
      const at = this.mem[node + 1]!;
      if (length <= at + 8) {
        this.setOwn(node, heapIndex(key, at, length), value);
        return;
      }
      parent = node;
      slot = node + PAIRS + (byteAt(key, at) << 1);
    }
  }

  /** Returns whether the prefix was there. */
  remove(key: Words6, length: number): boolean {
    if (length === 0) {
      const had = this.all !== 0;
      if (had) this.size--;
      this.all = 0;
      return had;
    }
    return this.removeBelow(0, key, length);
  }

  private removeBelow(slot: number, key: Words6, length: number): boolean {
    const mem = this.mem;
    const ref = slot === 0 ? this.root : mem[slot]!;
    if (ref === 0) return false;
    if ((ref & 1) === 0) {
      const bucket = ref >>> 1;
      const at = this.find(bucket, key, length);
      if (at === 0) return false;
      this.size--;
      const count = --mem[bucket]!;
      mem.copyWithin(at, at + STRIDE, bucket + BUCKET_HEAD + (count + 1) * STRIDE);
      if (count === 0) {
        this.arena.release(bucket, bucketWords(mem[bucket + 1]!));
        this.setRef(slot, 0);
      }
      return true;
    }
    const node = ref >>> 1;
    const depth = mem[node + 1]!;
    if (length < depth || this.commonBits(node, depth, key) < depth) return false;
    if (length <= depth + 8) {
      const h = heapIndex(key, depth, length);
      if (mem[node + OWN + h] === 0) return false;
      this.size--;
      mem[node]!--;
      mem[node + OWN + h] = 0;
      let up = h >>> 1;
      while (up > 0 && mem[node + OWN + up] === 0) up >>>= 1;
      this.paint(node, h, up === 0 ? 0 : mem[node + OWN + up]!);
    } else {
      const child = node + PAIRS + (byteAt(key, depth) << 1);
      if (!this.removeBelow(child, key, length)) return false;
      if (mem[child] === 0) mem[node]!--;
    }
    if (mem[node] === 0) {
      this.arena.release(node, NODE_WORDS);
      this.setRef(slot, 0);
    }
    return true;
  }

  private makeNode(key: Words6, depth: number): number {
    const node = this.alloc(NODE_WORDS);
    this.mem[node + 1] = depth;
    for (let w = 0; w < 4; w++) {
      const keep = Math.min(32, Math.max(0, depth - w * 32));
      this.mem[node + 2 + w] = keep === 0 ? 0 : key[w]! & (-1 << (32 - keep));
    }
    return node;
  }

  private setOwn(node: number, h: number, value: number): void {
    const at = node + OWN + h;
    if (this.mem[at] === 0) {
      this.size++;
      this.mem[node]!++;
    }
    this.mem[at] = value;
    this.paint(node, h, value);
  }

  /** Gives `value` to all entries under heap position `h` that no longer prefix of this node covers. */
  private paint(node: number, h: number, value: number): void {
    if (h >= 256) {
      this.mem[node + PAIRS + ((h - 256) << 1) + 1] = value;
      return;
    }
    if (this.mem[node + OWN + (h << 1)] === 0) this.paint(node, h << 1, value);
    if (this.mem[node + OWN + ((h << 1) | 1)] === 0) this.paint(node, (h << 1) | 1, value);
  }

  private leadsTo(node: number, depth: number, a: number, b: number, c: number, d: number): boolean {
    const mem = this.mem;
    if (depth === 0) return true;
    if (depth < 32) return (mem[node + 2]! ^ a) >>> (32 - depth) === 0;
    if ((mem[node + 2]! ^ a) !== 0) return false;
    if (depth < 64) return depth === 32 || (mem[node + 3]! ^ b) >>> (64 - depth) === 0;
    if ((mem[node + 3]! ^ b) !== 0) return false;
    if (depth < 96) return depth === 64 || (mem[node + 4]! ^ c) >>> (96 - depth) === 0;
    if ((mem[node + 4]! ^ c) !== 0) return false;
    return depth === 96 || (mem[node + 5]! ^ d) >>> (128 - depth) === 0;
  }

  /** How many of the node's leading bits the key shares. */
  private commonBits(node: number, depth: number, key: Words6): number {
    for (let w = 0; w < 4; w++) {
      const differ = this.mem[node + 2 + w]! ^ key[w]!;
      if (differ !== 0) return Math.min(depth, w * 32 + Math.clz32(differ));
    }
    return depth;
  }

  /** Offset of the entry, 0 if the prefix is not in the bucket. */
  private find(bucket: number, key: Words6, length: number): number {
    const mem = this.mem;
    const end = bucket + BUCKET_HEAD + mem[bucket]! * STRIDE;
    for (let i = bucket + BUCKET_HEAD; i < end; i += STRIDE) {
      if (
        (mem[i + 4]! & 0xff) === length &&
        mem[i + 3] === key[3] >>> 0 &&
        mem[i + 2] === key[2] >>> 0 &&
        mem[i + 1] === key[1] >>> 0 &&
        mem[i] === key[0] >>> 0
      )
        return i;
    }
    return 0;
  }

  /** False when the bucket is full. */
  private setInBucket(slot: number, bucket: number, key: Words6, length: number, value: number): boolean {
    const old = this.find(bucket, key, length);
    if (old !== 0) {
      this.mem[old + 4] = (value << 8) | length;
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
    const first = bucket + BUCKET_HEAD;
    let i = first + count * STRIDE;
    while (i > first && (this.mem[i - 1]! & 0xff) < length) i -= STRIDE;
    this.mem.copyWithin(i + STRIDE, i, first + count * STRIDE);
    for (let w = 0; w < 4; w++) this.mem[i + w] = key[w]!;
    this.mem[i + 4] = (value << 8) | length;
    this.mem[bucket] = count + 1;
    this.size++;
    return true;
  }

  /** Turns a full bucket into a node as deep as its prefixes allow. */
  private burst(slot: number, bucket: number): void {
    const count = this.mem[bucket]!;
    const entries = this.mem.slice(bucket + BUCKET_HEAD, bucket + BUCKET_HEAD + count * STRIDE);
    this.arena.release(bucket, bucketWords(this.mem[bucket + 1]!));
    const keyAt = (i: number): Words6 => [entries[i]!, entries[i + 1]!, entries[i + 2]!, entries[i + 3]!];
    const first = keyAt(0);
    let common = 128;
    for (let i = 0; i < entries.length; i += STRIDE) {
      const key = keyAt(i);
      let same = 0;
      while (same < 128 && key[same >>> 5] === first[same >>> 5]) same += 32;
      if (same < 128) same += Math.clz32(key[same >>> 5]! ^ first[same >>> 5]!);
      common = Math.min(common, same, entries[i + 4]! & 0xff);
    }
    // 33 different prefixes do not share 121 bits and the length; still, a node at 128 would have no byte to look at.
    const depth = Math.min(120, common & ~7);
    const node = this.makeNode(first, depth);
    this.setRef(slot, (node << 1) | 1);
    this.size -= count;
    for (let i = 0; i < entries.length; i += STRIDE) {
      const key = keyAt(i);
      const length = entries[i + 4]! & 0xff;
      const value = entries[i + 4]! >>> 8;
      if (length <= depth + 8) {
        this.setOwn(node, heapIndex(key, depth, length), value);
        continue;
      }
      const child = node + PAIRS + (byteAt(key, depth) << 1);
      let ref = this.mem[child]!;
      if (ref === 0) {
        ref = this.alloc(bucketWords(4)) << 1;
        this.mem[(ref >>> 1) + 1] = 4;
        this.mem[node]!++;
        this.mem[child] = ref;
      }
      this.setInBucket(child, ref >>> 1, key, length, value);
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

function byteAt(key: Words6, depth: number): number {
  return (key[depth >>> 5]! >>> (24 - (depth & 31))) & 0xff;
}

/** Position in a node's heap of own values of the prefix that ends `length - depth` (0 to 8) bits into it. */
function heapIndex(key: Words6, depth: number, length: number): number {
  const k = length - depth;
  return (1 << k) | (byteAt(key, depth) >>> (8 - k));
}

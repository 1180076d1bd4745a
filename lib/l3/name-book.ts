// Core: whose addresses are whose in a tenant, as the cloud tells it to all nodes: a list of names that only grows.
//
//     entry   0      1      2      3          later entries of a node replace earlier ones; one without addresses forgets it
//          | a .2 | b .3 | c .4 | b .9 |      the bytes of the entries lie behind each other in one buffer
//                        ^ cursor of a node: it has what is before, and is sent what is behind
//
// An entry is encoded once, whoever gets it. A node that comes back says how many entries it has and the digest of them: where the list
// begins with the same, which it does after a restart of the cloud too (it is made of the record on disk, in its order), it is sent only
// what is new. So the return of a whole tenant costs no names at all, and a node that comes and goes is no news to anybody.

import { getU32, putU32 } from '../core/index.js';
import { addressKey } from './address.js';
import { encodeControl, encodeName } from './control-codec.js';

/** Messages are cut at this many bytes of entries, so that a long list does not hold up keepalives. */
const CHUNK_BYTES = 24 * 1024;

/** Entries that may be superseded before the list is written anew, besides as many as there are names. */
const SLACK = 1_024;

/** A message for whoever has the entries before `from`. */
interface Part {
  readonly from: number;
  readonly to: number;
  readonly message: Uint8Array;
}

export class NameBook {
  /** Changes when the list was begun anew: cursors into the old one mean nothing. */
  generation = 0;
  private bytes = new Uint8Array(4_096);
  /** Where each entry ends, after a 0; and the digest of the list up to there, in two halves. */
  private ends = [0];
  private high = [0x811c9dc5];
  private low = [0x9e3779b9];
  private names = new Map<string, readonly Uint8Array[]>();
  private part: Part | null = null;

  constructor(names: Iterable<readonly [node: string, addresses: readonly Uint8Array[]]> = []) {
    for (const [node, addresses] of names) this.set(node, addresses);
  }

  /** Entries so far. */
  get count(): number {
    return this.ends.length - 1;
  }

  /** True if that is news. */
  set(node: string, addresses: readonly Uint8Array[]): boolean {
    if (sameAddresses(this.names.get(node) ?? [], addresses)) return false;
    // At the end, as in the list and in the record.
    this.names.delete(node);
    if (addresses.length > 0) this.names.set(node, addresses);
    if (this.count >= this.names.size * 2 + SLACK) this.begin();
    else this.append(node, addresses);
    return true;
  }

  /** Where somebody with so many entries and this digest goes on: there, or at the beginning. */
  cursor(count: number, digest: Uint8Array): number {
    if (count > this.count || digest.length !== 8) return 0;
    return getU32(digest, 0) === this.high[count]! >>> 0 && getU32(digest, 4) === this.low[count]! >>> 0 ? count : 0;
  }

  /** The next message for a cursor; null: it is at the end. Most cursors are at the same places, so the last one is kept. */
  next(from: number): Part | null {
    const { count } = this;
    if (from >= count) return null;
    if (this.part?.from === from) return this.part;
    const { ends } = this;
    let to = from + 1;
    while (to < count && ends[to + 1]! - ends[from]! <= CHUNK_BYTES) to++;
    const digest = new Uint8Array(8);
    putU32(digest, 0, this.high[to]!);
    putU32(digest, 4, this.low[to]!);
    const list = this.bytes.slice(ends[from]!, ends[to]!);
    const message = encodeControl({ type: 'names', from, to, digest, list, more: to < count });
    this.part = { from, to, message };
    return this.part;
  }

  private begin(): void {
    this.generation++;
    this.ends = [0];
    this.high.length = this.low.length = 1;
    for (const [node, addresses] of this.names) this.append(node, addresses);
  }

  private append(node: string, addresses: readonly Uint8Array[]): void {
    const entry = encodeName(node, addresses);
    const start = this.ends[this.count]!;
    const end = start + entry.length;
    if (end > this.bytes.length) {
      const larger = new Uint8Array(Math.max(end, this.bytes.length * 2));
      larger.set(this.bytes.subarray(0, start));
      this.bytes = larger;
    }
    this.bytes.set(entry, start);
    // Two FNV-1a lanes with odd multipliers: 64 bits against chance. Who makes two lists alike on purpose only misleads nodes of its own.
    let high = this.high[this.count]!;
    let low = this.low[this.count]!;
    for (const byte of entry) {
      high = Math.imul(high ^ byte, 0x01000193);
      low = Math.imul(low ^ byte, 0x85ebca6b) ^ (low >>> 15);
    }
    this.high.push(high);
    this.low.push(low);
    this.ends.push(end);
    this.part = null;
  }
}

function sameAddresses(a: readonly Uint8Array[], b: readonly Uint8Array[]): boolean {
  return a.length === b.length && a.every((address, i) => addressKey(address) === addressKey(b[i]!));
}

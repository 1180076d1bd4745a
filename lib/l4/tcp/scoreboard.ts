// What is in flight: every transmitted and not yet acknowledged piece, what the peer has SACKed of it (RFC 2018), what is
// lost, and thus how much is in the pipe (RFC 6675 §4 SetPipe; losses are declared by RACK, not by counting).
//
//     head                                     tail
//      v                                        v
//     [start,end) [start,end) [start,end) ...        sorted by sequence; one entry per packet sent, super-packets too
//
// Columns of typed arrays instead of objects; made when first needed, dropped when nothing is in flight. Entries are
// split only at multiples of the MSS, so a peer that SACKs single bytes cannot make many (Linux does the same).

import type { Micros } from '../../core/index.js';
import { type Seq, seqDiff, seqGe, seqGt, seqLe, seqLt } from './seq.js';

export const Mark = {
  sacked: 1,
  lost: 2,
  /** Was retransmitted at least once. */
  retransmitted: 4,
  /** The last retransmission is still in flight. */
  inFlightAgain: 8,
} as const;

/** Told of each piece that the peer has received, once: RACK, RTT, undo and congestion control live on it. */
export interface DeliveryListener {
  onDelivered(end: Seq, bytes: number, sentAt: Micros, marks: number): void;
}

const MIN_CAPACITY = 16;

export class Scoreboard {
  private starts: Int32Array = NONE;
  private ends: Int32Array = NONE;
  private times: Float64Array = NO_TIMES;
  private marks: Uint8Array = NO_MARKS;
  private head = 0;
  private tail = 0;
  /** Bytes in these conditions. */
  sackedBytes = 0;
  lostBytes = 0;
  againBytes = 0;
  /** Lower bound of the index of the first lost entry that is not in flight again. */
  private lostHint = 0;
  /** Blocks of the previous acknowledgement: what they covered needs no second walk. */
  private seen: number[] = NOTHING_SEEN;

  get count(): number {
    return this.tail - this.head;
  }

  /** Sequence space sent and not acknowledged. */
  get outstanding(): number {
    return this.head === this.tail ? 0 : seqDiff(this.ends[this.tail - 1]!, this.starts[this.head]!);
  }

  /** RFC 6675 §4: bytes that are believed to be in the network. */
  get pipe(): number {
    return this.outstanding - this.sackedBytes - this.lostBytes + this.againBytes;
  }

  // Entries are addressed by index 0 .. count-1.
  start(i: number): Seq {
    return this.starts[this.head + i]!;
  }
  end(i: number): Seq {
    return this.ends[this.head + i]!;
  }
  sentAt(i: number): Micros {
    return this.times[this.head + i]!;
  }
  mark(i: number): number {
    return this.marks[this.head + i]!;
  }

  /** New data went out. */
  push(start: Seq, end: Seq, now: Micros): void {
    if (this.tail === this.starts.length) this.makeRoom();
    const i = this.tail++;
    this.starts[i] = start;
    this.ends[i] = end;
    this.times[i] = now;
    this.marks[i] = 0;
  }

  /** Entry `i` went out again. */
  retransmitted(i: number, now: Micros): void {
    const j = this.head + i;
    const bytes = this.bytes(j);
    if (!(this.marks[j]! & Mark.inFlightAgain)) this.againBytes += bytes;
    // What was not declared lost is in the pipe twice now (TLP, a forced retransmission): count the copy that is judged.
    if (!(this.marks[j]! & Mark.lost)) this.lostBytes += bytes;
    this.marks[j] = this.marks[j]! | Mark.lost | Mark.retransmitted | Mark.inFlightAgain;
    this.times[j] = now;
  }

  /** Declares entry `i` (or its retransmission) lost. */
  markLost(i: number): void {
    const j = this.head + i;
    const m = this.marks[j]!;
    if (m & Mark.sacked) return;
    if (m & Mark.inFlightAgain) this.againBytes -= this.bytes(j);
    else if (m & Mark.lost) return;
    if (!(m & Mark.lost)) this.lostBytes += this.bytes(j);
    this.marks[j] = (m | Mark.lost) & ~Mark.inFlightAgain;
    if (j < this.lostHint) this.lostHint = j;
  }

  /** Undo of a declaration: entry `i` counts as in flight, if it has not been retransmitted meanwhile. */
  unmarkLost(): void {
    for (let j = this.head; j < this.tail; j++) {
      const m = this.marks[j]!;
      if (!(m & Mark.lost) || m & Mark.inFlightAgain) continue;
      this.lostBytes -= this.bytes(j);
      this.marks[j] = m & ~Mark.lost;
    }
  }

  /** Index of the first entry to retransmit, or -1. */
  nextLost(): number {
    if (this.lostBytes === this.againBytes) return -1;
    for (let j = Math.max(this.lostHint, this.head); j < this.tail; j++) {
      if ((this.marks[j]! & (Mark.lost | Mark.inFlightAgain | Mark.sacked)) === Mark.lost) {
        this.lostHint = j;
        return j - this.head;
      }
    }
    return -1;
  }

  /** Cuts entry `i` so that it has `bytes` bytes and the rest follows it. */
  split(i: number, bytes: number): void {
    const at = (this.starts[this.head + i]! + bytes) | 0;
    if (this.tail === this.starts.length) this.makeRoom();
    const j = this.head + i;
    for (const column of [this.starts, this.ends, this.times, this.marks]) column.copyWithin(j + 1, j, this.tail);
    this.tail++;
    this.ends[j] = at;
    this.starts[j + 1] = at;
  }

  /**
   * Cumulative acknowledgement: entries below `ack` leave; one that is partly covered is cut. True: `ack` lies inside a segment,
   * which no receiver of whole segments says.
   */
  ackTo(ack: Seq, mss: number, listener: DeliveryListener): boolean {
    while (this.head < this.tail && seqLe(this.ends[this.head]!, ack)) {
      const j = this.head;
      this.forget(j, this.bytes(j));
      if (!(this.marks[j]! & Mark.sacked))
        listener.onDelivered(this.ends[j]!, this.bytes(j), this.times[j]!, this.marks[j]!);
      this.head++;
    }
    if (this.head === this.tail) {
      this.reset();
      return false;
    }
    const j = this.head;
    const part = seqDiff(ack, this.starts[j]!);
    if (part > 0) {
      this.forget(j, part);
      if (!(this.marks[j]! & Mark.sacked)) listener.onDelivered(ack, part, this.times[j]!, this.marks[j]!);
      this.starts[j] = ack;
    }
    return part > 0 && part % mss !== 0;
  }

  private forget(j: number, bytes: number): void {
    const m = this.marks[j]!;
    if (m & Mark.sacked) this.sackedBytes -= bytes;
    else {
      if (m & Mark.lost) this.lostBytes -= bytes;
      if (m & Mark.inFlightAgain) this.againBytes -= bytes;
    }
  }

  /**
   * Applies the SACK blocks `blocks[2 * from ...]`, `count` of them, of one acknowledgement. Blocks outside
   * [head, tail) are ignored (RFC 2018 says nothing of them; they are old, or forged). Returns how many blocks were, or had an
   * edge inside a segment.
   */
  handleSack(blocks: Int32Array, from: number, count: number, mss: number, listener: DeliveryListener): number {
    if (this.head === this.tail) return 0;
    let odd = 0;
    for (let b = from; b < count; b++) {
      const start = blocks[2 * b]!;
      const end = blocks[2 * b + 1]!;
      if (!seqLt(start, end) || seqGt(end, this.ends[this.tail - 1]!) || seqLt(start, this.starts[this.head]!)) {
        odd++;
        continue;
      }
      if (this.cutsSegment(start, mss) || this.cutsSegment(end, mss)) odd++;
      this.sackFresh(start, end, mss, listener);
    }
    this.seen = count > from ? [] : NOTHING_SEEN;
    for (let b = from; b < count; b++) this.seen.push(blocks[2 * b]!, blocks[2 * b + 1]!);
    return odd;
  }

  /** No segment that was sent begins or ends at `at`, which is in flight. */
  private cutsSegment(at: Seq, mss: number): boolean {
    const i = this.find(at);
    return i < this.count && seqLt(this.start(i), at) && seqDiff(at, this.start(i)) % mss !== 0;
  }

  /** As sackRange, without what a block of the previous acknowledgement covered already. */
  private sackFresh(start: Seq, end: Seq, mss: number, listener: DeliveryListener): void {
    for (let k = 0; k < this.seen.length; k += 2) {
      const s = this.seen[k]!;
      const e = this.seen[k + 1]!;
      if (!seqLt(s, e) || !seqGe(s, start) || !seqLe(e, end)) continue;
      // The entries at the edges were perhaps only partly covered then: walk them again.
      const inner = seqDiff(e, s) > 4 * mss ? 1 : 0;
      if (inner === 0) continue;
      this.sackRange(start, (s + 2 * mss) | 0, mss, listener);
      this.sackRange((e - 2 * mss) | 0, end, mss, listener);
      return;
    }
    this.sackRange(start, end, mss, listener);
  }

  private sackRange(start: Seq, end: Seq, mss: number, listener: DeliveryListener): void {
    for (let i = this.find(start); i < this.count && seqLt(this.start(i), end); i++) {
      const j = this.head + i;
      if (this.marks[j]! & Mark.sacked) continue;
      const from = seqDiff(start, this.starts[j]!);
      if (from > 0) {
        // The block begins inside: leave the part before it (whole segments of the packet that was sent).
        const keep = Math.ceil(from / mss) * mss;
        if (keep >= this.bytes(j)) continue;
        this.split(i, keep);
        continue;
      }
      const upTo = seqDiff(end, this.starts[j]!);
      if (upTo < this.bytes(j)) {
        const covered = Math.floor(upTo / mss) * mss;
        if (covered <= 0) return;
        this.split(i, covered);
      }
      // `split` may have moved the columns.
      this.markSacked(this.head + i, listener);
    }
  }

  private markSacked(j: number, listener: DeliveryListener): void {
    const bytes = this.bytes(j);
    const m = this.marks[j]!;
    if (m & Mark.lost) this.lostBytes -= bytes;
    if (m & Mark.inFlightAgain) this.againBytes -= bytes;
    this.sackedBytes += bytes;
    this.marks[j] = (m & ~(Mark.lost | Mark.inFlightAgain)) | Mark.sacked;
    listener.onDelivered(this.ends[j]!, bytes, this.times[j]!, m);
  }

  /** The peer may have dropped what it SACKed (RFC 2018 §8): after a timeout nothing of it counts. True: something did. */
  forgetSacks(): boolean {
    this.seen = NOTHING_SEEN;
    if (this.sackedBytes === 0) return false;
    for (let j = this.head; j < this.tail; j++) this.marks[j] = this.marks[j]! & ~Mark.sacked;
    this.sackedBytes = 0;
    return true;
  }

  /** Index of the entry that holds `at`, or of the first one behind it. */
  find(at: Seq): number {
    let low = this.head;
    let high = this.tail;
    while (low < high) {
      const mid = (low + high) >> 1;
      if (seqLe(this.ends[mid]!, at)) low = mid + 1;
      else high = mid;
    }
    return low - this.head;
  }

  clear(): void {
    this.head = this.tail;
    this.reset();
  }

  private bytes(j: number): number {
    return seqDiff(this.ends[j]!, this.starts[j]!);
  }

  private reset(): void {
    this.head = this.tail = this.lostHint = 0;
    this.sackedBytes = this.lostBytes = this.againBytes = 0;
    this.seen = NOTHING_SEEN;
    // An idle connection holds no columns; small ones are passed on to whoever sends next.
    if (this.starts.length === MIN_CAPACITY && spare.length < MAX_SPARE) {
      spare.push({ starts: this.starts, ends: this.ends, times: this.times, marks: this.marks });
    }
    this.starts = this.ends = NONE;
    this.times = NO_TIMES;
    this.marks = NO_MARKS;
  }

  private makeRoom(): void {
    const { head, tail } = this;
    if (head > 0 && head >= this.starts.length / 2) {
      for (const column of [this.starts, this.ends, this.times, this.marks]) column.copyWithin(0, head, tail);
    } else {
      const old = [this.starts, this.ends, this.times, this.marks] as const;
      this.allocate(Math.max(MIN_CAPACITY, this.starts.length * 2));
      this.starts.set(old[0].subarray(head, tail));
      this.ends.set(old[1].subarray(head, tail));
      this.times.set(old[2].subarray(head, tail));
      this.marks.set(old[3].subarray(head, tail));
    }
    this.lostHint = Math.max(0, this.lostHint - head);
    this.head = 0;
    this.tail = tail - head;
  }

  private allocate(capacity: number): void {
    const used = capacity === MIN_CAPACITY ? spare.pop() : undefined;
    this.starts = used?.starts ?? new Int32Array(capacity);
    this.ends = used?.ends ?? new Int32Array(capacity);
    this.times = used?.times ?? new Float64Array(capacity);
    this.marks = used?.marks ?? new Uint8Array(capacity);
  }
}

interface Columns {
  readonly starts: Int32Array;
  readonly ends: Int32Array;
  readonly times: Float64Array;
  readonly marks: Uint8Array;
}

/** Columns of the smallest size that nobody uses at the moment. */
const spare: Columns[] = [];
const MAX_SPARE = 64;
const NOTHING_SEEN: number[] = [];
const NONE = new Int32Array(0);
const NO_TIMES = new Float64Array(0);
const NO_MARKS = new Uint8Array(0);

// Out-of-order data: RFC 9293 §3.10.7.4 (hold it), RFC 2018 §4 (report it), RFC 2883 (report duplicates).
//
// Disjoint ranges, sorted, each with its bytes. Bounded by the window (the caller trims to it) and by `MAX_RANGES`: a
// peer that leaves a hole behind every byte is stopped there, and what does not fit has to be sent again.

import { ReceiveQueue } from './receive-queue.js';
import { type Seq, seqDiff, seqGe, seqGt, seqLe, seqLt, seqMax, seqMin } from './seq.js';

export const MAX_RANGES = 1_024;

interface Range {
  start: Seq;
  end: Seq;
  readonly bytes: ReceiveQueue;
}

export class Reassembler {
  private readonly ranges: Range[] = [];
  /** Most recently changed first: the order in which RFC 2018 §4 wants them reported. */
  private readonly recent: Range[] = [];
  /** Payload bytes held. */
  length = 0;
  /** Segments refused because of the bound. */
  refused = 0;

  get rangeCount(): number {
    return this.ranges.length;
  }

  /** Takes the bytes of [start, start + length) that are not here yet. The caller has cut off what was received in order. */
  insert(start: Seq, buf: Uint8Array, at: number, length: number): boolean {
    const end = (start + length) | 0;
    let i = this.find(start);
    let pos = start;
    let range: Range | null = null;
    while (seqLt(pos, end)) {
      const r = this.ranges[i];
      if (r !== undefined && seqLe(r.start, pos)) {
        // `pos` lies in or at the end of r: go on behind it.
        pos = seqMin(seqMax(pos, r.end), end);
        const limit = this.ranges[i + 1] === undefined ? end : seqMin(end, this.ranges[i + 1]!.start);
        this.extend(r, pos, limit, buf, at + seqDiff(pos, start));
        pos = seqMax(pos, limit);
        range = r;
        const next = this.ranges[i + 1];
        if (next !== undefined && next.start === r.end) this.merge(i);
        else if (seqLt(pos, end)) i++;
      } else {
        if (this.ranges.length >= MAX_RANGES) {
          this.refused++;
          return false;
        }
        const fresh: Range = { start: pos, end: pos, bytes: new ReceiveQueue() };
        this.ranges.splice(i, 0, fresh);
      }
    }
    if (range !== null) this.touch(range);
    return true;
  }

  /** True: all of [start, end) is held already (then it is a duplicate, RFC 2883). */
  covers(start: Seq, end: Seq): boolean {
    const r = this.ranges[this.find(start)];
    return r !== undefined && seqLe(r.start, start) && seqGe(r.end, end);
  }

  /** The bytes that begin at or before `nxt`, moved to the end of `queue`; returns the new RCV.NXT. */
  take(nxt: Seq, queue: ReceiveQueue): Seq {
    let first = this.ranges[0];
    while (first !== undefined && seqLe(first.start, nxt)) {
      this.ranges.shift();
      this.forget(first);
      this.length -= first.bytes.length;
      const stale = seqDiff(nxt, first.start);
      if (seqGt(first.end, nxt)) {
        if (stale > 0) first.bytes.skip(stale);
        queue.concat(first.bytes);
        nxt = first.end;
      }
      first = this.ranges[0];
    }
    return nxt;
  }

  /** Writes up to `max` blocks, the most recent first; returns their number. */
  writeSack(out: Int32Array, from: number, max: number): number {
    let n = 0;
    for (let i = 0; i < this.recent.length && n < max; i++, n++) {
      out[2 * (from + n)] = this.recent[i]!.start;
      out[2 * (from + n) + 1] = this.recent[i]!.end;
    }
    // Ranges that were pushed out of the short list still fill blocks that would stay empty.
    for (let i = 0; i < this.ranges.length && n < max; i++) {
      const r = this.ranges[i]!;
      if (this.recent.includes(r)) continue;
      out[2 * (from + n)] = r.start;
      out[2 * (from + n) + 1] = r.end;
      n++;
    }
    return n;
  }

  /** The range that holds `at`, as [start, end), for the second block of a DSACK (RFC 2883 §4); null: none. */
  rangeAt(at: Seq): { readonly start: Seq; readonly end: Seq } | null {
    const r = this.ranges[this.find(at)];
    return r !== undefined && seqLe(r.start, at) && seqGt(r.end, at) ? r : null;
  }

  clear(): void {
    this.ranges.length = 0;
    this.recent.length = 0;
    this.length = 0;
  }

  /** Index of the first range whose end is at or after `at`. */
  private find(at: Seq): number {
    let low = 0;
    let high = this.ranges.length;
    // Most segments continue the last range.
    if (high > 0 && seqLt(this.ranges[high - 1]!.end, at)) return high;
    while (low < high) {
      const mid = (low + high) >> 1;
      if (seqLt(this.ranges[mid]!.end, at)) low = mid + 1;
      else high = mid;
    }
    return low;
  }

  private extend(r: Range, from: Seq, to: Seq, buf: Uint8Array, at: number): void {
    const n = seqDiff(to, from);
    if (n <= 0) return;
    r.bytes.append(buf, at, n);
    r.end = to;
    this.length += n;
  }

  private merge(i: number): void {
    const next = this.ranges[i + 1]!;
    const r = this.ranges[i]!;
    r.bytes.concat(next.bytes);
    r.end = next.end;
    this.ranges.splice(i + 1, 1);
    this.forget(next);
  }

  private touch(range: Range): void {
    if (this.recent[0] === range) return;
    this.forget(range);
    this.recent.unshift(range);
    if (this.recent.length > 4) this.recent.length = 4;
  }

  private forget(range: Range): void {
    const i = this.recent.indexOf(range);
    if (i >= 0) this.recent.splice(i, 1);
  }
}

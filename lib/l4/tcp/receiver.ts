// RCV.*: what we take, what window we offer, when we acknowledge. RFC 9293 §3.8.6, RFC 5681 §4.2.
// Read first: receive-queue.ts, reassembler.ts.

import { type Micros, NEVER } from '../../core/index.js';
import type { TcpSegment } from '../wire/tcp.js';
import { Reassembler } from './reassembler.js';
import { ReceiveAutotune } from './receive-autotune.js';
import { ReceiveQueue } from './receive-queue.js';
import { type Seq, seqDiff, seqGt, seqLe, seqLt, seqMax } from './seq.js';
import type { Timestamps } from './timestamps.js';
import type { TcpMemory } from './types.js';

/** Segments at the start that are acknowledged at once, so that the sender's slow start gets its clock (as Linux' quick acks). */
const QUICK_ACKS = 16;

export class Receiver {
  nxt: Seq = 0;
  /** Right edge of the largest window offered: never moves left (RFC 9293 §3.8.6, SHLD-14). */
  private right: Seq = 0;
  /** RCV.NXT of the last acknowledgement sent (Last.ACK.sent of RFC 7323). */
  lastAckSent: Seq = 0;
  windowScale = 0;
  /** Sequence number of the peer's FIN, once seen (perhaps out of order). */
  private finSeq: Seq = 0;
  private finSeen = false;
  /** Largest segment payload seen: the peer's effective MSS. */
  private peerMss = 536;
  private ackDeadline: Micros = NEVER;
  private ackNow = false;
  private unackedBytes = 0;
  private quick = QUICK_ACKS;
  private windowWasClosed = false;
  private dsackStart: Seq = 0;
  private dsackEnd: Seq = 0;
  private hasDsack = false;
  readonly queue = new ReceiveQueue();
  private reassembler: Reassembler | null = null;
  private readonly autotune = new ReceiveAutotune();

  private limit: number;

  constructor(
    limit: number,
    private readonly maxLimit: number,
    private readonly memory: TcpMemory | undefined,
  ) {
    this.limit = Math.min(limit, maxLimit);
  }

  /** IRS is known: RFC 9293 §3.10.7.3. The window of a SYN is not scaled. */
  start(irs: Seq): void {
    this.nxt = this.lastAckSent = (irs + 1) | 0;
    this.right = (this.nxt + Math.min(this.limit, 65_535)) | 0;
  }

  /** Bytes the peer may send now: RCV.WND as offered. */
  get window(): number {
    return Math.max(0, seqDiff(this.right, this.nxt));
  }

  get bufferLimit(): number {
    return this.limit;
  }

  /** The peer's FIN has been taken in order. */
  get finTaken(): boolean {
    return this.finSeen && seqGt(this.nxt, this.finSeq);
  }

  get outOfOrder(): number {
    return this.reassembler?.length ?? 0;
  }

  get ranges(): number {
    return this.reassembler?.rangeCount ?? 0;
  }

  /** `length` bytes at RCV.NXT are all text, and there is nothing else to consider. */
  expects(length: number): boolean {
    return this.reassembler === null && !this.finSeen && length <= seqDiff(this.right, this.nxt);
  }

  /**
   * Text and FIN of an acceptable segment. Returns the number of bytes that became readable.
   * Sets what to acknowledge: at once for a gap, a filled gap, a duplicate or a FIN (RFC 5681 §4.2), otherwise for every
   * second full segment or after the delay.
   */
  handleText(now: Micros, segment: TcpSegment, hasFin: boolean, delay: Micros): number {
    const { length } = segment;
    let start = segment.seq;
    let end = (start + length) | 0;
    let at = segment.payload;
    const mss = segment.gsoSize > 0 ? Math.min(segment.gsoSize, length) : length;
    if (mss > this.peerMss) this.peerMss = mss;
    if (hasFin && !this.finSeen && seqLe(end, this.right)) {
      this.finSeen = true;
      this.finSeq = end;
    }
    const dup = seqDiff(this.nxt, start);
    if (dup > 0 && length > 0) {
      // All or part was received before: RFC 2883 §4.1.
      this.setDsack(start, seqLt(end, this.nxt) ? end : this.nxt);
      at += dup;
      start = this.nxt;
      this.ackNow = true;
    }
    if (seqGt(end, this.right)) end = this.right;
    if (this.finSeen && seqGt(end, this.finSeq)) end = this.finSeq;
    const n = seqDiff(end, start);
    const before = this.queue.length;
    if (n > 0) {
      if (start === this.nxt) this.takeInOrder(now, segment.buf, at, n, delay);
      else this.takeOutOfOrder(start, end, segment.buf, at, n);
    } else if (length > 0) this.ackNow = true;
    if (this.finSeen && this.nxt === this.finSeq) {
      this.nxt = (this.nxt + 1) | 0;
      this.right = seqMax(this.right, this.nxt);
      this.ackNow = true;
    } else if (hasFin) this.ackNow = true;
    return this.queue.length - before;
  }

  private takeInOrder(now: Micros, buf: Uint8Array, at: number, n: number, delay: Micros): void {
    const held = this.queue.length + this.outOfOrder;
    this.queue.append(buf, at, n);
    this.nxt = (this.nxt + n) | 0;
    this.autotune.handleArrival(now, this.nxt, this.window);
    if (this.reassembler !== null && this.reassembler.rangeCount > 0) {
      // Fills a gap, all or in part: acknowledge at once (RFC 5681 §4.2).
      this.ackNow = true;
      this.nxt = this.reassembler.take(this.nxt, this.queue);
      if (this.reassembler.rangeCount === 0) this.reassembler = null;
    }
    // Bytes that were held twice are dropped when a gap is filled.
    this.charge(this.queue.length + this.outOfOrder - held);
    this.unackedBytes += n;
    if (this.unackedBytes >= 2 * this.peerMss || this.quick > 0) {
      this.ackNow = true;
      if (this.quick > 0) this.quick--;
    } else if (this.ackDeadline === NEVER) this.ackDeadline = now + delay;
  }

  private takeOutOfOrder(start: Seq, end: Seq, buf: Uint8Array, at: number, n: number): void {
    this.ackNow = true;
    const { memory } = this;
    if (memory !== undefined && memory.used > memory.limit) {
      memory.refused++;
      return;
    }
    const r = (this.reassembler ??= new Reassembler());
    if (r.covers(start, end)) this.setDsack(start, end);
    else {
      const before = r.length;
      if (!r.insert(start, buf, at, n) && memory !== undefined) memory.refused++;
      this.charge(r.length - before);
    }
  }

  private setDsack(start: Seq, end: Seq): void {
    this.hasDsack = true;
    this.dsackStart = start;
    this.dsackEnd = end;
  }

  /** The application has taken bytes. At once, and not with `handleRead`: who reads what a closed connection has left is not polled any more. */
  handleTaken(bytes: number): void {
    this.charge(-bytes);
  }

  /** The same when there is a clock. True: the window has opened enough to tell the peer. */
  handleRead(now: Micros, bytes: number): boolean {
    const wanted = this.autotune.handleRead(now, bytes, this.peerMss);
    const room = this.memory === undefined || this.memory.used < this.memory.limit / 2;
    if (wanted > this.limit && room) this.limit = Math.min(wanted, this.maxLimit);
    return this.windowUpdateDue();
  }

  /** Text that echoes a timestamp of ours: a round trip, for the size of the buffer. */
  handleEcho(now: Micros, segment: TcpSegment, ts: Timestamps): void {
    if (!ts.enabled || !segment.hasTimestamps || segment.length === 0 || segment.tsecr === 0) return;
    const elapsed = ts.elapsed(now, segment.tsecr);
    if (elapsed >= 0) this.autotune.handleTimestampSample(elapsed);
  }

  /** A larger window than the peer knows is worth a segment of its own: RFC 9293 §3.8.6.2.2. */
  private windowUpdateDue(): boolean {
    if (this.finTaken) return false;
    const gain = seqDiff(this.nextRight(), this.right);
    if (gain <= 0) return false;
    return this.windowWasClosed
      ? gain >= Math.min(this.limit / 2, this.peerMss)
      : gain >= Math.max(2 * this.peerMss, this.limit >> 3);
  }

  /** Where the right edge would be now, in steps that avoid the silly window syndrome. */
  private nextRight(): Seq {
    const free = this.limit - this.queue.length;
    const right = (this.nxt + Math.max(0, free)) | 0;
    const gain = seqDiff(right, this.right);
    return gain >= Math.min(this.limit / 2, this.peerMss) ? right : this.right;
  }

  /** The value of the window field of the segment that goes out now; it counts as told to the peer. */
  offerWindow(syn: boolean): number {
    if (!this.finTaken) this.right = seqMax(this.right, this.nextRight());
    this.lastAckSent = this.nxt;
    this.ackNow = false;
    this.ackDeadline = NEVER;
    this.unackedBytes = 0;
    const window = this.window;
    this.windowWasClosed = window < this.peerMss;
    if (syn) return Math.min(window, 65_535);
    return Math.min(window >>> this.windowScale, 65_535);
  }

  /** SACK blocks for the acknowledgement that goes out now (at most `max`), a DSACK first; returns their number. */
  writeSack(out: Int32Array, max: number): number {
    let n = 0;
    if (this.hasDsack) {
      out[0] = this.dsackStart;
      out[1] = this.dsackEnd;
      this.hasDsack = false;
      n = 1;
    }
    if (this.reassembler !== null) n += this.reassembler.writeSack(out, n, max - n);
    return n;
  }

  get sackDue(): boolean {
    return this.hasDsack || this.reassembler !== null;
  }

  requestAck(): void {
    this.ackNow = true;
  }

  get ackDue(): boolean {
    return this.ackNow;
  }

  /** NEVER: nothing is delayed. */
  get delayedAckDeadline(): Micros {
    return this.ackDeadline;
  }

  handleDelayedAck(): void {
    this.ackDeadline = NEVER;
    this.ackNow = true;
  }

  /** Drops everything: the connection is over, or nobody will read. */
  clear(): void {
    this.charge(-(this.queue.length + this.outOfOrder));
    this.queue.clear();
    this.reassembler = null;
  }

  private charge(bytes: number): void {
    if (this.memory !== undefined) this.memory.used += bytes;
  }
}

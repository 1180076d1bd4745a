// Was the retransmission needless? Eifel detection (RFC 3522) by timestamps, F-RTO (RFC 5682) after a timeout, and
// DSACK (RFC 3708). If so, the window returns to what it was (RFC 4015 in spirit, with Linux' full undo).

import type { Micros } from '../../core/index.js';
import { Mark } from './scoreboard.js';
import type { Seq } from './seq.js';

export class Undo {
  private cwnd = 0;
  private ssthresh = 0;
  private armed = false;
  /** Timestamp value of the first retransmission of the episode; null: none yet. */
  private firstRetransmit: number | null = null;
  /** Retransmitted bytes that no DSACK has answered yet. */
  private unanswered = 0;
  private retransmitted = 0;
  private timeoutAt: Micros = -1;

  /** An episode begins: what undo would restore. */
  begin(cwnd: number, ssthresh: number): void {
    this.cwnd = cwnd;
    this.ssthresh = ssthresh;
    this.armed = true;
    this.firstRetransmit = null;
    this.unanswered = this.retransmitted = 0;
    this.timeoutAt = -1;
  }

  /** F-RTO: the episode began (or goes on) with a timeout at `now`. */
  handleTimeout(now: Micros): void {
    this.timeoutAt = now;
  }

  end(): void {
    this.armed = false;
    this.timeoutAt = -1;
  }

  handleRetransmit(bytes: number, tsval: number): void {
    if (this.firstRetransmit === null) this.firstRetransmit = tsval;
    this.unanswered += bytes;
    this.retransmitted += bytes;
  }

  handleDsack(bytes: number): void {
    this.unanswered -= bytes;
  }

  get pending(): boolean {
    return this.armed;
  }

  get window(): { cwnd: number; ssthresh: number } {
    return { cwnd: this.cwnd, ssthresh: this.ssthresh };
  }

  /**
   * RFC 3522 step 4: the acknowledgement that advances SND.UNA echoes a timestamp older than that of the first
   * retransmission, so the original arrived.
   */
  spuriousByTimestamp(hasTimestamps: boolean, tsecr: number): boolean {
    return this.armed && hasTimestamps && this.firstRetransmit !== null && ((tsecr - this.firstRetransmit) | 0) < 0;
  }

  /** RFC 3708: every retransmission arrived twice. */
  get spuriousByDsack(): boolean {
    return this.armed && this.retransmitted > 0 && this.unanswered <= 0;
  }

  /**
   * RFC 5682 §3.1 with SACK: after the timeout, something is delivered that was sent before it and never again.
   * A piece that was SACKed before the timeout does not count; the scoreboard reports pieces once.
   */
  spuriousByDelivery(marks: number, sentAt: Micros): boolean {
    return this.armed && this.timeoutAt >= 0 && !(marks & Mark.retransmitted) && sentAt < this.timeoutAt;
  }
}

/** RFC 2883 §4: is the first block of an acknowledgement a report of a duplicate? */
export function isDsack(blocks: Int32Array, count: number, ack: Seq): boolean {
  if (count === 0) return false;
  const start = blocks[0]!;
  const end = blocks[1]!;
  if (((end - start) | 0) <= 0) return false;
  if (((start - ack) | 0) < 0) return true;
  if (count < 2) return false;
  return ((start - blocks[2]!) | 0) >= 0 && ((blocks[3]! - end) | 0) >= 0;
}

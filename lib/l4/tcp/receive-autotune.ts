// How large the receive buffer should be: dynamic right-sizing (Fisk and Feng 2001; Linux tcp_rcv_space_adjust).
//
// What the application read during one round-trip time is what the sender could send in one; twice that lets the
// sender's window double, as slow start wants. The buffer only grows, up to a bound.

import type { Micros } from '../../core/index.js';
import { type Seq, seqGe } from './seq.js';

export class ReceiveAutotune {
  private rtt = 0;
  private roundEnd: Seq = 0;
  private roundStart: Micros = -1;
  private readStart: Micros = -1;
  private readBytes = 0;
  private space = 0;

  /** Round-trip time from the timestamps of a data segment that answers our last acknowledgement; in whole milliseconds. */
  handleTimestampSample(rtt: Micros): void {
    const sample = Math.max(rtt, 1_000);
    // The smallest is nearest to the path: a sender that had nothing to send makes samples large, never small.
    this.rtt = this.rtt === 0 || sample < this.rtt ? sample : this.rtt + (sample - this.rtt) / 16;
  }

  /** Without timestamps: a whole window takes at least one round trip to arrive. */
  handleArrival(now: Micros, nxt: Seq, window: number): void {
    if (this.roundStart >= 0 && !seqGe(nxt, this.roundEnd)) return;
    if (this.roundStart >= 0) {
      const sample = now - this.roundStart;
      this.rtt = this.rtt === 0 || sample < this.rtt ? Math.max(sample, 1) : this.rtt;
    }
    this.roundStart = now;
    this.roundEnd = (nxt + window) | 0;
  }

  /** The application has read `bytes`: returns the buffer that is now wanted, 0 for no change. */
  handleRead(now: Micros, bytes: number, mss: number): number {
    this.readBytes += bytes;
    if (this.readStart < 0) {
      this.readStart = now;
      return 0;
    }
    if (this.rtt === 0 || now - this.readStart < this.rtt) return 0;
    const copied = this.readBytes;
    this.readStart = now;
    this.readBytes = 0;
    if (copied <= this.space) return 0;
    // While the rate still grows, ask for the growth of the next round as well.
    const growth = this.space === 0 ? 1 : (copied - this.space) / this.space;
    this.space = copied;
    const wanted = 2 * copied + 16 * mss;
    return Math.ceil(wanted * (1 + Math.min(growth, 1)));
  }
}

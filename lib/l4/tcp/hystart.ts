// HyStart++: RFC 9406. Leaves slow start when the round-trip time rises, before the queue overflows; first on trial
// (conservative slow start), for good if the rise stays.

import type { Micros } from '../../core/index.js';
import { type Seq, seqGe } from './seq.js';

// Constants of §4.3.
const MIN_RTT_THRESH: Micros = 4_000;
const MAX_RTT_THRESH: Micros = 16_000;
const MIN_RTT_DIVISOR = 8;
const N_RTT_SAMPLE = 8;
const CSS_GROWTH_DIVISOR = 4;
const CSS_ROUNDS = 5;
/** Segments per acknowledgement that may count when not paced. */
const L = 8;

export class HyStart {
  private lastRoundMin: Micros = Number.POSITIVE_INFINITY;
  private currentMin: Micros = Number.POSITIVE_INFINITY;
  private samples = 0;
  private windowEnd: Seq | null = null;
  private cssBaseline: Micros = Number.POSITIVE_INFINITY;
  private cssRounds = 0;
  private inCss = false;

  /**
   * One acknowledgement in slow start; returns by how many bytes the window may grow, or -1: slow start is over.
   * `paced` lifts the limit per acknowledgement (§4.3: L = infinity).
   */
  handleAck(bytes: number, rtt: Micros, una: Seq, nxt: Seq, mss: number, paced: boolean): number {
    this.windowEnd ??= nxt;
    if (!Number.isNaN(rtt)) {
      this.currentMin = Math.min(this.currentMin, rtt);
      this.samples++;
    }
    const grow = paced ? bytes : Math.min(bytes, L * mss);
    if (this.samples >= N_RTT_SAMPLE && this.currentMin < Number.POSITIVE_INFINITY) {
      if (!this.inCss) {
        const thresh = Math.max(MIN_RTT_THRESH, Math.min(this.lastRoundMin / MIN_RTT_DIVISOR, MAX_RTT_THRESH));
        if (this.lastRoundMin < Number.POSITIVE_INFINITY && this.currentMin >= this.lastRoundMin + thresh) {
          this.cssBaseline = this.currentMin;
          this.inCss = true;
          this.cssRounds = 0;
        }
      } else if (this.currentMin < this.cssBaseline) {
        // The rise was a spurious one: back to slow start.
        this.cssBaseline = Number.POSITIVE_INFINITY;
        this.inCss = false;
      }
    }
    const growth = this.inCss ? grow / CSS_GROWTH_DIVISOR : grow;
    // The acknowledgement that ends a round is of a segment of that round: its sample belongs there.
    if (seqGe(una, this.windowEnd)) {
      this.startRound(nxt);
      if (this.inCss && ++this.cssRounds >= CSS_ROUNDS) return -1;
    }
    return growth;
  }

  private startRound(nxt: Seq): void {
    this.lastRoundMin = this.currentMin;
    this.currentMin = Number.POSITIVE_INFINITY;
    this.samples = 0;
    this.windowEnd = nxt;
  }
}

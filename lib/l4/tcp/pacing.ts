// Pacing: spreads a window over the round-trip time instead of sending it in one burst (RFC 9002 §7.7's reasons; factors
// of Linux: 2 in slow start, 1.2 afterwards).
//
// Deviation: not below 2 ms of RTT. The process's timer has steps of a millisecond; there it would only slow down.

import { type Micros, NEVER } from '../../core/index.js';

const MIN_RTT: Micros = 2_000;
/** How much lateness of the timer is made good by a burst. */
const CREDIT: Micros = 2_000;

export class Pacer {
  private next: Micros = 0;

  /** Bytes per microsecond; Infinity: not paced. */
  static rate(srtt: Micros, cwnd: number, slowStart: boolean): number {
    return !(srtt >= MIN_RTT) ? Number.POSITIVE_INFINITY : (cwnd * (slowStart ? 2 : 1.2)) / srtt;
  }

  /** Bytes that make one burst: about a millisecond's worth, at least two segments. */
  static burst(rate: number, mss: number): number {
    return rate === Number.POSITIVE_INFINITY ? rate : Math.max(2 * mss, rate * 1_000);
  }

  /** When the next packet may leave; NEVER is not among the answers. */
  get deadline(): Micros {
    return this.next;
  }

  allows(now: Micros): boolean {
    return now >= this.next;
  }

  handleSent(now: Micros, bytes: number, rate: number): void {
    this.next = Math.max(this.next, now - CREDIT) + bytes / rate;
    if (!(this.next < NEVER)) this.next = now;
  }
}

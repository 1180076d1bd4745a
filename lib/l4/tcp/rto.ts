// Retransmission timeout: RFC 6298 §2.4 and §5.5 (back-off), and when to give up (RFC 9293 §3.8.3).

import type { Micros } from '../../core/index.js';
import type { RttEstimator } from './rtt.js';

export class Rto {
  private backoffs = 0;
  /** When the data that is now unanswered was first waited for; -1: nothing is. */
  private since: Micros = -1;

  constructor(
    private readonly rtt: RttEstimator,
    private readonly min: Micros,
    private readonly max: Micros,
  ) {}

  /** The current value, back-off included. */
  get value(): Micros {
    const { srtt, rttvar } = this.rtt;
    // Deviation from RFC 6298 (2.4): the minimum holds for the variance term, not for the sum (Linux tcp_rto_min): with a
    // minimum below a second, a sum would leave no room for delayed acknowledgements.
    const base = Number.isNaN(srtt) ? rttvar : srtt + Math.max(this.min, 4 * rttvar);
    return Math.min(base * 2 ** this.backoffs, this.max);
  }

  get backedOff(): number {
    return this.backoffs;
  }

  /** §5.5. */
  handleTimeout(now: Micros): void {
    if (this.since < 0) this.since = now - this.value;
    this.backoffs = Math.min(this.backoffs + 1, 16);
  }

  /** New data was acknowledged (§5.7 leaves the new value to the next samples), or a probe was answered. */
  handleProgress(): void {
    this.backoffs = 0;
    this.since = -1;
  }

  /** The network is back: try soon, but keep counting the time. */
  forgive(): void {
    this.backoffs = 0;
  }

  /** For how long nothing has been heard although something was due. */
  unansweredFor(now: Micros): Micros {
    return this.since < 0 ? 0 : now - this.since;
  }
}

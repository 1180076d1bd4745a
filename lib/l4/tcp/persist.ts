// Zero-window probes and the sender's SWS override: RFC 9293 §3.8.6.1, §3.8.6.2.1.

import type { Micros } from '../../core/index.js';

export class Persist {
  private backoffs = 0;
  private since: Micros = -1;

  /** Interval to the next probe: the retransmission timeout, doubled each time, bounded by the same maximum. */
  interval(rto: Micros, max: Micros): Micros {
    return Math.min(rto * 2 ** this.backoffs, max);
  }

  handleProbe(now: Micros): void {
    if (this.since < 0) this.since = now;
    this.backoffs = Math.min(this.backoffs + 1, 16);
  }

  /** The peer answered: a closed window may stay closed for ever (MUST-37 of §3.8.6.1), silence may not. */
  handleAnswer(): void {
    this.since = -1;
  }

  handleOpen(): void {
    this.backoffs = 0;
    this.since = -1;
  }

  silentFor(now: Micros): Micros {
    return this.since < 0 ? 0 : now - this.since;
  }
}

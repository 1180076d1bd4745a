// Round-trip time: RFC 6298 §2. The caller gives only samples that Karn's algorithm (§3) allows.

import type { Micros } from '../../core/index.js';

/** Before the first sample: RFC 6298 (2.1); and (5.7), when the SYN was lost, which may have been the timeout's mistake. */
const INITIAL_RTO: Micros = 1_000_000;
const RTO_AFTER_SYN_LOSS: Micros = 3_000_000;

export class RttEstimator {
  /** NaN before the first sample. */
  srtt: Micros = Number.NaN;
  /** Before the first sample: the timeout. */
  rttvar: Micros = INITIAL_RTO;
  /** Smallest of the last window of samples: what the path takes without queues. NaN before the first. */
  min: Micros = Number.NaN;
  latest: Micros = Number.NaN;
  private minAt: Micros = 0;

  /** The handshake is over, and its SYN was sent more than once. */
  handleSynLoss(): void {
    if (Number.isNaN(this.srtt)) this.rttvar = RTO_AFTER_SYN_LOSS;
  }

  handleSample(now: Micros, rtt: Micros): void {
    // A clock of whole milliseconds (timestamps) can show 0.
    rtt = Math.max(rtt, 1);
    this.latest = rtt;
    if (Number.isNaN(this.srtt)) {
      this.srtt = rtt; // (2.2)
      this.rttvar = rtt / 2;
    } else {
      this.rttvar += (Math.abs(this.srtt - rtt) - this.rttvar) / 4; // (2.3)
      this.srtt += (rtt - this.srtt) / 8;
    }
    // Windowed, so that a change of route is noticed (RFC 8985 §6.2 step 2 leaves the filter open; Linux: 300 s).
    if (!(rtt > this.min) || now - this.minAt > 300_000_000) {
      this.min = rtt;
      this.minAt = now;
    }
  }
}

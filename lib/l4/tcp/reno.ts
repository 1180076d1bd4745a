// NewReno: RFC 5681 §3.1, appropriate byte counting of RFC 3465 with L = 2. Recovery itself is RACK and PRR.

import type { Micros } from '../../core/index.js';
import type { CongestionController } from './congestion.js';

export class Reno implements CongestionController {
  readonly name = 'reno';
  ssthresh = Number.POSITIVE_INFINITY;
  private counted = 0;

  constructor(
    public cwnd: number,
    private mss: number,
  ) {}

  get inSlowStart(): boolean {
    return this.cwnd < this.ssthresh;
  }

  onAck(_now: Micros, bytes: number): void {
    if (this.inSlowStart) {
      const used = Math.min(bytes, this.ssthresh - this.cwnd);
      this.cwnd += used;
      bytes -= used;
    }
    this.counted += bytes;
    if (this.counted >= this.cwnd) {
      this.counted -= this.cwnd;
      this.cwnd += this.mss;
    }
  }

  onCongestion(_now: Micros, flight: number): void {
    this.ssthresh = Math.max(flight / 2, 2 * this.mss); // equation 4
    this.counted = 0;
  }

  onTimeout(now: Micros, flight: number, first: boolean): void {
    if (first) this.onCongestion(now, flight);
    this.cwnd = this.mss;
  }

  setCwnd(bytes: number): void {
    this.cwnd = Math.max(bytes, this.mss);
  }

  onUndo(cwnd: number, ssthresh: number): void {
    this.cwnd = Math.max(this.cwnd, cwnd);
    this.ssthresh = ssthresh;
  }

  onIdle(initialWindow: number): void {
    if (this.cwnd > initialWindow) {
      this.ssthresh = Math.max(this.ssthresh, (3 * this.cwnd) / 4);
      this.cwnd = initialWindow;
    }
  }

  setMss(mss: number): void {
    this.mss = mss;
  }
}

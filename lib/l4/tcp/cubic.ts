// CUBIC: RFC 9438, with HyStart++ (RFC 9406) for slow start. Windows in bytes; the cubic itself in segments and seconds, as
// the RFC has it.

import type { Micros } from '../../core/index.js';
import type { CongestionController } from './congestion.js';
import { HyStart } from './hystart.js';

const C = 0.4;
const BETA = 0.7;
/** §4.3: what Reno's additive increase has to be to be as aggressive with beta = 0.7. */
const ALPHA = (3 * (1 - BETA)) / (1 + BETA);

export class Cubic implements CongestionController {
  readonly name = 'cubic';
  ssthresh = Number.POSITIVE_INFINITY;
  private wMax = 0;
  private k = 0;
  private epochStart: Micros = -1;
  /** Reno-friendly window of this epoch, in segments. */
  private wEst = 0;
  private cwndPrior = 0;
  private lastAck: Micros = 0;
  private before: { wMax: number; k: number; epochStart: Micros; wEst: number } | null = null;
  /** Made by the first acknowledgement in slow start; null once that is over. */
  private hystart: HyStart | null | undefined = undefined;

  constructor(
    public cwnd: number,
    private mss: number,
    private readonly paced: boolean,
  ) {}

  get inSlowStart(): boolean {
    return this.cwnd < this.ssthresh;
  }

  onAck(now: Micros, bytes: number, rtt: Micros, srtt: Micros, una: number, nxt: number): void {
    if (this.inSlowStart) {
      bytes = this.slowStart(bytes, rtt, una, nxt);
      if (bytes <= 0) {
        this.lastAck = now;
        return;
      }
    }
    // Congestion avoidance, §4.2. Time in which nothing was sent does not count (§5.8).
    const cwnd = this.cwnd / this.mss;
    if (this.epochStart < 0) this.startEpoch(now, cwnd);
    else if (now - this.lastAck > 2 * srtt && now - this.lastAck > 1_000_000) this.epochStart += now - this.lastAck;
    this.lastAck = now;
    const t = (now - this.epochStart + (Number.isNaN(srtt) ? 0 : srtt)) / 1e6;
    const target = Math.min(Math.max(C * (t - this.k) ** 3 + this.wMax, cwnd), 1.5 * cwnd);
    const segments = bytes / this.mss;
    // §4.3: once it has passed the window of the last loss, alpha becomes 1.
    this.wEst += (this.wEst >= this.cwndPrior ? 1 : ALPHA) * (segments / cwnd);
    const cubic = cwnd + ((target - cwnd) / cwnd) * segments;
    this.cwnd = Math.max(cubic, Math.min(this.wEst, cwnd + segments)) * this.mss;
  }

  private slowStart(bytes: number, rtt: Micros, una: number, nxt: number): number {
    let grow = bytes;
    if (this.hystart !== null) {
      this.hystart ??= new HyStart();
      grow = this.hystart.handleAck(bytes, rtt, una, nxt, this.mss, this.paced);
      if (grow < 0) {
        this.ssthresh = this.cwnd;
        this.hystart = null;
        return bytes;
      }
    }
    const used = Math.min(grow, this.ssthresh - this.cwnd);
    this.cwnd += used;
    return this.inSlowStart ? 0 : grow - used;
  }

  private startEpoch(now: Micros, cwnd: number): void {
    this.epochStart = now;
    if (cwnd < this.wMax) this.k = Math.cbrt((this.wMax - cwnd) / C);
    else {
      this.k = 0;
      this.wMax = cwnd;
    }
    this.wEst = cwnd;
  }

  onCongestion(_now: Micros, flight: number): void {
    // §4.6 with the window in use, not one that the application never filled.
    const cwnd = this.cwnd / this.mss;
    this.before = { wMax: this.wMax, k: this.k, epochStart: this.epochStart, wEst: this.wEst };
    this.cwndPrior = cwnd;
    this.wMax = cwnd < this.wMax ? (cwnd * (1 + BETA)) / 2 : cwnd; // §4.7 fast convergence
    this.epochStart = -1;
    this.ssthresh = Math.max(Math.max(this.cwnd, Math.min(flight, 2 * this.cwnd)) * BETA, 2 * this.mss);
    this.hystart = null;
  }

  onTimeout(now: Micros, flight: number, first: boolean): void {
    if (first) this.onCongestion(now, flight);
    this.cwnd = this.mss;
    this.epochStart = -1;
  }

  setCwnd(bytes: number): void {
    this.cwnd = Math.max(bytes, this.mss);
  }

  onUndo(cwnd: number, ssthresh: number): void {
    this.cwnd = Math.max(this.cwnd, cwnd);
    this.ssthresh = ssthresh;
    if (this.before !== null) {
      // §4.9.2
      this.wMax = this.before.wMax;
      this.k = this.before.k;
      this.epochStart = this.before.epochStart;
      this.wEst = this.before.wEst;
      this.before = null;
    }
  }

  onIdle(initialWindow: number): void {
    if (this.cwnd > initialWindow) {
      this.ssthresh = Math.max(this.ssthresh, (3 * this.cwnd) / 4);
      this.cwnd = initialWindow;
    }
    this.epochStart = -1;
  }

  setMss(mss: number): void {
    this.mss = mss;
  }
}

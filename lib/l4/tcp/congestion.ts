// What a congestion controller is: named events in, a window out. It owns cwnd and ssthresh; nobody else writes them.

import type { Micros } from '../../core/index.js';

export interface CongestionController {
  readonly name: string;
  /** Bytes. */
  readonly cwnd: number;
  readonly ssthresh: number;
  readonly inSlowStart: boolean;
  /**
   * New data was acknowledged outside of recovery, and the window was in use (RFC 9293 §3.8.2; RFC 7661 for when it was not).
   * `rtt`: latest sample or NaN; `una` and `nxt` delimit rounds.
   */
  onAck(now: Micros, bytes: number, rtt: Micros, srtt: Micros, una: number, nxt: number): void;
  /** A loss episode begins (or ECN says so): sets ssthresh, leaves cwnd to PRR. */
  onCongestion(now: Micros, flight: number): void;
  /** Retransmission timeout: as onCongestion, and the window is one segment (RFC 5681 §3.1). `first`: not a back-off of the same. */
  onTimeout(now: Micros, flight: number, first: boolean): void;
  /** PRR, and the end of an episode. */
  setCwnd(bytes: number): void;
  /** The episode was needless. */
  onUndo(cwnd: number, ssthresh: number): void;
  /** Nothing was sent for an RTO: restart from the initial window (RFC 5681 §4.1). */
  onIdle(initialWindow: number): void;
  setMss(mss: number): void;
}

// Tail loss probe: RFC 8985 §7. A lost tail brings no acknowledgement that RACK could live on: probe for one.

import { type Micros, NEVER } from '../../core/index.js';
import { type Seq, seqGe } from './seq.js';

/** TLP.max_ack_delay: what a peer may delay the acknowledgement of a lone segment. As Linux' RTO minimum. */
const MAX_ACK_DELAY: Micros = 200_000;

const CLOCK_SLACK: Micros = 2_000;

export class TailLossProbe {
  deadline: Micros = NEVER;
  private endSeq: Seq = 0;
  private outstanding = false;
  private isRetransmission = false;

  /** §7.2: called after new data went out or was acknowledged, in open state only. `srtt` NaN: no sample yet. */
  arm(now: Micros, srtt: Micros, oneSegment: boolean, rtoDeadline: Micros): void {
    if (this.outstanding) return;
    let pto = Number.isNaN(srtt) ? 1_000_000 : 2 * srtt;
    if (oneSegment && !Number.isNaN(srtt)) pto += MAX_ACK_DELAY;
    // Both ends' clocks wake up in steps of about a millisecond; as Linux' TCP_TIMEOUT_MIN.
    else pto += CLOCK_SLACK;
    this.deadline = Math.min(now + pto, rtoDeadline);
  }

  cancel(): void {
    this.deadline = NEVER;
  }

  /** §7.3: the probe has gone out; `end` is SND.NXT after it. */
  handleSent(end: Seq, isRetransmission: boolean): void {
    this.deadline = NEVER;
    this.outstanding = true;
    this.isRetransmission = isRetransmission;
    this.endSeq = end;
  }

  get waiting(): boolean {
    return this.outstanding;
  }

  /** §7.4.2: true when the acknowledgement shows that the probe repaired a loss, to be answered as congestion. */
  handleAck(ack: Seq, dsack: boolean, duplicate: boolean): boolean {
    if (!this.outstanding || !seqGe(ack, this.endSeq)) return false;
    if (!this.isRetransmission || dsack) {
      this.outstanding = false;
      return false;
    }
    // Original and probe both arrived if a duplicate without news follows: no loss.
    this.outstanding = false;
    return !duplicate;
  }

  reset(): void {
    this.outstanding = false;
    this.deadline = NEVER;
  }
}

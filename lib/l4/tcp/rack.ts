// RACK: time-based loss detection. RFC 8985 §6; names and steps are the RFC's.

import { type Micros, NEVER } from '../../core/index.js';
import { Mark, type Scoreboard } from './scoreboard.js';
import { type Seq, seqGt, seqLt } from './seq.js';

const DUPTHRESH = 3;
/** Recoveries after which an enlarged reordering window returns to normal: §6.2 step 4. */
const REO_WND_PERSIST = 16;

/** When the latest of the pieces of the acknowledgement in hand was sent: of one connection at a time. */
let lastSentAt: Micros = Number.NEGATIVE_INFINITY;

export class Rack {
  /** Most recently sent of what was delivered. */
  private xmitTs: Micros = -1;
  private endSeq: Seq = 0;
  private rtt: Micros = 0;
  private fack: Seq = 0;
  private reorderingSeen = false;
  private dsackRound: Seq | null = null;
  private reoWndMult = 1;
  private reoWndPersist = 0;
  private started = false;

  /** When `detect` is worth calling again though no acknowledgement came: the reordering timer, §6.3. */
  deadline: Micros = NEVER;

  get sawReordering(): boolean {
    return this.reorderingSeen;
  }

  /** An acknowledgement, perhaps of several pieces, begins. */
  handleAckBegin(): void {
    lastSentAt = Number.NEGATIVE_INFINITY;
  }

  /**
   * Steps 1 and 3 for one delivered piece. `tsecr` (ms, as sent at `xmitTsval`) tells a retransmission from its original:
   * pass the difference tsecr - tsval-at-transmission, or NaN without timestamps.
   */
  handleDelivered(now: Micros, end: Seq, sentAt: Micros, marks: number, minRtt: Micros, echoIsOlder: boolean): void {
    if (!this.started) {
      this.started = true;
      this.fack = end;
    } else if (seqGt(end, this.fack)) this.fack = end;
    else if (seqLt(end, this.fack) && !(marks & Mark.retransmitted)) this.reorderingSeen = true;
    const rtt = now - sentAt;
    // An acknowledgement of the original that crossed its retransmission says nothing of the latter.
    if (marks & Mark.retransmitted && (echoIsOlder || rtt < minRtt)) return;
    // "In ascending order of Segment.xmit_ts": the last one sent counts. Pieces come here in the order of their numbers.
    if (sentAt >= lastSentAt) {
      lastSentAt = sentAt;
      this.rtt = rtt;
    }
    if (sentAt > this.xmitTs || (sentAt === this.xmitTs && seqGt(end, this.endSeq))) {
      this.xmitTs = sentAt;
      this.endSeq = end;
    }
  }

  /** A DSACK arrived: something was retransmitted in vain, so allow for more reordering; at most once a round trip. */
  handleDsack(una: Seq, nxt: Seq): void {
    if (this.dsackRound !== null && seqLt(una, this.dsackRound)) return;
    this.dsackRound = nxt;
    this.reoWndMult = Math.min(this.reoWndMult + 1, 255);
    this.reoWndPersist = REO_WND_PERSIST;
  }

  handleRecoveryEnd(): void {
    if (this.reoWndPersist > 0 && --this.reoWndPersist === 0) this.reoWndMult = 1;
  }

  /** Step 4. `sackedSegments` is an estimate: bytes by MSS. */
  private reorderingWindow(inRecovery: boolean, sackedSegments: number, minRtt: Micros, srtt: Micros): Micros {
    if (!this.reorderingSeen && (inRecovery || sackedSegments >= DUPTHRESH)) return 0;
    return Math.min((this.reoWndMult * minRtt) / 4, srtt);
  }

  /** Step 5: marks what is lost and sets `deadline` for what may yet become so. Returns the bytes marked. */
  detect(now: Micros, board: Scoreboard, inRecovery: boolean, mss: number, minRtt: Micros, srtt: Micros): number {
    this.deadline = NEVER;
    if (this.xmitTs < 0 || board.count === 0) return 0;
    const reoWnd = this.reorderingWindow(inRecovery, board.sackedBytes / mss, minRtt, srtt);
    const before = board.lostBytes - board.againBytes;
    let wait = 0;
    for (let i = 0; i < board.count; i++) {
      const marks = board.mark(i);
      if (marks & Mark.sacked) continue;
      if (marks & Mark.lost && !(marks & Mark.inFlightAgain)) continue;
      const sentAt = board.sentAt(i);
      if (sentAt > this.xmitTs || (sentAt === this.xmitTs && !seqGt(this.endSeq, board.end(i)))) {
        // First transmissions are sorted by time: nothing behind this one was sent before it, retransmissions apart.
        if (!(marks & Mark.retransmitted) && board.againBytes === 0) break;
        continue;
      }
      const remaining = sentAt + this.rtt + reoWnd - now;
      if (remaining <= 0) board.markLost(i);
      else if (remaining > wait) wait = remaining;
    }
    if (wait > 0) this.deadline = now + wait;
    return board.lostBytes - board.againBytes - before;
  }
}

// Loss recovery: what an acknowledgement, a timer or ECN means for what is in flight and for the window.
// Composes scoreboard, RACK (RFC 8985), TLP, PRR, undo and the congestion controller; the states are Linux':
//
//     open -> disorder        something was SACKed, nothing is lost
//     open -> cwr             ECN (or a repaired tail) asks for a reduction; nothing is lost
//     open -> recovery        RACK (without SACK: three duplicates, RFC 6582) declared a loss
//     any  -> loss            retransmission timeout
//     all end when SND.NXT of their beginning is acknowledged; or by undo, when they were needless.

import { type Micros, NEVER } from '../../core/index.js';
import type { TcpSegment } from '../wire/tcp.js';
import type { CongestionController } from './congestion.js';
import { Prr } from './prr.js';
import { Rack } from './rack.js';
import type { Rto } from './rto.js';
import type { RttEstimator } from './rtt.js';
import { type DeliveryListener, Mark, Scoreboard } from './scoreboard.js';
import { type Seq, seqDiff, seqGe, seqGt, seqLt } from './seq.js';
import type { Timestamps } from './timestamps.js';
import { TailLossProbe } from './tlp.js';
import { isDsack, Undo } from './undo.js';

export type RecoveryState = 'open' | 'disorder' | 'cwr' | 'recovery' | 'loss';
const DUPTHRESH = 3;
const LOCAL_RTT: Micros = 2_000;
const LOCAL_WINDOW = 512 * 1024;

/** Of the acknowledgement (or the timer) in hand: one for all connections, since nothing of it outlasts the call of its connection. */
const inHand = {
  now: 0,
  delivered: 0,
  sampleSentAt: -1,
  lateOriginal: false,
  tsecr: 0,
  hasEcho: false,
  deliveredAgain: false,
  cut: false,
  oddBlocks: 0,
};

/** What only a peer that means no good says: an acknowledgement that ends inside a segment, and so many such SACK blocks. */
export const lastAck: Readonly<Pick<typeof inHand, 'cut' | 'oddBlocks'>> = inHand;

export class LossRecovery implements DeliveryListener {
  state: RecoveryState = 'open';
  readonly board = new Scoreboard();
  private readonly rack = new Rack();
  readonly tlp = new TailLossProbe();
  /** Made by the first episode: most connections never have one. */
  private undo: Undo | null = null;
  private prr: Prr | null = null;
  /** SND.NXT when the episode began (RFC 6582's recover). */
  private highSeq: Seq;
  /** Duplicate acknowledgements of a peer without SACK: each stands for a segment that has left the network. */
  private duplicates = 0;
  /** RFC 5682 without timestamps. 1: the timeout was; 2: one acknowledgement advanced, new data probes. */
  private frto: 0 | 1 | 2 = 0;
  sackEnabled = false;
  fastRecoveries = 0;
  undone = 0;

  constructor(
    readonly cc: CongestionController,
    private readonly rtt: RttEstimator,
    private readonly rto: Rto,
    private readonly ts: Timestamps,
    iss: Seq,
  ) {
    this.highSeq = iss;
  }

  get pipe(): number {
    return Math.max(0, this.board.pipe - this.duplicateBytes);
  }

  private duplicateBytes = 0;

  /** True: retransmissions wait, new data goes first (F-RTO step 2b). */
  get probing(): boolean {
    return this.frto === 2;
  }

  get rackDeadline(): Micros {
    return this.rack.deadline;
  }

  onDelivered(end: Seq, bytes: number, sentAt: Micros, marks: number): void {
    inHand.delivered += bytes;
    const again = (marks & Mark.retransmitted) !== 0;
    if (again) inHand.deliveredAgain = true;
    else if (sentAt > inHand.sampleSentAt) inHand.sampleSentAt = sentAt;
    if (this.undo?.spuriousByDelivery(marks, sentAt)) inHand.lateOriginal = true;
    const older = again && inHand.hasEcho && ((inHand.tsecr - this.ts.value(sentAt)) | 0) < 0;
    this.rack.handleDelivered(inHand.now, end, sentAt, marks, this.rtt.min, older);
  }

  /**
   * An acceptable acknowledgement, SND.UNA <= ack <= SND.NXT, that may carry SACK blocks. `duplicate`: it is one by
   * RFC 5681's definition. Returns true when it brought news of delivery (the timer is to be restarted).
   */
  handleAck(
    now: Micros,
    segment: TcpSegment,
    una: Seq,
    nxt: Seq,
    mss: number,
    duplicate: boolean,
    limited: boolean,
    congestion: boolean,
  ): boolean {
    const { board } = this;
    const ack = segment.ack;
    const advanced = seqDiff(ack, una);
    inHand.now = now;
    inHand.delivered = 0;
    inHand.sampleSentAt = -1;
    inHand.lateOriginal = false;
    inHand.hasEcho = this.ts.enabled && segment.hasTimestamps && segment.tsecr !== 0;
    inHand.tsecr = segment.tsecr;

    const dsack = this.sackEnabled && isDsack(segment.sack, segment.sackCount, ack);
    if (dsack) {
      this.rack.handleDsack(ack, nxt);
      this.undo?.handleDsack(seqDiff(segment.sack[1]!, segment.sack[0]!));
    }
    const flight = board.outstanding;
    this.rack.handleAckBegin();
    inHand.deliveredAgain = false;
    inHand.cut = advanced > 0 && board.ackTo(ack, mss, this);
    inHand.oddBlocks = 0;
    // What lay behind a hole may have arrived long ago, and is only now acknowledged: no sample (Karn; so Linux).
    if (inHand.deliveredAgain) inHand.sampleSentAt = -1;
    if (this.sackEnabled) {
      inHand.oddBlocks = board.handleSack(segment.sack, dsack ? 1 : 0, segment.sackCount, mss, this);
    } else this.countDuplicates(duplicate && board.count > 0, advanced, mss);

    const sample = this.sample(advanced);
    if (!Number.isNaN(sample)) this.rtt.handleSample(now, sample);
    if (advanced > 0) this.rto.handleProgress();

    // Numbers of the past must not come to look like the future when the sequence space has gone round.
    if (this.state === 'open' && seqLt(this.highSeq, ack)) this.highSeq = (ack - 1) | 0;
    const lost = this.detect(now, ack, advanced, mss);
    if (this.tlp.handleAck(ack, dsack, duplicate) || congestion) this.enterReduction('cwr', flight, nxt);
    this.tryUndo(advanced, segment);
    this.tryLeave(ack, advanced);
    if (lost > 0 && this.state !== 'loss') this.enterReduction('recovery', flight, nxt);
    if (this.state === 'open' && board.sackedBytes > 0) this.state = 'disorder';
    else if (this.state === 'disorder' && board.sackedBytes === 0) this.state = 'open';
    this.adjustWindow(now, advanced, lost, limited, sample, ack, nxt, mss);
    return inHand.delivered > 0 || advanced > 0;
  }

  /** Karn (RFC 6298 §3): by the latest piece sent once; else by the echo of a timestamp. NaN: no sample. */
  private sample(advanced: number): Micros {
    if (inHand.sampleSentAt >= 0) return inHand.now - inHand.sampleSentAt;
    if (advanced > 0 && inHand.hasEcho && inHand.delivered > 0) {
      const elapsed = this.ts.elapsed(inHand.now, inHand.tsecr);
      if (elapsed >= 0) return elapsed;
    }
    return Number.NaN;
  }

  /** RFC 6582 for peers without SACK; each duplicate inflates the window by taking a segment out of the pipe. */
  private countDuplicates(duplicate: boolean, advanced: number, mss: number): void {
    if (advanced > 0) {
      if (this.state === 'recovery')
        this.duplicates = Math.max(0, this.duplicates - Math.max(1, Math.floor(advanced / mss)));
      else this.duplicates = 0;
    } else if (duplicate) {
      this.duplicates++;
      inHand.delivered += Math.min(mss, this.board.outstanding);
    }
    this.duplicateBytes = Math.min(this.duplicates * mss, Math.max(0, this.board.outstanding - mss));
  }

  private detect(now: Micros, ack: Seq, advanced: number, mss: number): number {
    const { board } = this;
    if (this.sackEnabled) {
      const inRecovery = this.state === 'recovery' || this.state === 'loss';
      // Without SACKed data and without retransmissions in flight an advance cannot leave anything behind.
      if (board.sackedBytes === 0 && board.againBytes === 0) {
        this.rack.deadline = NEVER;
        return 0;
      }
      return this.rack.detect(now, board, inRecovery, mss, this.rtt.min, this.rtt.srtt);
    }
    if (board.count === 0) return 0;
    const partial = this.state === 'recovery' && advanced > 0 && seqLt(ack, this.highSeq);
    const third = this.state !== 'recovery' && this.state !== 'loss' && this.duplicates === DUPTHRESH && advanced === 0;
    // RFC 6582 §4.1: three duplicates that belong to the episode before are no new loss.
    if (!partial && !(third && (this.fastRecoveries === 0 || seqGt(ack, this.highSeq)))) return 0;
    const before = board.lostBytes - board.againBytes;
    if (!(board.mark(0) & Mark.inFlightAgain)) board.markLost(0);
    return board.lostBytes - board.againBytes - before;
  }

  /** RACK's reordering timer (RFC 8985 §6.3). */
  handleReorderingTimeout(now: Micros, nxt: Seq, mss: number): void {
    const inRecovery = this.state === 'recovery' || this.state === 'loss';
    const flight = this.board.outstanding;
    inHand.now = now;
    const lost = this.rack.detect(now, this.board, inRecovery, mss, this.rtt.min, this.rtt.srtt);
    if (lost === 0) return;
    if (this.state !== 'loss') this.enterReduction('recovery', flight, nxt);
    if (this.state === 'recovery' && this.prr !== null)
      this.cc.setCwnd(this.prr.handleAck(0, this.pipe, this.cc.ssthresh, false, mss));
  }

  /** RFC 6298 §5.4 to §5.6 and RFC 5681 §3.1. */
  handleTimeout(now: Micros, nxt: Seq): void {
    const { board } = this;
    const again = this.state === 'loss';
    const undo = (this.undo ??= new Undo());
    if (!undo.pending) undo.begin(this.cc.cwnd, this.cc.ssthresh);
    undo.handleTimeout(now);
    this.cc.onTimeout(now, board.outstanding - board.sackedBytes, !again);
    this.rto.handleTimeout(now);
    this.state = 'loss';
    this.highSeq = nxt;
    this.duplicates = this.duplicateBytes = 0;
    this.frto = again || this.ts.enabled ? 0 : 1;
    // Its head SACKed and yet not acknowledged: the peer has dropped what it had (RFC 2018 §8).
    if (board.count > 0 && board.mark(0) & Mark.sacked) board.forgetSacks();
    for (let i = 0; i < board.count; i++) board.markLost(i);
    this.rack.deadline = NEVER;
    this.tlp.reset();
  }

  /** The first part of an episode: RFC 5681 §3.2 step 2, RFC 3168 §6.1.2; at most once per window of data. */
  private enterReduction(to: 'cwr' | 'recovery', flight: number, nxt: Seq): void {
    if (this.state === 'loss' || this.state === 'recovery' || this.state === to) return;
    if (this.state !== 'cwr') {
      (this.undo ??= new Undo()).begin(this.cc.cwnd, this.cc.ssthresh);
      this.cc.onCongestion(inHand.now, flight);
      (this.prr ??= new Prr()).begin(flight);
      this.highSeq = nxt;
    }
    this.state = to;
    this.tlp.reset();
    if (to === 'recovery') this.fastRecoveries++;
  }

  private tryUndo(advanced: number, segment: TcpSegment): void {
    const { undo } = this;
    if (undo === null || !undo.pending || this.state === 'cwr') return;
    if (this.frto !== 0) this.stepFrto(advanced);
    const byTime = advanced > 0 && undo.spuriousByTimestamp(inHand.hasEcho, segment.tsecr);
    const byOriginal =
      this.state === 'loss' &&
      inHand.lateOriginal &&
      (this.ts.enabled ? false : this.board.sackedBytes > 0 || advanced > 0);
    if (!byTime && !byOriginal && !undo.spuriousByDsack) return;
    const { cwnd, ssthresh } = undo.window;
    this.cc.onUndo(cwnd, ssthresh);
    this.board.unmarkLost();
    undo.end();
    this.undone++;
    this.frto = 0;
    this.state = 'open';
    this.rto.forgive();
  }

  private stepFrto(advanced: number): void {
    // RFC 5682 §2.1: 2a a duplicate proves the loss; 2b an advance lets new data out; 3b a second advance ends it.
    if (this.frto === 1 && advanced > 0) this.frto = 2;
    else this.frto = 0;
  }

  /** There is no new data to probe with (RFC 5682 §2.1 step 2b): retransmit. */
  endProbing(): void {
    this.frto = 0;
  }

  private tryLeave(ack: Seq, advanced: number): void {
    if (advanced <= 0 || this.state === 'open' || this.state === 'disorder' || !seqGe(ack, this.highSeq)) return;
    if (this.state === 'recovery' || this.state === 'cwr') {
      // Not above what PRR has reached by more than the pipe allows in one burst: pacing and TSO sizing see to that.
      this.cc.setCwnd(this.cc.ssthresh);
      this.rack.handleRecoveryEnd();
    }
    this.state = 'open';
    this.duplicates = this.duplicateBytes = 0;
    this.frto = 0;
    // A DSACK may still come and show that all of it was needless: undo stays armed until the next episode.
    if (!this.sackEnabled) this.undo?.end();
  }

  private adjustWindow(
    now: Micros,
    advanced: number,
    lost: number,
    limited: boolean,
    sample: Micros,
    ack: Seq,
    nxt: Seq,
    mss: number,
  ): void {
    const { cc } = this;
    if (this.prr !== null && (this.state === 'recovery' || this.state === 'cwr')) {
      if (inHand.delivered > 0 || lost > 0) {
        cc.setCwnd(this.prr.handleAck(inHand.delivered, this.pipe, cc.ssthresh, advanced > 0 && lost === 0, mss));
      }
    } else if (advanced > 0 && (this.state === 'loss' || (limited && !this.queueIsOurs)))
      cc.onAck(now, advanced, sample, this.rtt.srtt, ack, nxt);
  }

  /**
   * On a path within this machine nothing is ever lost, so the window would grow to its bound, and all of it would lie in
   * queues that fall out of the processor's cache (measured: 16 instead of 26 Gbit/s). RFC 9438 never asks to grow.
   */
  private get queueIsOurs(): boolean {
    const { min, srtt } = this.rtt;
    return min < LOCAL_RTT && this.cc.cwnd > LOCAL_WINDOW && srtt > 2 * min;
  }

  /** The path takes no more than `mss` bytes of payload: larger ones in flight never arrive. */
  handleTooBig(mss: number): void {
    const { board } = this;
    for (let i = 0; i < board.count; i++) {
      if (seqDiff(board.end(i), board.start(i)) > mss) board.markLost(i);
    }
  }

  /** A retransmission of entry `i` goes out. */
  handleRetransmit(now: Micros, i: number, bytes: number): void {
    this.board.retransmitted(i, now);
    this.undo?.handleRetransmit(bytes, this.ts.value(now));
    this.prr?.handleSent(bytes);
  }

  handleSent(now: Micros, start: Seq, end: Seq): void {
    this.board.push(start, end, now);
    if (this.state === 'recovery' || this.state === 'cwr') this.prr?.handleSent(seqDiff(end, start));
  }

  /** Whether a tail loss probe may be scheduled: RFC 8985 §7.2. */
  get probeAllowed(): boolean {
    return this.sackEnabled && this.state === 'open' && this.board.count > 0 && this.board.sackedBytes === 0;
  }

  /** Is `sequence` in flight? (ICMP must quote such data: RFC 5927 §4.1.) */
  holds(sequence: Seq): boolean {
    const n = this.board.count;
    return n > 0 && seqGe(sequence, this.board.start(0)) && seqGt(this.board.end(n - 1), sequence);
  }
}

// SND.*: what may go out now, and what an acknowledgement frees. RFC 9293 §3.7.4 (Nagle), §3.8.6 (window), §3.8.6.2.1 (SWS);
// sizes of super-packets as Linux' TSO autosizing. Read first: send-buffer.ts, recovery.ts.

import { type Micros, NEVER } from '../../core/index.js';
import type { TcpSegment } from '../wire/tcp.js';
import { MAX_SUPER_PACKET } from '../wire/tcp-emit.js';
import { judgeAck } from './acceptability.js';
import type { CongestionController } from './congestion.js';
import { createController } from './controllers.js';
import { Ecn } from './ecn.js';
import { Pacer } from './pacing.js';
import { LossRecovery } from './recovery.js';
import { Rto } from './rto.js';
import { RttEstimator } from './rtt.js';
import { SendBuffer } from './send-buffer.js';
import { type Seq, seqDiff, seqGe, seqGt, seqLe, seqLt, seqMax } from './seq.js';
import type { Timestamps } from './timestamps.js';
import type { TcpOptions } from './types.js';

/** The packet that `plan` decided on; read it before the next call. */
export interface Plan {
  start: Seq;
  /** Payload bytes. */
  length: number;
  fin: boolean;
  /** Payload per segment of a super-packet; 0: an ordinary packet. */
  gsoSize: number;
  retransmission: boolean;
  push: boolean;
}

export type AckVerdict = 'good' | 'old' | 'challenge';

/** One for all: it is read before anybody plans again. */
const planned: Plan = { start: 0, length: 0, fin: false, gsoSize: 0, retransmission: false, push: false };

export class Sender {
  una: Seq;
  nxt: Seq;
  /** SND.WND, scaled. */
  wnd = 0;
  private wl1: Seq = 0;
  private wl2: Seq = 0;
  maxWnd = 0;
  windowScale = 0;
  /** Payload of a full segment now. */
  mss = 536;
  offload = false;
  /** Payload of the largest super-packet: a multiple of `mss`. */
  private maxPacket = 536;
  readonly buffer = new SendBuffer();
  readonly rtt = new RttEstimator();
  readonly rto: Rto;
  readonly cc: CongestionController;
  readonly recovery: LossRecovery;
  ecn = Ecn.none;
  /** Made when something is paced for the first time. */
  private pacer: Pacer | null = null;
  private finQueued = false;
  /** FIN has been sent at this sequence number. */
  private finSeq: Seq = 0;
  private finSent = false;
  /** End of the last segment sent that was not full: Minshall's Nagle. */
  private smallEnd: Seq;
  /** The congestion window, not the application or the peer, stopped us last (RFC 7661). */
  private limited = false;
  private lastSent: Micros = -1;
  private pacedUntil: Micros = NEVER;
  private plannedEntry = -1;
  /** The peer's window keeps us from sending, and nothing is in flight that would bring news: probe. */
  windowBlocked = false;
  retransmittedBytes = 0;

  constructor(
    iss: Seq,
    ts: Timestamps,
    private options: TcpOptions,
  ) {
    // The segment size is agreed later; so is the initial window that follows from it.
    this.cc = createController(options.congestion, options.initialWindow * this.mss, this.mss, options.pacing);
    this.una = this.nxt = iss;
    this.smallEnd = iss;
    this.rto = new Rto(this.rtt, options.minRto, options.maxRto);
    this.recovery = new LossRecovery(this.cc, this.rtt, this.rto, ts, iss);
  }

  setOptions(options: TcpOptions): void {
    this.options = options;
  }

  /** The segment size in force; `headers`: IP and TCP headers with options. */
  setMss(mss: number, headers: number, offload: boolean): void {
    this.mss = mss;
    this.offload = offload;
    const whole = Math.max(1, Math.floor((MAX_SUPER_PACKET - headers) / mss));
    this.maxPacket = whole * mss;
    this.cc.setMss(mss);
  }

  /** The handshake is over; `segment` acknowledged our SYN. */
  start(una: Seq, segment: TcpSegment): void {
    this.una = this.nxt = una;
    this.smallEnd = una;
    this.wl1 = segment.seq;
    this.wl2 = segment.ack;
    // The window of a SYN is never scaled (RFC 7323 §2.2).
    this.wnd = segment.flags & 0x02 ? segment.window : segment.window << this.windowScale;
    this.maxWnd = this.wnd;
  }

  /** Bytes that may be written now. */
  get room(): number {
    // While a hole is open, what lies behind it counts too, and `writable` is told when a third is free: three windows
    // leave more than two at any time. The start is generous.
    const limit = Math.min(Math.max(3 * this.cc.cwnd, 256 * 1024), this.options.maxSendBuffer);
    return Math.max(0, Math.floor(limit) - this.buffer.length);
  }

  /** Not for every byte that is freed: a third of the buffer, as Linux' sk_stream_is_writeable. */
  get worthTelling(): boolean {
    return this.room >= this.buffer.length >> 1;
  }

  /** Data written and not yet sent. */
  get unsent(): number {
    return this.buffer.length - this.sentBytes;
  }

  private get sentBytes(): number {
    return Math.max(0, seqDiff(this.finSent ? this.finSeq : this.nxt, this.una));
  }

  queueFin(): void {
    this.finQueued = true;
  }

  get finAcknowledged(): boolean {
    return this.finSent && seqGt(this.una, this.finSeq);
  }

  get finWasSent(): boolean {
    return this.finSent;
  }

  get allAcknowledged(): boolean {
    return this.buffer.length === 0 && (!this.finQueued || this.finAcknowledged);
  }

  /** RFC 9293 §3.10.7.4 step 5. True in `news`: the retransmission timer is to be restarted. */
  handleAck(now: Micros, segment: TcpSegment): AckVerdict {
    const { ack } = segment;
    const verdict = judgeAck(ack, this.una, this.nxt, this.maxWnd);
    if (verdict !== 'good') return verdict;
    const window = segment.window << this.windowScale;
    const duplicate = ack === this.una && segment.seqLength === 0 && window === this.wnd && seqGt(this.nxt, this.una);
    // Deviation: also when it acknowledges something new, as Linux. The window counts from the acknowledgement that it came with; a
    // retransmission of the peer has an old number and a new acknowledgement, and with the window of another segment its
    // right edge would lie beyond what the peer takes: it would drop all that we send from there on.
    if (seqGt(ack, this.una) || seqLt(this.wl1, segment.seq) || (this.wl1 === segment.seq && seqLe(this.wl2, ack))) {
      this.wnd = window;
      this.wl1 = segment.seq;
      this.wl2 = ack;
      if (window > this.maxWnd) this.maxWnd = window;
    }
    const congestion = this.ecn.handleEcho(segment.flags, ack, this.nxt);
    const limited = this.limited || (this.cc.inSlowStart && this.cc.cwnd < 2 * this.recovery.pipe);
    const state = this.recovery.state;
    this.news = this.recovery.handleAck(now, segment, this.una, this.nxt, this.mss, duplicate, limited, congestion);
    if (this.recovery.state === 'recovery' && state !== 'recovery') this.ecn.handleReduction(this.nxt);
    const advanced = seqDiff(ack, this.una);
    if (advanced > 0) {
      this.buffer.release(Math.min(advanced, this.buffer.length));
      this.una = ack;
      if (seqLt(this.smallEnd, ack)) this.smallEnd = ack;
      this.timeouts = 0;
    }
    return 'good';
  }

  /** Nothing is in flight, and the acknowledgement and window of `segment` are no news: for header prediction. */
  knows(segment: TcpSegment): boolean {
    return (
      segment.ack === this.una &&
      segment.ack === this.nxt &&
      segment.window << this.windowScale === this.wnd &&
      this.recovery.state === 'open'
    );
  }

  /** The rest of what `handleAck` does with a segment that it `knows` (SND.WL1 must not fall behind). */
  handleKnown(seq: Seq): void {
    this.wl1 = seq;
    this.wl2 = this.una;
  }

  /** The last acknowledgement reported delivery. */
  news = false;
  /** Retransmission timeouts since SND.UNA moved. */
  timeouts = 0;

  handleTimeout(now: Micros): void {
    this.timeouts++;
    this.recovery.handleTimeout(now, this.nxt);
    this.ecn.handleReduction(this.nxt);
  }

  /** Decides on the next packet; null: nothing may go out. `probe`: a tail loss probe, allowed beyond cwnd (RFC 8985 §7.3). */
  plan(now: Micros, probe = false): Plan | null {
    this.pacedUntil = NEVER;
    this.windowBlocked = false;
    const rate = this.options.pacing
      ? Pacer.rate(this.rtt.srtt, this.cc.cwnd, this.cc.inSlowStart)
      : Number.POSITIVE_INFINITY;
    // Without offload a super-packet is cut where it is written (output.ts): one decision, one entry of the scoreboard and one copy for
    // many segments. When they are paced, for those of one burst. Not for peers without SACK, which have whole entries sent again.
    const whole = this.offload || this.recovery.sackEnabled;
    const most = whole ? this.maxPacket : this.mss;
    const again = this.planRetransmission(probe, most);
    const found = again ?? this.planNew(now, probe, Pacer.burst(rate, this.mss), most);
    if (found === null) return null;
    if (!probe && this.pacer !== null && rate !== Number.POSITIVE_INFINITY && !this.pacer.allows(now)) {
      this.pacedUntil = this.pacer.deadline;
      return null;
    }
    return found;
  }

  private planRetransmission(probe: boolean, most: number): Plan | null {
    const { recovery } = this;
    if (recovery.probing && this.unsent > 0 && !probe) return null;
    const { board } = recovery;
    const i = board.nextLost();
    if (i < 0) return null;
    const length = seqDiff(board.end(i), board.start(i));
    const { pipe } = recovery;
    const room = this.cc.cwnd - pipe;
    if (room < Math.min(length, this.mss) && pipe > 0) {
      this.limited = true;
      return null;
    }
    const whole = Math.max(this.mss, Math.floor(Math.min(room, most) / this.mss) * this.mss);
    if (length > whole) board.split(i, whole);
    return this.planEntry(i);
  }

  /** A packet that carries entry `i` of the scoreboard again. */
  private planEntry(i: number): Plan {
    const { board } = this.recovery;
    const p = planned;
    const end = board.end(i);
    p.start = board.start(i);
    p.fin = this.finSent && seqGt(end, this.finSeq);
    p.length = seqDiff(end, p.start) - (p.fin ? 1 : 0);
    p.gsoSize = p.length > this.mss ? this.mss : 0;
    p.retransmission = true;
    p.push = true;
    this.plannedEntry = i;
    return p;
  }

  /** The probe of RFC 8985 §7.3 when there is no new data, and the forced one of a timer: the last, or the first, entry. */
  planForced(first: boolean): Plan | null {
    const { board } = this.recovery;
    if (board.count === 0) return null;
    let i = first ? 0 : board.count - 1;
    const length = seqDiff(board.end(i), board.start(i));
    if (length > this.mss) {
      const cut = first ? this.mss : Math.floor((length - 1) / this.mss) * this.mss;
      board.split(i, cut);
      if (!first) i++;
    }
    return this.planEntry(i);
  }

  private planNew(now: Micros, probe: boolean, burst: number, most: number): Plan | null {
    if (this.finSent) return null;
    const unsent = this.unsent;
    const fin = this.finQueued;
    if (unsent === 0 && !fin) {
      this.limited = false;
      return null;
    }
    const { board, pipe } = this.recovery;
    if (board.count === 0 && this.lastSent >= 0 && now - this.lastSent > this.rto.value) {
      this.cc.onIdle(this.options.initialWindow * this.mss);
      this.lastSent = now;
    }
    const byWindow = seqDiff((this.una + this.wnd) | 0, this.nxt);
    const byCwnd = probe ? this.mss : Math.floor(this.cc.cwnd - pipe);
    let length = Math.min(unsent, byWindow, pipe === 0 ? Math.max(byCwnd, this.mss) : byCwnd, most);
    if (length <= 0 && unsent > 0) return this.blocked(byWindow, byCwnd);
    if (unsent === 0 && byWindow <= 0) return this.blocked(byWindow, byCwnd);
    if (length < unsent && length < most) {
      // Held back by a window. Small change is not worth a packet.
      if (byCwnd < byWindow && pipe > 0 && !probe) {
        const worth = this.offload ? Math.min(most, burst, this.cc.cwnd / 3) : 0;
        if (length < Math.max(this.mss, worth)) return this.blocked(byWindow, byCwnd);
      } else if (length < this.mss && length < this.maxWnd / 2) return this.blocked(byWindow, byCwnd);
    }
    length = Math.min(length, Math.max(this.mss, Math.floor(burst / this.mss) * this.mss));
    const tail = length % this.mss;
    if (tail > 0 && length > this.mss && (length < unsent || !this.mayBeSmall(fin))) length -= tail;
    else if (length < this.mss && length === unsent && !this.mayBeSmall(fin)) {
      this.limited = false;
      return null;
    }
    const p = planned;
    p.start = this.nxt;
    p.length = length;
    p.fin = fin && length === unsent && byWindow > length;
    p.gsoSize = length > this.mss ? this.mss : 0;
    p.retransmission = false;
    p.push = length === unsent;
    this.plannedEntry = -1;
    return p;
  }

  /** RFC 9293 §3.7.4 in Minshall's form: hold back a small segment only while another small one is unacknowledged. */
  private mayBeSmall(fin: boolean): boolean {
    return this.options.noDelay || fin || !seqGt(this.smallEnd, this.una);
  }

  private blocked(byWindow: number, byCwnd: number): null {
    this.limited = byCwnd < byWindow;
    this.windowBlocked = byWindow < this.mss && this.recovery.board.count === 0;
    return null;
  }

  /** The planned packet has been written. */
  handleSent(now: Micros): void {
    const p = planned;
    const bytes = p.length + (p.fin ? 1 : 0);
    if (p.retransmission) {
      this.recovery.handleRetransmit(now, this.plannedEntry, bytes);
      this.retransmittedBytes += bytes;
    } else {
      const end = (p.start + bytes) | 0;
      this.recovery.handleSent(now, p.start, end);
      this.nxt = end;
      if (p.length > 0 && p.length % this.mss !== 0) this.smallEnd = end;
      if (p.fin) {
        this.finSent = true;
        this.finSeq = (end - 1) | 0;
      }
    }
    this.lastSent = now;
    if (!this.options.pacing) return;
    const rate = Pacer.rate(this.rtt.srtt, this.cc.cwnd, this.cc.inSlowStart);
    if (rate !== Number.POSITIVE_INFINITY) (this.pacer ??= new Pacer()).handleSent(now, bytes, rate);
  }

  /** When pacing lets the packet that waits go; NEVER: none waits for that. */
  get pacingDeadline(): Micros {
    return this.pacedUntil;
  }

  /** The bytes of [start, start + length) into `target`. */
  copy(start: Seq, length: number, target: Uint8Array, at: number): void {
    if (length > 0) this.buffer.copy(seqDiff(start, this.una), length, target, at);
  }

  /** Something waits that `plan` could not send, or is in flight. */
  get busy(): boolean {
    return this.recovery.board.count > 0 || this.unsent > 0 || (this.finQueued && !this.finSent);
  }

  /** The right edge of the peer's window, for probes behind it. */
  get windowEdge(): Seq {
    return seqMax((this.una + this.wnd) | 0, this.una);
  }

  isInFlight(sequence: Seq): boolean {
    return seqGe(sequence, this.una) && seqLt(sequence, this.nxt);
  }
}

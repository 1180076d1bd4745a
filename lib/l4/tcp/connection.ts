// One TCP connection: RFC 9293. It only composes; each mechanism has a file beside this one, and the surface (with the four
// kinds of method, and in which order a driver calls them) is described in surface.ts. Read that first, then §3.10 of the RFC.

import { type Micros, NEVER } from '../../core/index.js';
import type { PacketWriter } from '../wire/packet-writer.js';
import { TcpFlag, type TcpSegment } from '../wire/tcp.js';
import { ChallengeLimiter } from './acceptability.js';
import { judgeArrival, judgeInSynSent } from './arrival.js';
import { Closing } from './close.js';
import { Handshake } from './handshake.js';
import { Liveness } from './liveness.js';
import { countOddities } from './oddities.js';
import { Output } from './output.js';
import { Path, reasonOf } from './path.js';
import { isPredicted, takePredicted } from './prediction.js';
import { Receiver } from './receiver.js';
import { RetransmitTimer } from './retransmit-timer.js';
import { type Plan, Sender } from './sender.js';
import { type Seq, seqAdd } from './seq.js';
import { canTransmit, hasPeerFin, isSynchronized, StateMachine, type TcpState } from './state.js';
import type { TcpSurface } from './surface.js';
import { TimeWait } from './time-wait.js';
import { Timer, Timers } from './timers.js';
import { Timestamps } from './timestamps.js';
import {
  type CookieState,
  type IcmpKind,
  optionsWith,
  type TcpConfig,
  TcpEvent,
  type TcpOptions,
  type TcpReason,
  type TcpStats,
} from './types.js';
import { Urgent } from './urgent.js';

export class TcpConnection implements TcpSurface {
  private readonly machine = new StateMachine();
  private readonly timers = new Timers();
  private readonly handshake: Handshake;
  private readonly ts: Timestamps;
  private readonly sender: Sender;
  private readonly receiver: Receiver;
  private readonly closing = new Closing();
  private readonly path: Path;
  private urgent: Urgent | null = null;
  private readonly output: Output;
  private readonly retransmit: RetransmitTimer;
  private readonly iss: Seq;
  private options: TcpOptions;
  private readonly liveness = new Liveness();
  private limiter: ChallengeLimiter | null = null;
  private timeWait: TimeWait | null = null;
  private timeWaitTaken = false;
  private events = 0;
  private wantsWritable = false;
  /** What the next poll has to send besides data and acknowledgements. */
  private synDue = false;
  private resetDue = false;
  /** A command has no clock: what it starts begins with the poll that follows it. */
  private readBytes = 0;
  private closeDue = false;
  private keepDue = false;
  private failure: TcpReason = 'none';
  // Not an object of their own: there are many connections.
  private countReceived = 0;
  private countBytes = 0;
  private countTimeouts = 0;
  private countDropped = 0;
  private countChallenges = 0;

  private constructor(readonly config: TcpConfig) {
    const { options } = config;
    const v6 = config.localAddress.length === 16;
    this.options = options as TcpOptions;
    this.iss = config.iss | 0;
    this.ts = new Timestamps(config.tsOffset | 0);
    this.handshake = new Handshake(this.options, v6);
    this.sender = new Sender(this.iss, this.ts, this.options);
    this.receiver = new Receiver(options.receiveBuffer, options.maxReceiveBuffer, config.memory);
    this.path = new Path(config, this.sender, this.handshake);
    this.retransmit = new RetransmitTimer(this.sender);
    this.output = new Output(config, this.handshake, this.ts, this.sender, this.receiver, this.path);
  }

  /** Active open: RFC 9293 §3.10.1. */
  static connect(config: TcpConfig, now: Micros): TcpConnection {
    const c = new TcpConnection(config);
    c.machine.change('SYN-SENT');
    c.beginHandshake(now);
    return c;
  }

  /** Passive open by the SYN of a listener: RFC 9293 §3.10.7.2. */
  static accept(config: TcpConfig, now: Micros, syn: TcpSegment): TcpConnection {
    const c = new TcpConnection(config);
    c.machine.change('SYN-RECEIVED');
    c.handshake.handleSyn(syn);
    c.receiver.start(syn.seq);
    if (c.handshake.timestamps) c.ts.start(now, syn.tsval);
    c.beginHandshake(now);
    return c;
  }

  /** Passive open by the acknowledgement of a SYN cookie, which the stack has verified; then hand it `ack` by handleSegment. */
  static fromCookie(config: TcpConfig, now: Micros, ack: TcpSegment, cookie: CookieState): TcpConnection {
    const c = new TcpConnection(config);
    c.machine.change('SYN-RECEIVED');
    c.handshake.handleCookie(cookie);
    c.receiver.start(cookie.irs | 0);
    if (c.handshake.timestamps) c.ts.start(now, ack.tsval);
    c.sender.nxt = seqAdd(c.iss, 1);
    c.timers.set(Timer.connect, now + config.options.connectTimeout);
    return c;
  }

  // ---- getters ------------------------------------------------------------------------------------------------

  get state(): TcpState {
    return this.machine.current;
  }
  get reason(): TcpReason {
    return this.failure;
  }
  get softReason(): TcpReason {
    return this.path.soft;
  }
  get readable(): number {
    return this.receiver.queue.length;
  }
  get ended(): boolean {
    return this.receiver.finTaken && this.receiver.queue.length === 0;
  }
  get writable(): number {
    if (this.closing.sendClosed || this.failure !== 'none' || this.machine.current === 'CLOSED') return 0;
    return this.sender.room;
  }
  get unacknowledged(): number {
    return this.sender.buffer.length;
  }
  get rtt(): number {
    return this.sender.rtt.srtt;
  }
  get cwnd(): number {
    return this.sender.cc.cwnd;
  }
  stats(): Readonly<TcpStats> {
    return {
      bytesSent: this.output.bytes,
      bytesReceived: this.countBytes,
      segmentsSent: this.output.segments,
      segmentsReceived: this.countReceived,
      retransmitted: this.sender.retransmittedBytes,
      timeouts: this.countTimeouts,
      fastRecoveries: this.sender.recovery.fastRecoveries,
      undone: this.sender.recovery.undone,
      dropped: this.countDropped,
      challengeAcks: this.countChallenges,
    };
  }

  // ---- handle*: segments --------------------------------------------------------------------------------------

  handleSegment(now: Micros, segment: TcpSegment): void {
    const state = this.machine.current;
    this.countReceived++;
    if (state === 'CLOSED') return;
    if (state === 'TIME-WAIT') {
      this.timeWait?.handleSegment(now, segment);
      return;
    }
    this.liveness.handleHeard(now);
    if (
      state === 'ESTABLISHED' &&
      !this.closing.receiveClosed &&
      isPredicted(segment, this.sender, this.receiver, this.ts)
    ) {
      this.liveness.handleAck(this.sender.wnd > 0);
      this.countBytes += takePredicted(now, segment, this.sender, this.receiver, this.ts, this.options.delayedAck);
      this.events |= TcpEvent.readable;
      return;
    }
    if (state === 'SYN-SENT') {
      this.handleInSynSent(now, segment);
      return;
    }
    if (!this.admit(now, segment)) {
      this.countDropped++;
      return;
    }
    this.ts.handleAccepted(now, segment, this.receiver.lastAckSent);
    if (!this.takeAck(now, segment)) {
      this.countDropped++;
      return;
    }
    this.takeText(now, segment);
  }

  /** RFC 9293 §3.10.7.3. */
  private handleInSynSent(now: Micros, segment: TcpSegment): void {
    const verdict = judgeInSynSent(segment, this.iss);
    if (verdict === 'answer-reset') this.strangeAck = segment.ack;
    else if (verdict === 'refused') this.fail('refused');
    if (verdict !== 'establish' && verdict !== 'cross') return;
    this.handshake.handleSyn(segment);
    this.receiver.start(segment.seq);
    if (this.handshake.timestamps) this.ts.start(now, segment.tsval);
    if (verdict === 'cross') {
      this.machine.change('SYN-RECEIVED');
      this.synDue = true;
      return;
    }
    this.establish(now, segment);
    this.receiver.requestAck();
    if (segment.length > 0 || segment.flags & TcpFlag.fin) this.takeText(now, segment);
  }

  /** A RST is owed for this ACK number (SYN-SENT only); null: none. */
  private strangeAck: Seq | null = null;

  /** Steps 1 to 4. False: dropped. */
  private admit(now: Micros, segment: TcpSegment): boolean {
    const { receiver } = this;
    const verdict = judgeArrival(now, segment, this.machine.current, this.iss, receiver, this.ts);
    if (verdict === 'take') return true;
    if (verdict === 'acknowledge' || verdict === 'take-and-acknowledge') receiver.requestAck();
    else if (verdict === 'challenge') this.challenge(now);
    else if (verdict === 'reset') this.handleReset();
    else if (verdict === 'repeat-syn') this.synDue = true;
    else if (verdict === 'establish') this.establish(now, segment);
    return verdict === 'take-and-acknowledge';
  }

  private challenge(now: Micros): void {
    if (!(this.limiter ??= new ChallengeLimiter()).allows(now)) return;
    this.countChallenges++;
    this.receiver.requestAck();
  }

  private handleReset(): void {
    const state = this.machine.current;
    // RFC 9293: a passive open that is reset goes back to LISTEN, which is the stack's: here it only ends.
    if (state === 'SYN-RECEIVED') this.fail('refused');
    else this.fail(state === 'CLOSING' || state === 'LAST-ACK' ? 'none' : 'reset');
  }

  /** Step 5. False: the segment is to be dropped. */
  private takeAck(now: Micros, segment: TcpSegment): boolean {
    if (this.machine.current === 'SYN-RECEIVED') {
      if (segment.ack !== seqAdd(this.iss, 1)) {
        // "If the ACK is not acceptable, form a reset."
        this.strangeAck = segment.ack;
        return false;
      }
      this.establish(now, segment);
    }
    const { sender } = this;
    const verdict = sender.handleAck(now, segment);
    if (verdict === 'challenge') {
      this.challenge(now);
      return false;
    }
    if (verdict === 'old') return true;
    const { counters } = this.config;
    if (counters !== undefined) countOddities(counters, sender);
    this.handleAcknowledged(now);
    return true;
  }

  private handleAcknowledged(now: Micros): void {
    const { sender } = this;
    this.liveness.handleAck(sender.wnd > 0);
    if (this.wantsWritable && sender.worthTelling && this.writable > 0) {
      this.wantsWritable = false;
      this.events |= TcpEvent.writable;
    }
    this.retransmit.handleAck(now);
    if (sender.news && sender.allAcknowledged) this.events |= TcpEvent.drained;
    if (sender.finAcknowledged && sender.finWasSent) this.handleFinAcknowledged(now);
  }

  private handleFinAcknowledged(now: Micros): void {
    const before = this.machine.current;
    this.closing.handleFinAcknowledged(this.machine);
    const after = this.machine.current;
    if (before === after) return;
    this.timers.stop(Timer.linger);
    if (after === 'FIN-WAIT-2' && this.closing.receiveClosed)
      this.timers.set(Timer.finWait2, now + this.options.finWait2);
    else if (after === 'TIME-WAIT') this.enterTimeWait(now);
    else if (after === 'CLOSED') this.finish();
  }

  /** Steps 6 to 8. */
  private takeText(now: Micros, segment: TcpSegment): void {
    if (segment.flags & TcpFlag.urg) (this.urgent ??= new Urgent()).handleSegment(segment);
    const { receiver } = this;
    const state = this.machine.current;
    const fin = (segment.flags & TcpFlag.fin) !== 0;
    if (this.sender.ecn.handleReceived(segment.flags, segment.ce, segment.length > 0)) receiver.requestAck();
    if (segment.length === 0 && !fin) return;
    if (hasPeerFin(state) || state === 'CLOSED') {
      // A repeated FIN, or text behind it: RFC 9293 "should not occur, ignore", but the acknowledgement may have been lost.
      receiver.requestAck();
      return;
    }
    receiver.handleEcho(now, segment, this.ts);
    const fresh = receiver.handleText(now, segment, fin, this.options.delayedAck);
    if (fresh > 0) {
      this.countBytes += fresh;
      if (this.closing.receiveClosed) {
        // Nobody will read it: RFC 1122 §4.2.2.13.
        this.abortWith('none');
        return;
      }
      this.events |= TcpEvent.readable;
    }
    if (receiver.finTaken) this.handleFinReceived(now);
  }

  private handleFinReceived(now: Micros): void {
    this.closing.handleFinReceived(this.machine);
    this.events |= TcpEvent.peerFinished;
    this.timers.stop(Timer.finWait2);
    if (this.machine.current === 'TIME-WAIT') this.enterTimeWait(now);
  }

  // ---- handle*: time, ICMP, path ------------------------------------------------------------------------------

  handleTimeout(now: Micros): void {
    const { timers } = this;
    if (this.timeWait !== null) {
      if (now >= this.timeWait.deadline && this.state === 'TIME-WAIT') this.machine.change('CLOSED');
      return;
    }
    if (this.machine.current === 'CLOSED') return;
    if (now >= this.receiver.delayedAckDeadline) this.receiver.handleDelayedAck();
    if (timers.expired(Timer.connect, now)) this.giveUp();
    else if (timers.expired(Timer.linger, now)) this.abortWith('aborted');
    else if (timers.expired(Timer.finWait2, now)) this.finish();
    if (this.state === 'CLOSED') return;
    if (!this.liveness.handleTimeout(now, this.sender.busy, this.options)) this.giveUp();
    else if (this.retransmit.handleTimeout(now)) this.handleRto(now);
  }

  private handleRto(now: Micros): void {
    const { sender } = this;
    if (!isSynchronized(this.machine.current)) {
      sender.rto.handleTimeout(now);
      this.synDue = true;
      return;
    }
    if (sender.recovery.board.count === 0) return;
    this.countTimeouts++;
    if (sender.rto.unansweredFor(now) >= this.options.userTimeout) {
      this.giveUp();
      return;
    }
    sender.handleTimeout(now);
    this.path.handleTimeouts(now);
    // Not later than the moment the user timeout runs out.
    this.retransmit.restart(now, now + Math.max(0, this.options.userTimeout - sender.rto.unansweredFor(now)));
  }

  handleIcmp(now: Micros, kind: IcmpKind, sequence: number, mtu: number): void {
    const opening = this.machine.current === 'SYN-SENT' || this.machine.current === 'SYN-RECEIVED';
    const quoted = sequence | 0;
    // RFC 5927 §4.1: it has to quote what is in flight.
    if (opening ? quoted !== this.iss : !this.sender.isInFlight(quoted)) return;
    if (kind === 'packet-too-big') {
      if (!opening) this.path.handleTooBig(now, mtu);
    } else if (opening) this.fail(reasonOf(kind));
    else {
      // RFC 5927 §6: on a connection that is up, even "hard" errors are soft.
      this.path.soft = reasonOf(kind);
      this.events |= TcpEvent.soft;
    }
  }

  handlePath(now: Micros, mtu: number, offload: boolean, partialChecksums = offload): void {
    this.path.handleRoute(mtu, offload, partialChecksums);
    const state = this.machine.current;
    if (state === 'CLOSED' || state === 'TIME-WAIT') return;
    if (!isSynchronized(state)) {
      this.synDue = true;
      return;
    }
    this.path.apply();
    // The network is back: what waits for a timer would wait for its back-off too.
    if (this.sender.rto.backedOff > 0) {
      this.sender.rto.forgive();
      this.retransmit.hurry(now);
    }
    this.liveness.hurry(now);
  }

  // ---- commands -----------------------------------------------------------------------------------------------

  write(bytes: Uint8Array, owned = false): number {
    const n = Math.min(this.writable, bytes.length);
    if (n < bytes.length) this.wantsWritable = true;
    if (n > 0) this.sender.buffer.append(n < bytes.length ? bytes.subarray(0, n) : bytes, owned);
    return n;
  }

  read(max = Number.POSITIVE_INFINITY): Buffer | null {
    const bytes = this.receiver.queue.read(max);
    if (bytes !== null) this.handleTaken(bytes.length);
    return bytes;
  }

  readInto(target: Uint8Array): number {
    const n = this.receiver.queue.readInto(target);
    this.handleTaken(n);
    return n;
  }

  private handleTaken(bytes: number): void {
    this.receiver.handleTaken(bytes);
    this.readBytes += bytes;
  }

  shutdown(): void {
    if (this.closing.sendClosed) return;
    this.closing.sendClosed = true;
    this.sender.queueFin();
  }

  close(lingerTimeout?: Micros): void {
    const state = this.machine.current;
    if (state === 'CLOSED' || state === 'TIME-WAIT') {
      this.receiver.clear();
      return;
    }
    if (state === 'SYN-SENT') {
      this.finish();
      return;
    }
    if (lingerTimeout === 0 || this.receiver.queue.length > 0) {
      this.abortWith('aborted');
      return;
    }
    this.closing.receiveClosed = true;
    this.closing.linger = lingerTimeout ?? -1;
    this.closeDue = true;
    this.shutdown();
  }

  abort(): void {
    this.abortWith('aborted');
  }

  setOption<K extends keyof TcpOptions>(name: K, value: TcpOptions[K]): void {
    this.options = optionsWith(this.options, name, value);
    this.sender.setOptions(this.options);
    if (name.startsWith('keepAlive') && isSynchronized(this.machine.current)) this.keepDue = true;
  }

  // ---- poll* --------------------------------------------------------------------------------------------------

  pollTransmit(now: Micros, out: PacketWriter): boolean {
    if (this.readBytes > 0 || this.closeDue || this.keepDue) this.handleCommands(now);
    const { output, receiver, sender } = this;
    const state = this.machine.current;
    if (this.resetDue) {
      this.resetDue = false;
      output.emitReset(out, sender.nxt, receiver.nxt);
      return true;
    }
    if (state === 'CLOSED') return false;
    if (state === 'TIME-WAIT') return this.timeWait?.pollTransmit(now, out) ?? false;
    if (this.strangeAck !== null) {
      output.emitReset(out, this.strangeAck, null);
      this.strangeAck = null;
      return true;
    }
    if (this.synDue) return this.transmitSyn(now, out);
    if (!isSynchronized(state)) return false;
    // SACK blocks go in a segment of their own: beside them a full segment has no room.
    let bare = receiver.ackDue && receiver.sackDue && this.handshake.sack;
    if (!bare && canTransmit(state)) {
      const plan = this.retransmit.probeDue ? this.retransmit.planProbe(now) : sender.plan(now);
      if (plan !== null) return this.transmitData(now, out, plan);
      if (sender.windowBlocked) this.liveness.handleBlocked(now, sender.rto.value, this.options);
    }
    // Deviation from RFC 9293 §3.8.6.1, which probes with new data: as Linux, an old sequence number, so that the peer
    // answers whatever its window is, and no data is sent into a closed window.
    const probe = this.liveness.takeProbe();
    bare ||= receiver.ackDue || probe;
    if (bare) output.emitAck(now, out, probe ? seqAdd(sender.una, -1) : sender.nxt);
    return bare;
  }

  /** What commands since the last poll have started. */
  private handleCommands(now: Micros): void {
    if (this.readBytes > 0 && this.receiver.handleRead(now, this.readBytes)) this.receiver.requestAck();
    this.readBytes = 0;
    if (this.keepDue) this.liveness.armKeepAlive(now, this.options);
    this.keepDue = false;
    if (!this.closeDue || this.machine.current === 'CLOSED') return;
    this.closeDue = false;
    const { linger } = this.closing;
    if (linger >= 0) this.timers.set(Timer.linger, now + linger);
    if (this.machine.current === 'FIN-WAIT-2') this.timers.set(Timer.finWait2, now + this.options.finWait2);
  }

  private transmitData(now: Micros, out: PacketWriter, plan: Plan): true {
    const { retransmission } = plan;
    const fin = plan.fin && !retransmission;
    this.output.emitData(now, out, plan);
    this.sender.handleSent(now);
    this.retransmit.handleSent(now, retransmission);
    if (fin) this.closing.handleFinSent(this.machine);
    this.path.handleTime(now);
    return true;
  }

  private transmitSyn(now: Micros, out: PacketWriter): true {
    this.synDue = false;
    this.handshake.sentAt = now;
    this.sender.nxt = seqAdd(this.iss, 1);
    this.output.emitSyn(now, out, this.iss, Math.min(this.options.mss, this.path.mss));
    this.retransmit.start(now);
    return true;
  }

  pollEvents(): number {
    const { events } = this;
    this.events = 0;
    return events;
  }

  pollDeadline(): Micros {
    if (this.machine.current === 'CLOSED') return NEVER;
    if (this.timeWait !== null) return this.timeWaitTaken ? NEVER : this.timeWait.deadline;
    const at = Math.min(this.timers.nextDeadline, this.receiver.delayedAckDeadline);
    return Math.min(at, this.retransmit.deadline, this.liveness.deadline, this.sender.pacingDeadline);
  }

  takeTimeWait(): TimeWait | null {
    if (this.timeWait === null || this.timeWaitTaken) return null;
    this.timeWaitTaken = true;
    return this.timeWait;
  }

  // ---- changes of state ---------------------------------------------------------------------------------------

  private beginHandshake(now: Micros): void {
    this.synDue = true;
    this.timers.set(Timer.connect, now + this.options.connectTimeout);
  }

  private establish(now: Micros, segment: TcpSegment): void {
    const { handshake, sender } = this;
    handshake.applyTo(sender, this.receiver);
    sender.start(seqAdd(this.iss, 1), segment);
    handshake.sampleRtt(now, segment, this.ts, sender.rtt);
    sender.rto.handleProgress();
    this.path.apply();
    sender.cc.setCwnd(handshake.initialWindow * sender.mss);
    this.machine.change('ESTABLISHED');
    this.retransmit.stop();
    this.timers.stop(Timer.connect);
    this.synDue = false;
    this.events |= TcpEvent.established;
    this.liveness.armKeepAlive(now, this.options);
  }

  private enterTimeWait(now: Micros): void {
    this.stopTimers();
    this.timeWait = new TimeWait(this.config, this.sender.nxt, this.receiver, this.ts, this.path.partialChecksums, now);
    this.timeWait.requestAck();
    this.events |= TcpEvent.closed;
  }

  private stopTimers(): void {
    this.timers.stopAll();
    this.retransmit.stop();
    this.liveness.stop();
  }

  private finish(): void {
    if (this.machine.current !== 'CLOSED') this.machine.change('CLOSED');
    this.stopTimers();
    this.sender.buffer.clear();
    this.sender.recovery.board.clear();
    this.events |= TcpEvent.closed;
  }

  private giveUp(): void {
    this.fail(this.path.soft === 'none' ? 'timeout' : this.path.soft);
  }

  /** Over, without a word to the peer. */
  private fail(reason: TcpReason): void {
    this.failure = reason;
    this.finish();
  }

  /** Over, with a RST where the peer knows of us: RFC 9293 §3.10.5. */
  private abortWith(reason: TcpReason): void {
    const state = this.machine.current;
    // A second call: the RST of the first may still be due.
    if (state === 'CLOSED') return;
    this.resetDue = isSynchronized(state) && state !== 'TIME-WAIT' ? true : state === 'SYN-RECEIVED';
    this.receiver.clear();
    this.fail(reason);
  }
}

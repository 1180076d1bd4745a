// When to send again without an acknowledgement: the retransmission timer (RFC 6298 §5), the tail loss probe
// (RFC 8985 §7) and RACK's reordering timer (§6.3).

import { type Micros, NEVER } from '../../core/index.js';
import type { Plan, Sender } from './sender.js';
import { seqAdd } from './seq.js';

export class RetransmitTimer {
  private rto: Micros = NEVER;
  private probe = false;

  constructor(private readonly sender: Sender) {}

  get deadline(): Micros {
    const { recovery } = this.sender;
    return Math.min(this.rto, recovery.rackDeadline, recovery.tlp.deadline);
  }

  /** A tail loss probe is to be sent. */
  get probeDue(): boolean {
    return this.probe;
  }

  /** For the SYN, which is in no scoreboard. */
  start(now: Micros): void {
    this.rto = now + this.sender.rto.value;
  }

  stop(): void {
    this.rto = NEVER;
    this.probe = false;
    this.sender.recovery.tlp.reset();
  }

  /** (5.2) and (5.3): stops when all is acknowledged, restarts when news came. */
  handleAck(now: Micros): void {
    const { sender } = this;
    if (sender.recovery.board.count === 0) this.stop();
    else if (sender.news) {
      this.start(now);
      this.armProbe(now);
    }
  }

  /** (5.1) */
  handleSent(now: Micros, retransmission: boolean): void {
    if (this.rto === NEVER) this.start(now);
    if (!retransmission && !this.sender.recovery.tlp.waiting) this.armProbe(now);
  }

  /** The connection gave `at` as the longest it will wait for anything. */
  restart(now: Micros, atMost: Micros): void {
    this.rto = Math.min(now + this.sender.rto.value, atMost);
  }

  /** The network is back: do not wait for the rest of a back-off. */
  hurry(now: Micros): void {
    if (this.rto !== NEVER) this.rto = now;
  }

  /** True: the retransmission timeout has expired (once per arming). */
  handleTimeout(now: Micros): boolean {
    const { recovery, nxt, mss } = this.sender;
    if (now >= recovery.rackDeadline) recovery.handleReorderingTimeout(now, nxt, mss);
    if (now >= recovery.tlp.deadline) {
      recovery.tlp.cancel();
      this.probe = recovery.probeAllowed;
    }
    if (now < this.rto) return false;
    this.rto = NEVER;
    return true;
  }

  /** RFC 8985 §7.3: new data if there is any, else the last segment again. */
  planProbe(now: Micros): Plan | null {
    this.probe = false;
    const { sender } = this;
    const plan = sender.plan(now, true) ?? sender.planForced(false);
    if (plan === null) return null;
    const end = plan.retransmission ? sender.nxt : seqAdd(plan.start, plan.length);
    sender.recovery.tlp.handleSent(end, plan.retransmission);
    // §7.3: the timeout is counted from the probe.
    this.start(now);
    return plan;
  }

  private armProbe(now: Micros): void {
    const { recovery, rtt, mss } = this.sender;
    if (!recovery.probeAllowed) recovery.tlp.cancel();
    else recovery.tlp.arm(now, rtt.srtt, recovery.board.outstanding <= mss, this.rto);
  }
}

// Is the peer still there when nothing is in flight? Keep-alive on an idle connection (keepalive.ts) and probes of a closed
// window (persist.ts): their two timers, and the one probe segment that both ask for.

import { type Micros, NEVER } from '../../core/index.js';
import { KeepAlive } from './keepalive.js';
import { Persist } from './persist.js';
import type { TcpOptions } from './types.js';

export class Liveness {
  private keep: KeepAlive | null = null;
  private keepAt: Micros = NEVER;
  private persist: Persist | null = null;
  private persistAt: Micros = NEVER;
  private probe = false;

  get deadline(): Micros {
    return Math.min(this.keepAt, this.persistAt);
  }

  /** True once per probe that is to be sent. */
  takeProbe(): boolean {
    const due = this.probe;
    this.probe = false;
    return due;
  }

  handleHeard(now: Micros): void {
    this.keep?.handleHeard(now);
  }

  /** The connection came up, or the options of keep-alive were changed. */
  armKeepAlive(now: Micros, options: TcpOptions): void {
    this.keep = options.keepAlive ? (this.keep ?? new KeepAlive(now)) : null;
    this.keepAt = this.keep?.deadline(options) ?? NEVER;
  }

  /** The peer's window keeps us from sending and nothing is in flight. */
  handleBlocked(now: Micros, rto: Micros, options: TcpOptions): void {
    if (this.persistAt !== NEVER) return;
    this.persist ??= new Persist();
    const left = Math.max(0, options.userTimeout - this.persist.silentFor(now));
    this.persistAt = now + Math.min(left, this.persist.interval(rto, options.maxRto));
  }

  /** An acknowledgement came; `open`: the window is open. */
  handleAck(open: boolean): void {
    if (this.persist === null) return;
    this.persist.handleAnswer();
    if (!open) return;
    this.persistAt = NEVER;
    this.persist.handleOpen();
  }

  /** The network is back: probe at once. */
  hurry(now: Micros): void {
    if (this.persistAt !== NEVER) this.persistAt = now;
  }

  /** False: the peer is given up. `busy`: other timers find out whether it lives. */
  handleTimeout(now: Micros, busy: boolean, options: TcpOptions): boolean {
    if (now >= this.keepAt && this.keep !== null) {
      const verdict = busy ? 'wait' : this.keep.handleTimeout(now, options);
      if (verdict === 'dead') return false;
      if (verdict === 'probe') this.probe = true;
      this.keepAt = Math.max(this.keep.deadline(options), now + options.keepAliveInterval);
    }
    if (now >= this.persistAt && this.persist !== null) {
      this.persistAt = NEVER;
      if (this.persist.silentFor(now) >= options.userTimeout) return false;
      this.persist.handleProbe(now);
      this.probe = true;
    }
    return true;
  }

  stop(): void {
    this.keepAt = this.persistAt = NEVER;
    this.probe = false;
  }
}

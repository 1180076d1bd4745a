// Core: probes an idle peer, measures the round trip, and says when the peer is dead.

import type { Micros } from '../core/index.js';
import { NEVER } from '../core/index.js';

export interface KeepaliveOptions {
  /** Silence after which a ping is sent. */
  readonly interval: Micros;
  /** Silence after which the peer is dead. */
  readonly deadAfter: Micros;
}

/** The round trip is measured at least once in so many intervals. */
const RTT_AGE = 6;

export class Keepalive {
  /** Smoothed RTT (RFC 6298 §2: alpha = 1/8); NaN before the first sample. */
  rtt = Number.NaN;
  private lastHeard: Micros;
  private token = 0;
  private pingSentAt: Micros = NEVER;
  private lastPing: Micros;

  constructor(
    now: Micros,
    private readonly options: KeepaliveOptions,
  ) {
    this.lastHeard = now;
    this.lastPing = now;
  }

  /** Any bytes from the peer prove life. */
  handleBytes(now: Micros): void {
    this.lastHeard = now;
  }

  handlePong(now: Micros, token: number): void {
    if (token !== this.token || this.pingSentAt === NEVER) return;
    const sample = now - this.pingSentAt;
    this.rtt = Number.isNaN(this.rtt) ? sample : this.rtt + (sample - this.rtt) / 8;
    this.pingSentAt = NEVER;
  }

  /** A token to send as a ping now (also on demand), counted from `now`. */
  ping(now: Micros): number {
    this.token = (this.token + 1) >>> 0;
    this.pingSentAt = now;
    this.lastPing = now;
    return this.token;
  }

  isDead(now: Micros): boolean {
    return now - this.lastHeard >= this.options.deadAfter;
  }

  /** True: send a ping. The first one goes at once after the handshake, to have an RTT. */
  wantsPing(now: Micros): boolean {
    if (Number.isNaN(this.rtt) && this.pingSentAt === NEVER) return true;
    return now >= this.pingAt();
  }

  /** After silence; and on a busy connection too, or where the peer always pings first, now and then: the RTT ages. */
  private pingAt(): Micros {
    const { interval } = this.options;
    return Math.min(Math.max(this.lastHeard, this.lastPing) + interval, this.lastPing + RTT_AGE * interval);
  }

  nextDeadline(): Micros {
    return Math.min(this.pingAt(), this.lastHeard + this.options.deadAfter);
  }

  silence(now: Micros): Micros {
    return now - this.lastHeard;
  }
}

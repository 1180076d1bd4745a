// Core: a token bucket: so many units per second on average, so many at once. Packets, bytes, attempts: the unit is the user's.

import type { Micros } from './clock.js';

export class TokenBucket {
  private level: number;
  private at: Micros;

  constructor(
    now: Micros,
    /** Units per second; Infinity: no limit. */
    private rate: number,
    /** Units that may come at once after a pause. */
    private burst: number,
  ) {
    this.level = burst;
    this.at = now;
  }

  /** Takes `units` if they are there. */
  take(now: Micros, units: number): boolean {
    this.fill(now);
    if (this.level < units) return false;
    this.level -= units;
    return true;
  }

  has(now: Micros, units: number): boolean {
    this.fill(now);
    return this.level >= units;
  }

  /** Microseconds until `units` will be there (at most a whole bucket of them); 0: now. */
  wait(now: Micros, units: number): Micros {
    this.fill(now);
    const missing = Math.min(units, this.burst) - this.level;
    return missing <= 0 ? 0 : Math.ceil((missing / this.rate) * 1_000_000);
  }

  /** What is there stays, up to the new burst; a limit that is lifted is gone at once. */
  change(now: Micros, rate: number, burst: number): void {
    this.fill(now);
    this.rate = rate;
    this.burst = burst;
    this.level = rate === Number.POSITIVE_INFINITY ? burst : Math.min(this.level, burst);
  }

  private fill(now: Micros): void {
    if (now > this.at) {
      this.level = Math.min(this.burst, this.level + ((now - this.at) / 1_000_000) * this.rate);
      this.at = now;
    }
  }
}

// The named timers of a connection and their one nextDeadline. A spurious wake-up is harmless by contract.
// Mechanisms with a deadline of their own making (retransmission, liveness, delayed ACK, pacing) keep it; the connection takes the least.

import { type Micros, NEVER } from '../../core/index.js';

export const Timer = { finWait2: 0, linger: 1, connect: 2 } as const;
export type TimerName = (typeof Timer)[keyof typeof Timer];

export class Timers {
  // A plain array of doubles: half the size of a typed array, and nothing is boxed.
  private readonly at: number[] = [NEVER, NEVER, NEVER];

  set(name: TimerName, at: Micros): void {
    this.at[name] = at;
  }

  stop(name: TimerName): void {
    this.at[name] = NEVER;
  }

  /** True once per arming. */
  expired(name: TimerName, now: Micros): boolean {
    if (this.at[name]! > now) return false;
    this.at[name] = NEVER;
    return true;
  }

  stopAll(): void {
    this.at.fill(NEVER);
  }

  get nextDeadline(): Micros {
    let least = NEVER;
    for (const at of this.at) if (at < least) least = at;
    return least;
  }
}

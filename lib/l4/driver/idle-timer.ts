// Edge: the timeout of a socket on which nothing happens. One timer that looks at the last activity when it fires: there is nothing
// to arm per packet.

import type { Clock, Micros, Timer } from '../../core/index.js';

export class IdleTimer {
  private last: Micros;
  private timer: Timer | null = null;
  private stopped = false;

  constructor(
    private readonly clock: Clock,
    private readonly timeout: Micros,
    private readonly onIdle: () => void,
  ) {
    this.last = clock.now();
    this.arm(timeout);
  }

  /** Something happened. After the timeout was told it starts anew. */
  touch(): void {
    this.last = this.clock.now();
    if (this.timer === null && !this.stopped) this.arm(this.timeout);
  }

  stop(): void {
    this.stopped = true;
    this.timer?.cancel();
    this.timer = null;
  }

  private arm(after: Micros): void {
    this.timer = this.clock.at(this.clock.now() + after, () => {
      this.timer = null;
      const left = this.last + this.timeout - this.clock.now();
      if (left > 0) this.arm(left);
      else this.onIdle();
    });
  }
}

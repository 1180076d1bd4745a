// Work that many may ask for at once: done soon, and together for all who ask within a spacing.

import type { Clock, Micros } from './clock.js';

export class Spaced {
  private last: Micros = Number.NEGATIVE_INFINITY;

  /** `spacing`: between the beginnings of two runs at least; asked each time. */
  constructor(
    private readonly clock: Clock,
    private readonly spacing: () => Micros,
  ) {}

  /** Runs `fn` at once after this call, or as soon as the spacing lets it. Who calls sees to it that one waits at a time. */
  soon(fn: () => void): void {
    const run = () => {
      this.last = this.clock.now();
      fn();
    };
    const at = this.last + this.spacing();
    if (at <= this.clock.now()) queueMicrotask(run);
    else this.clock.at(at, run);
  }
}

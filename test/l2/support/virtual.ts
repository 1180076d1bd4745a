// A virtual clock for links: time jumps from event to event. Promises (a transport's dial) are let through between events.

import type { Clock, Micros, Timer } from '../../../lib/core/index.js';

export class VirtualClock implements Clock {
  time: Micros = 1_000_000;
  private events: { at: Micros; order: number; fn: () => void }[] = [];
  private order = 0;

  now(): Micros {
    return this.time;
  }

  at(at: Micros, fn: () => void): Timer {
    const event = { at: Math.max(at, this.time), order: this.order++, fn };
    let i = this.events.length;
    while (i > 0 && this.events[i - 1]!.at > event.at) i--;
    this.events.splice(i, 0, event);
    return {
      cancel: () => {
        const index = this.events.indexOf(event);
        if (index >= 0) this.events.splice(index, 1);
      },
    };
  }

  /** `delay` later, for what a transport defers. */
  later(delay: Micros): (fn: () => void) => void {
    return (fn) => void this.at(this.time + delay, fn);
  }

  /** As after a sleep of the machine: all that was due meanwhile is due now, in the order in which it was. */
  jump(duration: Micros): void {
    this.time += duration;
    for (const event of this.events) event.at = Math.max(event.at, this.time);
  }

  /** Runs what is due within the next `duration`, or until `done`. Returns whether `done` became true. */
  async run(duration: Micros, done: () => boolean = () => false): Promise<boolean> {
    const until = this.time + duration;
    for (;;) {
      await settled();
      if (done()) return true;
      const event = this.events[0];
      if (event === undefined || event.at > until) break;
      this.events.shift();
      this.time = event.at;
      event.fn();
    }
    this.time = until;
    return done();
  }
}

/** Everything that promises had to say. */
export const settled = () => new Promise<void>((resolve) => setImmediate(resolve));

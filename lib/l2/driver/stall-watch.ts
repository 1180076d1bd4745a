// Edge: a peer that takes no bytes, or does not finish a frame, is found out in bounded time.

import type { Micros } from '../../core/index.js';

export class StallWatch {
  private pendingSince: Micros;
  private lastPending = 0;
  private lastProgress = 0;
  private partialSince: Micros;
  private lastConsumed = -1;

  constructor(
    now: Micros,
    private readonly timeout: Micros,
  ) {
    this.pendingSince = now;
    this.partialSince = now;
  }

  /** How long nothing of what waits has been taken, as of the last look. */
  waited(now: Micros): Micros {
    return now - this.pendingSince;
  }

  /** Everything written so far has been taken. */
  drained(now: Micros): void {
    this.pendingSince = now;
  }

  /**
   * Looked at about once a second. `progress` is any number that changes when the system takes bytes; `partial` is what
   * is there of the frame at the end, and `consumed` counts the bytes before it: a frame that comes byte by byte
   * makes no progress.
   */
  check(
    now: Micros,
    pending: number,
    progress: number,
    partial: number,
    consumed: number,
  ): 'unread' | 'mid-frame' | null {
    if (pending === 0 || pending < this.lastPending || progress !== this.lastProgress) this.pendingSince = now;
    this.lastPending = pending;
    this.lastProgress = progress;
    if (partial === 0 || consumed !== this.lastConsumed) this.partialSince = now;
    this.lastConsumed = consumed;
    if (now - this.pendingSince >= this.timeout) return 'unread';
    return now - this.partialSince >= this.timeout ? 'mid-frame' : null;
  }
}

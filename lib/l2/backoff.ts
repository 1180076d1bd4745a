// Core: when to dial again. Exponential with full jitter, so that a hub's restart brings no herd; the first try is quick.

import type { Micros, Random } from '../core/index.js';
import { MS, SECOND } from '../core/index.js';

export interface BackoffOptions {
  /** Upper bound of the first delay. **Default:** 250 ms. */
  readonly first: Micros;
  /** Upper bound of every delay: after an outage of any length all nodes are back this soon. **Default:** 3 s. */
  readonly cap: Micros;
}

export const DEFAULT_BACKOFF: BackoffOptions = { first: 250 * MS, cap: 3 * SECOND };

export class Backoff {
  private attempts = 0;

  constructor(
    private readonly random: Random,
    private readonly options: BackoffOptions = DEFAULT_BACKOFF,
  ) {}

  /** The delay before the next attempt. */
  next(): Micros {
    const bound = Math.min(this.options.cap, this.options.first * 2 ** Math.min(this.attempts, 20));
    this.attempts++;
    // At least a fifth of the bound: attempts never come in a burst.
    return bound * (0.2 + 0.8 * this.random.float());
  }

  reset(): void {
    this.attempts = 0;
  }
}

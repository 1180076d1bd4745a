// Core: a token bucket per key (client address, tenant), with a bound on keys. Time is a parameter.

import type { Micros } from '../core/index.js';

export interface Rate {
  readonly perSecond: number;
  /** Requests at once. **Default:** perSecond. */
  readonly burst?: number;
}

interface Bucket {
  tokens: number;
  at: number;
}

export class RateLimiter {
  private readonly buckets = new Map<string, Bucket>();
  private readonly burst: number;

  constructor(
    private readonly rate: Rate,
    private readonly maxKeys = 65_536,
  ) {
    this.burst = rate.burst ?? Math.max(1, rate.perSecond);
  }

  /** 0: go on; otherwise seconds until the next request is let through. */
  take(now: Micros, key: string): number {
    const { perSecond } = this.rate;
    let bucket = this.buckets.get(key);
    if (bucket === undefined) {
      bucket = { tokens: this.burst, at: now };
      if (this.buckets.size >= this.maxKeys) this.evict(now);
      this.buckets.set(key, bucket);
    }
    bucket.tokens = Math.min(this.burst, bucket.tokens + ((now - bucket.at) / 1_000_000) * perSecond);
    bucket.at = now;
    if (bucket.tokens >= 1) {
      bucket.tokens--;
      return 0;
    }
    return (1 - bucket.tokens) / perSecond;
  }

  /** Full buckets say nothing; if all are in use, the oldest goes. */
  private evict(now: Micros): void {
    for (const [key, bucket] of this.buckets) {
      if (bucket.tokens + ((now - bucket.at) / 1_000_000) * this.rate.perSecond >= this.burst) this.buckets.delete(key);
    }
    if (this.buckets.size < this.maxKeys) return;
    const oldest = this.buckets.keys().next();
    if (oldest.done !== true) this.buckets.delete(oldest.value);
  }
}

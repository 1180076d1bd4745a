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
      if (this.buckets.size >= this.maxKeys) this.buckets.delete(this.buckets.keys().next().value!);
    } else this.buckets.delete(key);
    // In the order of their last use: the first has waited longest and is the fullest, so little is forgotten with it.
    this.buckets.set(key, bucket);
    bucket.tokens = Math.min(this.burst, bucket.tokens + ((now - bucket.at) / 1_000_000) * perSecond);
    bucket.at = now;
    if (bucket.tokens >= 1) {
      bucket.tokens--;
      return 0;
    }
    return (1 - bucket.tokens) / perSecond;
  }
}

/** Who counts as one caller: an IPv4 address, or an IPv6 network of 64 bits, because a caller has all addresses of its own (RFC 6177 §2). */
export function clientKey(address: string): string {
  if (!address.includes(':')) return address;
  const [front = '', back] = address.replace(/%.*$/, '').split('::');
  const groups = front === '' ? [] : front.split(':');
  if (back !== undefined) {
    const tail = back === '' ? [] : back.split(':');
    while (groups.length + tail.length < 8) groups.push('0');
  }
  return `${groups.slice(0, 4).join(':')}::/64`;
}

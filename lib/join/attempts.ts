// Core: how often anybody may try to join. Failures cost their address; all together have a limit that a fleet needs not fear.

import { type Micros, MS, TokenBucket } from '../core/index.js';

export interface AttemptLimits {
  /** Attempts per second of all callers, and how many at once. **Default:** 500 and 1000. */
  readonly rate: number;
  readonly burst: number;
  /** Failed attempts per second of one address, and how many at once. **Default:** 0.1 and 10. */
  readonly failureRate: number;
  readonly failureBurst: number;
  /** Addresses remembered for their failures; the oldest gives way. **Default:** 4096. */
  readonly addresses: number;
  /** Requests in progress, of all and of one address. **Default:** 256 and 32. */
  readonly concurrent: number;
  readonly concurrentPerAddress: number;
}

export const DEFAULT_ATTEMPTS: AttemptLimits = {
  rate: 500,
  burst: 1000,
  failureRate: 0.1,
  failureBurst: 10,
  addresses: 4096,
  concurrent: 256,
  concurrentPerAddress: 32,
};

export class AttemptLimiter {
  private readonly all: TokenBucket;
  private readonly failures = new Map<string, TokenBucket>();
  private readonly busy = new Map<string, number>();
  private inProgress = 0;

  constructor(
    now: Micros,
    private readonly limits: AttemptLimits = DEFAULT_ATTEMPTS,
  ) {
    this.all = new TokenBucket(now, limits.rate, limits.burst);
  }

  /** Milliseconds that the caller has to wait; 0: come in, and call `end` once. */
  begin(now: Micros, address: string): number {
    // Who is shut out takes nothing from the others' share.
    const key = site(address);
    const penalty = this.failures.get(key)?.wait(now, 1) ?? 0;
    if (penalty > 0) return Math.ceil(penalty / MS);
    const busy = this.busy.get(key) ?? 0;
    if (busy >= this.limits.concurrentPerAddress || this.inProgress >= this.limits.concurrent) return 1_000;
    if (!this.all.take(now, 1)) return Math.ceil(this.all.wait(now, 1) / MS);
    this.inProgress++;
    this.busy.set(key, busy + 1);
    return 0;
  }

  end(now: Micros, address: string, failed: boolean): void {
    const key = site(address);
    this.inProgress--;
    const busy = this.busy.get(key)! - 1;
    if (busy > 0) this.busy.set(key, busy);
    else this.busy.delete(key);
    if (!failed) return;
    const bucket = this.failures.get(key) ?? new TokenBucket(now, this.limits.failureRate, this.limits.failureBurst);
    bucket.take(now, 1);
    this.failures.delete(key);
    this.failures.set(key, bucket);
    if (this.failures.size > this.limits.addresses) this.failures.delete(this.failures.keys().next().value!);
  }
}

/** An IPv6 site has a /64 to choose addresses from. */
function site(address: string): string {
  const v4 = /^::ffff:(\d+\.\d+\.\d+\.\d+)$/i.exec(address);
  if (v4 !== null) return v4[1]!;
  if (!address.includes(':')) return address;
  const [head = '', tail = ''] = address.split('%')[0]!.split('::');
  const front = head === '' ? [] : head.split(':');
  const back = tail === '' ? [] : tail.split(':');
  const groups = address.includes('::')
    ? [...front, ...Array(Math.max(0, 8 - front.length - back.length)).fill('0'), ...back]
    : front;
  return groups.slice(0, 4).join(':');
}

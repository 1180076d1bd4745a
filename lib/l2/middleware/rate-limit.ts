// Core: a link that carries so many bytes per second and no more, in each direction. Link -> Link; what is over is dropped by whole
// packets and counted, control is never touched. Several limits may hold at once: a node's own and its tenant's.

import { type Clock, HEADER, type KubeBusError, lengthAt, type Slab, TokenBucket } from '../../core/index.js';
import type { Link, LinkHandler, LinkState } from '../link.js';
import type { PeerIdentity } from '../transport.js';

export interface RateLimit {
  /** Bytes of frames per second from the peer. **Default:** no limit. */
  readonly up?: number;
  /** Bytes of frames per second towards the peer. **Default:** no limit. */
  readonly down?: number;
}

/** Seconds of the rate that may come at once. */
const BURST_SECONDS = 0.25;
/** And at least this: two super-packets with room to spare, or big packets would never pass. */
const MIN_BURST = 192 * 1024;

/** The buckets of one limit; one object may serve all the links of a tenant. */
export class RateMeter {
  readonly up: TokenBucket;
  readonly down: TokenBucket;

  constructor(now: number, limit: RateLimit) {
    const { up = Number.POSITIVE_INFINITY, down = Number.POSITIVE_INFINITY } = limit;
    this.up = bucket(now, up);
    this.down = bucket(now, down);
  }

  change(now: number, limit: RateLimit): void {
    const { up = Number.POSITIVE_INFINITY, down = Number.POSITIVE_INFINITY } = limit;
    this.up.change(now, up, burst(up));
    this.down.change(now, down, burst(down));
  }
}

/** `link` under all of `meters`. */
export function limitLink(link: Link, meters: readonly RateMeter[], clock: Clock): Link {
  return new LimitedLink(link, meters, clock);
}

class LimitedLink implements Link, LinkHandler {
  private handler: LinkHandler | null = null;
  private readonly counters = { droppedRateUp: 0, droppedRateDown: 0 };
  private readonly upBuckets: readonly TokenBucket[];
  private readonly downBuckets: readonly TokenBucket[];

  constructor(
    private readonly link: Link,
    meters: readonly RateMeter[],
    private readonly clock: Clock,
  ) {
    this.upBuckets = meters.map((m) => m.up);
    this.downBuckets = meters.map((m) => m.down);
  }

  // ---- Link

  get peer(): PeerIdentity {
    return this.link.peer;
  }

  get state(): LinkState {
    return this.link.state;
  }

  get medium(): 'reliable' | 'lossy' {
    return this.link.medium;
  }

  get mtu(): number {
    return this.link.mtu;
  }

  get offload(): boolean {
    return this.link.offload;
  }

  get partialChecksums(): boolean {
    return this.link.partialChecksums;
  }

  get rtt(): number {
    return this.link.rtt;
  }

  get writable(): boolean {
    return this.link.writable;
  }

  attach(handler: LinkHandler): void {
    this.handler = handler;
    this.link.attach(this);
  }

  send(slab: Slab, start: number, end: number): void {
    if (this.take(this.downBuckets, end - start)) return this.link.send(slab, start, end);
    const { link } = this;
    this.counters.droppedRateDown += this.split(this.downBuckets, slab, start, end, (from, to) =>
      link.send(slab, from, to),
    );
  }

  sendControl(message: Uint8Array): void {
    this.link.sendControl(message);
  }

  close(reason: KubeBusError): void {
    this.link.close(reason);
  }

  stats(): Readonly<Record<string, number>> {
    return { ...this.link.stats(), ...this.counters };
  }

  // ---- LinkHandler

  onPackets(slab: Slab, start: number, end: number): void {
    const handler = this.handler!;
    if (this.take(this.upBuckets, end - start)) return handler.onPackets(slab, start, end);
    this.counters.droppedRateUp += this.split(this.upBuckets, slab, start, end, (from, to) =>
      handler.onPackets(slab, from, to),
    );
  }

  onControl(message: Uint8Array): void {
    this.handler!.onControl(message);
  }

  onState(state: LinkState, reason?: KubeBusError): void {
    this.handler!.onState(state, reason);
  }

  onWritable(): void {
    this.handler!.onWritable();
  }

  // ---- helpers

  /** From all, or from none. */
  private take(buckets: readonly TokenBucket[], bytes: number): boolean {
    const now = this.clock.now();
    for (const bucket of buckets) if (!bucket.has(now, bytes)) return false;
    for (const bucket of buckets) bucket.take(now, bytes);
    return true;
  }

  /** A run that does not fit as a whole: packet by packet; neighbours that pass stay one run. Returns how many were dropped. */
  private split(
    buckets: readonly TokenBucket[],
    slab: Slab,
    start: number,
    end: number,
    pass: (from: number, to: number) => void,
  ): number {
    let dropped = 0;
    let from = start;
    let off = start;
    while (off < end) {
      const next = off + HEADER + lengthAt(slab.bytes, off);
      if (!this.take(buckets, next - off)) {
        dropped++;
        if (off > from) pass(from, off);
        from = next;
      }
      off = next;
    }
    if (off > from) pass(from, off);
    return dropped;
  }
}

function bucket(now: number, rate: number): TokenBucket {
  return new TokenBucket(now, rate, burst(rate));
}

function burst(rate: number): number {
  return Math.max(MIN_BURST, rate * BURST_SECONDS);
}

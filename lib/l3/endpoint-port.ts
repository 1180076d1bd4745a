// The endpoint of a VRF: IP for this process (endpoint.ts is the seam). What it sends enters the router as from any port.

import type { Micros, Slab } from '../core/index.js';
import type { IpEndpoint, IpEndpointHandler } from './endpoint.js';
import type { Port, PortSink } from './port.js';

/** What the endpoint needs of its VRF. */
export interface EndpointRouter {
  readonly addresses: readonly Uint8Array[];
  egressTo(destination: Uint8Array): Port | null;
  handleLocal(now: Micros, slab: Slab, start: number, end: number): void;
  /** Packets that `deferred` took, now to be delivered. */
  handleDeferred(now: Micros, slab: Slab, start: number, end: number): void;
}

/** MTU to report where no route says one: what every IPv6 link has to carry (RFC 8200 §5). */
const NO_ROUTE_MTU = 1280;

export class Endpoint implements IpEndpoint, PortSink {
  private handler: IpEndpointHandler | null = null;
  private clock: () => Micros = () => 0;
  private readonly queue: { now: Micros; slab: Slab; start: number; end: number }[] = [];
  private queuedBytes = 0;
  private scheduled = false;

  constructor(
    private readonly router: EndpointRouter,
    private readonly defer: (fn: () => void) => void,
    private readonly queueBytes: number,
  ) {}

  get addresses(): readonly Uint8Array[] {
    return this.router.addresses;
  }

  get attached(): boolean {
    return this.handler !== null;
  }

  mtuTo(destination: Uint8Array): number {
    return this.router.egressTo(destination)?.mtu ?? NO_ROUTE_MTU;
  }

  /** Known of the next hop only: a hub segments for the hops behind it that need it. */
  offloadTo(destination: Uint8Array): boolean {
    return this.router.egressTo(destination)?.offload ?? false;
  }

  partialChecksumsTo(destination: Uint8Array): boolean {
    return this.router.egressTo(destination)?.partialChecksums ?? false;
  }

  send(slab: Slab, start: number, end: number): void {
    this.router.handleLocal(this.clock(), slab, start, end);
  }

  attach(handler: IpEndpointHandler): void {
    this.handler = handler;
  }

  /** Where `send` takes the time from that drives the ICMP rate limits. */
  useClock(clock: () => Micros): void {
    this.clock = clock;
  }

  /** Takes the handler away again: packets for us then go to the host, or are answered with an error. */
  detach(): void {
    this.handler = null;
  }

  // Calls from the VRF.

  claims(buf: Uint8Array, off: number): boolean {
    return this.handler?.claims(buf, off) ?? false;
  }

  deliver(slab: Slab, start: number, end: number): void {
    this.handler?.onPackets(slab, start, end);
  }

  /** For packets that the endpoint itself caused: not from inside its call of `send`. False: the queue is full. */
  deferred(now: Micros, slab: Slab, start: number, end: number): boolean {
    if (this.queuedBytes + end - start > this.queueBytes) return false;
    slab.retain();
    this.queue.push({ now, slab, start, end });
    this.queuedBytes += end - start;
    if (!this.scheduled) {
      this.scheduled = true;
      this.defer(() => this.drain());
    }
    return true;
  }

  changed(): void {
    this.handler?.onChange();
  }

  private drain(): void {
    this.scheduled = false;
    // Only what waits now: two sockets of this process that answer each other must not keep the rest of it waiting.
    for (const { now, slab, start, end } of this.queue.splice(0)) {
      this.queuedBytes -= end - start;
      this.router.handleDeferred(now, slab, start, end);
      slab.release();
    }
  }
}

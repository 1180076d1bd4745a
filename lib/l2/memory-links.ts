// Two links joined in memory, without framing: for tests, the simulator, and two nodes in one process. A packet sent is
// delivered from the sender's own slab, after `defer`, so nobody is called from inside their own call.

import { KubeBusError, type Slab, turnTaking } from '../core/index.js';
import type { Link, LinkHandler, LinkState } from './link.js';
import type { PeerIdentity } from './transport.js';

export interface MemoryLinkOptions {
  readonly mtu?: number;
  readonly offload?: boolean;
  /** **Default:** true. */
  readonly partialChecksums?: boolean;
  /** Names of the two ends. **Default:** a and b of tenant 'test'. */
  readonly a?: { tenant: string; node: string };
  readonly b?: { tenant: string; node: string };
  /** Runs `fn` soon, but not inside the call. **Default:** turnTaking() of core. */
  readonly defer?: (fn: () => void) => void;
  /** Bytes that may wait for delivery; more is dropped and counted. **Default:** 16 MiB. */
  readonly maxBytes?: number;
}

const noHandler: LinkHandler = { onPackets() {}, onControl() {}, onState() {}, onWritable() {} };

export function memoryLinks(given: MemoryLinkOptions = {}): [MemoryLink, MemoryLink] {
  const options = { ...given, defer: given.defer ?? turnTaking() };
  const a = new MemoryLink(options, options.b ?? { tenant: 'test', node: 'b' });
  const b = new MemoryLink(options, options.a ?? { tenant: 'test', node: 'a' });
  a.other = b;
  b.other = a;
  return [a, b];
}

export class MemoryLink implements Link {
  readonly peer: PeerIdentity;
  state: LinkState = 'up';
  readonly medium = 'reliable';
  readonly mtu: number;
  readonly offload: boolean;
  readonly partialChecksums: boolean;
  readonly rtt = 0;
  other!: MemoryLink;
  private handler = noHandler;
  private readonly defer: (fn: () => void) => void;
  private readonly maxBytes: number;
  private slabs: Slab[] = [];
  private starts: number[] = [];
  private ends: number[] = [];
  private queued = 0;
  private scheduled = false;
  private dropped = 0;
  private packetsBytes = 0;
  private readonly deliverBound = () => this.deliver();

  constructor(options: MemoryLinkOptions, peer: { tenant: string; node: string }) {
    this.peer = { ...peer, prefixes: [], authenticated: false, expires: Number.POSITIVE_INFINITY };
    this.mtu = options.mtu ?? 1400;
    this.offload = options.offload ?? true;
    this.partialChecksums = this.offload || (options.partialChecksums ?? true);
    this.defer = options.defer ?? turnTaking();
    this.maxBytes = options.maxBytes ?? 16 * 1024 * 1024;
  }

  get writable(): boolean {
    return this.queued < this.maxBytes / 2;
  }

  attach(handler: LinkHandler): void {
    this.handler = handler;
  }

  send(slab: Slab, start: number, end: number): void {
    if (this.state !== 'up' || this.queued + end - start > this.maxBytes) {
      this.dropped++;
      return;
    }
    slab.retain();
    this.slabs.push(slab);
    this.starts.push(start);
    this.ends.push(end);
    this.queued += end - start;
    this.packetsBytes += end - start;
    if (!this.scheduled) {
      this.scheduled = true;
      this.defer(this.deliverBound);
    }
  }

  sendControl(message: Uint8Array): void {
    const copy = Uint8Array.from(message);
    this.defer(() => {
      if (this.state === 'up') this.other.handler.onControl(copy);
    });
  }

  close(reason: KubeBusError): void {
    if (this.state === 'closed') return;
    this.state = 'closed';
    this.drop();
    const remote = new KubeBusError(reason.code, reason.message, { side: 'remote' });
    this.defer(() => {
      this.handler.onState('closed', reason);
      this.other.close(remote);
    });
  }

  stats(): Readonly<Record<string, number>> {
    return { dropped: this.dropped, bytesOut: this.packetsBytes, queuedBytes: this.queued };
  }

  private deliver(): void {
    this.scheduled = false;
    const { slabs, starts, ends } = this;
    this.slabs = [];
    this.starts = [];
    this.ends = [];
    this.queued = 0;
    for (let i = 0; i < slabs.length; i++) {
      if (this.other.state === 'up') this.other.handler.onPackets(slabs[i]!, starts[i]!, ends[i]!);
      slabs[i]!.release();
    }
  }

  private drop(): void {
    for (const slab of this.slabs) slab.release();
    this.slabs = [];
    this.starts = [];
    this.ends = [];
    this.queued = 0;
  }
}

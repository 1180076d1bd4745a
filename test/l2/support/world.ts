// A hub and nodes over the memory transport on a virtual clock; lines between them can be cut, silenced and counted.

import { KubeBusError, type Micros, MS, seededRandom } from '../../../lib/core/index.js';
import { resolveOptions } from '../../../lib/l2/driver/options.js';
import {
  type AcceptOptions,
  acceptLinks,
  type ByteStream,
  type DialOptions,
  dialLink,
  type Link,
  type LinkAcceptor,
  type LinkHandler,
  type LinkState,
  type StreamHandler,
  type Transport,
} from '../../../lib/l2/index.js';
import { memoryTransport } from '../../../transports/memory.js';
import { readNumbered } from './frames.js';
import { VirtualClock } from './virtual.js';

export const bye = new KubeBusError('ERR_PEER_GOODBYE', 'the test is over');

/** Large slabs and small ones that somebody in this process still holds. */
export const slabsInUse = () => {
  const { large, small } = resolveOptions({}).connection.buffers;
  return large.inUse + small.inUse;
};

/** A dialled stream that can go silent: nothing passes, nobody is told. */
export class Line implements ByteStream {
  silent = false;
  constructor(
    private readonly inner: ByteStream,
    readonly address: string,
  ) {}
  get identity() {
    return this.inner.identity;
  }
  get remote() {
    return this.inner.remote;
  }
  get pending() {
    return this.inner.pending;
  }
  get lost() {
    return this.inner.lost ?? 0;
  }
  open(handler: StreamHandler): void {
    this.inner.open({
      room: () => handler.room(),
      get hasPartial() {
        return handler.hasPartial;
      },
      onData: (n) => void (this.silent || handler.onData(n)),
      onDrain: () => handler.onDrain(),
      datagramRoom: () => handler.datagramRoom(),
      onDatagram: (n) => handler.onDatagram(n),
      onDatagramsDone: () => handler.onDatagramsDone(),
      onClose: (error) => void (this.silent || handler.onClose(error)),
    });
  }
  write(...args: Parameters<ByteStream['write']>): boolean {
    return this.silent ? true : this.inner.write(...args);
  }
  pause(): void {
    this.inner.pause();
  }
  resume(): void {
    this.inner.resume();
  }
  end(): void {
    if (!this.silent) this.inner.end();
  }
  destroy(error?: Error): void {
    if (!this.silent) this.inner.destroy(error);
  }
}

/** What a link told its user, and what came through it. */
export class Recorder implements LinkHandler {
  readonly states: string[] = [];
  readonly packets: [number, number][] = [];
  readonly control: string[] = [];
  writable = 0;
  reason: KubeBusError | undefined;
  onPackets: LinkHandler['onPackets'] = (slab, start, end) => {
    this.packets.push(...readNumbered(slab.bytes, start, end));
  };
  onControl(message: Uint8Array): void {
    this.control.push(Buffer.from(message).toString());
  }
  onState(state: LinkState, reason?: KubeBusError): void {
    if (reason !== undefined) this.reason = reason;
    this.states.push(reason === undefined ? state : `${state} ${reason.code} ${reason.side}`);
  }
  onWritable(): void {
    this.writable++;
  }
}

export class World {
  readonly clock = new VirtualClock();
  /** Hubs by address. An address without one refuses connections. */
  readonly hubs = new Map<string, Transport>();
  readonly lines: Line[] = [];
  readonly dials: string[] = [];

  constructor(
    readonly seed = 1,
    private readonly delay: Micros = 10 * MS,
  ) {}

  /** What nodes dial with. */
  readonly transport: Transport = {
    name: 'world',
    listen: () => Promise.reject(new Error('not here')),
    dial: async (address, signal) => {
      this.dials.push(address);
      const hub = this.hubs.get(address);
      if (hub === undefined) throw new KubeBusError('ERR_CONNECT', `${address} refuses`);
      const line = new Line(await hub.dial(address, signal), address);
      this.lines.push(line);
      return line;
    },
  };

  addHub(address: string): Transport {
    const hub = memoryTransport(address, this.clock.later(this.delay));
    this.hubs.set(address, hub);
    return hub;
  }

  async accept(address: string, options: Partial<AcceptOptions> = {}) {
    const links: { link: Link; seen: Recorder }[] = [];
    const acceptor: LinkAcceptor = await acceptLinks({
      clock: this.clock,
      random: seededRandom(this.seed + this.hubs.size * 1000),
      transports: [this.addHub(address)],
      node: 'hub',
      authorize: () => null,
      onLink(link) {
        const seen = new Recorder();
        link.attach(seen);
        links.push({ link, seen });
      },
      ...options,
    });
    return { acceptor, links };
  }

  dial(options: Partial<DialOptions> = {}) {
    const link = dialLink({
      clock: this.clock,
      random: seededRandom(this.seed * 77 + this.dials.length + 1),
      transport: this.transport,
      addresses: ['hub-1'],
      tenant: 'acme',
      node: 'edge-1',
      ...options,
    });
    const seen = new Recorder();
    link.attach(seen);
    return { link, seen };
  }
}

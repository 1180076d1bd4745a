// The data path of one tenant (VRF: virtual routing and forwarding): frames from a port are checked, routed and handed
// on in runs. Read first: core/packet.ts, port.ts, route-table.ts.
//
// Frames are walked and changed in place (TTL, completed checksums). Consecutive frames for the same egress are one run and
// one call of its sink. Whatever cannot leave as it lies (an ICMP error, segments, fragments) ends the run and is written to
// a slab of our own, so the order within a flow is kept.

import {
  checkBounds,
  GSO_FLAGS,
  getU32,
  HEADER,
  lengthAt,
  type Micros,
  OFFLOAD_FLAGS,
  type Slab,
  SlabPool,
  TYPE_PACKET,
} from '../core/index.js';
import { hostPrefix, type Prefix } from './address.js';
import { Count, Counters } from './counters.js';
import { CUT_SLAB_BYTES, Cutter } from './cutter.js';
import { Endpoint } from './endpoint-port.js';
import {
  HOST_DOWN,
  type IcmpError,
  isEchoRequest,
  isLinkLocal4,
  isLinkLocal6,
  isUnicast4,
  isUnicast6,
  makeEchoReply,
  mayAnswer,
  NO_PORT_HERE,
  NO_PROTOCOL_HERE,
  NO_ROUTE,
  TIME_EXCEEDED,
  TOO_BIG,
  TokenBucket,
  writeError,
} from './icmp.js';
import { completeChecksum, offloadHeaders, wireLength } from './offload.js';
import type { Port, PortOptions } from './port.js';
import { type PortOwner, PortState } from './port-state.js';
import type { RouteKind } from './route.js';
import { DEFAULT_METRIC } from './route.js';
import { RouteTable } from './route-table.js';
import { checksumOk4, decrementTtl4, dontFragment4, IPV4_MIN_MTU, isIpv4 } from './wire/ipv4.js';
import { isIpv6 } from './wire/ipv6.js';
import { Protocol } from './wire/protocol.js';
import { upperLayer } from './wire/transport.js';

/** Bounds and rates of a VRF. */
export interface VrfLimits {
  /** ICMP errors about packets from one port, per second on average and at once. **Default:** 200 and 100. */
  readonly icmpPerSecond: number;
  readonly icmpBurst: number;
  /** Bytes that the endpoint may have on the way to itself. **Default:** 1 MiB. */
  readonly localQueueBytes: number;
}

export const DEFAULT_VRF_LIMITS: VrfLimits = { icmpPerSecond: 200, icmpBurst: 100, localQueueBytes: 1024 * 1024 };

export interface VrfOptions {
  readonly name: string;
  readonly limits?: Partial<VrfLimits>;
  /** Runs `fn` soon, but not inside this call (queueMicrotask): for what the endpoint sends to itself. */
  readonly defer: (fn: () => void) => void;
  /** For the packets that the router itself makes; slabs of at least 128 KiB. **Default:** a pool of its own. */
  readonly slabs?: SlabPool;
}

/** What ICMP messages for us are shown to before anyone else: the pinger. */
export interface IcmpListener {
  /** `off` is the frame of a validated packet to one of our addresses. True: it was ours, nobody else gets it. */
  handleIcmp(now: Micros, buf: Uint8Array, off: number): boolean;
}

/** Id of the endpoint's port. */
const LOCAL = 1;

/** What is to be done with a packet that cannot leave as it lies there. */
const Todo = { none: 0, error: 1, segment: 2, fragment: 3 } as const;

export class Vrf implements PortOwner {
  readonly name: string;
  readonly routes = new RouteTable();
  readonly counters = new Counters();
  /** IP for this process. */
  readonly endpoint: Endpoint;
  /** Packets and bytes of whole frames taken from all ports, those that are gone too. */
  readonly carried = { packets: 0, bytes: 0 };
  private readonly ports: (PortState | null)[] = [null];
  private readonly limits: VrfLimits;
  private readonly slabs: SlabPool;
  private readonly cutter: Cutter;
  private readonly listeners: IcmpListener[] = [];
  private readonly local: PortState;
  private host: PortState | null = null;
  private own: readonly Uint8Array[] = [];
  private gateway: readonly Uint8Array[] = [];
  private generation = 0;
  private tableGeneration = 0;
  // What classify() wants done with the packet that it did not forward. Read before anything else runs: what a flush calls
  // may come back into `handle`.
  private todo: number = Todo.none;
  private todoError: IcmpError = NO_ROUTE;
  private todoRest = 0;
  private todoEgress: PortState | null = null;

  constructor(options: VrfOptions) {
    this.name = options.name;
    this.limits = { ...DEFAULT_VRF_LIMITS, ...options.limits };
    checkBounds({ ...this.limits }, 'routerLimits.', 'none');
    this.slabs = options.slabs ?? new SlabPool(CUT_SLAB_BYTES, 2);
    this.cutter = new Cutter(this.slabs, this.counters);
    this.endpoint = new Endpoint(this, options.defer, this.limits.localQueueBytes);
    this.local = this.makePort(
      { name: 'local', sink: this.endpoint, mtu: 0xffff, offload: true, up: true, sources: [] },
      'local',
    );
  }

  /** The addresses that are this node's own in the tenant. */
  get addresses(): readonly Uint8Array[] {
    return this.own;
  }

  /**
   * Sets this node's addresses. Packets for them go to the endpoint (or the host), and the endpoint may send from them.
   */
  setAddresses(addresses: readonly Uint8Array[]): void {
    for (const address of this.own) {
      this.routes.remove({ prefix: hostPrefix(address), port: LOCAL, origin: 'assigned', node: '' });
    }
    this.own = addresses.map((a) => Uint8Array.from(a));
    for (const address of this.own) {
      this.routes.add({
        prefix: hostPrefix(address),
        port: LOCAL,
        origin: 'assigned',
        node: '',
        kind: 'edge',
        metric: 0,
      });
    }
    this.local.setSources(this.own.map(hostPrefix));
  }

  /**
   * Sources of ICMP errors towards the host. A kernel drops packets from its own addresses that come in by a device
   * (martian sources), so a node with a TUN answers it in the name of the cloud's gateway. **Default:** our addresses.
   */
  setGateway(addresses: readonly Uint8Array[]): void {
    this.gateway = addresses.map((a) => Uint8Array.from(a));
  }

  addPort(options: PortOptions): Port {
    const sources = options.sources === undefined ? (options.kind === 'link' ? [] : null) : options.sources;
    const port = this.makePort(
      { ...options, offload: options.offload ?? false, up: options.up ?? true, sources },
      options.kind,
    );
    if (options.kind === 'host') this.host = port;
    this.changed();
    return port;
  }

  /** Removes the port and all its routes. */
  removePort(port: Port): void {
    this.routes.removePort(port.id);
    this.ports[port.id] = null;
    if (this.host?.id === port.id) this.host = null;
    this.changed();
  }

  /** A route configured here. */
  addStaticRoute(prefix: Prefix, port: Port, options: { kind?: RouteKind; metric?: number } = {}): void {
    const { kind = 'edge', metric = DEFAULT_METRIC } = options;
    this.routes.add({ prefix, port: port.id, origin: 'static', node: '', kind, metric });
  }

  removeStaticRoute(prefix: Prefix, port: Port): boolean {
    return this.routes.remove({ prefix, port: port.id, origin: 'static', node: '' });
  }

  /** Shows ICMP messages for us to `listener` first; returns what takes it out again. */
  listenIcmp(listener: IcmpListener): () => void {
    this.listeners.push(listener);
    return () => {
      const i = this.listeners.indexOf(listener);
      if (i >= 0) this.listeners.splice(i, 1);
    };
  }

  /** Port that a packet to `destination` would leave through; null without a route. */
  egressTo(destination: Uint8Array): Port | null {
    return this.ports[this.routes.lookup(destination)] ?? null;
  }

  /** Packets from the endpoint. */
  handleLocal(now: Micros, slab: Slab, start: number, end: number): void {
    this.handle(now, this.local, slab, start, end);
  }

  /** Called by ports: something that the flow caches depend on changed. */
  changed(): void {
    this.generation++;
    this.endpoint.changed();
  }

  stats(): Record<string, number> {
    return {
      ...this.counters.snapshot(),
      routes: this.routes.size,
      ports: this.ports.filter((p) => p !== null).length,
    };
  }

  private makePort(
    o: Pick<PortOptions, 'name' | 'sink' | 'mtu'> & {
      offload: boolean;
      partialChecksums?: boolean;
      up: boolean;
      sources: readonly Prefix[] | null;
    },
    kind: PortState['kind'],
  ): PortState {
    let id = this.ports.indexOf(null, 1);
    if (id < 0) id = this.ports.length;
    const limiter = new TokenBucket(this.limits.icmpPerSecond, this.limits.icmpBurst);
    const port = new PortState(this, id, o.name, kind, o.sink, o, limiter);
    this.ports[id] = port;
    return port;
  }

  // The data path, in packet order.

  handle(now: Micros, ingress: PortState, slab: Slab, start: number, end: number): void {
    const buf = slab.bytes;
    if (this.routes.generation !== this.tableGeneration) {
      this.tableGeneration = this.routes.generation;
      this.generation++;
    }
    ingress.bytesIn += end - start;
    this.carried.bytes += end - start;
    let run: PortState | null = null;
    let runStart = start;
    let runPackets = 0;
    let off = start;
    while (off < end) {
      const length = end - off >= HEADER ? lengthAt(buf, off) : end;
      const next = off + HEADER + length;
      if (next > end) {
        // L2 hands over whole frames only; what is not one ends the walk.
        this.counters.values[Count['drop-malformed']]!++;
        break;
      }
      ingress.packetsIn++;
      this.carried.packets++;
      this.todo = Todo.none;
      const egress = this.classify(now, ingress, buf, off, length);
      const todo = this.todo;
      if (todo !== Todo.none) {
        const { todoError, todoRest, todoEgress } = this;
        if (run !== null) this.flush(now, run, ingress, slab, runStart, off, runPackets);
        run = null;
        if (todo === Todo.error) this.sendError(now, ingress, buf, off + HEADER, length, todoError, todoRest);
        else {
          const to = todoEgress!;
          const emit = (pieces: Slab, last: number, packets: number) =>
            this.flush(now, to, ingress, pieces, 0, last, packets);
          if (todo === Todo.segment) this.cutter.segment(slab, off, to.partialChecksums, emit);
          else this.cutter.fragment(slab, off, to.mtu, emit);
        }
      } else if (egress !== run) {
        if (run !== null) this.flush(now, run, ingress, slab, runStart, off, runPackets);
        run = egress;
        runStart = off;
        runPackets = 0;
      }
      runPackets++;
      off = next;
    }
    if (run !== null) this.flush(now, run, ingress, slab, runStart, off, runPackets);
  }

  /** Where the frame at `off` goes as it lies there, or null: dropped and counted, or see `todo`. */
  private classify(now: Micros, ingress: PortState, buf: Buffer, off: number, length: number): PortState | null {
    const p = off + HEADER;
    const flags = buf[off + 1]! & OFFLOAD_FLAGS;
    if (buf[off] !== TYPE_PACKET) return this.drop(Count['drop-malformed']);
    const v4 = length > 0 && buf[p]! >>> 4 === 4;
    let egress: PortState | null;
    let headers = 0;
    if (v4) {
      if (!isIpv4(buf, p, length)) return this.drop(Count['drop-malformed']);
      if (ingress.kind === 'link' && !checksumOk4(buf, p)) return this.drop(Count['drop-malformed']);
      if (flags !== 0 && (headers = offloadHeaders(buf, off)) === 0) return this.drop(Count['drop-malformed']);
      const source = getU32(buf, p + 12) | 0;
      const destination = getU32(buf, p + 16) | 0;
      if (destination === ingress.destination4 && source === ingress.source4 && ingress.cached4 === this.generation) {
        egress = ingress.egress4;
      } else {
        egress = this.route4(ingress, buf, p);
        if (egress === null) return null;
        ingress.cached4 = this.generation;
        ingress.source4 = source;
        ingress.destination4 = destination;
        ingress.egress4 = egress;
      }
      // RFC 7126 §4.3, §4.4: an option that overrides our routing is not honoured.
      if ((buf[p]! & 0x0f) > 5 && hasSourceRoute(buf, p)) return this.drop(Count['drop-source-route']);
    } else {
      if (!isIpv6(buf, p, length)) return this.drop(Count['drop-malformed']);
      if (flags !== 0 && (headers = offloadHeaders(buf, off)) === 0) return this.drop(Count['drop-malformed']);
      if (ingress.cached6 === this.generation && sameFlow6(ingress.flow6, buf, p)) {
        egress = ingress.egress6;
      } else {
        egress = this.route6(ingress, buf, p);
        if (egress === null) return null;
        ingress.cached6 = this.generation;
        ingress.egress6 = egress;
        for (let i = 0; i < 8; i++) ingress.flow6[i] = getU32(buf, p + 8 + i * 4);
      }
    }
    if (egress === this.local) return this.deliver(now, ingress, buf, off, length);
    return this.forward(ingress, egress!, buf, off, p, length, flags, headers, v4);
  }

  /** Source check and lookup of a flow that is not in the cache; null: dropped, counted, maybe with an error to send. */
  private route4(ingress: PortState, buf: Uint8Array, p: number): PortState | null {
    if (ingress.sources !== null && !ingress.sources.has4(getU32(buf, p + 12))) {
      // Multicast and broadcast noise of a kernel is no attempt to spoof.
      return this.drop(
        ingress.kind === 'host' && !isUnicast4(buf, p + 16) ? Count['drop-not-unicast'] : Count['drop-spoofed-source'],
      );
    }
    if (
      !isUnicast4(buf, p + 16) ||
      isLinkLocal4(buf, p + 16) ||
      !isUnicast4(buf, p + 12) ||
      isLinkLocal4(buf, p + 12)
    ) {
      return this.drop(Count['drop-not-unicast']);
    }
    return this.checkEgress(ingress, this.ports[this.routes.lookup4(getU32(buf, p + 16))] ?? null);
  }

  private route6(ingress: PortState, buf: Uint8Array, p: number): PortState | null {
    if (ingress.sources !== null && !ingress.sources.has6(buf, p + 8)) {
      // A kernel brings up a device with link-local and unspecified sources (RFC 4861, RFC 3810).
      const noise =
        ingress.kind === 'host' && (!isUnicast6(buf, p + 8) || isLinkLocal6(buf, p + 8) || !isUnicast6(buf, p + 24));
      return this.drop(noise ? Count['drop-not-unicast'] : Count['drop-spoofed-source']);
    }
    if (!isUnicast6(buf, p + 24) || isLinkLocal6(buf, p + 24) || !isUnicast6(buf, p + 8) || isLinkLocal6(buf, p + 8)) {
      return this.drop(Count['drop-not-unicast']);
    }
    return this.checkEgress(ingress, this.ports[this.routes.lookup6(buf, p + 24)] ?? null);
  }

  private checkEgress(ingress: PortState, egress: PortState | null): PortState | null {
    if (egress === null) return this.dropWith(Count['drop-no-route'], NO_ROUTE);
    // A packet that would go back where it came from is for something that the sender itself does not have.
    if (egress === ingress && egress.kind !== 'local') return this.dropWith(Count['drop-loop'], HOST_DOWN);
    if (!egress.up) return this.dropWith(Count['drop-port-down'], HOST_DOWN);
    return egress;
  }

  private forward(
    ingress: PortState,
    egress: PortState,
    buf: Buffer,
    off: number,
    p: number,
    length: number,
    flags: number,
    headers: number,
    v4: boolean,
  ): PortState | null {
    const transit = ingress.kind === 'link' && egress.kind === 'link';
    // RFC 1812 §5.3.1, RFC 8200 §3: a packet that arrives with 1 (or 0) is not forwarded.
    if (transit && buf[v4 ? p + 8 : p + 7]! <= 1) return this.dropWith(Count['drop-ttl-exceeded'], TIME_EXCEEDED);
    if (length > egress.mtu) {
      const wire = (flags & GSO_FLAGS) === 0 ? length : wireLength(buf, off, headers);
      if (wire > egress.mtu) {
        if (!v4 || dontFragment4(buf, p) || egress.mtu < IPV4_MIN_MTU) {
          return this.dropWith(Count['drop-too-big'], TOO_BIG, egress.mtu);
        }
        if (transit) decrementTtl4(buf, p);
        return this.leave(Todo.fragment, egress);
      }
    }
    if (transit) {
      if (v4) decrementTtl4(buf, p);
      else buf[p + 7]!--;
    }
    if (flags === 0 || egress.offload) return egress;
    if ((flags & GSO_FLAGS) !== 0) return this.leave(Todo.segment, egress);
    if (egress.partialChecksums) return egress;
    completeChecksum(buf, off);
    this.counters.values[Count['checksums-completed']]!++;
    return egress;
  }

  /** For one of our addresses: the pinger, a userspace socket, the host's kernel, or the echo responder. */
  private deliver(now: Micros, ingress: PortState, buf: Buffer, off: number, length: number): PortState | null {
    const p = off + HEADER;
    if (this.heard(now, buf, off)) {
      this.counters.values[Count.delivered]!++;
      return null;
    }
    const endpoint = this.endpoint;
    if (this.host !== null && ingress !== this.host) {
      if (endpoint.attached && endpoint.claims(buf, off)) return this.local;
      return this.toHost(this.host, buf, off, p, length);
    }
    if (isEchoRequest(buf, p, length)) {
      if (length > ingress.mtu) return this.drop(Count['drop-too-big']);
      makeEchoReply(buf, p, length);
      this.counters.values[Count['echo-replies']]!++;
      return ingress;
    }
    if (endpoint.attached) return this.local;
    const upper = upperLayer(buf, p, length);
    const known = upper >>> 16 === Protocol.udp || upper >>> 16 === Protocol.tcp;
    return this.dropWith(Count['drop-no-listener'], known ? NO_PORT_HERE : NO_PROTOCOL_HERE);
  }

  /** Our own kernel takes packets of any size; only offload may have to be undone for it. */
  private toHost(host: PortState, buf: Buffer, off: number, p: number, length: number): PortState | null {
    const flags = buf[off + 1]! & OFFLOAD_FLAGS;
    if (!host.up) return this.dropWith(Count['drop-port-down'], HOST_DOWN);
    if (flags === 0 || host.offload) return host;
    return this.forward(this.local, host, buf, off, p, length, flags, offloadHeaders(buf, off), buf[p]! >>> 4 === 4);
  }

  private flush(
    now: Micros,
    run: PortState,
    ingress: PortState,
    slab: Slab,
    start: number,
    end: number,
    packets: number,
  ): void {
    run.packetsOut += packets;
    run.bytesOut += end - start;
    if (run.kind === 'local') {
      this.counters.values[Count.delivered]! += packets;
      if (ingress.kind !== 'local') this.endpoint.deliver(slab, start, end);
      else if (!this.endpoint.deferred(now, slab, start, end))
        this.counters.values[Count['drop-local-queue']]! += packets;
      return;
    }
    this.counters.values[Count.forwarded]! += packets;
    run.sink.send(slab, start, end);
  }

  /** What the endpoint caused itself: shown to the listeners first, like all else that is for us. */
  handleDeferred(now: Micros, slab: Slab, start: number, end: number): void {
    let from = start;
    for (let off = start, next = 0; off < end; off = next) {
      next = off + HEADER + lengthAt(slab.bytes, off);
      if (!this.heard(now, slab.bytes, off)) continue;
      if (off > from) this.endpoint.deliver(slab, from, off);
      from = next;
    }
    if (end > from) this.endpoint.deliver(slab, from, end);
  }

  /** True when it is ICMP and one of the listeners took it. */
  private heard(now: Micros, buf: Uint8Array, off: number): boolean {
    const p = off + HEADER;
    const protocol = buf[p]! >>> 4 === 4 ? buf[p + 9]! : buf[p + 6]!;
    if (protocol !== Protocol.icmp && protocol !== Protocol.icmpv6) return false;
    for (const listener of this.listeners) if (listener.handleIcmp(now, buf, off)) return true;
    return false;
  }

  private drop(counter: number): null {
    this.counters.values[counter]!++;
    return null;
  }

  private dropWith(counter: number, error: IcmpError, rest = 0): null {
    this.counters.values[counter]!++;
    this.todo = Todo.error;
    this.todoError = error;
    this.todoRest = rest;
    return null;
  }

  private leave(todo: number, egress: PortState): null {
    this.todo = todo;
    this.todoEgress = egress;
    return null;
  }

  private sendError(
    now: Micros,
    ingress: PortState,
    buf: Uint8Array,
    p: number,
    length: number,
    error: IcmpError,
    rest: number,
  ): void {
    const v4 = buf[p]! >>> 4 === 4;
    const from = ingress.kind === 'host' && this.gateway.length > 0 ? this.gateway : this.own;
    const source = from.find((a) => a.length === (v4 ? 4 : 16));
    if (source === undefined || !mayAnswer(buf, p, length) || !ingress.limiter.take(now)) {
      this.counters.values[Count['icmp-errors-suppressed']]!++;
      return;
    }
    const slab = this.slabs.take();
    const end = writeError(slab.bytes, 0, error, rest, source, buf, p, length, ingress.mtu);
    this.counters.values[Count['icmp-errors-sent']]!++;
    // Back to where the packet came from: its source has just been found to belong there.
    if (ingress.kind === 'local') this.endpoint.deferred(now, slab, 0, end);
    else this.flush(now, ingress, ingress, slab, 0, end, 1);
    slab.release();
  }
}

function sameFlow6(flow: Int32Array, buf: Uint8Array, p: number): boolean {
  for (let i = 7, at = p + 36; i >= 0; i--, at -= 4) {
    if (flow[i] !== ((buf[at]! << 24) | (buf[at + 1]! << 16) | (buf[at + 2]! << 8) | buf[at + 3]!)) return false;
  }
  return true;
}

/** A loose or strict source route (RFC 791 §3.1: options 131 and 137) among the options. */
function hasSourceRoute(buf: Uint8Array, p: number): boolean {
  const end = p + ((buf[p]! & 0x0f) << 2);
  for (let i = p + 20; i < end; ) {
    const type = buf[i]!;
    if (type === 131 || type === 137) return true;
    if (type === 0) return false;
    i += type === 1 ? 1 : Math.max(2, i + 1 < end ? buf[i + 1]! : 2);
  }
  return false;
}

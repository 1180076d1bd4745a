// The TCP part of a stack: listeners, flows, SYNs, what is answered to strangers, TIME-WAIT. What happens inside a
// connection is lib/l4/tcp's. Read first: tcp/surface.ts, flow-table.ts.

import { HEADER, lengthAt, type Micros, type Random, SECOND } from '../core/index.js';
import type { IpEndpoint } from '../l3/index.js';
import { AddressCache } from './address-cache.js';
import { Deadlines } from './deadlines.js';
import { type FlowHandler, type FlowListener, FlowTable, TcpFlow } from './flow-table.js';
import type { IcmpError } from './icmp-error.js';
import { IsnGenerator } from './isn.js';
import type { PathMtu } from './path-mtu.js';
import { EphemeralPorts } from './ports.js';
import { COOKIE_WINDOW_SCALE, SynCookies } from './syn-cookies.js';
import type { TcpSurface } from './tcp/surface.js';
import { type CookieState, type TcpConfig, TcpEvent, type TcpMemory, type TcpOptions } from './tcp/types.js';
import { gather } from './wire/gather.js';
import type { PacketWriter } from './wire/packet-writer.js';
import { TcpFlag, TcpSegment, tcpChecksumGood } from './wire/tcp.js';
import { emitBare, fillReset, TcpFields } from './wire/tcp-emit.js';

/** How connections are made: the three constructors of TcpConnection. */
export interface TcpFactory {
  connect(config: TcpConfig, now: Micros): TcpSurface;
  accept(config: TcpConfig, now: Micros, syn: TcpSegment): TcpSurface;
  fromCookie(config: TcpConfig, now: Micros, ack: TcpSegment, cookie: CookieState): TcpSurface;
}

/** Bounds of a stack's TCP; each has a counter that says how often it was hit. */
export interface TcpLimits {
  /** Connections in all, half-open ones included; a SYN above it is dropped (`syn-dropped`), connect fails with ENOBUFS. **Default:** 65,536. */
  readonly connections: number;
  /** Half-open connections per listener; SYNs above it get a cookie (`syn-cookies-sent`). **Default:** 512. */
  readonly halfOpen: number;
  /** Remains in TIME-WAIT; above it a connection ends without (`time-wait-overflow`). **Default:** 32,768. */
  readonly timeWait: number;
  /** Bytes buffered by all connections. **Default:** 256 MiB. */
  readonly memory: number;
}

export const DEFAULT_TCP_LIMITS: TcpLimits = {
  connections: 65_536,
  halfOpen: 512,
  timeWait: 32_768,
  memory: 256 * 1024 * 1024,
};

export interface TcpListener extends FlowListener {
  /** null: every address of the family, and with family 0 of both. */
  readonly address: Uint8Array | null;
  readonly family: 0 | 4 | 6;
  readonly port: number;
}

/** A new connection may take the place of one of ours in TIME-WAIT after this long (RFC 6191; Linux' tcp_tw_reuse). */
const TIME_WAIT_REUSE = SECOND;

type Mutable<T> = { -readonly [K in keyof T]: T[K] };

export class TcpStack {
  readonly counters = {
    'tcp-bad-checksum': 0,
    'tcp-malformed': 0,
    'tcp-resets-sent': 0,
    'tcp-no-flow': 0,
    'syn-dropped': 0,
    'syn-cookies-sent': 0,
    'syn-cookies-good': 0,
    'syn-cookies-bad': 0,
    'time-wait-overflow': 0,
    'tcp-icmp-unmatched': 0,
    'acks-split': 0,
    'sack-blocks-odd': 0,
    'windows-tiny': 0,
  };
  readonly memory: TcpMemory;
  private readonly addresses = new AddressCache();
  private readonly flows: FlowTable;
  private readonly deadlines = new Deadlines();
  private readonly listeners = new Map<number, TcpListener[]>();
  private readonly isn: IsnGenerator;
  private readonly cookies: SynCookies;
  private readonly ports: EphemeralPorts;
  private readonly segment = new TcpSegment();
  private readonly fields = new TcpFields();
  private readonly bare4: Mutable<TcpConfig>;
  private readonly bare6: Mutable<TcpConfig>;
  /** Flows to poll, and flows with events to deliver. */
  private dirty: TcpFlow[] = [];
  private ready: TcpFlow[] = [];
  private readyAt = 0;
  private timeWaits = 0;

  constructor(
    private readonly endpoint: IpEndpoint,
    private readonly out: PacketWriter,
    private readonly random: Random,
    private readonly factory: TcpFactory,
    private readonly options: Readonly<TcpOptions>,
    private readonly limits: TcpLimits,
    private readonly paths: PathMtu,
    ports?: readonly [number, number],
  ) {
    this.flows = new FlowTable(random);
    this.isn = new IsnGenerator(random);
    this.cookies = new SynCookies(random);
    this.ports = new EphemeralPorts(random, ...(ports ?? []));
    this.memory = { used: 0, limit: limits.memory, refused: 0 };
    const bare = (n: number): Mutable<TcpConfig> => ({
      localAddress: new Uint8Array(n),
      remoteAddress: new Uint8Array(n),
      localPort: 0,
      remotePort: 0,
      iss: 0,
      tsOffset: 0,
      mtu: 1280,
      offload: false,
      random,
      options,
    });
    this.bare4 = bare(4);
    this.bare6 = bare(16);
  }

  // ---- getters

  /** Live connections and remains in TIME-WAIT. */
  get size(): { connections: number; timeWait: number } {
    return { connections: this.flows.size - this.timeWaits, timeWait: this.timeWaits };
  }

  /** Whether the frame at `off` is for a socket here; for a node whose kernel has the same address. */
  claims(buf: Uint8Array, off: number): boolean {
    const s = this.segment;
    if (!s.parse(buf, off)) return false;
    if (this.flows.find(buf, s.src, s.dst, s.addressLength, s.srcPort, s.dstPort) !== null) return true;
    if (this.listenerFor(buf, s.dst, s.addressLength, s.dstPort) === null) return false;
    // The kernel may use a listener's port as the source of a connection of its own: only what opens one is ours.
    if (s.flags & TcpFlag.syn) return (s.flags & TcpFlag.ack) === 0;
    return this.cookieTime > this.lastNow;
  }

  claimsQuote(buf: Uint8Array, e: IcmpError): boolean {
    return this.flows.find(buf, e.dst, e.src, e.addressLength, e.remotePort, e.localPort) !== null;
  }

  pollDeadline(): Micros {
    return this.deadlines.next;
  }

  // ---- handle*

  private lastNow: Micros = 0;
  /** Until when an unknown ACK may be a cookie's. */
  private cookieTime: Micros = Number.NEGATIVE_INFINITY;

  /** The TCP frame at `off`, for one of our addresses, and those behind it that go on with it, before `end`. Returns where the rest begins. */
  handle(now: Micros, buf: Uint8Array, off: number, end: number): number {
    this.lastNow = now;
    const s = this.segment;
    let next = off + HEADER + lengthAt(buf, off);
    if (!s.parse(buf, off)) {
      this.counters['tcp-malformed']++;
      return next;
    }
    if (!tcpChecksumGood(buf, off, s.tcp, s.payload + s.length)) {
      this.counters['tcp-bad-checksum']++;
      return next;
    }
    const flow = this.flows.find(buf, s.src, s.dst, s.addressLength, s.srcPort, s.dstPort);
    if (flow === null) this.handleStranger(now, s, 0);
    else if (flow.connection !== null) {
      next = gather(s, end);
      flow.connection.handleSegment(now, s);
      this.touch(flow);
    } else if (flow.timeWait?.handleSegment(now, s) === 'reopen') {
      const above = flow.timeWait.nextSequence;
      this.drop(flow);
      this.handleStranger(now, s, above);
    } else this.touch(flow);
    return next;
  }

  handleIcmp(now: Micros, buf: Uint8Array, e: IcmpError): void {
    const flow = this.flows.find(buf, e.dst, e.src, e.addressLength, e.remotePort, e.localPort);
    if (flow === null || flow.connection === null) {
      this.counters['tcp-icmp-unmatched']++;
      return;
    }
    const q = e.header + 4;
    const sequence = (buf[q]! << 24) | (buf[q + 1]! << 16) | (buf[q + 2]! << 8) | buf[q + 3]!;
    flow.connection.handleIcmp(now, e.kind, sequence, e.mtu);
    this.touch(flow);
  }

  handleTimeouts(now: Micros): void {
    for (let flow = this.deadlines.pop(now); flow !== null; flow = this.deadlines.pop(now)) {
      if (flow.connection !== null) {
        if (flow.connection.pollDeadline() <= now) flow.connection.handleTimeout(now);
        this.touch(flow);
      } else if (flow.timeWait !== null) {
        if (flow.timeWait.deadline <= now) this.drop(flow);
        else this.deadlines.set(flow, flow.timeWait.deadline);
      }
    }
  }

  /** Routes, MTU or reachability changed. */
  handlePathChange(now: Micros): void {
    this.flows.forEach((flow) => {
      const { connection, config } = flow;
      if (connection === null) return;
      const { remoteAddress } = config;
      const { endpoint } = this;
      const offload = endpoint.offloadTo(remoteAddress);
      connection.handlePath(now, endpoint.mtuTo(remoteAddress), offload, endpoint.partialChecksumsTo(remoteAddress));
      this.touch(flow);
    });
  }

  // ---- commands

  /** Whether a listener for this address and port would overlap one that is there. */
  inUse(address: Uint8Array | null, family: 0 | 4 | 6, port: number): boolean {
    return (this.listeners.get(port) ?? []).some((l) => overlaps(l, address, family));
  }

  /** A free port for a listener; 0: none. */
  freePort(address: Uint8Array | null, family: 0 | 4 | 6): number {
    return this.ports.forBinding((port) => !this.inUse(address, family, port));
  }

  listen(listener: TcpListener): void {
    const list = this.listeners.get(listener.port);
    if (list === undefined) this.listeners.set(listener.port, [listener]);
    else list.push(listener);
  }

  /** Takes the listener away; half-open connections of it are reset, those that are up stay. */
  unlisten(listener: TcpListener): void {
    const list = this.listeners.get(listener.port);
    const i = list?.indexOf(listener) ?? -1;
    if (list === undefined || i < 0) return;
    list.splice(i, 1);
    if (list.length === 0) this.listeners.delete(listener.port);
    this.flows.forEach((flow) => {
      if (flow.halfOpen !== listener || flow.connection === null) return;
      flow.connection.abort();
      this.touch(flow);
    });
  }

  /**
   * Opens a connection. `localPort` 0: one is chosen. Returns why not otherwise: `'in-use'` (that port towards that peer),
   * `'no-port'` (all of them are), `'limit'`.
   */
  connect(
    now: Micros,
    local: Uint8Array,
    localPort: number,
    remote: Uint8Array,
    remotePort: number,
    options: Readonly<TcpOptions>,
    handler: FlowHandler,
  ): TcpFlow | 'in-use' | 'no-port' | 'limit' {
    if (this.flows.size - this.timeWaits >= this.limits.connections) return 'limit';
    const free = (port: number) =>
      !this.listeners.has(port) && this.mayOpen(now, local, port, remote, remotePort, TIME_WAIT_REUSE);
    let port = localPort;
    if (port === 0) port = this.ports.forConnection(local, remote, remotePort, free);
    else if (!this.mayOpen(now, local, port, remote, remotePort, TIME_WAIT_REUSE)) return 'in-use';
    if (port === 0) return 'no-port';
    let iss = this.isn.isn(now, local, port, remote, remotePort);
    const old = this.flows.get(local, port, remote, remotePort);
    if (old?.timeWait != null) {
      // RFC 6191 §3: above all that the old incarnation has sent.
      if (((iss - old.timeWait.nextSequence) | 0) <= 0) iss = (old.timeWait.nextSequence + 0x10000) | 0;
      this.drop(old);
    }
    const config = this.makeConfig(
      this.addresses.at(local, 0, local.length),
      port,
      this.addresses.at(remote, 0, remote.length),
      remotePort,
      iss,
      options,
    );
    const flow = new TcpFlow(config, this.factory.connect(config, now));
    flow.handler = handler;
    this.flows.add(flow);
    this.touch(flow);
    return flow;
  }

  /** The owner has given the connection a command, or read from it: it is polled at the next `poll`. */
  touch(flow: TcpFlow): void {
    if (flow.dirty) return;
    flow.dirty = true;
    this.dirty.push(flow);
  }

  /** Ends everything (the node stops). */
  abortAll(): void {
    this.flows.forEach((flow) => {
      if (flow.connection === null) this.drop(flow);
      else {
        flow.handler?.onStop();
        flow.connection?.abort();
        this.touch(flow);
      }
    });
  }

  // ---- poll*

  /** Writes the packets of all flows that were touched, and collects their events. */
  poll(now: Micros): void {
    this.lastNow = now;
    while (this.dirty.length > 0) {
      const batch = this.dirty;
      this.dirty = [];
      for (const flow of batch) {
        flow.dirty = false;
        if (flow.connection !== null) this.pollConnection(now, flow, flow.connection);
        else if (flow.timeWait !== null) while (flow.timeWait.pollTransmit(now, this.out));
      }
    }
  }

  /** Something waits for `deliver`. */
  get hasEvents(): boolean {
    return this.readyAt < this.ready.length;
  }

  /** Tells the owner of the next flow with events; false: there was none. */
  deliver(): boolean {
    if (this.readyAt === this.ready.length) {
      this.readyAt = 0;
      if (this.ready.length > 0) this.ready = [];
      return false;
    }
    const flow = this.ready[this.readyAt++]!;
    const { events } = flow;
    flow.events = 0;
    flow.delivering = false;
    let news = events;
    if (flow.halfOpen !== null) {
      // The first event of a connection that a listener made says that it is up, or that it never will be.
      const listener = flow.halfOpen;
      listener.halfOpen--;
      flow.halfOpen = null;
      if ((events & TcpEvent.established) === 0) return true;
      news &= ~TcpEvent.established;
      listener.onConnection(flow);
    }
    if (news !== 0) flow.handler?.onTcpEvents(flow, news);
    return true;
  }

  // ---- inside

  private pollConnection(now: Micros, flow: TcpFlow, connection: TcpSurface): void {
    while (connection.pollTransmit(now, this.out));
    const events = connection.pollEvents();
    if (events !== 0) {
      flow.events |= events;
      // Before a passive connection is up, nothing but that, or its end, is news.
      const news = flow.halfOpen === null || (events & (TcpEvent.established | TcpEvent.closed)) !== 0;
      if (news && !flow.delivering) {
        flow.delivering = true;
        this.ready.push(flow);
      }
    }
    const remains = connection.takeTimeWait();
    if (remains !== null) {
      flow.connection = null;
      this.deadlines.remove(flow);
      if (this.timeWaits >= this.limits.timeWait) {
        this.counters['time-wait-overflow']++;
        this.flows.remove(flow);
        return;
      }
      this.timeWaits++;
      flow.timeWait = remains;
      this.deadlines.set(flow, remains.deadline);
      while (remains.pollTransmit(now, this.out));
    } else if (connection.state === 'CLOSED') {
      flow.connection = null;
      this.deadlines.remove(flow);
      this.flows.remove(flow);
    } else this.deadlines.set(flow, connection.pollDeadline());
  }

  private drop(flow: TcpFlow): void {
    this.deadlines.remove(flow);
    this.flows.remove(flow);
    if (flow.timeWait !== null) this.timeWaits--;
    flow.timeWait = null;
  }

  /** A segment without a flow: RFC 9293 §3.10.7.1 and §3.10.7.2. `above`: the ISS has to lie above this, 0 = anywhere. */
  private handleStranger(now: Micros, s: TcpSegment, above: number): void {
    if (s.flags & TcpFlag.rst) return;
    const listener = this.listenerFor(s.buf, s.dst, s.addressLength, s.dstPort);
    if (listener === null) {
      this.counters['tcp-no-flow']++;
      this.sendReset(s);
    } else if (s.flags & TcpFlag.ack) this.handleStrangeAck(now, s, listener);
    // A segment to a listener with neither RST, ACK nor SYN, or with SYN and FIN, is dropped (and no scan is answered).
    else if ((s.flags & (TcpFlag.syn | TcpFlag.fin)) === TcpFlag.syn) this.handleSyn(now, s, listener, above);
  }

  private handleSyn(now: Micros, s: TcpSegment, listener: TcpListener, above: number): void {
    if (this.flows.size - this.timeWaits >= this.limits.connections) {
      this.counters['syn-dropped']++;
      return;
    }
    const local = this.addresses.at(s.buf, s.dst, s.addressLength);
    const remote = this.addresses.at(s.buf, s.src, s.addressLength);
    if (listener.halfOpen >= this.limits.halfOpen) {
      this.sendCookie(now, s, local, remote);
      return;
    }
    let iss = this.isn.isn(now, local, s.dstPort, remote, s.srcPort);
    if (above !== 0 && ((iss - above) | 0) <= 0) iss = (above + 0x10000) | 0;
    const config = this.makeConfig(local, s.dstPort, remote, s.srcPort, iss, this.options);
    this.addPassive(listener, config, this.factory.accept(config, now, s));
  }

  /** An ACK to a listener: of a cookie, or of something long gone. */
  private handleStrangeAck(now: Micros, s: TcpSegment, listener: TcpListener): void {
    if ((s.flags & TcpFlag.syn) === 0 && this.cookies.active(now)) {
      const local = this.addresses.at(s.buf, s.dst, s.addressLength);
      const remote = this.addresses.at(s.buf, s.src, s.addressLength);
      const cookie = this.cookies.check(now, s, local, remote);
      if (cookie !== null && this.flows.size - this.timeWaits < this.limits.connections) {
        this.counters['syn-cookies-good']++;
        const config = this.makeConfig(local, s.dstPort, remote, s.srcPort, (s.ack - 1) | 0, this.options);
        const connection = this.factory.fromCookie(config, now, s, cookie);
        this.addPassive(listener, config, connection);
        connection.handleSegment(now, s);
        return;
      }
      this.counters['syn-cookies-bad']++;
    }
    this.counters['tcp-no-flow']++;
    this.sendReset(s);
  }

  private addPassive(listener: TcpListener, config: TcpConfig, connection: TcpSurface): void {
    const flow = new TcpFlow(config, connection);
    flow.halfOpen = listener;
    listener.halfOpen++;
    this.flows.add(flow);
    this.touch(flow);
  }

  private sendCookie(now: Micros, s: TcpSegment, local: Uint8Array, remote: Uint8Array): void {
    this.counters['syn-cookies-sent']++;
    const f = this.fields;
    const iss = this.cookies.make(now, s, local, remote);
    this.cookieTime = now + 128 * SECOND;
    f.reset(iss, (s.seq + 1) | 0, TcpFlag.syn | TcpFlag.ack, 65_535);
    f.mss = this.endpoint.mtuTo(remote) - (local.length === 4 ? 40 : 60);
    if (s.hasTimestamps && this.options.timestamps) {
      f.timestamps = true;
      f.tsecr = s.tsval;
      // The clock that the connection will use, its low bits replaced, and never ahead of it (PAWS).
      const clock = (Math.floor(now / 1_000) + this.isn.tsOffset(local, s.dstPort, remote, s.srcPort)) | 0;
      f.tsval = ((clock - 64) & ~0x3f) | this.cookies.timestampBits(s) | 0;
      f.sackPermitted = s.sackPermitted;
      if (s.windowScale >= 0) f.windowScale = COOKIE_WINDOW_SCALE;
    }
    emitBare(this.out, this.bareConfig(s), f, false);
  }

  private sendReset(s: TcpSegment): void {
    this.counters['tcp-resets-sent']++;
    fillReset(this.fields, s.seq, s.ack, s.flags, s.seqLength);
    emitBare(this.out, this.bareConfig(s), this.fields, false);
  }

  /** Who answers the segment `s`: valid until the next call. */
  private bareConfig(s: TcpSegment): TcpConfig {
    const c = s.addressLength === 4 ? this.bare4 : this.bare6;
    for (let i = 0; i < s.addressLength; i++) {
      c.localAddress[i] = s.buf[s.dst + i]!;
      c.remoteAddress[i] = s.buf[s.src + i]!;
    }
    c.localPort = s.dstPort;
    c.remotePort = s.srcPort;
    return c;
  }

  private makeConfig(
    localAddress: Uint8Array,
    localPort: number,
    remoteAddress: Uint8Array,
    remotePort: number,
    iss: number,
    options: Readonly<TcpOptions>,
  ): TcpConfig {
    return {
      localAddress,
      localPort,
      remoteAddress,
      remotePort,
      iss,
      tsOffset: this.isn.tsOffset(localAddress, localPort, remoteAddress, remotePort),
      mtu: this.paths.towards(this.lastNow, remoteAddress, this.endpoint.mtuTo(remoteAddress)),
      offload: this.endpoint.offloadTo(remoteAddress),
      partialChecksums: this.endpoint.partialChecksumsTo(remoteAddress),
      random: this.random,
      options,
      memory: this.memory,
      counters: this.counters,
    };
  }

  private mayOpen(
    now: Micros,
    local: Uint8Array,
    port: number,
    remote: Uint8Array,
    remotePort: number,
    reuse: Micros,
  ): boolean {
    const flow = this.flows.get(local, port, remote, remotePort);
    if (flow === null) return true;
    if (flow.timeWait === null) return false;
    return flow.timeWait.deadline - 2 * flow.config.options.msl + reuse <= now;
  }

  private listenerFor(buf: Uint8Array, dst: number, length: number, port: number): TcpListener | null {
    const list = this.listeners.get(port);
    if (list === undefined) return null;
    let any: TcpListener | null = null;
    for (const l of list) {
      if (l.family !== 0 && (l.family === 4 ? 4 : 16) !== length) continue;
      if (l.address === null) any ??= l;
      else if (l.address.length === length && sameAt(l.address, buf, dst)) return l;
    }
    return any;
  }
}

function overlaps(l: TcpListener, address: Uint8Array | null, family: 0 | 4 | 6): boolean {
  if (l.family !== 0 && family !== 0 && l.family !== family) return false;
  if (l.address === null || address === null) return true;
  return l.address.length === address.length && sameAt(l.address, address, 0);
}

function sameAt(a: Uint8Array, buf: Uint8Array, off: number): boolean {
  for (let i = 0; i < a.length; i++) if (a[i] !== buf[off + i]) return false;
  return true;
}

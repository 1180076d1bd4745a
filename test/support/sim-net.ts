// The simulator: hosts with real TCP cores, joined by links with rate, delay, queue and seeded impairments, on a virtual clock
// that jumps to the next event. Everything is decided by the seed, so a failing run can be repeated exactly.

import { HEADER, lengthAt, type Micros, type Random, seededRandom } from '../../lib/core/index.js';
import { checksum, pseudoSum4, pseudoSum6 } from '../../lib/l3/wire/checksum.js';
import { TcpConnection } from '../../lib/l4/tcp/connection.js';
import {
  DEFAULT_TCP_OPTIONS,
  type TcpConfig,
  TcpEvent,
  type TcpMemory,
  type TcpOptions,
} from '../../lib/l4/tcp/types.js';
import type { PacketWriter } from '../../lib/l4/wire/packet-writer.js';
import { TcpSegment } from '../../lib/l4/wire/tcp.js';

export interface Impairment {
  /** Probabilities per packet. */
  loss?: number;
  duplicate?: number;
  corrupt?: number;
  /** Probability that a packet is held back by `reorderBy` (default 1/8 of the delay, at least 1 ms). */
  reorder?: number;
  reorderBy?: Micros;
  /** One way; `jitter` is added at random but keeps the order. */
  delay?: Micros;
  jitter?: Micros;
  /** Bits per second; Infinity: none. */
  rate?: number;
  /** Bytes that may wait for the rate. */
  queue?: number;
  /** The queue marks CE above this many bytes instead of dropping (RFC 3168). */
  markAbove?: number;
  mtu?: number;
}

/** The virtual clock and its events: a binary heap by time, then by order of scheduling. */
export class World {
  now: Micros = 1_000_000;
  private readonly heap: { at: Micros; order: number; run: () => void }[] = [];
  private order = 0;
  readonly random: Random;

  constructor(readonly seed: number) {
    this.random = seededRandom(seed);
  }

  at(at: Micros, run: () => void): void {
    const { heap } = this;
    const item = { at, order: this.order++, run };
    let i = heap.push(item) - 1;
    for (; i > 0; ) {
      const parent = (i - 1) >> 1;
      if (!before(item, heap[parent]!)) break;
      heap[i] = heap[parent]!;
      i = parent;
    }
    heap[i] = item;
  }

  /** Runs until `done` is true, nothing is left, or `until`; returns whether `done` became true. */
  run(until: Micros, done: () => boolean = () => false): boolean {
    while (!done()) {
      const next = this.pop(until);
      if (next === null) return done();
      this.now = next.at;
      next.run();
    }
    return true;
  }

  private pop(until: Micros): { at: Micros; run: () => void } | null {
    const { heap } = this;
    const first = heap[0];
    if (first === undefined || first.at > until) return null;
    const last = heap.pop()!;
    if (heap.length > 0) {
      let i = 0;
      for (;;) {
        let child = 2 * i + 1;
        if (child >= heap.length) break;
        if (child + 1 < heap.length && before(heap[child + 1]!, heap[child]!)) child++;
        if (!before(heap[child]!, last)) break;
        heap[i] = heap[child]!;
        i = child;
      }
      heap[i] = last;
    }
    return first;
  }
}

function before(a: { at: Micros; order: number }, b: { at: Micros; order: number }): boolean {
  return a.at < b.at || (a.at === b.at && a.order < b.order);
}

/** One direction of a link. Packets are frames in buffers of their own. */
export class Pipe {
  private busyUntil: Micros = 0;
  private lastArrival: Micros = 0;
  readonly counts = { sent: 0, lost: 0, queueDrops: 0, tooBig: 0, marked: 0, corrupted: 0 };
  /** False: the link is down and everything is lost. */
  up = true;
  /** Sees every packet that is offered. */
  tap: ((now: Micros, frame: Uint8Array) => void) | null = null;
  /** A packet larger than the MTU comes back here (ICMP packet too big). */
  onTooBig: ((frame: Uint8Array, mtu: number) => void) | null = null;

  constructor(
    private readonly world: World,
    readonly impairment: Impairment,
    private readonly deliver: (frame: Uint8Array) => void,
  ) {}

  send(frame: Uint8Array): void {
    const { world, impairment: im } = this;
    const { random } = world;
    this.counts.sent++;
    this.tap?.(world.now, frame);
    const bytes = frame.length - HEADER;
    if (im.mtu !== undefined && segmentBytes(frame) > im.mtu) {
      this.counts.tooBig++;
      this.onTooBig?.(frame, im.mtu);
      return;
    }
    if (!this.up || random.float() < (im.loss ?? 0)) {
      this.counts.lost++;
      return;
    }
    const rate = im.rate ?? Number.POSITIVE_INFINITY;
    const wait = Math.max(0, this.busyUntil - world.now);
    if (rate !== Number.POSITIVE_INFINITY) {
      const queued = (wait * rate) / 8e6;
      if (queued + bytes > (im.queue ?? 256 * 1024)) {
        this.counts.queueDrops++;
        return;
      }
      if (queued > (im.markAbove ?? Number.POSITIVE_INFINITY)) this.mark(frame);
      this.busyUntil = world.now + wait + (bytes * 8e6) / rate;
    }
    let at = Math.max(this.busyUntil, world.now) + (im.delay ?? 0);
    if (im.jitter) at += random.float() * im.jitter;
    if (random.float() < (im.reorder ?? 0)) at += im.reorderBy ?? Math.max(1_000, (im.delay ?? 0) / 8);
    else at = this.lastArrival = Math.max(at, this.lastArrival);
    if (random.float() < (im.corrupt ?? 0)) {
      this.counts.corrupted++;
      frame[HEADER + 20 + Math.floor(random.float() * (bytes - 20))]! ^= 1 << Math.floor(random.float() * 8);
    }
    world.at(at, () => this.deliver(frame));
    if (random.float() < (im.duplicate ?? 0)) world.at(at + random.float() * 2_000, () => this.deliver(frame.slice()));
  }

  private mark(frame: Uint8Array): void {
    if (frame[HEADER]! >> 4 !== 4 || !(frame[HEADER + 1]! & 3)) return;
    this.counts.marked++;
    frame[HEADER + 1] = frame[HEADER + 1]! | 3;
    frame[HEADER + 10] = frame[HEADER + 11] = 0;
    const sum = checksum(frame, HEADER, HEADER + 20);
    frame[HEADER + 10] = sum >>> 8;
    frame[HEADER + 11] = sum;
  }
}

/** Size of the packet, or of the segments a super-packet stands for. */
function segmentBytes(frame: Uint8Array): number {
  const bytes = frame.length - HEADER;
  const gsoSize = (frame[2]! << 8) | frame[3]!;
  if (gsoSize === 0) return bytes;
  const ip = frame[HEADER]! >> 4 === 4 ? 20 : 40;
  return ip + (frame[HEADER + ip + 12]! >> 4) * 4 + gsoSize;
}

/** Writes packets into buffers of their own, for the simulator and for scripts. */
export class FrameWriter implements PacketWriter {
  bytes: Uint8Array = new Uint8Array(140_000);

  constructor(private readonly sink: (frame: Uint8Array) => void) {}

  reserve(): number {
    return 0;
  }

  commit(end: number): void {
    for (let off = 0, next = 0; off < end; off = next) {
      next = off + HEADER + lengthAt(this.bytes, off);
      this.sink(this.bytes.slice(off, next));
    }
  }
}

/** The TCP checksum of a frame is good, or is left to offload. */
export function checksumGood(frame: Uint8Array, segment: TcpSegment): boolean {
  if (frame[1]! & 0x08) return true;
  const end = HEADER + lengthAt(frame, 0);
  const length = end - segment.tcp;
  const pseudo =
    frame[HEADER]! >> 4 === 4 ? pseudoSum4(frame, HEADER, 6, length) : pseudoSum6(frame, HEADER, 6, length);
  return checksum(frame, segment.tcp, end, pseudo) === 0;
}

const segment = new TcpSegment();

/** One end of one connection: the core, its driver on the virtual clock, and an application. */
export class Peer {
  connection: TcpConnection | null = null;
  out: { send(frame: Uint8Array): void } | null = null;
  /** Called after every round with the event bits. */
  onEvents: (events: number) => void = () => {};
  private armed: Micros = Number.POSITIVE_INFINITY;
  private readonly writer = new FrameWriter((frame) => this.out!.send(frame));
  badChecksums = 0;
  /** Segments with text that the window does not allow. */
  beyondWindow = 0;

  constructor(
    private readonly world: World,
    readonly config: TcpConfig,
  ) {}

  connect(): TcpConnection {
    this.connection = TcpConnection.connect(this.config, this.world.now);
    this.pump();
    return this.connection;
  }

  /** A packet arrives; a SYN opens the passive side. */
  receive(frame: Uint8Array): void {
    if (!segment.parse(frame, 0)) return;
    if (!checksumGood(frame, segment)) {
      this.badChecksums++;
      return;
    }
    if (this.connection === null) {
      if (!(segment.flags & 2) || segment.flags & 16) return;
      this.connection = TcpConnection.accept(this.config, this.world.now, segment);
    } else {
      if (segment.length > 0) this.checkWindow(this.connection);
      this.connection.handleSegment(this.world.now, segment);
    }
    this.pump();
  }

  /** A sender of ours never sends more than it was offered, whatever the network does to what it is told. */
  private checkWindow(connection: TcpConnection): void {
    if (connection.state === 'SYN-SENT') return;
    const { right } = (connection as unknown as { receiver: { right: number } }).receiver;
    if (((segment.seq + segment.length - right) | 0) > 0) this.beyondWindow++;
  }

  /** One round of the driver: idempotent. */
  pump(): void {
    const c = this.connection;
    if (c === null) return;
    const { now } = this.world;
    for (let round = 0; ; round++) {
      while (c.pollTransmit(now, this.writer));
      const events = c.pollEvents();
      if (events === 0) break;
      this.onEvents(events);
      if (round > 10_000) throw new Error('a connection does not come to rest');
    }
    const deadline = Math.max(c.pollDeadline(), now + 1);
    if (deadline < this.armed) {
      this.armed = deadline;
      this.world.at(deadline, () => {
        if (this.armed === deadline) this.armed = Number.POSITIVE_INFINITY;
        c.handleTimeout(this.world.now);
        this.pump();
      });
    }
  }

  /** ICMP packet too big for a packet of ours. */
  tooBig(frame: Uint8Array, mtu: number): void {
    if (!segment.parse(frame, 0)) return;
    const { seq } = segment;
    this.world.at(this.world.now + 1_000, () => {
      this.connection?.handleIcmp(this.world.now, 'packet-too-big', seq, mtu);
      this.pump();
    });
  }
}

/** Two peers that only need pipes: `a` connects. */
export function makePeers(
  world: World,
  options: Partial<TcpOptions> = {},
  path: {
    v6?: boolean;
    mtu?: number;
    offload?: boolean;
    port?: number;
    nodes?: [number, number];
    memory?: TcpMemory;
  } = {},
): [Peer, Peer] {
  const address = (n: number) =>
    path.v6 ? Uint8Array.from([0xfd, 0x80, ...new Array(13).fill(0), n]) : Uint8Array.from([10, 0, 0, n]);
  const port = path.port ?? 40_000;
  const make = (local: number, remote: number, lp: number, rp: number) =>
    new Peer(world, {
      localAddress: address(local),
      remoteAddress: address(remote),
      localPort: lp,
      remotePort: rp,
      iss: world.random.u32(),
      tsOffset: world.random.u32(),
      mtu: path.mtu ?? 1_400,
      offload: path.offload ?? false,
      random: world.random,
      ...(path.memory === undefined ? {} : { memory: path.memory }),
      options: { ...DEFAULT_TCP_OPTIONS, ...options },
    });
  const [one, two] = path.nodes ?? [1, 2];
  return [make(one, two, port, 80), make(two, one, 80, port)];
}

/** Joins two peers by a pipe each way. */
export function join(world: World, a: Peer, b: Peer, there: Impairment, back: Impairment = there): [Pipe, Pipe] {
  const outbound = new Pipe(world, there, (frame) => b.receive(frame));
  const inbound = new Pipe(world, back, (frame) => a.receive(frame));
  outbound.onTooBig = (frame, mtu) => a.tooBig(frame, mtu);
  inbound.onTooBig = (frame, mtu) => b.tooBig(frame, mtu);
  a.out = outbound;
  b.out = inbound;
  return [outbound, inbound];
}

/** Byte `i` of the stream that is sent for `seed`: cheap, and without a period that a shifted stream could hide in. */
export function pattern(seed: number, i: number): number {
  return Math.imul((i + seed) ^ (i >>> 7), 0x9e3779b1) >>> 24;
}

/** Sends `total` bytes of the pattern from one peer, then FIN; `received` counts and checks at the other. */
export class Transfer {
  sent = 0;
  received = 0;
  finished = false;
  /** Offset of the first wrong byte, or -1. */
  wrongAt = -1;
  finishedAt: Micros = -1;

  constructor(
    private readonly world: World,
    private readonly from: Peer,
    private readonly to: Peer,
    private readonly total: number,
    private readonly seed: number,
    private readonly chunk = 16_384,
    /** False: the bytes are counted, not compared (for measurements of time). */
    private readonly check = true,
    /** A slow reader: takes at most this many bytes ... */
    private readonly gulp = Number.POSITIVE_INFINITY,
    /** ... and then nothing for this long, so that the window closes. */
    private readonly rest: Micros = 0,
  ) {}

  handleSender(events: number): void {
    if (events & (TcpEvent.established | TcpEvent.writable)) this.fill();
  }

  fill(): void {
    const c = this.from.connection!;
    while (this.sent < this.total && c.writable > 0) {
      const n = Math.min(this.chunk, this.total - this.sent);
      const bytes = Buffer.allocUnsafe(n);
      if (this.check) for (let i = 0; i < n; i++) bytes[i] = pattern(this.seed, this.sent + i);
      this.sent += c.write(bytes, true);
    }
    if (this.sent < this.total) c.write(ONE_TOO_MANY);
    else c.shutdown();
  }

  handleReceiver(events: number): void {
    if (!(events & (TcpEvent.readable | TcpEvent.peerFinished))) return;
    if (!this.resting) this.read();
  }

  private resting = false;

  private read(): void {
    const c = this.to.connection!;
    let room = this.gulp;
    for (let bytes = c.read(room); bytes !== null; bytes = c.read(room)) {
      room -= bytes.length;
      if (this.check && this.wrongAt < 0) {
        for (let i = 0; i < bytes.length; i++) {
          if (bytes[i] !== pattern(this.seed, this.received + i)) {
            this.wrongAt = this.received + i;
            break;
          }
        }
      }
      this.received += bytes.length;
    }
    if (room <= 0 && this.rest > 0) {
      this.resting = true;
      this.world.at(this.world.now + this.rest, () => {
        this.resting = false;
        this.read();
        this.to.pump();
      });
    }
    if (c.ended && !this.finished) {
      this.finished = true;
      this.finishedAt = this.world.now;
    }
  }
}

/** Asks for the `writable` event when the buffer is full: it takes nothing then. */
const ONE_TOO_MANY = new Uint8Array(1);

/** A tree of hosts and routers; packets find their way by the last byte of the address. */
export class Network {
  private readonly links: Map<number, Pipe>[] = [];
  private readonly next: number[][] = [];
  private readonly peers: Map<number, Peer>[] = [];

  /** Sees what peers send and receive, at their node. */
  record: ((node: number, now: Micros, frame: Uint8Array) => void) | null = null;

  constructor(private readonly world: World) {}

  addNode(): number {
    this.links.push(new Map());
    this.peers.push(new Map());
    return this.links.length - 1;
  }

  connect(a: number, b: number, there: Impairment, back: Impairment = there): void {
    this.pipe(a, b, there);
    this.pipe(b, a, back);
  }

  private pipe(from: number, to: number, impairment: Impairment): void {
    const pipe = new Pipe(this.world, impairment, (frame) => this.arrive(to, frame));
    // The router in front of the narrow link tells the sender.
    pipe.onTooBig = (frame, mtu) => this.peerOf(frame, true)?.tooBig(frame, mtu);
    this.links[from]!.set(to, pipe);
  }

  /** All pipes, for taking links down and for counters. */
  get pipes(): Pipe[] {
    return this.links.flatMap((m) => [...m.values()]);
  }

  /** Two peers at two nodes, each with an out that leads into the network. Addresses end in node + 1. */
  flow(
    a: number,
    b: number,
    port: number,
    options: Partial<TcpOptions>,
    path: { v6?: boolean; mtu?: number; offload?: boolean },
  ): [Peer, Peer] {
    const peers = makePeers(this.world, options, { ...path, port, nodes: [a + 1, b + 1] });
    for (const [i, node] of [a, b].entries()) {
      const peer = peers[i]!;
      this.peers[node]!.set(peer.config.localPort * 65_536 + peer.config.remotePort, peer);
      peer.out = {
        send: (frame: Uint8Array) => {
          this.record?.(node, this.world.now, frame);
          this.arrive(node, frame);
        },
      };
    }
    return peers;
  }

  private arrive(node: number, frame: Uint8Array): void {
    const v4 = frame[HEADER]! >> 4 === 4;
    const to = frame[HEADER + (v4 ? 19 : 39)]! - 1;
    if (to === node) {
      // Delivered by an event of its own, as an interrupt would.
      this.record?.(node, this.world.now, frame);
      this.peerOf(frame, false)?.receive(frame);
      return;
    }
    const hop = this.route(node, to);
    if (hop >= 0) this.links[node]!.get(hop)!.send(frame);
  }

  private peerOf(frame: Uint8Array, sender: boolean): Peer | undefined {
    const ip = frame[HEADER]! >> 4 === 4 ? 20 : 40;
    const at = HEADER + ip;
    const source = (frame[at]! << 8) | frame[at + 1]!;
    const destination = (frame[at + 2]! << 8) | frame[at + 3]!;
    const node = frame[HEADER + (ip === 20 ? (sender ? 15 : 19) : sender ? 23 : 39)]! - 1;
    return this.peers[node]?.get(sender ? source * 65_536 + destination : destination * 65_536 + source);
  }

  private route(from: number, to: number): number {
    const row = (this.next[from] ??= this.search(from));
    return row[to] ?? -1;
  }

  /** Breadth first: the first hop from `from` to every node. */
  private search(from: number): number[] {
    const row: number[] = [];
    const queue = [...this.links[from]!.keys()].map((n) => [n, n] as const);
    const seen = new Set([from]);
    for (let item = queue.shift(); item !== undefined; item = queue.shift()) {
      const [node, hop] = item;
      if (seen.has(node)) continue;
      seen.add(node);
      row[node] = hop;
      for (const n of this.links[node]!.keys()) queue.push([n, hop]);
    }
    return row;
  }
}

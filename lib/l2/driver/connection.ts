// Edge: one ByteStream with its machine, framer and egress queue. Receives into slabs, sends runs straight from theirs.

import {
  type Clock,
  HEADER,
  KubeBusError,
  type Logger,
  lengthAt,
  MAX_PACKET,
  type Micros,
  SECOND,
  Slab,
  type SlabPool,
  type Timer,
} from '../../core/index.js';
import {
  ConnectionMachine,
  type GoodbyeInfo,
  type HelloInfo,
  type MachineOutput,
  MIN_MTU,
} from '../connection-machine.js';
import { type EgressOptions, EgressQueue } from '../egress-queue.js';
import { Framer, type FrameSink } from '../framer.js';
import type { ByteStream, DatagramPath, StreamHandler } from '../transport.js';
import { controlFrame, FrameType } from '../wire/frame.js';

export interface ConnectionOptions {
  readonly clock: Clock;
  readonly logger: Logger;
  readonly pool: SlabPool;
  readonly handshakeTimeout: Micros;
  /** A peer that takes no bytes, or stops in the middle of a frame, for this long is cut off. */
  readonly stallTimeout: Micros;
  /** Bytes handed to the stream that it has not passed on; above, packets wait in the fair queue. */
  readonly streamBytes: number;
  readonly egress: EgressOptions;
}

export interface ConnectionEvents {
  onHello(connection: Connection, hello: HelloInfo): void;
  onOpen(connection: Connection, hello: HelloInfo): void;
  onPackets(slab: Slab, start: number, end: number): void;
  onControl(message: Uint8Array): void;
  onWritable(connection: Connection): void;
  onOver(connection: Connection, reason: KubeBusError, goodbye: GoodbyeInfo | null): void;
}

/** Below this much room at the end of a slab a new one is taken. */
const MIN_ROOM = 16 * 1024;

export class Connection implements StreamHandler, FrameSink, MachineOutput {
  readonly machine: ConnectionMachine;
  readonly egress: EgressQueue;
  /** Where packets go that fit; the stream takes the others. Null: the stream takes all. */
  readonly datagrams: DatagramPath | null;
  /** Of datagrams, by reason. */
  readonly dropped = { datagramMalformed: 0, datagramQueue: 0 };
  readonly opened: Micros;
  bytesIn = 0;
  bytesOut = 0;
  private readonly framer = new Framer();
  private rx: Slab | null = null;
  private rp = 0;
  private wp = 0;
  /** Datagrams that have arrived and not been passed on: whole frames up to datagramEnd. */
  private datagramSlab: Slab | null = null;
  private datagramEnd = 0;
  private timer: Timer | null = null;
  private lastTail = 0;
  private tailSince: Micros = 0;
  private lastPending = 0;
  private pendingSince: Micros;
  private streamOver = false;
  private readonly isOpen = () => this.machine.state === 'open';

  constructor(
    readonly stream: ByteStream,
    role: 'dialer' | 'listener',
    local: HelloInfo,
    private readonly options: ConnectionOptions,
    /** Whoever owns the connection; an acceptor hands it over to its link. */
    public events: ConnectionEvents,
  ) {
    const now = options.clock.now();
    this.opened = now;
    this.pendingSince = now;
    this.egress = new EgressQueue(options.egress);
    this.datagrams = stream.datagrams ?? null;
    const hello = this.datagrams === null ? local : forDatagrams(local, this.datagrams);
    this.machine = new ConnectionMachine(now, role, hello, stream.identity, options.handshakeTimeout, this);
    stream.open(this);
    this.machine.start();
    this.arm();
  }

  /** Bytes that wait: in the fair queue and in the stream. */
  get queued(): number {
    return this.egress.bytes + this.stream.pending;
  }

  /** Whole packet frames. Straight to the stream while nothing waits. */
  send(slab: Slab, start: number, end: number): void {
    if (this.egress.packets === 0 && this.stream.pending < this.options.streamBytes) {
      this.transmit(slab, start, end);
      return;
    }
    this.egress.push(this.options.clock.now(), slab, start, end);
  }

  /** Moves everything that still waits in the queue to `other`. */
  handOver(other: Connection | undefined): void {
    const now = this.options.clock.now();
    if (other === undefined) return this.egress.clear();
    while (this.egress.poll(now)) {
      const { slab, off, length } = this.egress;
      other.send(slab!, off, off + length);
      slab!.release();
    }
  }

  close(reason: KubeBusError, goodbye: Partial<GoodbyeInfo> = {}): void {
    this.machine.close(reason, goodbye);
  }

  // ---- from the stream

  room(): Uint8Array {
    if (this.rx === null) {
      this.rx = this.options.pool.take();
      this.rp = this.wp = 0;
    }
    return this.rx.bytes.subarray(this.wp);
  }

  get hasPartial(): boolean {
    return this.rx !== null && this.wp > this.rp;
  }

  onData(length: number): void {
    if (this.machine.state === 'over') return;
    const now = this.options.clock.now();
    this.machine.keepalive.handleBytes(now);
    this.bytesIn += length;
    this.wp += length;
    this.rp = this.framer.parse(this.rx!.bytes, this.rp, this.wp, this.isOpen, this);
    if (this.framer.error !== null)
      this.machine.fail(this.framer.error, 'the bytes received are no frame of this protocol');
    this.makeRoom();
  }

  datagramRoom(): Uint8Array {
    if (this.datagramSlab !== null && this.datagramSlab.bytes.length - this.datagramEnd < HEADER + MAX_PACKET) {
      this.onDatagramsDone();
    }
    this.datagramSlab ??= this.options.pool.take();
    return this.datagramSlab.bytes.subarray(this.datagramEnd);
  }

  /** Only whole packet frames may travel this way; anything else is counted and forgotten. */
  onDatagram(length: number): void {
    if (this.machine.state === 'over') return;
    this.machine.keepalive.handleBytes(this.options.clock.now());
    this.bytesIn += length;
    const { bytes } = this.datagramSlab!;
    const end = this.datagramEnd + length;
    let off = this.datagramEnd;
    while (end - off >= HEADER && bytes[off] === FrameType.packet) {
      const next = off + HEADER + lengthAt(bytes, off);
      if (next > end) break;
      off = next;
    }
    if (off === end && length > 0 && this.isOpen()) this.datagramEnd = end;
    else this.dropped.datagramMalformed++;
  }

  onDatagramsDone(): void {
    const slab = this.datagramSlab;
    const end = this.datagramEnd;
    this.datagramSlab = null;
    this.datagramEnd = 0;
    if (slab === null) return;
    if (end > 0) this.events.onPackets(slab, 0, end);
    slab.release();
  }

  onDrain(): void {
    this.pendingSince = this.options.clock.now();
    this.drain();
  }

  onClose(error?: Error): void {
    this.streamOver = true;
    this.machine.over(
      error instanceof KubeBusError
        ? error
        : new KubeBusError('ERR_TRANSPORT', error === undefined ? 'the connection ended' : error.message, {
            side: 'remote',
            cause: error,
          }),
      null,
    );
  }

  // ---- from the framer

  onPackets(start: number, end: number): void {
    this.events.onPackets(this.rx!, start, end);
  }

  onControlFrame(type: number, off: number, length: number): boolean {
    this.machine.handleFrame(this.options.clock.now(), type, this.rx!.bytes.subarray(off, off + length));
    return this.machine.state !== 'over';
  }

  // ---- from the machine

  sendFrame(type: number, payload: Uint8Array): void {
    if (this.streamOver) return;
    // Control goes past the fair queue: only what the stream has taken already is before it.
    const frame = controlFrame(type, payload);
    const slab = Slab.of(frame);
    this.bytesOut += frame.length;
    this.stream.write(slab, 0, frame.length);
    slab.release();
  }

  onHello(hello: HelloInfo): void {
    this.events.onHello(this, hello);
  }

  onOpen(hello: HelloInfo): void {
    this.events.onOpen(this, hello);
  }

  onControl(message: Uint8Array): void {
    this.events.onControl(message);
  }

  onOver(reason: KubeBusError, goodbye: GoodbyeInfo | null): void {
    this.timer?.cancel();
    this.timer = null;
    this.events.onOver(this, reason, goodbye);
    this.egress.clear();
    // A goodbye that is still in the stream goes out first, but a peer that does not read cannot hold us.
    if (!this.streamOver) {
      if (reason.code === 'ERR_PEER_STALLED' || reason.code === 'ERR_PEER_DEAD') this.stream.destroy();
      else {
        this.stream.end();
        const { clock } = this.options;
        clock.at(clock.now() + SECOND, () => this.streamOver || this.stream.destroy());
      }
    }
    this.rx?.release();
    this.rx = null;
    this.datagramSlab?.release();
    this.datagramSlab = null;
  }

  // ---- helpers

  private drain(): void {
    const { egress, stream } = this;
    const now = this.options.clock.now();
    // A stream may pass a write on at once: then it reports no drain for it, and the next run follows here.
    while (egress.packets > 0 && stream.pending < this.options.streamBytes) {
      let run: Slab | null = null;
      let start = 0;
      let end = 0;
      // Packets that lie one behind the other in a slab leave as one write again.
      while (stream.pending + (end - start) < this.options.streamBytes && egress.poll(now)) {
        const { slab, off, length } = egress;
        if (slab === run && off === end) end += length;
        else {
          if (run !== null) this.writeRun(run, start, end);
          run = slab;
          start = off;
          end = off + length;
          run!.retain();
        }
        slab!.release();
      }
      if (run !== null) this.writeRun(run, start, end);
    }
    this.events.onWritable(this);
  }

  private writeRun(slab: Slab, start: number, end: number): void {
    this.transmit(slab, start, end);
    slab.release();
  }

  /** A run to the transport: as datagrams of as many whole frames as fit, or on the stream. */
  private transmit(slab: Slab, start: number, end: number): void {
    this.bytesOut += end - start;
    const { datagrams } = this;
    if (datagrams === null) {
      this.stream.write(slab, start, end);
      return;
    }
    const { bytes } = slab;
    for (let off = start; off < end; ) {
      let to = off + HEADER + lengthAt(bytes, off);
      if (to - off > datagrams.maxBytes) this.stream.write(slab, off, to);
      else {
        for (let next = to; next < end; to = next) {
          next += HEADER + lengthAt(bytes, next);
          if (next - off > datagrams.maxBytes) break;
        }
        if (!datagrams.send(bytes, off, to)) this.dropped.datagramQueue++;
      }
      off = to;
    }
  }

  /** Makes sure that the frame at the end can be completed, and that the next read has room. */
  private makeRoom(): void {
    const slab = this.rx;
    if (slab === null) return;
    const tail = this.wp - this.rp;
    if (tail === 0) {
      if (slab.refs === 1) {
        // Nothing half-received: an idle connection holds no slab.
        slab.release();
        this.rx = null;
        return;
      }
      if (slab.bytes.length - this.wp >= MIN_ROOM + HEADER + MAX_PACKET) {
        this.rp = this.wp;
        return;
      }
      slab.release();
      this.rx = null;
      return;
    }
    const needed = Math.max(this.framer.needed, MIN_ROOM);
    if (this.rp + needed + MIN_ROOM <= slab.bytes.length) return;
    if (slab.refs === 1) slab.bytes.copyWithin(0, this.rp, this.wp);
    else {
      const fresh = this.options.pool.take();
      fresh.bytes.set(slab.bytes.subarray(this.rp, this.wp));
      slab.release();
      this.rx = fresh;
    }
    this.rp = 0;
    this.wp = tail;
  }

  private arm(): void {
    const { clock } = this.options;
    if (this.machine.state === 'over') return;
    // Stalls are looked for once a second, and only while something waits.
    const busy = this.stream.pending > 0 || this.egress.packets > 0 || this.wp > this.rp;
    const at = Math.min(
      this.machine.pollDeadline(),
      busy ? clock.now() + SECOND : Number.POSITIVE_INFINITY,
      clock.now() + 5 * SECOND,
    );
    this.timer = clock.at(at, () => {
      this.timer = null;
      const now = clock.now();
      this.checkStall(now);
      this.machine.handleTimeout(now);
      this.arm();
    });
  }

  private checkStall(now: Micros): void {
    const { stallTimeout } = this.options;
    const pending = this.stream.pending;
    if (pending === 0 || pending < this.lastPending) this.pendingSince = now;
    this.lastPending = pending;
    const tail = this.rx === null ? 0 : this.wp - this.rp;
    if (tail === 0 || tail !== this.lastTail) this.tailSince = now;
    this.lastTail = tail;
    if (now - this.pendingSince >= stallTimeout) this.stalled('the peer does not read');
    else if (now - this.tailSince >= stallTimeout) this.stalled('the peer stopped in the middle of a frame');
  }

  private stalled(what: string): void {
    this.machine.over(new KubeBusError('ERR_PEER_STALLED', what, { side: 'remote' }), null);
  }
}

/** Packets are to fit a datagram, and super-packets never do. */
function forDatagrams(hello: HelloInfo, datagrams: DatagramPath): HelloInfo {
  return { ...hello, mtu: Math.max(MIN_MTU, Math.min(hello.mtu, datagrams.maxBytes - HEADER)), offload: false };
}

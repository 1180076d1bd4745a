// Edge: one ByteStream with its machine, framer and egress queue. Receives into slabs, sends runs straight from theirs.

import {
  type Clock,
  HEADER,
  KubeBusError,
  type Logger,
  MAX_PACKET,
  type Micros,
  SECOND,
  Slab,
  type Timer,
} from '../../core/index.js';
import { ConnectionMachine, type HelloInfo, type MachineOutput } from '../connection-machine.js';
import { type EgressBudget, type EgressOptions, EgressQueue } from '../egress-queue.js';
import { Framer, type FrameSink } from '../framer.js';
import type { GoodbyeInfo } from '../goodbye.js';
import type { ByteStream, DatagramPath, StreamHandler } from '../transport.js';
import { controlFrame, FrameType } from '../wire/frame.js';
import { DATAGRAM_BYTES, DatagramPort, type RepairOptions } from './datagram-port.js';
import { type Buffers, compact, isScarce, ReceiveBuffer } from './receive-buffer.js';
import { StallWatch } from './stall-watch.js';

export interface ConnectionOptions {
  readonly clock: Clock;
  readonly logger: Logger;
  readonly buffers: Buffers;
  readonly handshakeTimeout: Micros;
  /** A peer that takes no bytes, or stops in the middle of a frame, for this long is cut off. */
  readonly stallTimeout: Micros;
  /** Bytes handed to the stream that it has not passed on; above, packets wait in the fair queue. */
  readonly streamBytes: number;
  /** Bytes that may wait in the stream because of control messages: a peer that lets more wait is cut off. */
  readonly controlBytes: number;
  /** Null: lost datagrams stay lost. */
  readonly repair: RepairOptions | null;
  readonly egress: EgressOptions;
  readonly egressBudget: EgressBudget;
}

export interface ConnectionEvents {
  onHello(connection: Connection, hello: HelloInfo): void;
  onOpen(connection: Connection, hello: HelloInfo): void;
  onPackets(slab: Slab, start: number, end: number): void;
  onControl(connection: Connection, payload: Uint8Array): void;
  controlReceived(): number;
  onControlReceived(connection: Connection, received: number): void;
  onWritable(connection: Connection): void;
  onOver(connection: Connection, reason: KubeBusError, goodbye: GoodbyeInfo | null): void;
}

const nowhere = Buffer.allocUnsafeSlow(HEADER + MAX_PACKET);

/** An idle connection looks for stalls this often. */
const IDLE_LOOK: Micros = 5 * SECOND;

export class Connection implements StreamHandler, FrameSink, MachineOutput {
  readonly machine: ConnectionMachine;
  readonly egress: EgressQueue;
  readonly opened: Micros;
  /** The peer's number for this connection and its count of links; valid when open. */
  slot = 0;
  session = 0;
  /** Packets as datagrams, where the transport has them. */
  private readonly packets: DatagramPort | null;
  /** Bytes that may wait in the stream (and as datagrams); above, packets wait in the fair queue. */
  private readonly directBytes: number;
  bytesIn = 0;
  bytesOut = 0;
  /** Bytes that the stream had taken and not passed on when the connection ended. */
  lost = 0;
  private readonly framer = new Framer();
  private readonly rx: ReceiveBuffer;
  private readonly stalls: StallWatch;
  private timer: Timer | null = null;
  private streamOver = false;
  private owedPong: number | null = null;
  private unread = false;
  /** Nothing was taken between two looks: its queue says nothing about what the link could take. */
  stuck = false;
  /** The timer looks once a second. */
  private watchful = false;
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
    this.rx = new ReceiveBuffer(options.buffers);
    this.stalls = new StallWatch(now, options.stallTimeout);
    this.egress = new EgressQueue(options.egress, options.egressBudget);
    const { datagrams } = stream;
    this.packets =
      datagrams === undefined
        ? null
        : new DatagramPort(datagrams, options.buffers, options.clock, options.repair, {
            rtt: () => this.machine.keepalive.rtt,
            onPackets: (slab, start, end) => this.events.onPackets(slab, start, end),
            onSent: (bytes) => {
              this.bytesOut += bytes;
            },
          });
    this.directBytes = this.packets === null ? options.streamBytes : Math.min(options.streamBytes, DATAGRAM_BYTES);
    const hello = this.packets === null ? local : this.packets.limit(local);
    this.machine = new ConnectionMachine(now, role, hello, stream.identity, options.handshakeTimeout, this);
    stream.open(this);
    this.machine.start();
    this.arm();
  }

  get datagrams(): DatagramPath | null {
    return this.packets === null ? null : this.packets.path;
  }

  /** Counters of datagrams, and of their repair. */
  get datagramStats(): Readonly<Record<string, number>> {
    return this.packets === null ? {} : this.packets.stats();
  }

  /** Bytes that wait: in the fair queue and in the stream. */
  get queued(): number {
    return this.egress.bytes + this.stream.pending;
  }

  /** Whole packet frames. Straight to the stream while nothing waits. */
  send(slab: Slab, start: number, end: number): void {
    const { stream, egress, options } = this;
    const { pending } = stream;
    const direct = egress.packets === 0 && pending < this.directBytes;
    // What has to wait must not hold a slab many times its size, once such slabs are scarce.
    if ((direct && pending === 0) || !isScarce(options.buffers)) {
      if (direct) this.transmit(slab, start, end);
      else this.enqueue(slab, start, end);
      return;
    }
    const copy = compact(slab, start, end);
    if (direct) this.transmit(copy, 0, end - start);
    else this.enqueue(copy, 0, end - start);
    copy.release();
  }

  close(reason: KubeBusError, goodbye: Partial<GoodbyeInfo> = {}): void {
    this.machine.close(reason, goodbye);
  }

  // ---- from the stream

  room(): Uint8Array {
    // Whatever comes after the end is read and forgotten.
    return this.machine.state === 'over' ? nowhere : this.rx.room();
  }

  get hasPartial(): boolean {
    return this.rx.partial > 0;
  }

  onData(length: number): void {
    const { rx, framer } = this;
    const { slab } = rx;
    if (this.machine.state === 'over' || slab === null) return;
    this.machine.keepalive.handleBytes(this.options.clock.now());
    this.bytesIn += length;
    rx.landed(length);
    // Whoever is called may end the connection: the bytes stay theirs until they return.
    slab.retain();
    rx.read = framer.parse(slab.bytes, rx.read, rx.written, this.isOpen, this);
    if (framer.error !== null) this.machine.fail(framer.error, 'the bytes received are no frame of this protocol');
    slab.release();
    this.answer();
    rx.settle(framer.needed, this.isOpen());
  }

  datagramRoom(): Uint8Array {
    if (this.machine.state === 'over') return nowhere;
    return this.packets!.room();
  }

  onDatagram(length: number): void {
    if (this.machine.state === 'over') return;
    this.machine.keepalive.handleBytes(this.options.clock.now());
    this.bytesIn += length;
    this.packets!.landed(length, this.isOpen());
  }

  onDatagramsDone(): void {
    this.packets!.done();
  }

  onDrain(): void {
    const now = this.options.clock.now();
    this.stalls.drained(now);
    this.stuck = false;
    this.answer();
    this.drain(now);
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

  onPackets(start: number, end: number): boolean {
    this.events.onPackets(this.rx.slab!, start, end);
    return this.machine.state !== 'over';
  }

  onControlFrame(type: number, off: number, length: number): boolean {
    const payload = this.rx.slab!.bytes.subarray(off, off + length);
    this.machine.handleFrame(this.options.clock.now(), type, payload);
    return this.machine.state !== 'over';
  }

  // ---- from the machine

  sendFrame(type: number, payload: Uint8Array): void {
    if (this.streamOver) return;
    // Control goes past the fair queue: only what the stream has taken already is before it.
    const { streamBytes, controlBytes } = this.options;
    if (this.stream.pending > streamBytes + controlBytes && type !== FrameType.goodbye) {
      return this.stalled('the peer does not read its control messages');
    }
    const frame = controlFrame(type, payload);
    const slab = Slab.of(frame);
    this.bytesOut += frame.length;
    this.stream.write(slab, 0, frame.length);
    slab.release();
  }

  onPing(token: number): void {
    // One answer for all pings of a read, and one that waits where a peer does not read: each costs a write, and a ping hardly anything.
    this.owedPong = token;
  }

  controlReceived(): number {
    return this.events.controlReceived();
  }

  onControlReceived(received: number): void {
    this.events.onControlReceived(this, received);
  }

  onHello(hello: HelloInfo): void {
    this.events.onHello(this, hello);
  }

  onOpen(hello: HelloInfo): void {
    this.slot = hello.connection;
    this.session = hello.session;
    this.packets?.open(this.machine.repair);
    this.events.onOpen(this, hello);
  }

  onControl(payload: Uint8Array): void {
    this.events.onControl(this, payload);
  }

  onOver(reason: KubeBusError, goodbye: GoodbyeInfo | null): void {
    this.timer?.cancel();
    this.timer = null;
    const hopeless = reason.code === 'ERR_PEER_DEAD' || this.unread;
    if (this.streamOver) this.lost = this.stream.lost ?? 0;
    else if (hopeless) this.lost = this.stream.pending;
    this.events.onOver(this, reason, goodbye);
    this.egress.clear();
    // A goodbye that is still in the stream goes out first, but a peer that does not read cannot hold us.
    if (!this.streamOver) {
      if (hopeless) this.stream.destroy();
      else {
        this.stream.end();
        const { clock } = this.options;
        clock.at(clock.now() + SECOND, () => this.streamOver || this.stream.destroy());
      }
    }
    this.rx.release();
    this.packets?.release();
  }

  // ---- helpers

  private answer(): void {
    if (this.owedPong === null || this.machine.state !== 'open') return;
    if (this.stream.pending >= this.options.streamBytes) return;
    this.machine.sendPong(this.owedPong);
    this.owedPong = null;
  }

  private enqueue(slab: Slab, start: number, end: number): void {
    this.egress.push(this.options.clock.now(), slab, start, end);
    if (this.watchful || this.machine.state === 'over') return;
    this.timer?.cancel();
    this.arm();
  }

  private drain(now: Micros): void {
    const { egress, stream, directBytes } = this;
    this.packets?.sendAgain();
    // A stream may pass a write on at once: then it reports no drain for it, and the next run follows here.
    while (egress.packets > 0 && stream.pending < directBytes) {
      let run: Slab | null = null;
      let start = 0;
      let end = 0;
      // Packets that lie one behind the other in a slab leave as one write again.
      while (stream.pending + (end - start) < directBytes && egress.poll(now)) {
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

  private transmit(slab: Slab, start: number, end: number): void {
    this.bytesOut += end - start;
    if (this.packets === null) this.stream.write(slab, start, end);
    else this.packets.send(this.stream, slab, start, end);
  }

  private arm(): void {
    const { clock } = this.options;
    if (this.machine.state === 'over') return;
    // Stalls are looked for once a second, and only while something waits.
    const busy = this.stream.pending > 0 || this.egress.packets > 0 || this.rx.partial > 0;
    this.watchful = busy;
    const now = clock.now();
    this.timer = clock.at(Math.min(this.machine.pollDeadline(), now + (busy ? SECOND : IDLE_LOOK)), () => {
      this.timer = null;
      this.look(clock.now());
      this.arm();
    });
  }

  private look(now: Micros): void {
    const { stream, rx, machine } = this;
    const stall = this.stalls.check(now, stream.pending, stream.progress ?? 0, rx.partial, this.bytesIn - rx.partial);
    const stuck = this.stalls.waited(now) >= SECOND;
    if (stuck !== this.stuck) {
      this.stuck = stuck;
      this.events.onWritable(this);
    }
    if (stall === 'unread') this.stalled('the peer does not read');
    else if (stall === 'mid-frame') machine.fail('ERR_PEER_STALLED', 'a frame was begun and not finished in time');
    machine.handleTimeout(now);
  }

  /** No goodbye: it would not be read. */
  private stalled(what: string): void {
    this.unread = true;
    this.machine.over(new KubeBusError('ERR_PEER_STALLED', what, { side: 'remote' }), null);
  }
}

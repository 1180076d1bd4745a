// Edge: the packets of one connection as datagrams, where its transport has them: whole frames only, as many as fit in one. What TCP
// inside would take for congestion is repaired (repair-lane.ts says which packets), where both sides can.

import {
  type Clock,
  HEADER,
  lengthAt,
  MAX_PACKET,
  type Micros,
  NEVER,
  type Slab,
  type Timer,
} from '../../core/index.js';
import { type HelloInfo, MIN_MTU } from '../connection-machine.js';
import { NO_LANE, repairLane } from '../repair-lane.js';
import { RepairReceiver, Verdict } from '../repair-receiver.js';
import { RepairSender } from '../repair-sender.js';
import type { RepairBudget } from '../repair-store.js';
import type { ByteStream, DatagramPath } from '../transport.js';
import { FrameType } from '../wire/frame.js';
import { getLane, getNumber, getOrder, putProbe, REPAIR_HEAD, REPORT_BYTES, RepairType } from '../wire/repair.js';
import type { Buffers } from './receive-buffer.js';

export interface RepairOptions {
  /** Datagrams kept until the peer has them, and in doubt at a receiver; a power of two. **Default:** 4096. */
  readonly window: number;
  /** After this a lost datagram is given up, and what waits for it goes on. **Default:** 2 s. */
  readonly time: Micros;
  /** Memory of all connections that share it. **Default:** 64 MiB. */
  readonly budget: RepairBudget;
}

/** What the port needs of its connection. */
export interface DatagramHost {
  /** Round trip, NaN while not known. */
  rtt(): Micros;
  onPackets(slab: Slab, start: number, end: number): void;
  onSent(bytes: number): void;
}

/** Bytes that may wait in the transport: what waits longer waits in the fair queue, and what is sent again is not late. */
export const DATAGRAM_BYTES = 32 * 1024;

const scratch = Buffer.allocUnsafeSlow(Math.max(REPORT_BYTES, REPAIR_HEAD));

export class DatagramPort {
  readonly counts = { datagramMalformed: 0, droppedDatagramQueue: 0 };
  /** Datagrams that have arrived and not been passed on: whole frames up to `end`. */
  private slab: Slab | null = null;
  private end = 0;
  private sender: RepairSender | null = null;
  private receiver: RepairReceiver | null = null;
  private timer: Timer | null = null;
  private timerAt: Micros = NEVER;
  private over = false;

  constructor(
    readonly path: DatagramPath,
    private readonly buffers: Buffers,
    private readonly clock: Clock,
    private readonly repair: RepairOptions | null,
    private readonly host: DatagramHost,
  ) {}

  /** Packets are to fit a datagram, and super-packets never do; the transport keeps a datagram whole, so checksums may stay partial. */
  limit(hello: HelloInfo): HelloInfo {
    const room = this.path.maxBytes - HEADER - (this.repair === null ? 0 : REPAIR_HEAD);
    const mtu = Math.max(MIN_MTU, Math.min(hello.mtu, room));
    return { ...hello, mtu, offload: false, repair: this.repair !== null };
  }

  /** Both sides have said hello. */
  open(repair: boolean): void {
    const { path } = this;
    if (!repair || this.repair === null) return;
    const { window, time, budget } = this.repair;
    this.sender = new RepairSender(path.maxBytes, window, time, budget);
    this.receiver = new RepairReceiver(path.maxBytes, window, time, budget);
  }

  stats(): Readonly<Record<string, number>> {
    const { counts, sender, receiver } = this;
    if (sender === null || receiver === null) return counts;
    return { ...counts, ...receiver.counts, datagramsRepeated: sender.repeated };
  }

  room(): Uint8Array {
    if (this.slab !== null && this.slab.bytes.length - this.end < HEADER + MAX_PACKET) this.deliver();
    this.slab ??= this.buffers.large.take();
    return this.slab.bytes.subarray(this.end);
  }

  landed(length: number, open: boolean): void {
    if (this.slab === null) return;
    if (!open || length === 0 || !this.take(this.slab.bytes, this.end, this.end + length))
      this.counts.datagramMalformed++;
  }

  /** All datagrams of this turn have landed. */
  done(): void {
    this.deliver();
    if (this.receiver !== null && !this.over) this.tick();
  }

  /** A run: as datagrams of as many whole frames as fit; what fits none goes on the stream. */
  send(stream: ByteStream, slab: Slab, start: number, end: number): void {
    const { bytes } = slab;
    const { sender } = this;
    const maxBytes = this.path.maxBytes - (sender === null ? 0 : REPAIR_HEAD);
    for (let off = start; off < end; ) {
      const length = lengthAt(bytes, off);
      let to = off + HEADER + length;
      const lane = sender === null ? NO_LANE : repairLane(bytes, off, length);
      if (to - off > maxBytes) stream.write(slab, off, to);
      else {
        for (let next = to; next < end; to = next) {
          const more = lengthAt(bytes, next);
          if (next + HEADER + more - off > maxBytes || (sender !== null && repairLane(bytes, next, more) !== lane))
            break;
          next += HEADER + more;
        }
        this.sendOne(lane, bytes, off, to);
      }
      off = to;
    }
  }

  /** What the peer misses, as far as the path takes it now. */
  sendAgain(): void {
    const { sender, path } = this;
    if (sender === null) return;
    const now = this.clock.now();
    while (path.pending < DATAGRAM_BYTES && sender.pollAgain(now)) this.put(sender.out, sender.start, sender.end);
  }

  release(): void {
    this.over = true;
    this.slab?.release();
    this.slab = null;
    this.end = 0;
    this.timer?.cancel();
    this.sender?.release();
    this.receiver?.release();
  }

  // ---- out

  private sendOne(lane: number, bytes: Uint8Array, start: number, end: number): void {
    const { sender } = this;
    if (lane !== NO_LANE && sender!.add(this.clock.now(), this.host.rtt(), lane, bytes, start, end)) {
      // One that the transport does not take is one of those that are missing.
      this.path.send(sender!.out, sender!.start, sender!.end);
      this.arm(sender!.pollDeadline());
    } else if (!this.path.send(bytes, start, end)) {
      for (let f = start; f < end; f += HEADER + lengthAt(bytes, f)) this.counts.droppedDatagramQueue++;
    }
  }

  private put(bytes: Uint8Array, start: number, end: number): void {
    if (this.path.send(bytes, start, end)) this.host.onSent(end - start);
  }

  // ---- in

  /** False: it is nothing that may come as a datagram. */
  private take(bytes: Uint8Array, start: number, end: number): boolean {
    let off = start;
    while (end - off >= HEADER && bytes[off] === FrameType.packet) {
      const next = off + HEADER + lengthAt(bytes, off);
      if (next > end) return false;
      off = next;
    }
    if (off === end) {
      this.end = end;
      return true;
    }
    const { receiver } = this;
    if (receiver === null || end - off < REPAIR_HEAD) return false;
    if (off === start) return this.takeMessage(receiver, bytes, start, end);
    if (bytes[off] !== RepairType.number || end - off !== REPAIR_HEAD) return false;
    const verdict = receiver.handle(
      this.clock.now(),
      this.host.rtt(),
      getLane(bytes, off),
      getOrder(bytes, off),
      getNumber(bytes, off),
      bytes,
      start,
      off,
    );
    if (verdict === Verdict.deliver) this.end = off;
    this.takeHeld();
    return true;
  }

  private takeMessage(receiver: RepairReceiver, bytes: Uint8Array, start: number, end: number): boolean {
    const now = this.clock.now();
    if (bytes[start] === RepairType.report) {
      if (!this.sender!.handleReport(now, this.host.rtt(), bytes, start, end - start)) return false;
      this.sendAgain();
      return true;
    }
    if (bytes[start] !== RepairType.probe || end - start !== REPAIR_HEAD) return false;
    receiver.handleProbe(now, getNumber(bytes, start));
    this.takeHeld();
    return true;
  }

  /** What was held goes behind what has landed. */
  private takeHeld(): void {
    const { lanes } = this.receiver!;
    while (!this.over && lanes.poll()) {
      const length = lanes.end - lanes.start;
      if (this.slab !== null && this.slab.bytes.length - this.end < length) this.deliver();
      if (this.over) return;
      this.slab ??= this.buffers.large.take();
      this.slab.bytes.set(lanes.out.subarray(lanes.start, lanes.end), this.end);
      this.end += length;
    }
  }

  private deliver(): void {
    const { slab, end } = this;
    this.slab = null;
    this.end = 0;
    if (slab === null) return;
    if (end > 0) this.host.onPackets(slab, 0, end);
    slab.release();
  }

  // ---- time

  private tick(): void {
    const now = this.clock.now();
    const rtt = this.host.rtt();
    const receiver = this.receiver!;
    const sender = this.sender!;
    const length = receiver.poll(now, rtt, scratch, 0);
    if (length > 0) this.put(scratch, 0, length);
    this.takeHeld();
    if (sender.handleTimeout(now, rtt)) {
      putProbe(scratch, 0, sender.nextNumber);
      this.put(scratch, 0, REPAIR_HEAD);
    }
    this.deliver();
    if (!this.over) this.arm(Math.min(receiver.pollDeadline(), sender.pollDeadline()));
  }

  /** A timer that fires too early does no harm. */
  private arm(at: Micros): void {
    if (at >= this.timerAt) return;
    this.timer?.cancel();
    this.timerAt = at;
    this.timer = this.clock.at(at, () => {
      this.timer = null;
      this.timerAt = NEVER;
      this.tick();
    });
  }
}

// Edge: what a dialled and an accepted link share: a set of connections, flows spread over them, fail-over.

import { HEADER, type KubeBusError, lengthAt, type Slab } from '../../core/index.js';
import { flowHash } from '../flow-hash.js';
import type { Link, LinkHandler, LinkState } from '../link.js';
import type { PeerIdentity } from '../transport.js';
import { FrameType } from '../wire/frame.js';
import type { Connection } from './connection.js';

const noHandler: LinkHandler = { onPackets() {}, onControl() {}, onState() {}, onWritable() {} };

export abstract class BaseLink implements Link {
  abstract readonly peer: PeerIdentity;
  state: LinkState = 'connecting';
  mtu = 0;
  offload = false;
  protected handler: LinkHandler = noHandler;
  /** Open connections, in slot order: flows are spread over them by hash. */
  protected readonly open: Connection[] = [];
  private readonly counters = {
    packetsRefused: 0,
    droppedOverflow: 0,
    droppedCodel: 0,
    droppedDatagramQueue: 0,
    datagramMalformed: 0,
    marked: 0,
    bytesIn: 0,
    bytesOut: 0,
    ignored: 0,
  };
  private wasWritable = true;

  constructor(protected readonly highWater: number) {}

  attach(handler: LinkHandler): void {
    this.handler = handler;
  }

  get medium(): 'reliable' | 'lossy' {
    return this.open.some((c) => c.datagrams !== null) ? 'lossy' : 'reliable';
  }

  get rtt(): number {
    let best = Number.NaN;
    for (const c of this.open) {
      const { rtt } = c.machine.keepalive;
      if (Number.isNaN(best) || rtt < best) best = rtt;
    }
    return best;
  }

  get connections(): number {
    return this.open.length;
  }

  get writable(): boolean {
    let queued = 0;
    for (const c of this.open) queued += c.queued;
    const writable = queued < this.highWater;
    this.wasWritable &&= writable;
    return writable;
  }

  send(slab: Slab, start: number, end: number): void {
    const { open } = this;
    if (open.length === 1) return open[0]!.send(slab, start, end);
    if (open.length === 0) {
      this.counters.packetsRefused++;
      return;
    }
    // Neighbours of one flow stay one run.
    let runStart = start;
    let runConnection: Connection | null = null;
    for (let off = start; off < end; ) {
      const length = lengthAt(slab.bytes, off);
      const connection = open[flowHash(slab.bytes, off, length) % open.length]!;
      if (connection !== runConnection) {
        if (runConnection !== null) runConnection.send(slab, runStart, off);
        runConnection = connection;
        runStart = off;
      }
      off += HEADER + length;
    }
    runConnection?.send(slab, runStart, end);
  }

  sendControl(message: Uint8Array): void {
    // Always the first connection: control messages stay in order.
    this.open[0]?.sendFrame(FrameType.control, message);
  }

  abstract close(reason: KubeBusError): void;

  stats(): Readonly<Record<string, number>> {
    const sum = { ...this.counters };
    for (const c of this.open) addCounters(sum, c);
    return { ...sum, connections: this.open.length, queuedBytes: this.open.reduce((n, c) => n + c.queued, 0) };
  }

  protected addConnection(connection: Connection): void {
    this.open.push(connection);
    this.mtu = Math.min(...this.open.map((c) => c.machine.mtu));
    this.offload = this.open.every((c) => c.machine.offload);
  }

  /** Takes a dead connection out; its flows and its queue move to the others. */
  protected removeConnection(connection: Connection): void {
    const index = this.open.indexOf(connection);
    if (index < 0) return;
    this.open.splice(index, 1);
    connection.handOver(this.open[0]);
    addCounters(this.counters, connection);
  }

  protected checkWritable(): void {
    if (this.wasWritable) return;
    let queued = 0;
    for (const c of this.open) queued += c.queued;
    if (queued > this.highWater / 2) return;
    this.wasWritable = true;
    this.handler.onWritable();
  }

  protected setState(state: LinkState, reason?: KubeBusError): void {
    if (this.state === 'closed') return;
    this.state = state;
    this.handler.onState(state, reason);
    if (state !== 'up' && !this.wasWritable) {
      this.wasWritable = true;
      this.handler.onWritable();
    }
  }
}

function addCounters(sum: Record<string, number>, c: Connection): void {
  sum.droppedOverflow! += c.egress.dropped.overflow;
  sum.droppedCodel! += c.egress.dropped.codel;
  sum.droppedDatagramQueue! += c.dropped.datagramQueue;
  sum.datagramMalformed! += c.dropped.datagramMalformed;
  sum.marked! += c.egress.marked;
  sum.bytesIn! += c.bytesIn;
  sum.bytesOut! += c.bytesOut;
  sum.ignored! += c.machine.ignored;
}

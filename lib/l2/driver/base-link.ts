// Edge: what a dialled and an accepted link share: a set of connections, flows spread over them, fail-over.

import { type Clock, HEADER, KubeBusError, lengthAt, type Slab } from '../../core/index.js';
import { CONTROL_HEADER, ControlChannel } from '../control-channel.js';
import { flowHash } from '../flow-hash.js';
import { FlowSpread } from '../flow-spread.js';
import type { Link, LinkHandler, LinkState } from '../link.js';
import type { PeerIdentity } from '../transport.js';
import { FrameType, MAX_CONTROL } from '../wire/frame.js';
import type { Connection } from './connection.js';

const MAX_CONTROL_MESSAGE = MAX_CONTROL - CONTROL_HEADER;

const noHandler: LinkHandler = { onPackets() {}, onControl() {}, onState() {}, onWritable() {} };

export abstract class BaseLink implements Link {
  abstract readonly peer: PeerIdentity;
  state: LinkState = 'connecting';
  mtu = 0;
  offload = false;
  partialChecksums = false;
  protected handler: LinkHandler = noHandler;
  /** Open connections, the oldest first. */
  protected readonly open: Connection[] = [];
  private readonly spread = new FlowSpread<Connection>((c) => c.queued === 0);
  private channel = new ControlChannel(false, 0);
  private readonly counters = {
    packetsRefused: 0,
    controlRefused: 0,
    controlRepeated: 0,
    droppedOverflow: 0,
    droppedCodel: 0,
    droppedDown: 0,
    droppedDatagramQueue: 0,
    datagramMalformed: 0,
    datagramsRepeated: 0,
    repaired: 0,
    repairsGivenUp: 0,
    repairsLate: 0,
    bytesLost: 0,
    marked: 0,
    bytesIn: 0,
    bytesOut: 0,
    ignored: 0,
  };
  private wasWritable = true;

  constructor(
    protected readonly clock: Clock,
    protected readonly highWater: number,
    private readonly controlBytes: number,
  ) {}

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
    const writable = this.queued < this.highWater;
    this.wasWritable &&= writable;
    return writable;
  }

  /** A connection that takes nothing must not hold up the flows of the others: what is for it waits, and is dropped, in its own queue. */
  private get queued(): number {
    let queued = 0;
    let stuck = 0;
    for (const c of this.open) {
      if (c.stuck) stuck += c.queued;
      else queued += c.queued;
    }
    return this.open.every((c) => c.stuck) ? stuck : queued;
  }

  send(slab: Slab, start: number, end: number): void {
    const { open } = this;
    if (open.length === 1) return open[0]!.send(slab, start, end);
    if (open.length === 0) {
      for (let off = start; off < end; off += HEADER + lengthAt(slab.bytes, off)) this.counters.packetsRefused++;
      return;
    }
    const now = this.clock.now();
    // Neighbours of one connection stay one run.
    let runStart = start;
    let runConnection: Connection | null = null;
    for (let off = start; off < end; ) {
      const length = lengthAt(slab.bytes, off);
      const connection = this.spread.pick(now, flowHash(slab.bytes, off, length));
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
    if (message.length > MAX_CONTROL_MESSAGE) {
      const text = `a control message has at most ${MAX_CONTROL_MESSAGE} bytes, not ${message.length}`;
      throw new KubeBusError('ERR_INVALID_ARGUMENT', text);
    }
    // One connection carries them all, so they stay in order.
    const [first] = this.open;
    const payload = first === undefined ? null : this.channel.wrap(message);
    if (payload !== null) return first!.sendFrame(FrameType.control, payload);
    this.counters.controlRefused++;
    first?.machine.fail('ERR_PEER_STALLED', 'the peer does not acknowledge its control messages');
  }

  abstract close(reason: KubeBusError): void;

  stats(): Readonly<Record<string, number>> {
    const sum = { ...this.counters };
    for (const c of this.open) addCounters(sum, c);
    return { ...sum, connections: this.open.length, queuedBytes: this.open.reduce((n, c) => n + c.queued, 0) };
  }

  // ---- from the connections

  onPackets(slab: Slab, start: number, end: number): void {
    this.handler.onPackets(slab, start, end);
  }

  onControl(connection: Connection, payload: Uint8Array): void {
    const message = this.channel.handle(payload);
    if (message === undefined) return connection.machine.fail('ERR_FRAME_MALFORMED', 'a control message is missing');
    if (message === null) {
      this.counters.controlRepeated++;
      return;
    }
    this.handler.onControl(message);
    if (this.channel.wantsAck && connection.machine.state === 'open') connection.machine.sendPing(this.clock.now());
  }

  controlReceived(): number {
    this.channel.told();
    return this.channel.received;
  }

  onControlReceived(connection: Connection, received: number): void {
    if (this.channel.handleAck(received)) return;
    connection.machine.fail('ERR_FRAME_MALFORMED', 'the peer acknowledges control messages that were not sent');
  }

  onWritable(): void {
    this.checkWritable();
  }

  /** `connections`: how many the link is to have; the first one of a link starts its control channel. */
  protected addConnection(connection: Connection, connections: number): void {
    if (this.open.length === 0) this.channel = new ControlChannel(connections > 1, this.controlBytes);
    this.open.push(connection);
    this.spread.add(this.clock.now(), connection);
    this.negotiate();
  }

  /** Takes a dead connection out; its flows, its queue and what it owed of control messages move to the others. */
  protected removeConnection(connection: Connection): void {
    const index = this.open.indexOf(connection);
    if (index < 0) return;
    this.open.splice(index, 1);
    this.spread.remove(connection);
    const [first] = this.open;
    if (first !== undefined) {
      this.negotiate();
      if (index === 0) for (const payload of this.channel.unacknowledged()) first.sendFrame(FrameType.control, payload);
      const { egress } = connection;
      while (egress.shift()) {
        const { slab, off, length } = egress;
        this.send(slab!, off, off + length);
        slab!.release();
      }
      this.checkWritable();
    } else connection.egress.clear();
    addCounters(this.counters, connection);
  }

  private negotiate(): void {
    this.mtu = Math.min(...this.open.map((c) => c.machine.mtu));
    this.offload = this.open.every((c) => c.machine.offload);
    this.partialChecksums = this.open.every((c) => c.machine.partialChecksums);
  }

  protected checkWritable(): void {
    if (this.wasWritable) return;
    if (this.queued > this.highWater / 2) return;
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
  sum.droppedDown! += c.egress.dropped.down;
  for (const [name, n] of Object.entries(c.datagramStats)) sum[name]! += n;
  sum.bytesLost! += c.lost;
  sum.marked! += c.egress.marked;
  sum.bytesIn! += c.bytesIn;
  sum.bytesOut! += c.bytesOut;
  sum.ignored! += c.machine.ignored;
}

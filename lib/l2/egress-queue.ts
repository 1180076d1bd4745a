// Core: the queue in front of a connection that is backed up. Read first: RFC 8290 (FQ-CoDel), RFC 8289 (CoDel).
//
//   each flow (hash of the packet) has a queue of its own; served by deficit round robin in bytes, new flows first
//   each queue runs CoDel: a standing delay over `target` for `interval` is answered by marking (ECN) or dropping
//   the whole is bounded in bytes and packets; above, the fattest queue loses from its head
//
// Queues stand in sets of 8, and a flow may have any of its set that is free: with half of all queues busy, hardly two flows
// ever share one (as in sch_cake, "COBALT and CAKE", §4.2). Where a set is full the table doubles, up to `maxFlows`.
//
// Packets are entries of a pool of parallel arrays, linked by index: nothing is allocated per packet.

import { getU16, HEADER, lengthAt, type Micros, MS, putU16, type Slab } from '../core/index.js';
import { flowHash } from './flow-hash.js';
import { FlowTable, NONE } from './flow-table.js';

export interface EgressOptions {
  /** Bytes in the queue. **Default:** 4 MiB. */
  readonly maxBytes: number;
  /** Packets in the queue. **Default:** 16384. */
  readonly maxPackets: number;
  /** Number of flow queues to begin with, a power of two. **Default:** 256. */
  readonly flows: number;
  /** The table of queues doubles up to this; beyond, flows share queues. A power of two. **Default:** 4096. */
  readonly maxFlows: number;
  /** CoDel (RFC 8289 §4.2, §4.3). **Default:** 5 ms and 100 ms. */
  readonly target: Micros;
  readonly interval: Micros;
  /** Bytes that a flow may send per round. **Default:** 65,600: one super-packet. */
  readonly quantum: number;
  /** Of the hash of flows. **Default:** a random one. */
  readonly seed?: number;
}

/** Bytes in all queues that share it; above `maxBytes` each queue is held to `SCARCE_BYTES`. */
export interface EgressBudget {
  bytes: number;
  readonly maxBytes: number;
}

export const SCARCE_BYTES = 128 * 1024;

export const DEFAULT_EGRESS: EgressOptions = {
  maxBytes: 4 * 1024 * 1024,
  maxPackets: 16_384,
  flows: 256,
  maxFlows: 4096,
  target: 5 * MS,
  interval: 100 * MS,
  quantum: 65_600,
};

/** In intervals after the last drop: RFC 8289 §5.5 looks back 16 from the time of the next drop, which is one more ahead. */
const FORGET = 17;

/** What `next` says. */
const EMPTY = 0;
const BELOW = 1;
const ABOVE = 2;

export class EgressQueue {
  bytes = 0;
  packets = 0;
  readonly dropped = { overflow: 0, codel: 0, down: 0 };
  marked = 0;

  // Entries. Grown by doubling up to maxPackets, on first use.
  private slabs: (Slab | null)[] = [];
  private offs = new Uint32Array(0);
  private lens = new Uint32Array(0);
  private times = new Float64Array(0);
  private nexts = new Int32Array(0);
  private freeHead = NONE;

  /** Made on first use: an idle connection has none. */
  private flows: FlowTable | null = null;
  /** When CoDel last dropped or marked. */
  private punished: Micros = Number.NEGATIVE_INFINITY;
  /** Where `shift` looks first. */
  private cursor = 0;
  private newHead = NONE;
  private newTail = NONE;
  private oldHead = NONE;
  private oldTail = NONE;

  /** The packet taken by the last successful `poll`; the caller takes over its reference. */
  slab: Slab | null = null;
  off = 0;
  length = 0;

  constructor(
    private readonly options: EgressOptions = DEFAULT_EGRESS,
    private readonly budget: EgressBudget | null = null,
  ) {}

  /** Takes every frame of slab[start, end); retains the slab once per frame. */
  push(now: Micros, slab: Slab, start: number, end: number): void {
    this.flows ??= new FlowTable(this.options.flows);
    const { budget } = this;
    for (let off = start; off < end; ) {
      const total = HEADER + lengthAt(slab.bytes, off);
      this.pushFrame(now, slab, off, total);
      off += total;
      const scarce = budget !== null && budget.bytes > budget.maxBytes;
      const bound = scarce ? Math.min(SCARCE_BYTES, this.options.maxBytes) : this.options.maxBytes;
      while (this.bytes > bound || this.packets > this.options.maxPackets) this.dropFattest();
    }
  }

  /** Takes the next packet into slab/off/length. False: empty. */
  poll(now: Micros): boolean {
    for (;;) {
      const fromNew = this.newHead !== NONE;
      const flow = fromNew ? this.newHead : this.oldHead;
      if (flow === NONE) {
        // What a crowd of flows made grow is given back when the crowd is gone, and nothing that CoDel remembers counts any more.
        const forgotten = now - this.punished > FORGET * this.options.interval;
        if (this.flows !== null && this.flows.size > this.options.flows && forgotten) this.flows = null;
        return false;
      }
      if (this.flows!.deficit[flow]! <= 0) {
        this.flows!.deficit[flow]! += this.options.quantum;
        this.unlist(fromNew);
        this.list(flow, 2);
        continue;
      }
      if (!this.codelDequeue(now, flow)) {
        this.unlist(fromNew);
        // RFC 8290 §4.2: an emptied new flow passes through the old list, or it could starve the others.
        if (fromNew && this.oldHead !== NONE) this.list(flow, 2);
        continue;
      }
      this.flows!.deficit[flow]! -= this.length;
      return true;
    }
  }

  /** Takes any packet into slab/off/length, in order within its flow and without judging delays: for fail-over. */
  shift(): boolean {
    if (this.packets === 0) return false;
    while (!this.take(this.cursor)) this.cursor = (this.cursor + 1) % this.flows!.size;
    return true;
  }

  /** Drops everything. */
  clear(): void {
    while (this.shift()) {
      this.slab!.release();
      this.dropped.down++;
    }
    this.slab = null;
  }

  private pushFrame(now: Micros, slab: Slab, off: number, total: number): void {
    if (this.freeHead === NONE) this.grow();
    const entry = this.freeHead;
    this.freeHead = this.nexts[entry]!;
    slab.retain();
    this.slabs[entry] = slab;
    this.offs[entry] = off;
    this.lens[entry] = total;
    this.times[entry] = now;
    this.nexts[entry] = NONE;
    const flow = this.queueOf(flowHash(slab.bytes, off, total - HEADER, this.options.seed));
    const f = this.flows!;
    if (f.head[flow] === NONE) f.head[flow] = entry;
    else this.nexts[f.tail[flow]!] = entry;
    f.tail[flow] = entry;
    f.backlog[flow]! += total;
    this.bytes += total;
    this.packets++;
    if (this.budget !== null) this.budget.bytes += total;
    if (f.listed[flow] === 0) {
      f.deficit[flow] = this.options.quantum;
      this.list(flow, 1);
    }
  }

  /** The queue of a flow, its own if there is any left. */
  private queueOf(hash: number): number {
    let flow = this.flows!.find(hash);
    while (flow === NONE && this.flows!.size < this.options.maxFlows) {
      const { flows: before } = this;
      const after = before!.doubled();
      const moved = (index: number) => (index === NONE ? NONE : before!.movedTo[index]!);
      this.newHead = moved(this.newHead);
      this.newTail = moved(this.newTail);
      this.oldHead = moved(this.oldHead);
      this.oldTail = moved(this.oldTail);
      this.flows = after;
      this.cursor = 0;
      flow = after.find(hash);
    }
    return flow === NONE ? this.flows!.shared(hash) : flow;
  }

  private grow(): void {
    const old = this.offs.length;
    // One more than the bound: push drops after it has inserted.
    const size = Math.min(Math.max(64, old * 2), this.options.maxPackets + 1);
    const copy = <T extends Uint32Array | Float64Array | Int32Array>(to: T, from: T): T => {
      to.set(from);
      return to;
    };
    this.offs = copy(new Uint32Array(size), this.offs);
    this.lens = copy(new Uint32Array(size), this.lens);
    this.times = copy(new Float64Array(size), this.times);
    this.nexts = copy(new Int32Array(size), this.nexts);
    for (let i = old; i < size; i++) {
      this.slabs[i] = null;
      this.nexts[i] = i + 1 < size ? i + 1 : NONE;
    }
    this.freeHead = old;
  }

  /** Unlinks the head of `flow` into slab/off/length. */
  private take(flow: number): boolean {
    const f = this.flows!;
    const entry = f.head[flow]!;
    if (entry === NONE) return false;
    this.slab = this.slabs[entry]!;
    this.off = this.offs[entry]!;
    this.length = this.lens[entry]!;
    this.slabs[entry] = null;
    f.head[flow] = this.nexts[entry]!;
    if (f.head[flow] === NONE) f.tail[flow] = NONE;
    this.nexts[entry] = this.freeHead;
    this.freeHead = entry;
    f.backlog[flow]! -= this.length;
    this.bytes -= this.length;
    this.packets--;
    if (this.budget !== null) this.budget.bytes -= this.length;
    return true;
  }

  private dropFattest(): void {
    const f = this.flows!;
    const fattest = f.fattest();
    if (this.take(fattest)) {
      this.slab!.release();
      this.dropped.overflow++;
    }
  }

  /** RFC 8289 §5.5: dequeue with the control law. Leaves the packet in slab/off/length. */
  private codelDequeue(now: Micros, flow: number): boolean {
    const f = this.flows!;
    let above = this.next(now, flow);
    if (above === EMPTY) {
      f.dropping[flow] = 0;
      return false;
    }
    if (f.dropping[flow] === 1) {
      if (above === BELOW) f.dropping[flow] = 0;
      while (f.dropping[flow] === 1 && now >= f.dropNext[flow]!) {
        f.count[flow]!++;
        f.dropNext[flow] = f.dropNext[flow]! + this.options.interval / Math.sqrt(f.count[flow]!);
        if (this.markOrDrop(now)) break;
        above = this.next(now, flow);
        if (above !== ABOVE) f.dropping[flow] = 0;
      }
    } else if (above === ABOVE) {
      if (!this.markOrDrop(now)) above = this.next(now, flow);
      f.dropping[flow] = 1;
      const delta = f.count[flow]! - f.lastCount[flow]!;
      f.count[flow] = delta > 1 && now - f.dropNext[flow]! < 16 * this.options.interval ? delta : 1;
      f.dropNext[flow] = now + this.options.interval / Math.sqrt(f.count[flow]!);
      f.lastCount[flow] = f.count[flow]!;
    }
    return above !== EMPTY;
  }

  /** RFC 8289 §5.6: takes the head, and says whether it may be dropped: has the delay been above the target for an interval? */
  private next(now: Micros, flow: number): number {
    const f = this.flows!;
    const entry = f.head[flow]!;
    if (entry === NONE) {
      f.firstAbove[flow] = 0;
      return EMPTY;
    }
    // Less than one MTU (here: one super-packet) left: no standing queue.
    const low = now - this.times[entry]! < this.options.target || f.backlog[flow]! <= this.options.quantum;
    this.take(flow);
    if (low) {
      f.firstAbove[flow] = 0;
      return BELOW;
    }
    if (f.firstAbove[flow] === 0) {
      f.firstAbove[flow] = now + this.options.interval;
      return BELOW;
    }
    return now >= f.firstAbove[flow]! ? ABOVE : BELOW;
  }

  /** True: the packet was marked and stays. */
  private markOrDrop(now: Micros): boolean {
    this.punished = now;
    if (markCongestion(this.slab!.bytes, this.off + HEADER)) {
      this.marked++;
      return true;
    }
    this.slab!.release();
    this.dropped.codel++;
    return false;
  }

  private list(flow: number, which: 1 | 2): void {
    const f = this.flows!;
    f.listed[flow] = which;
    f.listNext[flow] = NONE;
    if (which === 1) {
      if (this.newTail === NONE) this.newHead = flow;
      else f.listNext[this.newTail] = flow;
      this.newTail = flow;
    } else {
      if (this.oldTail === NONE) this.oldHead = flow;
      else f.listNext[this.oldTail] = flow;
      this.oldTail = flow;
    }
  }

  private unlist(fromNew: boolean): void {
    const f = this.flows!;
    const flow = fromNew ? this.newHead : this.oldHead;
    const next = f.listNext[flow]!;
    f.listed[flow] = 0;
    if (fromNew) {
      this.newHead = next;
      if (next === NONE) this.newTail = NONE;
    } else {
      this.oldHead = next;
      if (next === NONE) this.oldTail = NONE;
    }
  }
}

/** Sets CE on an ECN-capable packet (RFC 3168 §5). False: not ECN-capable. */
export function markCongestion(buf: Uint8Array, ip: number): boolean {
  if (buf[ip]! >>> 4 === 4) {
    const tos = buf[ip + 1]!;
    if ((tos & 3) === 0) return false;
    if ((tos & 3) === 3) return true;
    buf[ip + 1] = tos | 3;
    // RFC 1624 §3, eqn. 3: HC' = ~(~HC + ~m + m').
    let sum = (~getU16(buf, ip + 10) & 0xffff) + (~((buf[ip]! << 8) | tos) & 0xffff) + ((buf[ip]! << 8) | tos | 3);
    sum = (sum & 0xffff) + (sum >>> 16);
    sum = (sum & 0xffff) + (sum >>> 16);
    putU16(buf, ip + 10, ~sum & 0xffff);
    return true;
  }
  const ecn = (buf[ip + 1]! >>> 4) & 3;
  if (ecn === 0) return false;
  buf[ip + 1] = buf[ip + 1]! | 0x30;
  return true;
}

// Core: the queue in front of a connection that is backed up. Read first: RFC 8290 (FQ-CoDel), RFC 8289 (CoDel).
//
//   flow = hash of the packet -> one of `flows` queues; served by deficit round robin in bytes, new flows first
//   each queue runs CoDel: a standing delay over `target` for `interval` is answered by marking (ECN) or dropping
//   the whole is bounded in bytes and packets; above, the fattest queue loses from its head
//
// Packets are entries of a pool of parallel arrays, linked by index: nothing is allocated per packet.

import { getU16, HEADER, lengthAt, type Micros, MS, putU16, type Slab } from '../core/index.js';
import { flowHash } from './flow-hash.js';

export interface EgressOptions {
  /** Bytes in the queue. **Default:** 4 MiB. */
  readonly maxBytes: number;
  /** Packets in the queue. **Default:** 16384. */
  readonly maxPackets: number;
  /** Number of flow queues, a power of two. **Default:** 256. */
  readonly flows: number;
  /** CoDel (RFC 8289 §4.2, §4.3). **Default:** 5 ms and 100 ms. */
  readonly target: Micros;
  readonly interval: Micros;
  /** Bytes that a flow may send per round. **Default:** 65,600: one super-packet. */
  readonly quantum: number;
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
  target: 5 * MS,
  interval: 100 * MS,
  quantum: 65_600,
};

const NONE = -1;

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
  private flows: Flows | null = null;
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
    this.flows ??= new Flows(this.options.flows);
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
      if (flow === NONE) return false;
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
    while (!this.take(this.cursor)) this.cursor = (this.cursor + 1) % this.options.flows;
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
    const f = this.flows!;
    const flow = flowHash(slab.bytes, off, total - HEADER) & (this.options.flows - 1);
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
    let fattest = 0;
    for (let flow = 1; flow < this.options.flows; flow++) {
      if (f.backlog[flow]! > f.backlog[fattest]!) fattest = flow;
    }
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
        if (this.markOrDrop()) break;
        above = this.next(now, flow);
        if (above !== ABOVE) f.dropping[flow] = 0;
      }
    } else if (above === ABOVE) {
      if (!this.markOrDrop()) above = this.next(now, flow);
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
  private markOrDrop(): boolean {
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

/** The flow queues, as parallel arrays. */
class Flows {
  readonly head: Int32Array;
  readonly tail: Int32Array;
  readonly backlog: Float64Array;
  readonly deficit: Float64Array;
  /** 0: in no list; 1: new; 2: old. */
  readonly listed: Uint8Array;
  readonly listNext: Int32Array;
  // CoDel.
  readonly firstAbove: Float64Array;
  readonly dropNext: Float64Array;
  readonly count: Uint32Array;
  readonly lastCount: Uint32Array;
  readonly dropping: Uint8Array;

  constructor(n: number) {
    this.head = new Int32Array(n).fill(NONE);
    this.tail = new Int32Array(n).fill(NONE);
    this.backlog = new Float64Array(n);
    this.deficit = new Float64Array(n);
    this.listed = new Uint8Array(n);
    this.listNext = new Int32Array(n).fill(NONE);
    this.firstAbove = new Float64Array(n);
    this.dropNext = new Float64Array(n);
    this.count = new Uint32Array(n);
    this.lastCount = new Uint32Array(n);
    this.dropping = new Uint8Array(n);
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

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

export const DEFAULT_EGRESS: EgressOptions = {
  maxBytes: 4 * 1024 * 1024,
  maxPackets: 16_384,
  flows: 256,
  target: 5 * MS,
  interval: 100 * MS,
  quantum: 65_600,
};

const NONE = -1;

export class EgressQueue {
  bytes = 0;
  packets = 0;
  readonly dropped = { overflow: 0, codel: 0 };
  marked = 0;

  // Entries. Grown by doubling up to maxPackets, on first use.
  private slabs: (Slab | null)[] = [];
  private offs = new Uint32Array(0);
  private lens = new Uint32Array(0);
  private times = new Float64Array(0);
  private nexts = new Int32Array(0);
  private freeHead = NONE;

  // Flow queues.
  private readonly head: Int32Array;
  private readonly tail: Int32Array;
  private readonly backlog: Float64Array;
  private readonly deficit: Float64Array;
  /** 0: in no list; 1: new; 2: old. */
  private readonly listed: Uint8Array;
  private readonly listNext: Int32Array;
  private newHead = NONE;
  private newTail = NONE;
  private oldHead = NONE;
  private oldTail = NONE;
  // CoDel per flow.
  private readonly firstAbove: Float64Array;
  private readonly dropNext: Float64Array;
  private readonly count: Uint32Array;
  private readonly lastCount: Uint32Array;
  private readonly dropping: Uint8Array;

  /** The packet taken by the last successful `poll`; the caller takes over its reference. */
  slab: Slab | null = null;
  off = 0;
  length = 0;

  constructor(private readonly options: EgressOptions = DEFAULT_EGRESS) {
    const n = options.flows;
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

  /** Takes every frame of slab[start, end); retains the slab once per frame. */
  push(now: Micros, slab: Slab, start: number, end: number): void {
    for (let off = start; off < end; ) {
      const total = HEADER + lengthAt(slab.bytes, off);
      this.pushFrame(now, slab, off, total);
      off += total;
    }
    while (this.bytes > this.options.maxBytes || this.packets > this.options.maxPackets) this.dropFattest();
  }

  /** Takes the next packet into slab/off/length. False: empty. */
  poll(now: Micros): boolean {
    for (;;) {
      const fromNew = this.newHead !== NONE;
      const flow = fromNew ? this.newHead : this.oldHead;
      if (flow === NONE) return false;
      if (this.deficit[flow]! <= 0) {
        this.deficit[flow]! += this.options.quantum;
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
      this.deficit[flow]! -= this.length;
      return true;
    }
  }

  /** Drops everything. */
  clear(): void {
    for (let flow = 0; flow < this.options.flows; flow++) {
      while (this.take(flow)) this.slab!.release();
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
    const flow = flowHash(slab.bytes, off, total - HEADER) & (this.options.flows - 1);
    if (this.head[flow] === NONE) this.head[flow] = entry;
    else this.nexts[this.tail[flow]!] = entry;
    this.tail[flow] = entry;
    this.backlog[flow]! += total;
    this.bytes += total;
    this.packets++;
    if (this.listed[flow] === 0) {
      this.deficit[flow] = this.options.quantum;
      this.list(flow, 1);
    }
  }

  private grow(): void {
    const old = this.offs.length;
    // One more than the bound: push drops after it has inserted.
    const size = Math.min(Math.max(64, old * 2), this.options.maxPackets * 2 + 64);
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
    const entry = this.head[flow]!;
    if (entry === NONE) return false;
    this.slab = this.slabs[entry]!;
    this.off = this.offs[entry]!;
    this.length = this.lens[entry]!;
    this.slabs[entry] = null;
    this.head[flow] = this.nexts[entry]!;
    if (this.head[flow] === NONE) this.tail[flow] = NONE;
    this.nexts[entry] = this.freeHead;
    this.freeHead = entry;
    this.backlog[flow]! -= this.length;
    this.bytes -= this.length;
    this.packets--;
    return true;
  }

  private dropFattest(): void {
    let fattest = 0;
    for (let flow = 1; flow < this.options.flows; flow++) {
      if (this.backlog[flow]! > this.backlog[fattest]!) fattest = flow;
    }
    if (this.take(fattest)) {
      this.slab!.release();
      this.dropped.overflow++;
    }
  }

  /** RFC 8289 §5.5: dequeue with the control law. Leaves the packet in slab/off/length. */
  private codelDequeue(now: Micros, flow: number): boolean {
    let sojourn = this.headSojourn(now, flow);
    if (sojourn < 0) {
      this.firstAbove[flow] = 0;
      this.dropping[flow] = 0;
      return false;
    }
    let above = this.isAbove(now, flow, sojourn);
    this.take(flow);
    if (this.dropping[flow] === 1) {
      if (!above) this.dropping[flow] = 0;
      while (this.dropping[flow] === 1 && now >= this.dropNext[flow]!) {
        this.count[flow]!++;
        this.dropNext[flow] = this.dropNext[flow]! + this.options.interval / Math.sqrt(this.count[flow]!);
        if (this.markOrDrop()) break;
        sojourn = this.headSojourn(now, flow);
        if (sojourn < 0) {
          this.dropping[flow] = 0;
          return false;
        }
        above = this.isAbove(now, flow, sojourn);
        this.take(flow);
        if (!above) this.dropping[flow] = 0;
      }
    } else if (above) {
      this.dropping[flow] = 1;
      const delta = this.count[flow]! - this.lastCount[flow]!;
      this.count[flow] = delta > 1 && now - this.dropNext[flow]! < 16 * this.options.interval ? delta : 1;
      this.dropNext[flow] = now + this.options.interval / Math.sqrt(this.count[flow]!);
      this.lastCount[flow] = this.count[flow]!;
      if (!this.markOrDrop() && !this.take(flow)) return false;
    }
    return true;
  }

  private headSojourn(now: Micros, flow: number): Micros {
    const entry = this.head[flow]!;
    return entry === NONE ? -1 : now - this.times[entry]!;
  }

  private isAbove(now: Micros, flow: number, sojourn: Micros): boolean {
    // RFC 8289 §5.4: below the target, or less than one MTU (here: one super-packet) left: no standing queue.
    if (sojourn < this.options.target || this.backlog[flow]! <= this.options.quantum) {
      this.firstAbove[flow] = 0;
      return false;
    }
    if (this.firstAbove[flow] === 0) {
      this.firstAbove[flow] = now + this.options.interval;
      return false;
    }
    return now >= this.firstAbove[flow]!;
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
    this.listed[flow] = which;
    this.listNext[flow] = NONE;
    if (which === 1) {
      if (this.newTail === NONE) this.newHead = flow;
      else this.listNext[this.newTail] = flow;
      this.newTail = flow;
    } else {
      if (this.oldTail === NONE) this.oldHead = flow;
      else this.listNext[this.oldTail] = flow;
      this.oldTail = flow;
    }
  }

  private unlist(fromNew: boolean): void {
    const flow = fromNew ? this.newHead : this.oldHead;
    const next = this.listNext[flow]!;
    this.listed[flow] = 0;
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

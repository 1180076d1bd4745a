// Core: the queues of an egress queue, as parallel arrays, and which flow has which. Set-associative: see egress-queue.ts.

export const NONE = -1;

/** Queues in a set. */
const WAYS = 8;

/** Queues that one search for the fattest looks at. */
const LOOK = 256;

export class FlowTable {
  /** First and last packet of the queue. */
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
  /** After `doubled`: where each queue went. */
  movedTo = new Int32Array(0);
  private readonly ways: number;
  // Where the next search for the fattest goes on, and what the last one found.
  private looked = 0;
  private fat = 0;
  private readonly owned: Uint8Array;
  private readonly owner: Uint32Array;

  /** `size`: a power of two. */
  constructor(readonly size: number) {
    this.ways = Math.min(WAYS, size);
    this.owned = new Uint8Array(size);
    this.owner = new Uint32Array(size);
    this.head = new Int32Array(size).fill(NONE);
    this.tail = new Int32Array(size).fill(NONE);
    this.backlog = new Float64Array(size);
    this.deficit = new Float64Array(size);
    this.listed = new Uint8Array(size);
    this.listNext = new Int32Array(size).fill(NONE);
    this.firstAbove = new Float64Array(size);
    this.dropNext = new Float64Array(size);
    this.count = new Uint32Array(size);
    this.lastCount = new Uint32Array(size);
    this.dropping = new Uint8Array(size);
  }

  /** The queue of the flow with this hash, which may be new; NONE: all of its set are busy with others. */
  find(hash: number): number {
    const first = this.setOf(hash);
    let free = NONE;
    let unused = NONE;
    for (let i = first; i < first + this.ways; i++) {
      if (this.owned[i] === 0) unused = i;
      else if (this.owner[i] === hash) return i;
      else if (this.listed[i] === 0 && this.head[i] === NONE) free = i;
    }
    // One that nobody had, rather than one whose flow may come back to what CoDel knew of it.
    const found = unused === NONE ? free : unused;
    if (found !== NONE) this.give(found, hash);
    return found;
  }

  /** Some queue of the set, whoever has it. */
  shared(hash: number): number {
    return this.setOf(hash) + ((hash >>> 16) & (this.ways - 1));
  }

  /**
   * The queue with the most bytes; of several, that of the smallest hash. Deviation from RFC 8290 §4.1: of a large table a part is looked at
   * each time, besides the fattest so far, or whoever fills the queue with packets of many flows would make each cost a walk over all.
   */
  fattest(): number {
    const { size } = this;
    const from = this.looked;
    this.looked = (from + LOOK) & (size - 1);
    let best = this.fat;
    for (let i = from; i < from + LOOK && i < size; i++) {
      const more = this.backlog[i]! - this.backlog[best]!;
      if (more > 0 || (more === 0 && this.owner[i]! < this.owner[best]!)) best = i;
    }
    this.fat = best;
    return best;
  }

  /** The same queues in a table of twice the size: a set's are split by one more bit of their hash, so all find room. */
  doubled(): FlowTable {
    const next = new FlowTable(this.size * 2);
    this.movedTo = new Int32Array(this.size).fill(NONE);
    for (let i = 0; i < this.size; i++) {
      if (this.owned[i] === 0) continue;
      const to = next.find(this.owner[i]!);
      this.movedTo[i] = to;
      next.head[to] = this.head[i]!;
      next.tail[to] = this.tail[i]!;
      next.backlog[to] = this.backlog[i]!;
      next.deficit[to] = this.deficit[i]!;
      next.listed[to] = this.listed[i]!;
      next.firstAbove[to] = this.firstAbove[i]!;
      next.dropNext[to] = this.dropNext[i]!;
      next.count[to] = this.count[i]!;
      next.lastCount[to] = this.lastCount[i]!;
      next.dropping[to] = this.dropping[i]!;
    }
    for (let i = 0; i < this.size; i++) {
      const follows = this.listNext[i]!;
      if (this.listed[i] !== 0 && follows !== NONE) next.listNext[this.movedTo[i]!] = this.movedTo[follows]!;
    }
    return next;
  }

  private setOf(hash: number): number {
    return (hash & (this.size / this.ways - 1)) * this.ways;
  }

  private give(queue: number, hash: number): void {
    this.owned[queue] = 1;
    this.owner[queue] = hash;
    this.firstAbove[queue] = 0;
    this.dropNext[queue] = 0;
    this.count[queue] = 0;
    this.lastCount[queue] = 0;
    this.dropping[queue] = 0;
  }
}

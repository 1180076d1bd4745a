// Core: which of a link's connections carries a flow. Flows fall into buckets by hash; a bucket belongs to one connection.
//
//   a connection dies    only its buckets move, at once
//   a connection comes   its fair share of buckets moves to it, each as soon as nothing of it can be overtaken (the bucket was
//                        quiet, or the old connection has nothing waiting), or when `PATIENCE` is over: a flow is better
//                        reordered once than bound to the busier connection for ever

import { type Micros, NEVER, SECOND } from '../core/index.js';

const BUCKETS = 256;
const PATIENCE: Micros = 5 * SECOND;
/** A bucket that sent nothing for so long has nothing waiting. */
const QUIET: Micros = SECOND / 4;

export class FlowSpread<T> {
  private members: readonly T[] = [];
  private owners: T[] = [];
  /** The owner that a bucket is to get; undefined: stays. */
  private wanted: (T | undefined)[] = [];
  private used = new Float64Array(0);
  private moving = 0;
  private forceAt: Micros = NEVER;

  constructor(
    /** True: nothing waits in front of this member. */
    private readonly isIdle: (member: T) => boolean,
  ) {}

  /** A flow's member. At least one is there. */
  pick(now: Micros, hash: number): T {
    if (this.members.length === 1) return this.members[0]!;
    const bucket = (hash >>> 8) & (BUCKETS - 1);
    if (this.moving > 0) this.move(now, bucket);
    this.used[bucket] = now;
    return this.owners[bucket]!;
  }

  add(now: Micros, member: T): void {
    this.members = [...this.members, member];
    if (this.owners.length === 0) {
      if (this.members.length === 1) return;
      this.owners = Array.from({ length: BUCKETS }, () => this.members[0]!);
      this.used = new Float64Array(BUCKETS).fill(this.isIdle(this.members[0]!) ? now - QUIET : now);
    }
    this.balance();
    this.forceAt = now + PATIENCE;
  }

  remove(member: T): void {
    this.members = this.members.filter((m) => m !== member);
    if (this.members.length <= 1) {
      this.owners = [];
      this.used = new Float64Array(0);
      this.wanted = [];
      this.moving = 0;
      return;
    }
    let turn = 0;
    for (let b = 0; b < BUCKETS; b++) {
      if (this.owners[b] === member) this.owners[b] = this.members[turn++ % this.members.length]!;
    }
    this.balance();
  }

  /** Plans moves until no member has more than its share. */
  private balance(): void {
    const share = Math.ceil(BUCKETS / this.members.length);
    const count = new Map<T, number>(this.members.map((m) => [m, 0]));
    for (const owner of this.owners) count.set(owner, count.get(owner)! + 1);
    const poor = this.members.filter((m) => count.get(m)! < Math.floor(BUCKETS / this.members.length));
    this.wanted = [];
    this.moving = 0;
    for (let b = 0; b < BUCKETS && poor.length > 0; b++) {
      const owner = this.owners[b]!;
      if (count.get(owner)! <= share) continue;
      const to = poor[0]!;
      this.wanted[b] = to;
      this.moving++;
      count.set(owner, count.get(owner)! - 1);
      count.set(to, count.get(to)! + 1);
      if (count.get(to)! >= Math.floor(BUCKETS / this.members.length)) poor.shift();
    }
  }

  private move(now: Micros, bucket: number): void {
    const to = this.wanted[bucket];
    if (to === undefined) return;
    const quiet = now - this.used[bucket]! >= QUIET;
    if (!quiet && now < this.forceAt && !this.isIdle(this.owners[bucket]!)) return;
    this.owners[bucket] = to;
    this.wanted[bucket] = undefined;
    this.moving--;
  }
}

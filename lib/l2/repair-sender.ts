// Core: the sending half of datagram repair (docs/spec/frame.md §8.1). Numbers the datagrams that are to be repaired, keeps a copy of
// each until the peer says that it is settled, and sends again what the peer reports missing.
//
//   add            numbers and keeps; the bytes to send are then in out/start/end
//   handleReport   frees what is settled, marks what is to be sent again
//   pollAgain      the next one to be sent again, in out/start/end
//   handleTimeout  true: send a probe, for the last datagrams may be lost and nothing behind them shows it
//
// Bounded: `window` copies; the oldest gives way. What is older than `repairTime` is not sent again, nor anything more than TRIES times.

import { type Micros, MS, NEVER, SECOND } from '../core/index.js';
import { LANES } from './repair-lane.js';
import { type RepairBudget, RepairStore } from './repair-store.js';
import { getNumber, numberDiff, putNumber, REPAIR_HEAD, rangeFirst, rangeLength, rangesOf } from './wire/repair.js';

/** Sent again at most so often. */
const TRIES = 4;
const PROBES = 3;
/** A receiver is silent so long at most about what it has received (REPORT_DELAY there), and something for the way. */
const SLACK: Micros = 35 * MS;
/** Memory goes after so long without a datagram. */
const IDLE: Micros = SECOND;

export class RepairSender {
  /** Datagrams sent again. */
  repeated = 0;
  out: Uint8Array = new Uint8Array(0);
  start = 0;
  end = 0;
  /** All numbers below it are settled or given up; [floor, next) are kept. */
  private floor = 0;
  private next = 0;
  private readonly store: RepairStore;
  private readonly orders = new Uint16Array(LANES);
  // By number, mod `window`. Made on first use.
  private places = new Int32Array(0);
  private lengths = new Uint32Array(0);
  private sentAt = new Float64Array(0);
  private tries = new Uint8Array(0);
  /** Numbers to be sent again, oldest first, as a ring; `wanted` says whether a number is in it. */
  private again = new Uint32Array(0);
  private wanted = new Uint8Array(0);
  private againHead = 0;
  private againCount = 0;
  private probeAt: Micros = NEVER;
  private probes = 0;
  private idleAt: Micros = NEVER;

  constructor(
    placeBytes: number,
    /** A power of two. */
    private readonly window: number,
    private readonly repairTime: Micros,
    budget: RepairBudget,
  ) {
    this.store = new RepairStore(placeBytes, window, budget);
  }

  get kept(): number {
    return numberDiff(this.next, this.floor);
  }

  get memory(): number {
    return this.store.bytes;
  }

  get nextNumber(): number {
    return this.next;
  }

  /** Frames of one lane, at most the place less REPAIR_HEAD. False: no memory for it; it goes without a number. */
  add(now: Micros, rtt: Micros, lane: number, bytes: Uint8Array, start: number, end: number): boolean {
    if (this.places.length === 0) this.make();
    if (this.kept === this.window) this.drop();
    const place = this.store.take();
    if (place < 0) return false;
    const number = this.next;
    this.next = (number + 1) >>> 0;
    const slot = number & (this.window - 1);
    const length = end - start;
    const chunk = this.store.chunk(place);
    const off = this.store.offset(place);
    chunk.set(bytes.subarray(start, end), off);
    putNumber(chunk, off + length, lane, this.orders[lane]!++, number);
    this.places[slot] = place;
    this.lengths[slot] = length + REPAIR_HEAD;
    this.sentAt[slot] = now;
    this.tries[slot] = 0;
    this.show(slot);
    this.probes = 0;
    this.probeAt = now + this.patience(rtt);
    this.idleAt = now + IDLE;
    return true;
  }

  /** False: it is no report. */
  handleReport(now: Micros, rtt: Micros, buf: Uint8Array, off: number, length: number): boolean {
    const ranges = rangesOf(buf, off, length);
    if (ranges < 0) return false;
    const floor = getNumber(buf, off);
    if (numberDiff(floor, this.next) > 0) return false;
    if (numberDiff(floor, this.floor) > 0) {
      while (this.floor !== floor) this.drop();
      this.probes = 0;
    }
    if (this.kept === 0) this.probeAt = NEVER;
    else if (this.probeAt !== NEVER) this.probeAt = now + this.patience(rtt);
    // A report can name each number that is kept once; more is work for nothing.
    let budget = this.window;
    for (let i = 0; i < ranges && budget > 0; i++) {
      const first = rangeFirst(buf, off, i);
      const from = Math.max(0, numberDiff(first, this.floor));
      const to = Math.min(this.kept, numberDiff(first, this.floor) + rangeLength(buf, off, i));
      for (let d = from; d < to && budget > 0; d++, budget--) this.want(now, (this.floor + d) >>> 0);
    }
    return true;
  }

  pollAgain(now: Micros): boolean {
    while (this.againCount > 0) {
      const number = this.again[this.againHead]!;
      this.againHead = (this.againHead + 1) & (this.window - 1);
      this.againCount--;
      const slot = number & (this.window - 1);
      this.wanted[slot] = 0;
      const d = numberDiff(number, this.floor);
      if (d < 0 || d >= this.kept || now - this.sentAt[slot]! > this.repairTime) continue;
      this.tries[slot]!++;
      this.repeated++;
      this.show(slot);
      return true;
    }
    return false;
  }

  /** True: send a probe. */
  handleTimeout(now: Micros, rtt: Micros): boolean {
    if (now >= this.probeAt) {
      if (this.probes < PROBES) {
        this.probes++;
        this.probeAt = now + this.patience(rtt) * 2 ** this.probes;
        return true;
      }
      // Nobody answers: the rest is given up.
      this.probeAt = NEVER;
      while (this.kept > 0) this.drop();
    }
    if (now >= this.idleAt) {
      this.idleAt = this.kept > 0 ? now + IDLE : NEVER;
      if (this.kept === 0) this.unmake();
    }
    return false;
  }

  pollDeadline(): Micros {
    return Math.min(this.probeAt, this.idleAt);
  }

  private want(now: Micros, number: number): void {
    const slot = number & (this.window - 1);
    if (this.wanted[slot] === 1 || this.tries[slot]! >= TRIES || now - this.sentAt[slot]! > this.repairTime) return;
    this.wanted[slot] = 1;
    this.again[(this.againHead + this.againCount) & (this.window - 1)] = number;
    this.againCount++;
  }

  private patience(rtt: Micros): Micros {
    return (Number.isNaN(rtt) ? 100 * MS : rtt * 1.5) + SLACK;
  }

  private show(slot: number): void {
    const place = this.places[slot]!;
    this.out = this.store.chunk(place);
    this.start = this.store.offset(place);
    this.end = this.start + this.lengths[slot]!;
  }

  /** Forgets the oldest. */
  private drop(): void {
    this.store.give(this.places[this.floor & (this.window - 1)]!);
    this.floor = (this.floor + 1) >>> 0;
  }

  private make(): void {
    const { window } = this;
    this.places = new Int32Array(window);
    this.lengths = new Uint32Array(window);
    this.sentAt = new Float64Array(window);
    this.tries = new Uint8Array(window);
    this.again = new Uint32Array(window);
    this.wanted = new Uint8Array(window);
    this.againHead = this.againCount = 0;
  }

  /** At the end of the connection. */
  release(): void {
    while (this.kept > 0) this.drop();
    this.unmake();
  }

  private unmake(): void {
    this.store.trim();
    this.places = new Int32Array(0);
    this.lengths = new Uint32Array(0);
    this.sentAt = new Float64Array(0);
    this.tries = new Uint8Array(0);
    this.again = new Uint32Array(0);
    this.wanted = new Uint8Array(0);
    this.againHead = this.againCount = 0;
  }
}

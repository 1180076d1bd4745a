// Core: the receiving half of datagram repair (docs/spec/frame.md §8.1). Finds out which numbers are missing, asks for them, and
// holds back what comes after a gap: of the same lane only, so that TCP inside sees neither the loss nor a change of order.
//
//   handle       judges a datagram: deliver, hold or drop
//   handleProbe  what is below the sender's next number and has not come is missing
//   poll         asks and gives up as time says: a report to send
//   lanes.poll   after each of these: what was held and may go on
//
// A datagram is delivered when all before it in its lane have been, or when every number below its own is settled: received or given
// up. A number is given up an answer's time after it was asked for TRIES times, and in any case after `repairTime`; when `window`
// numbers are in doubt, the oldest one is. So nothing waits longer than `repairTime`. Where memory ends, order does: what cannot be held
// is delivered as it comes.

import { type Micros, MS, NEVER, SECOND } from '../core/index.js';
import { RepairLanes } from './repair-lanes.js';
import type { RepairBudget } from './repair-store.js';
import { MAX_RANGES, numberDiff, putRange, putReport } from './wire/repair.js';

export const Verdict = { deliver: 0, held: 1, drop: 2 } as const;

/** States of the numbers in [floor, next). */
const SETTLED = 0;
const MISSING = 1;

/** Asked for so often. */
const TRIES = 3;
/** Networks reorder: a number is missing when so many higher ones have come, or after a while (RFC 9002 §6.1). */
const REORDER = 3;
/**
 * Numbers that may be missed for each one that comes; what is not used counts for later, up to the window. A gap costs work for each number
 * in it, and a peer that skips thousands with every small datagram is not to buy so much of it for so little.
 */
const MISSES = 4;
/** What was received is reported after so many datagrams, or so long. */
const REPORT_EVERY = 64;
const REPORT_DELAY: Micros = 25 * MS;
/** Memory goes after so long in which nothing was missing. */
const IDLE: Micros = SECOND;

export class RepairReceiver {
  readonly counts = { repaired: 0, repairsGivenUp: 0, repairsLate: 0 };
  /** What is held, and what need not wait any more: to be taken from there after each call of `handle`, `handleProbe` and `poll`. */
  readonly lanes: RepairLanes;
  private floor = 0;
  private next = 0;
  private missing = 0;
  /** Of the missing ones, those that were not asked for yet, and the highest of them. */
  private unasked = 0;
  private youngest = 0;
  /** No missing number is due before this. */
  private dueAt: Micros = NEVER;
  /** Numbers that may be missed now. */
  private credit: number;
  private unreported = 0;
  private reportAt: Micros = NEVER;
  private idleAt: Micros = NEVER;
  /** Time from a question to its answer (RFC 6298 §2). */
  private srtt = Number.NaN;
  private rttvar = 0;

  // By number, mod `window`. Made when the first number is missing.
  private states = new Uint8Array(0);
  /** Of those that are missing: when it was noticed and last asked for, when it is due to be asked for again or given up, how often it was asked for. */
  private noticed = new Float64Array(0);
  private asked = new Float64Array(0);
  private due = new Float64Array(0);
  private tries = new Uint8Array(0);

  constructor(
    placeBytes: number,
    /** A power of two. */
    private readonly window: number,
    private readonly repairTime: Micros,
    budget: RepairBudget,
  ) {
    this.lanes = new RepairLanes(placeBytes, window, budget);
    this.credit = window;
  }

  /** Every number below it is settled. */
  get settledBelow(): number {
    return this.floor;
  }

  /** The datagram with the frames bytes[start, end). Held: they have been copied. */
  handle(
    now: Micros,
    rtt: Micros,
    lane: number,
    order: number,
    number: number,
    bytes: Uint8Array,
    start: number,
    end: number,
  ): number {
    if (++this.unreported === 1) this.reportAt = now + REPORT_DELAY;
    const slot = number & (this.window - 1);
    this.credit = Math.min(this.window, this.credit + MISSES);
    if (numberDiff(number, this.next) >= 0) {
      this.miss(now, number, this.reorderTime(rtt));
      this.next = (number + 1) >>> 0;
      if (this.states.length === 0) this.floor = number;
      else this.states[slot] = SETTLED;
    } else {
      if (numberDiff(number, this.floor) < 0 || this.states[slot] !== MISSING) {
        this.counts.repairsLate++;
        return Verdict.drop;
      }
      this.found(now, rtt, slot);
    }
    const first = number === this.floor;
    const ahead = this.lanes.ahead(lane, order);
    if (!first && ahead > 0 && this.lanes.hold(lane, order, number, bytes, start, end)) return Verdict.held;
    if (first || ahead === 0) this.lanes.passed(lane, order);
    this.advance();
    return Verdict.deliver;
  }

  /** `next`: the sender's next number. */
  handleProbe(now: Micros, next: number): void {
    // Nothing comes behind it that could show that something is merely late: what is missing is due at once.
    if (numberDiff(next, this.next) > 0) this.miss(now, next, 0);
    this.advance();
    this.reportAt = now;
  }

  /** Writes a report into out[off, off + REPORT_BYTES) if one is to be sent; its length, or 0. */
  poll(now: Micros, rtt: Micros, out: Uint8Array, off: number): number {
    if (now >= this.idleAt) this.idle(now);
    const young = this.unasked > 0 && numberDiff(this.next, this.youngest) > REORDER;
    const ranges = now >= this.dueAt || young ? this.ask(now, rtt, out, off) : 0;
    if (ranges === 0 && this.unreported < REPORT_EVERY && now < this.reportAt) return 0;
    this.unreported = 0;
    this.reportAt = NEVER;
    return putReport(out, off, ranges, this.floor);
  }

  pollDeadline(): Micros {
    return Math.min(this.dueAt, this.reportAt, this.idleAt);
  }

  /** At the end of the connection. */
  release(): void {
    while (this.missing > 0) this.giveUp();
    while (this.lanes.poll());
    this.lanes.trim();
  }

  // ---- what is missing

  /** All of [next, number). */
  private miss(now: Micros, number: number, wait: Micros): void {
    const { window } = this;
    const count = numberDiff(number, this.next);
    if (count === 0 && this.states.length === 0) return;
    if (this.states.length === 0) this.make();
    const most = Math.min(window - 1, this.credit);
    if (count > most) {
      // An outage longer than anything that is kept, or one more than there is credit for.
      while (this.missing > 0) this.giveUp();
      this.advance();
      this.counts.repairsGivenUp += count - most;
      this.floor = this.next = (number - most) >>> 0;
    }
    this.credit -= Math.min(count, most);
    for (; this.next !== number; this.next = (this.next + 1) >>> 0) {
      this.makeRoom();
      const slot = this.next & (window - 1);
      this.states[slot] = MISSING;
      this.noticed[slot] = now;
      this.due[slot] = now + wait;
      this.tries[slot] = 0;
      this.missing++;
      this.unasked++;
    }
    this.makeRoom();
    if (count === 0) return;
    this.youngest = (number - 1) >>> 0;
    this.dueAt = Math.min(this.dueAt, now + wait);
    this.idleAt = now + IDLE;
  }

  /** One more number fits the window. */
  private makeRoom(): void {
    while (numberDiff(this.next, this.floor) >= this.window - 1) {
      if (this.states[this.floor & (this.window - 1)] === MISSING) this.giveUp();
      else this.advance();
    }
  }

  /** It has come after all. */
  private found(now: Micros, rtt: Micros, slot: number): void {
    this.missing--;
    this.states[slot] = SETTLED;
    const tries = this.tries[slot]!;
    if (tries === 0) this.unasked--;
    else this.counts.repaired++;
    // Karn's rule: only where it is clear which question was answered.
    if (tries !== 1) return;
    const sample = now - this.asked[slot]!;
    // Sooner than any answer can be here: it was late, not lost.
    if (sample < 0.75 * rtt) return;
    if (Number.isNaN(this.srtt)) {
      this.srtt = sample;
      this.rttvar = sample / 2;
    } else {
      this.rttvar += (Math.abs(this.srtt - sample) - this.rttvar) / 4;
      this.srtt += (sample - this.srtt) / 8;
    }
  }

  /** Asks for the missing numbers that are due, and gives up those that were asked for often enough. Returns the number of ranges. */
  private ask(now: Micros, rtt: Micros, out: Uint8Array, off: number): number {
    const answerAt = now + this.answerTime(rtt);
    let ranges = 0;
    let first = 0;
    let length = 0;
    this.dueAt = NEVER;
    for (let n = this.floor, left = this.missing; left > 0; n = (n + 1) >>> 0) {
      const slot = n & (this.window - 1);
      if (this.states[slot] !== MISSING) continue;
      left--;
      const tries = this.tries[slot]!;
      if (now < this.due[slot]! && !(tries === 0 && numberDiff(this.next, n) > REORDER)) {
        this.dueAt = Math.min(this.dueAt, this.due[slot]!);
        continue;
      }
      if (tries >= TRIES || now - this.noticed[slot]! >= this.repairTime) {
        this.forget(slot);
        continue;
      }
      if (length > 0 && n === (first + length) >>> 0) length++;
      else {
        if (length > 0) putRange(out, off, ranges++, first, length);
        if (ranges === MAX_RANGES) {
          // The rest with the next report.
          this.dueAt = now;
          length = 0;
          break;
        }
        first = n;
        length = 1;
      }
      if (tries === 0) this.unasked--;
      this.tries[slot] = tries + 1;
      this.asked[slot] = now;
      this.due[slot] = Math.min(answerAt, this.noticed[slot]! + this.repairTime);
      this.dueAt = Math.min(this.dueAt, this.due[slot]!);
    }
    if (length > 0) putRange(out, off, ranges++, first, length);
    this.advance();
    return ranges;
  }

  /** The oldest one. */
  private giveUp(): void {
    this.advance();
    this.forget(this.floor & (this.window - 1));
    this.advance();
  }

  private forget(slot: number): void {
    if (this.tries[slot] === 0) this.unasked--;
    this.states[slot] = SETTLED;
    this.missing--;
    this.counts.repairsGivenUp++;
  }

  private reorderTime(rtt: Micros): Micros {
    return Number.isNaN(rtt) ? 5 * MS : Math.min(10 * MS, Math.max(MS, rtt / 8));
  }

  private answerTime(rtt: Micros): Micros {
    const expected = Number.isNaN(rtt) ? 100 * MS : rtt;
    if (Number.isNaN(this.srtt)) return 1.5 * expected + 10 * MS;
    return Math.max(expected, this.srtt) + Math.max(4 * this.rttvar, 10 * MS);
  }

  /** Moves the floor up to the first missing number: what is held below it has nothing to wait for. */
  private advance(): void {
    if (this.missing === 0 && this.lanes.used === 0) {
      this.floor = this.next;
      return;
    }
    for (; this.floor !== this.next; this.floor = (this.floor + 1) >>> 0) {
      if (this.states[this.floor & (this.window - 1)] === MISSING) return;
      this.lanes.settled(this.floor);
    }
  }

  private make(): void {
    const { window } = this;
    this.states = new Uint8Array(window);
    this.noticed = new Float64Array(window);
    this.asked = new Float64Array(window);
    this.due = new Float64Array(window);
    this.tries = new Uint8Array(window);
  }

  private idle(now: Micros): void {
    if (this.missing > 0 || this.lanes.used > 0) {
      this.idleAt = now + IDLE;
      return;
    }
    this.idleAt = NEVER;
    this.lanes.trim();
    this.states = this.tries = new Uint8Array(0);
    this.noticed = this.asked = this.due = new Float64Array(0);
  }
}

// Core: what repair-receiver.ts holds back: datagrams behind a gap, by lane, each lane in the order of its numbers; and those that
// need not wait any more, in the order in which they are to go on.

import { LANES } from './repair-lane.js';
import { type RepairBudget, RepairStore } from './repair-store.js';
import { numberDiff, orderDiff } from './wire/repair.js';

const NONE = -1;

export class RepairLanes {
  /** Of the last `poll`. */
  out: Uint8Array = new Uint8Array(0);
  start = 0;
  end = 0;
  private readonly store: RepairStore;
  /** Order of the next datagram of each lane. */
  private readonly expected = new Uint16Array(LANES);
  private heads = new Int32Array(0);
  private tails = new Int32Array(0);
  // By number, mod `window`. Made with the first datagram that is held.
  private held = new Uint8Array(0);
  private numbers = new Uint32Array(0);
  private lanes = new Uint8Array(0);
  private orders = new Uint16Array(0);
  private places = new Int32Array(0);
  private lengths = new Uint32Array(0);
  /** The next one of the lane, or of those that are ready. */
  private links = new Int32Array(0);
  private readyHead = NONE;
  private readyTail = NONE;

  constructor(
    placeBytes: number,
    private readonly window: number,
    budget: RepairBudget,
  ) {
    this.store = new RepairStore(placeBytes, window, budget);
  }

  /** Held, or ready and not taken. */
  get used(): number {
    return this.store.used;
  }

  get memory(): number {
    return this.store.bytes;
  }

  /** Above 0: something of the lane must come before it. Below: it comes too late for the order. */
  ahead(lane: number, order: number): number {
    return orderDiff(order, this.expected[lane]!);
  }

  /** The one with this order is delivered; what follows it in the lane without a gap is ready. */
  passed(lane: number, order: number): void {
    this.expected[lane] = order + 1;
    if (this.heads.length > 0) this.follow(lane);
  }

  /** Keeps a copy of bytes[start, end). False: there is no memory for it, or others are ready and must be taken first. */
  hold(lane: number, order: number, number: number, bytes: Uint8Array, start: number, end: number): boolean {
    if (this.readyHead !== NONE) return false;
    if (this.heads.length === 0) this.make();
    const place = this.store.take();
    if (place < 0) return false;
    this.store.chunk(place).set(bytes.subarray(start, end), this.store.offset(place));
    const slot = number & (this.window - 1);
    this.held[slot] = 1;
    this.numbers[slot] = number;
    this.lanes[slot] = lane;
    this.orders[slot] = order;
    this.places[slot] = place;
    this.lengths[slot] = end - start;
    const { links, numbers } = this;
    // Most come in order; one that was sent again comes before others.
    let before = this.tails[lane]!;
    let after = NONE;
    if (before !== NONE && numberDiff(number, numbers[before]!) < 0) {
      before = NONE;
      after = this.heads[lane]!;
      while (numberDiff(number, numbers[after]!) > 0) {
        before = after;
        after = links[after]!;
      }
    }
    links[slot] = after;
    if (before === NONE) this.heads[lane] = slot;
    else links[before] = slot;
    if (after === NONE) this.tails[lane] = slot;
    return true;
  }

  /** No number below this one, nor it itself, is missing any more: if it is held, it and what is before it in its lane are ready. */
  settled(number: number): void {
    if (this.heads.length === 0) return;
    const slot = number & (this.window - 1);
    if (this.held[slot] === 0) return;
    const lane = this.lanes[slot]!;
    while (this.held[slot] === 1) this.free(lane);
    this.follow(lane);
  }

  /** The next one that is ready. Its bytes stay as they are until the next `hold`. */
  poll(): boolean {
    const slot = this.readyHead;
    if (slot === NONE) return false;
    this.readyHead = this.links[slot]!;
    if (this.readyHead === NONE) this.readyTail = NONE;
    const place = this.places[slot]!;
    this.out = this.store.chunk(place);
    this.start = this.store.offset(place);
    this.end = this.start + this.lengths[slot]!;
    this.store.give(place);
    return true;
  }

  /** Gives the memory back; only while nothing is held. */
  trim(): void {
    if (this.used > 0) return;
    this.store.trim();
    this.heads = this.tails = this.places = this.links = new Int32Array(0);
    this.numbers = this.lengths = new Uint32Array(0);
    this.held = this.lanes = new Uint8Array(0);
    this.orders = new Uint16Array(0);
  }

  private follow(lane: number): void {
    for (let head = this.heads[lane]!; head !== NONE; head = this.heads[lane]!) {
      if (this.ahead(lane, this.orders[head]!) > 0) return;
      this.free(lane);
    }
  }

  /** The first one of a lane is ready. */
  private free(lane: number): void {
    const slot = this.heads[lane]!;
    this.held[slot] = 0;
    this.expected[lane] = this.orders[slot]! + 1;
    this.heads[lane] = this.links[slot]!;
    if (this.heads[lane] === NONE) this.tails[lane] = NONE;
    this.links[slot] = NONE;
    if (this.readyTail === NONE) this.readyHead = slot;
    else this.links[this.readyTail] = slot;
    this.readyTail = slot;
  }

  private make(): void {
    const { window } = this;
    this.heads = new Int32Array(LANES).fill(NONE);
    this.tails = new Int32Array(LANES).fill(NONE);
    this.held = new Uint8Array(window);
    this.numbers = new Uint32Array(window);
    this.lanes = new Uint8Array(window);
    this.orders = new Uint16Array(window);
    this.places = new Int32Array(window);
    this.lengths = new Uint32Array(window);
    this.links = new Int32Array(window);
  }
}

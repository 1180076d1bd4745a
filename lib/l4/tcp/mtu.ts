// Path MTU: RFC 1191, RFC 8201; black holes in the manner of RFC 4821 §7.7.

import { type Micros, SECOND } from '../../core/index.js';

/** What paths often carry, in descending order; used when nobody tells. */
const PLATEAUS = [65_535, 17_914, 8_166, 4_352, 1_492, 1_400, 1_280, 1_024, 576, 296] as const;
const MIN_V4 = 296;
const MIN_V6 = 1_280;
/** RFC 8201 §4: not before ten minutes after a decrease. */
const RAISE_AFTER: Micros = 600 * SECOND;
const TIMEOUTS_OF_A_BLACK_HOLE = 3;
/**
 * A guess may be wrong: an outage looks like a black hole. So the route's MTU is tried again this soon, then ever more seldom;
 * while a trial lasts (as long again), fewer timeouts end it.
 */
const FIRST_TRIAL: Micros = 10 * SECOND;
const TIMEOUTS_OF_A_TRIAL = 2;
/** Nothing smaller is guessed: every host takes this (RFC 1122 §3.3.2), and every path of today carries it. */
const LEAST_GUESS = 576;

export class PathMtu {
  /** In force. */
  value: number;
  private lowered: Micros = -1;
  /** Nobody has told: it was lowered because of timeouts. */
  private guessed = false;
  private trialAfter: Micros = FIRST_TRIAL;
  private trialAt: Micros = -1;
  /** What a trial that fails goes back to. */
  private before = 0;

  constructor(
    /** What the route says. */
    private route: number,
    private readonly v6: boolean,
  ) {
    this.value = route;
  }

  private get floor(): number {
    return Math.min(this.v6 ? MIN_V6 : MIN_V4, this.route);
  }

  /** An ICMP message, already checked to quote data in flight. True: the MTU went down. */
  handleTooBig(now: Micros, mtu: number): boolean {
    // RFC 1191 §5: a router that does not tell its MTU (0).
    if (mtu < 68) mtu = PLATEAUS.find((p) => p < this.value) ?? this.floor;
    this.trialAt = -1;
    return this.lower(now, mtu, false);
  }

  /** `timeouts` in a row on data larger than the next plateau. True: the MTU went down. */
  handleTimeouts(now: Micros, timeouts: number): boolean {
    if (this.trialAt >= 0) {
      if (timeouts < TIMEOUTS_OF_A_TRIAL) return false;
      this.trialAt = -1;
      this.trialAfter = Math.min(2 * this.trialAfter, RAISE_AFTER);
      return this.lower(now, this.before, true);
    }
    if (timeouts < TIMEOUTS_OF_A_BLACK_HOLE) return false;
    const guess = PLATEAUS.find((p) => p < this.value) ?? this.floor;
    return guess >= LEAST_GUESS && this.lower(now, guess, true);
  }

  /** True: enough time has passed, the route's MTU is tried again. */
  handleTime(now: Micros): boolean {
    if (this.trialAt >= 0 && now - this.trialAt >= FIRST_TRIAL) {
      // It held.
      this.trialAt = -1;
      this.trialAfter = FIRST_TRIAL;
    }
    if (this.lowered < 0 || now - this.lowered < (this.guessed ? this.trialAfter : RAISE_AFTER)) return false;
    if (this.guessed) {
      this.before = this.value;
      this.trialAt = now;
    }
    this.lowered = -1;
    this.value = this.route;
    return true;
  }

  handleRoute(mtu: number): void {
    this.route = mtu;
    this.value = mtu;
    this.lowered = -1;
    this.trialAt = -1;
    this.trialAfter = FIRST_TRIAL;
  }

  private lower(now: Micros, mtu: number, guessed: boolean): boolean {
    mtu = Math.max(mtu, this.floor);
    if (mtu >= this.value) return false;
    this.value = mtu;
    this.lowered = now;
    this.guessed = guessed;
    return true;
  }
}

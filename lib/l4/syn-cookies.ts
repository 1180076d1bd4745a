// SYN cookies: RFC 4987 §3.6. When the table of half-open connections is full, a SYN is answered without keeping
// anything; the ACK that completes the handshake brings the state back.
//
//     our ISN (32 bits):  | count: 5 | mss: 3 | keyed hash: 24 |
//     our TSval:          low six bits: ECN, SACK, window scale (15 = none); given back as TSecr
//
// The count goes up every 64 s; a cookie is taken for this and the previous count. A blind attacker guesses a hash of 24
// bits: 2^-23 per packet while the listener is under attack, and never otherwise.

import type { Micros, Random } from '../core/index.js';
import { SECOND } from '../core/index.js';
import { TUPLE_WORDS, tupleWords } from './isn.js';
import { type SipKey, sipHash, sipKey } from './siphash.js';
import type { CookieState } from './tcp/types.js';
import type { TcpSegment } from './wire/tcp.js';

/** The MSS values that three bits can say: what peers usually announce (v4 and v6 minimum, tunnels, Ethernet, 64 KB). */
export const COOKIE_MSS = [0, 536, 1220, 1300, 1360, 1440, 1460, 8960] as const;

const PERIOD = 64 * SECOND;
/** Window scale we announce in a cookie's SYN-ACK: enough for the default buffer. */
export const COOKIE_WINDOW_SCALE = 7;

export class SynCookies {
  private readonly key: SipKey;
  private readonly words = new Int32Array(TUPLE_WORDS);
  private readonly out = new Int32Array(2);
  /** Until when an ACK may be a cookie's. */
  private until: Micros = Number.NEGATIVE_INFINITY;

  constructor(random: Random) {
    this.key = sipKey(random);
  }

  /** Cookies were sent not long ago: only then is an unknown ACK looked at as one. */
  active(now: Micros): boolean {
    return now < this.until;
  }

  /** Our ISN for the SYN. */
  make(now: Micros, syn: TcpSegment, local: Uint8Array, remote: Uint8Array): number {
    this.until = now + 2 * PERIOD;
    let index = 0;
    for (let i = 1; i < COOKIE_MSS.length; i++) if (COOKIE_MSS[i]! <= syn.mss) index = i;
    const count = Math.floor(now / PERIOD) & 31;
    return (count << 27) | (index << 24) | this.hash(syn, local, remote, syn.seq, count, index);
  }

  /** What the SYN-ACK's TSval says in its low six bits. */
  timestampBits(syn: TcpSegment): number {
    const scale = syn.windowScale < 0 ? 15 : Math.min(syn.windowScale, 14);
    return (syn.sackPermitted ? 0x10 : 0) | scale;
  }

  /** The state that the ACK brings back, or null: no cookie of ours. */
  check(now: Micros, ack: TcpSegment, local: Uint8Array, remote: Uint8Array): CookieState | null {
    const cookie = (ack.ack - 1) | 0;
    const irs = (ack.seq - 1) | 0;
    const count = cookie >>> 27;
    const index = (cookie >>> 24) & 7;
    const age = (Math.floor(now / PERIOD) - count) & 31;
    if (age > 1) return null;
    if (this.hash(ack, local, remote, irs, count, index) !== (cookie & 0xffffff)) return null;
    const bits = ack.hasTimestamps ? ack.tsecr & 0x3f : 15;
    const scale = bits & 15;
    return {
      irs,
      mss: COOKIE_MSS[index]!,
      windowScale: scale === 15 ? -1 : scale,
      sackPermitted: (bits & 0x10) !== 0,
      timestamps: ack.hasTimestamps,
      // ECN is not agreed to under attack: RFC 3168 lets us, and the bits are better spent.
      ecn: false,
      ourWindowScale: scale === 15 ? -1 : COOKIE_WINDOW_SCALE,
    };
  }

  private hash(
    segment: TcpSegment,
    local: Uint8Array,
    remote: Uint8Array,
    irs: number,
    count: number,
    index: number,
  ): number {
    let n = tupleWords(this.words, local, segment.dstPort, remote, segment.srcPort);
    this.words[n++] = irs;
    this.words[n++] = (count << 3) | index;
    sipHash(this.key, this.words, n, this.out);
    return this.out[0]! & 0xffffff;
  }
}

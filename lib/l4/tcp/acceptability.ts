// Is this segment ours? RFC 9293 §3.10.7.4 step 1 and the defences of RFC 5961.

import type { Micros } from '../../core/index.js';
import { TcpFlag, type TcpSegment } from '../wire/tcp.js';
import { type Seq, seqDiff, seqGt, seqLt } from './seq.js';

/** RFC 9293 §3.4: the four cases of the acceptability test. */
export function isAcceptable(segment: TcpSegment, nxt: Seq, window: number): boolean {
  const length = segment.seqLength;
  const first = seqDiff(segment.seq, nxt);
  if (window === 0) return length === 0 ? first === 0 : false;
  if (first >= 0 && first < window) return true;
  // A pure acknowledgement just at the right edge is what a peer sends that has filled the window.
  if (length === 0) return first === window;
  const last = first + length - 1;
  return last >= 0 && last < window;
}

export type RstVerdict = 'reset' | 'challenge' | 'drop';

/** RFC 5961 §3.2: only a RST at exactly RCV.NXT resets; one in the window is answered; others are nothing. */
export function judgeRst(seq: Seq, nxt: Seq, window: number): RstVerdict {
  if (seq === nxt) return 'reset';
  const d = seqDiff(seq, nxt);
  return d > 0 && d < Math.max(window, 1) ? 'challenge' : 'drop';
}

/** RFC 5961 §5.2: SND.UNA - MAX.SND.WND <= SEG.ACK <= SND.NXT. */
export function judgeAck(ack: Seq, una: Seq, nxt: Seq, maxWindow: number): 'good' | 'old' | 'challenge' {
  if (seqGt(ack, nxt) || seqLt(ack, (una - maxWindow) | 0)) return 'challenge';
  return seqLt(ack, una) ? 'old' : 'good';
}

/** A segment without text, or with SYN, may be part of a loop of acknowledgements: those are rationed. */
export function mayLoop(segment: TcpSegment): boolean {
  return segment.length === 0 || (segment.flags & TcpFlag.syn) !== 0;
}

const PERIOD: Micros = 5_000_000;
const PER_PERIOD = 10;

/**
 * RFC 5961 §7: ten challenge ACKs in five seconds. Per connection, never over all of them: a shared counter tells an
 * attacker off the path what goes on in connections that are not his (Cao et al. 2016).
 */
export class ChallengeLimiter {
  private left = PER_PERIOD;
  private periodStart: Micros = Number.NEGATIVE_INFINITY;

  allows(now: Micros): boolean {
    if (now - this.periodStart >= PERIOD) {
      this.periodStart = now;
      this.left = PER_PERIOD;
    }
    if (this.left === 0) return false;
    this.left--;
    return true;
  }
}

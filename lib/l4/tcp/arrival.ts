// Segment arrives: RFC 9293 §3.10.7.3 in SYN-SENT, and steps 1 to 4 of §3.10.7.4 for a connection in SYN-RECEIVED or later, with PAWS
// (RFC 7323 §5) and RFC 5961. Says what is to be done with the segment; the connection does it.

import type { Micros } from '../../core/index.js';
import { TcpFlag, type TcpSegment } from '../wire/tcp.js';
import { isAcceptable, judgeRst, mayLoop } from './acceptability.js';
import type { Receiver } from './receiver.js';
import { type Seq, seqAdd, seqDiff } from './seq.js';
import type { TcpState } from './state.js';
import type { Timestamps } from './timestamps.js';

export type Arrival =
  /** Go on with step 5. */
  | 'take'
  /** As take, and acknowledge at once whatever comes of it. */
  | 'take-and-acknowledge'
  | 'drop'
  /** Drop, and tell the peer where we are. */
  | 'acknowledge'
  /** The same, but rationed: RFC 5961 §7. */
  | 'challenge'
  | 'reset'
  /** Our SYN-ACK was lost. */
  | 'repeat-syn'
  /** Simultaneous open: the peer's SYN-ACK (its SYN was seen before). */
  | 'establish';

export type SynSentArrival =
  | 'drop'
  /** Not ours: the old duplicate of another incarnation. The stack's answer for strangers fits (RST at SEG.ACK). */
  | 'answer-reset'
  | 'refused'
  | 'establish'
  /** Simultaneous open, figure 8: our SYN goes again, now with ACK. */
  | 'cross';

/** RFC 9293 §3.10.7.3. */
export function judgeInSynSent(segment: TcpSegment, iss: Seq): SynSentArrival {
  const { flags } = segment;
  const acked = (flags & TcpFlag.ack) !== 0;
  if (acked && segment.ack !== seqAdd(iss, 1)) return flags & TcpFlag.rst ? 'drop' : 'answer-reset';
  // Without an acceptable ACK a RST may be anybody's.
  if (flags & TcpFlag.rst) return acked ? 'refused' : 'drop';
  if (!(flags & TcpFlag.syn)) return 'drop';
  return acked ? 'establish' : 'cross';
}

export function judgeArrival(
  now: Micros,
  segment: TcpSegment,
  state: TcpState,
  iss: Seq,
  receiver: Receiver,
  ts: Timestamps,
): Arrival {
  const { flags } = segment;
  const { nxt, window } = receiver;
  if (!ts.accepts(now, segment)) return notOurs(segment);
  if (flags & TcpFlag.rst) return judgeRst(segment.seq, nxt, window);
  let verdict: Arrival = 'take';
  if (!isAcceptable(segment, nxt, window)) {
    if (flags & TcpFlag.syn && state === 'SYN-RECEIVED' && segment.seq === seqAdd(nxt, -1)) {
      if (!(flags & TcpFlag.ack)) return 'repeat-syn';
      return segment.ack === seqAdd(iss, 1) ? 'establish' : 'drop';
    }
    // With the window closed, the acknowledgement of what comes with text still counts (RFC 9293 MUST-66).
    const closed = window === 0 && segment.seq === nxt && !(flags & TcpFlag.syn);
    if (!closed && !isOldWithNews(segment, receiver)) return notOurs(segment);
    verdict = 'take-and-acknowledge';
  }
  // RFC 5961 §4.2: a SYN is challenged whatever its number.
  if (flags & TcpFlag.syn) return 'challenge';
  return flags & TcpFlag.ack ? verdict : 'drop';
}

/** A duplicate whose text we have, but whose acknowledgement may be newer than any (when both sides retransmit). */
function isOldWithNews(segment: TcpSegment, receiver: Receiver): boolean {
  if (!(segment.flags & TcpFlag.ack) || segment.flags & TcpFlag.syn || segment.length === 0) return false;
  const age = seqDiff(receiver.nxt, seqAdd(segment.seq, segment.seqLength));
  return age >= 0 && age <= receiver.bufferLimit;
}

/** An unacceptable segment is acknowledged; rationed where two stacks could answer each other for ever. */
function notOurs(segment: TcpSegment): Arrival {
  if (segment.flags & TcpFlag.rst) return 'drop';
  return mayLoop(segment) ? 'challenge' : 'acknowledge';
}

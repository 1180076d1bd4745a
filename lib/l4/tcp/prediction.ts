// Header prediction: the segment that a receiver expects most, the next piece of text from a peer to whom we send nothing, needs
// none of the steps of RFC 9293 §3.10.7.4 but the last but one (Jacobson, "4BSD TCP header prediction", 1990; RFC 7323 appendix A
// asks that PAWS is part of it). What it may leave out is only what could not have done anything.

import type { Micros } from '../../core/index.js';
import { TcpFlag, type TcpSegment } from '../wire/tcp.js';
import type { Receiver } from './receiver.js';
import type { Sender } from './sender.js';
import type { Timestamps } from './timestamps.js';

/** Nothing but text at RCV.NXT, within the window, whose acknowledgement and window are those we know. The state is ESTABLISHED. */
export function isPredicted(segment: TcpSegment, sender: Sender, receiver: Receiver, ts: Timestamps): boolean {
  return (
    (segment.flags | TcpFlag.psh) === (TcpFlag.ack | TcpFlag.psh) &&
    segment.seq === receiver.nxt &&
    segment.length > 0 &&
    segment.sackCount === 0 &&
    !segment.ce &&
    receiver.expects(segment.length) &&
    sender.knows(segment) &&
    // PAWS: never older than the last; without timestamps where they were agreed the long way decides.
    segment.hasTimestamps === ts.enabled &&
    (!ts.enabled || ((segment.tsval - ts.recent) | 0) >= 0)
  );
}

/** What is left of the steps for it; returns the bytes that became readable. */
export function takePredicted(
  now: Micros,
  segment: TcpSegment,
  sender: Sender,
  receiver: Receiver,
  ts: Timestamps,
  delay: Micros,
): number {
  ts.handleAccepted(now, segment, receiver.lastAckSent);
  sender.handleKnown(segment.seq);
  receiver.handleEcho(now, segment, ts);
  return receiver.handleText(now, segment, false, delay);
}

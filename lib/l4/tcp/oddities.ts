// What only a peer that means no good does, counted over all connections of a stack (TcpCounters says what each is answered with).

import { lastAck } from './recovery.js';
import type { Sender } from './sender.js';
import type { TcpCounters } from './types.js';

/** After an acknowledgement that was taken. */
export function countOddities(counters: TcpCounters, sender: Sender): void {
  if (lastAck.cut) counters['acks-split']++;
  counters['sack-blocks-odd'] += lastAck.oddBlocks;
  if (sender.wnd > 0 && sender.wnd < sender.mss && sender.unsent > 0) counters['windows-tiny']++;
}

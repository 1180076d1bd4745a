// RACK's reordering window (RFC 8985 §6.2 step 4) where a script would be too long: what is remembered over many recoveries.

import test from 'ava';
import { Rack } from '../../../lib/l4/tcp/rack.js';
import { type DeliveryListener, Scoreboard } from '../../../lib/l4/tcp/scoreboard.js';

const MSS = 1_000;
const RTT = 100_000;

/** How long a hole that one SACKed segment shows is waited for. */
function patience(rack: Rack, start: number): number {
  const board = new Scoreboard();
  const sent = start * 10;
  board.push(start, start + MSS, sent);
  board.push(start + MSS, start + 2 * MSS, sent);
  const now = sent + RTT;
  const listener: DeliveryListener = {
    onDelivered: (end, _bytes, sentAt, marks) => rack.handleDelivered(now, end, sentAt, marks, RTT, false),
  };
  rack.handleAckBegin();
  board.handleSack(Int32Array.of(start + MSS, start + 2 * MSS), 0, 1, MSS, listener);
  rack.detect(now, board, false, MSS, RTT, RTT);
  return rack.deadline - now;
}

test('a DSACK widens the reordering window, for sixteen recoveries', (t) => {
  const rack = new Rack();
  t.is(patience(rack, 10_000), RTT / 4);
  rack.handleDsack(30_000, 40_000);
  t.is(patience(rack, 50_000), RTT / 2);
  for (let i = 0; i < 15; i++) rack.handleRecoveryEnd();
  t.is(patience(rack, 70_000), RTT / 2);
  rack.handleRecoveryEnd();
  t.is(patience(rack, 90_000), RTT / 4);
});

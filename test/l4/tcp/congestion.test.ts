// The controllers by themselves, against what the formulas of their RFCs give.

import test from 'ava';
import { Cubic } from '../../../lib/l4/tcp/cubic.js';
import { HyStart } from '../../../lib/l4/tcp/hystart.js';
import { Prr } from '../../../lib/l4/tcp/prr.js';
import { Reno } from '../../../lib/l4/tcp/reno.js';

const MSS = 1_000;

/** A CUBIC that had `before` segments when a loss came, and goes on with `after`. */
function afterLoss(before: number, after = 0.7 * before): Cubic {
  const cc = new Cubic(before * MSS, MSS, true);
  cc.onCongestion(0, before * MSS);
  cc.setCwnd(after * MSS);
  return cc;
}

/** Whole windows are acknowledged, segment by segment, from `from` to `to` seconds. */
function run(cc: Cubic, from: number, to: number, rtt: number): void {
  for (let round = from; round < to - 1e-9; round += rtt) {
    const segments = Math.round(cc.cwnd / MSS);
    for (let i = 0; i < segments; i++) cc.onAck((round + (i * rtt) / segments) * 1e6, MSS, rtt * 1e6, rtt * 1e6, 0, 0);
  }
}

const near = (value: number, wanted: number, share: number) => Math.abs(value - wanted) <= share * wanted;
const wCubic = (t: number, wMax: number, start: number) => 0.4 * (t - Math.cbrt((wMax - start) / 0.4)) ** 3 + wMax;

test('CUBIC: the window follows the cubic of RFC 9438 §4.2 from 0.7 of where the loss was', (t) => {
  const cc = afterLoss(100);
  t.is(cc.ssthresh, 70_000);
  let at = 0;
  for (const seconds of [2, 4, 8, 10]) {
    run(cc, at, seconds, 0.2);
    at = seconds;
    const wanted = wCubic(seconds, 100, 70);
    t.true(near(cc.cwnd / MSS, wanted, 0.04), `${seconds} s: ${cc.cwnd / MSS}, not ${wanted}`);
  }
});

test('CUBIC: never more than half as much again in a round trip (§4.4)', (t) => {
  const cc = afterLoss(1_000, 10);
  cc.ssthresh = cc.cwnd;
  for (let i = 0; i < 130; i++) cc.onAck(i * 100_000, 1, 100_000, 100_000, 0, 0);
  const before = cc.cwnd;
  run(cc, 13, 13.1, 0.1);
  t.true(cc.cwnd > 1.3 * before);
  t.true(cc.cwnd < 1.6 * before, `${cc.cwnd} from ${before}`);
});

test('CUBIC: where the round trip is short it is not slower than Reno with beta 0.7 (§4.3)', (t) => {
  const cc = afterLoss(10);
  run(cc, 0, 0.06, 0.01);
  // alpha = 3 * 0.3 / 1.7 segments a round.
  t.true(near(cc.cwnd / MSS, 7 + (6 * 0.9) / 1.7, 0.05), `${cc.cwnd / MSS}`);
  run(cc, 0.06, 0.2, 0.01);
  const passed = cc.cwnd;
  run(cc, 0.2, 0.25, 0.01);
  t.true(near((cc.cwnd - passed) / MSS, 5, 0.15), 'once past the old window, a segment a round');
});

test('CUBIC: a second loss below the first leaves room for others (fast convergence, §4.7)', (t) => {
  const cc = afterLoss(100);
  cc.setCwnd(80_000);
  cc.onCongestion(0, 80_000);
  cc.setCwnd(56_000);
  run(cc, 0, 3, 0.2);
  t.true(near(cc.cwnd / MSS, wCubic(3, 68, 56), 0.05), `${cc.cwnd / MSS}`);
});

test('CUBIC: time in which nothing was sent does not count (§5.8)', (t) => {
  const cc = afterLoss(100);
  run(cc, 0, 2, 0.2);
  const before = cc.cwnd;
  run(cc, 12, 12.2, 0.2);
  t.true(cc.cwnd < 1.1 * before, `${cc.cwnd} from ${before}`);
});

test('CUBIC: undo goes on with the cubic from before (§4.9.2)', (t) => {
  const cc = afterLoss(100);
  run(cc, 0, 2, 0.2);
  const { cwnd, ssthresh } = cc;
  cc.onCongestion(2e6, cwnd);
  t.true(cc.ssthresh < cwnd);
  cc.onTimeout(2e6, cwnd, false);
  t.is(cc.cwnd, MSS);
  cc.onUndo(cwnd, ssthresh);
  run(cc, 2, 8, 0.2);
  t.true(near(cc.cwnd / MSS, wCubic(8, 100, 70), 0.05), `${cc.cwnd / MSS}`);
});

/** One round of `samples` acknowledgements of a segment each; what the last one may add, or -1 when slow start is over. */
function round(h: HyStart, state: { una: number }, samples: number, rtt: number, paced = true): number {
  const end = state.una + samples * MSS;
  let last = 0;
  for (let i = 0; i < samples; i++) {
    state.una += MSS;
    last = h.handleAck(MSS, rtt, state.una, end + samples * MSS, MSS, paced);
    if (last < 0) break;
  }
  return last;
}

/** A first round of 50 ms, as long as the window is ten segments. */
function begun(): [HyStart, { una: number }] {
  const h = new HyStart();
  const state = { una: 0 };
  h.handleAck(MSS, 50_000, 0, 10 * MSS, MSS, true);
  round(h, state, 10, 50_000);
  return [h, state];
}

test('HyStart++: a rise of an eighth slows down to a quarter; five such rounds end slow start (RFC 9406 §4.2)', (t) => {
  const [h, state] = begun();
  let rounds = 0;
  for (let growth = 0; growth >= 0 && rounds < 20; rounds++) {
    growth = round(h, state, 10, 60_000);
    if (growth >= 0) t.is(growth, MSS / 4);
  }
  t.is(rounds, 5);
});

test('HyStart++: a round that is faster than the rise goes back to slow start', (t) => {
  const [h, state] = begun();
  t.is(round(h, state, 10, 60_000), MSS / 4);
  t.is(round(h, state, 10, 50_000), MSS);
  for (let i = 0; i < 10; i++) t.is(round(h, state, 10, 51_000), MSS, 'and no rounds are counted');
});

test('HyStart++: fewer than eight samples say nothing; nor does a rise below 4 ms', (t) => {
  const [h, state] = begun();
  t.is(round(h, state, 7, 70_000), MSS);
  const short = new HyStart();
  const at = { una: 0 };
  short.handleAck(MSS, 8_000, 0, 10 * MSS, MSS, true);
  round(short, at, 10, 8_000);
  t.is(round(short, at, 10, 11_500), MSS);
  t.is(round(short, at, 10, 16_000), MSS / 4);
});

test('HyStart++: at most eight segments for an acknowledgement, unless they are paced (§4.3)', (t) => {
  t.is(new HyStart().handleAck(20 * MSS, Number.NaN, 0, MSS, MSS, false), 8 * MSS);
  t.is(new HyStart().handleAck(20 * MSS, Number.NaN, 0, MSS, MSS, true), 20 * MSS);
});

test('Reno: bytes in slow start, a segment for a window of them afterwards, a half of what is in flight at a loss (RFC 5681)', (t) => {
  const cc = new Reno(10 * MSS, MSS);
  for (let i = 0; i < 100; i++) cc.onAck(0, 50);
  t.is(cc.cwnd, 15 * MSS);
  cc.onCongestion(0, 12 * MSS);
  t.is(cc.ssthresh, 6 * MSS);
  cc.setCwnd(cc.ssthresh);
  for (let i = 0; i < 6; i++) cc.onAck(0, MSS);
  t.is(cc.cwnd, 7 * MSS);
  for (let i = 0; i < 6; i++) cc.onAck(0, MSS);
  t.is(cc.cwnd, 7 * MSS);
  cc.onAck(0, MSS);
  t.is(cc.cwnd, 8 * MSS);
  cc.onTimeout(0, 8 * MSS, true);
  t.deepEqual([cc.cwnd, cc.ssthresh], [MSS, 4 * MSS]);
  cc.onTimeout(0, MSS, false);
  t.is(cc.ssthresh, 4 * MSS);
});

test('PRR: in proportion above ssthresh, by what is delivered below it, and never beyond it (RFC 6937)', (t) => {
  const prr = new Prr();
  prr.begin(20 * MSS);
  // The fast retransmit goes whatever the pipe.
  t.is(prr.handleAck(MSS, 17 * MSS, 10 * MSS, false, MSS), 18 * MSS);
  prr.handleSent(MSS);
  // Half of the window: every second segment that is delivered lets one out.
  t.is(prr.handleAck(MSS, 17 * MSS, 10 * MSS, false, MSS), 17 * MSS);
  t.is(prr.handleAck(2 * MSS, 15 * MSS, 10 * MSS, false, MSS), 16 * MSS);
  prr.handleSent(MSS);
  // Below ssthresh: what was delivered; one more when that is safe; not beyond.
  t.is(prr.handleAck(MSS, 4 * MSS, 10 * MSS, false, MSS), 4 * MSS + 3 * MSS);
  prr.handleSent(3 * MSS);
  t.is(prr.handleAck(MSS, 7 * MSS, 10 * MSS, true, MSS), 9 * MSS);
  t.is(prr.handleAck(5 * MSS, 8 * MSS, 10 * MSS, true, MSS), 10 * MSS);
});

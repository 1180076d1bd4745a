import test from 'ava';
import fc from 'fast-check';
import { Mark, Scoreboard } from '../../../lib/l4/tcp/scoreboard.js';
import { seqDiff } from '../../../lib/l4/tcp/seq.js';
import { ByteMap } from '../../support/model-ranges.js';

const MSS = 10;
const SIZE = 1_200;
interface Cell {
  sacked: boolean;
  lost: boolean;
  again: boolean;
}

const step = fc.oneof(
  fc.record({ op: fc.constant('send' as const), segments: fc.integer({ min: 1, max: 6 }) }),
  fc.record({
    op: fc.constant('sack' as const),
    at: fc.nat(SIZE),
    length: fc.integer({ min: 1, max: 150 }),
    second: fc.boolean(),
  }),
  fc.record({ op: fc.constant('ack' as const), segments: fc.integer({ min: 1, max: 8 }) }),
  fc.record({ op: fc.constant('lose' as const), nth: fc.nat(30) }),
  fc.record({ op: fc.constant('again' as const) }),
  fc.record({ op: fc.constant('renege' as const) }),
);

test('counts what a bitmap counts, delivers every byte once, splits only between segments', (t) => {
  fc.assert(
    fc.property(fc.array(step, { maxLength: 80 }), fc.integer(), (steps, base) => {
      const board = new Scoreboard();
      const cells = new ByteMap<Cell>(SIZE);
      let una = 0;
      let nxt = 0;
      let deliveredBytes = 0;
      let renegedBytes = 0;
      let clock = 0;
      const listener = { onDelivered: (_end: number, bytes: number) => void (deliveredBytes += bytes) };
      const at = (n: number) => (base + n) | 0;
      const set = (start: number, end: number, change: Partial<Cell>) =>
        cells.fill(start, end, (i) => ({
          ...(cells.at(i) ?? { sacked: false, lost: false, again: false }),
          ...change,
        }));
      for (const s of steps) {
        clock++;
        if (s.op === 'send') {
          const end = nxt + s.segments * MSS;
          if (end > SIZE) continue;
          board.push(at(nxt), at(end), clock);
          set(nxt, end, {});
          nxt = end;
        } else if (s.op === 'sack') {
          const start = Math.min(s.at, nxt);
          const end = Math.min(start + s.length, nxt);
          if (start < una || start >= end) continue;
          const blocks = Int32Array.of(at(start), at(end), at(start), at(start));
          board.handleSack(blocks, 0, s.second ? 2 : 1, MSS, listener);
          // Whole segments only: all are multiples of MSS from 0.
          set(Math.ceil(start / MSS) * MSS, Math.floor(end / MSS) * MSS, { sacked: true, lost: false, again: false });
        } else if (s.op === 'ack') {
          una = Math.min(nxt, una + s.segments * MSS);
          board.ackTo(at(una), MSS, listener);
        } else if (s.op === 'lose') {
          if (board.count === 0) continue;
          const i = s.nth % board.count;
          board.markLost(i);
          if (!(board.mark(i) & Mark.sacked))
            set(seqDiff(board.start(i), at(0)), seqDiff(board.end(i), at(0)), { lost: true, again: false });
        } else if (s.op === 'again') {
          const i = board.nextLost();
          const firstLost = cells.runs((c) => c?.lost === true && !c.again && !c.sacked).find(([, e]) => e > una);
          t.is(i >= 0, firstLost !== undefined);
          if (i < 0) continue;
          t.is(seqDiff(board.start(i), at(0)), Math.max(firstLost![0], una));
          board.retransmitted(i, clock);
          set(seqDiff(board.start(i), at(0)), seqDiff(board.end(i), at(0)), { again: true });
        } else {
          renegedBytes += board.sackedBytes;
          board.forgetSacks();
          cells.fill(0, SIZE, (i) => ({
            ...(cells.at(i) ?? { sacked: false, lost: false, again: false }),
            sacked: false,
          }));
        }
        const flying = (i: number) => i >= una && i < nxt;
        const counted = {
          sacked: cells.count((c, i) => flying(i) && c?.sacked === true),
          lost: cells.count((c, i) => flying(i) && c?.lost === true),
          again: cells.count((c, i) => flying(i) && c?.again === true),
        };
        t.deepEqual({ sacked: board.sackedBytes, lost: board.lostBytes, again: board.againBytes }, counted);
        t.is(board.outstanding, nxt - una);
        t.is(board.pipe, nxt - una - counted.sacked - counted.lost + counted.again);
        // What was taken back is in flight, and is delivered a second time when it is acknowledged.
        t.is(deliveredBytes, una + counted.sacked + renegedBytes);
        for (let i = 0; i < board.count; i++) t.is(seqDiff(board.start(i), at(0)) % MSS, 0);
      }
    }),
    { numRuns: 400 },
  );
});

test('a peer that SACKs every other byte makes no more entries than there are segments', (t) => {
  const board = new Scoreboard();
  const sent = 64_000;
  board.push(0, sent, 1);
  for (let i = 0; i < sent; i += 2) board.handleSack(Int32Array.of(i, i + 1), 0, 1, 1_000, { onDelivered() {} });
  t.true(board.count <= sent / 1_000);
});

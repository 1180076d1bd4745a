import test from 'ava';
import { SECOND, seededRandom } from '../../lib/core/index.js';
import { FlowSpread } from '../../lib/l2/flow-spread.js';

const random = seededRandom(1);
const FLOWS = Array.from({ length: 20_000 }, () => random.u32());

function counts(spread: FlowSpread<string>, now = 0) {
  const n = new Map<string, number>();
  for (const hash of FLOWS) {
    const m = spread.pick(now, hash);
    n.set(m, (n.get(m) ?? 0) + 1);
  }
  return n;
}
const owners = (spread: FlowSpread<string>, now = 0) => FLOWS.map((hash) => spread.pick(now, hash));

test('flows are spread evenly, and a flow always has the same member', (t) => {
  const spread = new FlowSpread<string>(() => true);
  for (const m of ['a', 'b', 'c']) spread.add(0, m);
  counts(spread); // moves what may move
  for (const n of counts(spread).values()) t.true(Math.abs(n - FLOWS.length / 3) < FLOWS.length * 0.05, `${n}`);
  t.deepEqual(owners(spread), owners(spread));
});

test('when a member dies only its flows move, and they spread over the others', (t) => {
  const spread = new FlowSpread<string>(() => true);
  for (const m of ['a', 'b', 'c', 'd']) spread.add(0, m);
  counts(spread);
  const before = owners(spread);
  spread.remove('b');
  const after = owners(spread);
  t.deepEqual(
    before.filter((m) => m !== 'b'),
    after.filter((_, i) => before[i] !== 'b'),
  );
  t.false(after.includes('b'));
  for (const n of counts(spread).values()) t.true(Math.abs(n - FLOWS.length / 3) < FLOWS.length * 0.05, `${n}`);
});

test('a newcomer gets flows only from members that have nothing waiting, until patience ends', (t) => {
  let busy = true;
  // The bucket of every flow was used just now.
  const spread = new FlowSpread<string>((m) => !(busy && m === 'a'));
  spread.add(0, 'a');
  spread.add(0, 'b');
  t.deepEqual([...counts(spread).keys()], ['a'], 'nothing of a busy member moves');
  busy = false;
  t.deepEqual([...counts(spread).keys()].sort(), ['a', 'b']);
  busy = true;
  spread.add(0, 'c');
  const part = counts(spread, 1);
  t.is(part.get('c'), [...counts(spread, 2)].find(([m]) => m === 'c')?.[1], 'only from the idle member so far');
  const all = counts(spread, 5 * SECOND);
  t.true(part.get('a')! > all.get('a')!);
  for (const n of all.values()) t.true(Math.abs(n - FLOWS.length / 3) < FLOWS.length * 0.05, `${n}`);
});

test('any sequence of comings and goings leaves only living members, in balance', (t) => {
  const spread = new FlowSpread<string>(() => true);
  const living: string[] = [];
  for (let i = 0; i < 200; i++) {
    if (living.length < 2 || (living.length < 16 && random.u32() % 2 === 0)) {
      living.push(`m${i}`);
      spread.add(i, `m${i}`);
    } else spread.remove(living.splice(random.u32() % living.length, 1)[0]!);
    for (const hash of FLOWS.slice(0, 2_000)) spread.pick(i, hash);
    const used = new Set(FLOWS.slice(0, 2_000).map((hash) => spread.pick(i, hash)));
    t.deepEqual([...used].sort(), [...living].sort(), `step ${i}`);
  }
});

test('a bucket that was quiet for a while moves, however busy its member is', (t) => {
  const spread = new FlowSpread<string>(() => false);
  spread.add(0, 'a');
  spread.add(0, 'b');
  t.deepEqual([...counts(spread, 1).keys()], ['a']);
  t.deepEqual([...counts(spread, SECOND / 5).keys()], ['a']);
  t.deepEqual([...counts(spread, SECOND / 2).keys()].sort(), ['a', 'b']);
});

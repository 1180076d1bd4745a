// Several ways tried one after the other: who begins when, who wins, what is thrown away. On a virtual clock.
import test from 'ava';
import { MS, RaceError, race } from '../../lib/core/index.js';
import { VirtualClock } from '../l2/support/virtual.js';

interface Way {
  settle: { resolve(value: string): void; reject(error: Error): void };
  aborted: boolean;
  begun: number;
}

function setup(count: number, headStart = 250 * MS) {
  const clock = new VirtualClock();
  const ways: Way[] = [];
  const discarded: string[] = [];
  const outer = new AbortController();
  const attempts = Array.from({ length: count }, () => ({
    headStart,
    start: (signal: AbortSignal) =>
      new Promise<string>((resolve, reject) => {
        const way: Way = { settle: { resolve, reject }, aborted: false, begun: clock.now() };
        ways.push(way);
        signal.addEventListener('abort', () => {
          way.aborted = true;
        });
      }),
  }));
  const result = race(attempts, clock, outer.signal, (late) => discarded.push(late));
  return { clock, ways, discarded, outer, result };
}

/** Lets promise callbacks run. */
const settled = () => new Promise<void>((resolve) => setImmediate(resolve));

test('each way begins its head start after the one before, or at once when that fails (RFC 8305 §5)', async (t) => {
  const { clock, ways, result } = setup(4);
  const started = clock.now();
  t.is(ways.length, 1);
  await clock.run(249 * MS);
  t.is(ways.length, 1);
  await clock.run(1 * MS);
  t.is(ways.length, 2);
  ways[1]!.settle.reject(new Error('no route'));
  await settled();
  t.is(ways.length, 3, 'the failure of the newest begins the next');
  ways[0]!.settle.reject(new Error('refused'));
  await settled();
  t.is(ways.length, 4);
  ways[2]!.settle.resolve('third');
  const { value, winner, failures } = await result;
  t.is(value, 'third');
  t.is(winner, 2);
  t.deepEqual(
    failures.map((e) => e?.message),
    ['refused', 'no route'],
  );
  t.true(ways[3]!.aborted, 'the loser is aborted');
  t.is(clock.now() - started, 250 * MS);
  await clock.run(10_000 * MS);
  t.is(ways.length, 4);
});

test('the first one wins alone when it is quick: no other begins', async (t) => {
  const { clock, ways, result } = setup(3);
  ways[0]!.settle.resolve('first');
  t.is((await result).winner, 0);
  await clock.run(5_000 * MS);
  t.is(ways.length, 1);
});

test('a result that comes after the race is over is given to discard', async (t) => {
  const { clock, ways, discarded, result } = setup(2);
  await clock.run(250 * MS);
  ways[1]!.settle.resolve('second');
  const { failures } = await result;
  t.deepEqual(failures, [undefined]);
  ways[0]!.settle.resolve('late');
  await settled();
  t.deepEqual(discarded, ['late']);
});

test('all fail: every reason, in order; aborted from outside: that reason, and nothing goes on', async (t) => {
  const all = setup(2);
  all.ways[0]!.settle.reject(new Error('a'));
  await settled();
  all.ways[1]!.settle.reject(new Error('b'));
  const error = await t.throwsAsync(all.result, { instanceOf: RaceError });
  t.deepEqual(
    error!.errors.map((e) => e.message),
    ['a', 'b'],
  );
  const cut = setup(3);
  cut.outer.abort(new Error('enough'));
  await t.throwsAsync(cut.result, { message: 'enough' });
  t.true(cut.ways[0]!.aborted);
  await cut.clock.run(1_000 * MS);
  t.is(cut.ways.length, 1);
});

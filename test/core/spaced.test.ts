import test from 'ava';
import { MS, Spaced } from '../../lib/core/index.js';
import { World } from '../l3/support/net.js';

test('the first run comes at once after the call, the next ones when the spacing lets them; it is asked each time', async (t) => {
  const world = new World();
  let spacing = 50 * MS;
  const spaced = new Spaced(world, () => spacing);
  const runs: number[] = [];
  const soon = () => spaced.soon(() => void runs.push(world.now() / MS));
  soon();
  t.deepEqual(runs, [], 'not inside the call');
  await Promise.resolve();
  t.deepEqual(runs, [0]);
  world.run(10 * MS);
  soon();
  await Promise.resolve();
  t.deepEqual(runs, [0]);
  world.run(200 * MS);
  t.deepEqual(runs, [0, 50]);
  spacing = 500 * MS;
  soon();
  world.run(1_000 * MS);
  t.deepEqual(runs, [0, 50, 550]);
  soon();
  await Promise.resolve();
  t.deepEqual(runs, [0, 50, 550, 1_210]);
});

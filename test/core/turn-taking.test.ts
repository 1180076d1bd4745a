// Functions run soon and in order, and two that call for each other without end leave the process its timers.
import test from 'ava';
import { turnTaking } from '../../lib/core/index.js';

test('in order, each after the call that asked for it', async (t) => {
  const soon = turnTaking();
  const seen: number[] = [];
  await new Promise<void>((resolve) => {
    for (let i = 0; i < 100; i++) {
      soon(() => {
        seen.push(i);
        soon(() => {
          seen.push(100 + i);
          if (i === 99) resolve();
        });
      });
    }
    t.deepEqual(seen, []);
  });
  t.deepEqual(
    seen,
    Array.from({ length: 200 }, (_, i) => i),
  );
});

test('two ends that keep each other busy do not hold up a timer', async (t) => {
  const soon = turnTaking();
  let over = false;
  let rounds = 0;
  const busy = () => {
    rounds++;
    if (!over) soon(busy);
  };
  soon(busy);
  // As microtasks alone they would run for ever and this line would never be passed.
  await new Promise((resolve) => setTimeout(resolve, 1));
  over = true;
  t.true(rounds > 16);
});

test('one that throws takes only itself along', async (t) => {
  const soon = turnTaking();
  const thrown = new Promise((resolve) => process.setUncaughtExceptionCaptureCallback(resolve));
  const after = new Promise<void>((resolve) => {
    soon(() => {
      throw new Error('mine');
    });
    soon(resolve);
  });
  t.is(((await thrown) as Error).message, 'mine');
  process.setUncaughtExceptionCaptureCallback(null);
  await after;
});

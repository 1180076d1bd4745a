import test from 'ava';
import { MS, SECOND, seededRandom } from '../../lib/core/index.js';
import { Backoff, DEFAULT_BACKOFF } from '../../lib/l2/backoff.js';

test('the bound doubles up to the cap, and a reset starts again', (t) => {
  const bounds = (backoff: Backoff) => Array.from({ length: 8 }, () => backoff.next());
  const most = new Backoff({ ...seededRandom(1), float: () => 1 });
  t.deepEqual(
    bounds(most),
    [250, 500, 1000, 2000, 3000, 3000, 3000, 3000].map((ms) => ms * MS),
  );
  most.reset();
  t.is(most.next(), 250 * MS);
  const least = new Backoff({ ...seededRandom(1), float: () => 0 });
  t.deepEqual(
    bounds(least),
    [50, 100, 200, 400, 600, 600, 600, 600].map((ms) => ms * MS),
  );
});

test('after ten thousand attempts the delay is still finite and within the cap', (t) => {
  const backoff = new Backoff(seededRandom(2));
  for (let i = 0; i < 10_000; i++) {
    const delay = backoff.next();
    if (!(delay > 0 && delay <= DEFAULT_BACKOFF.cap)) t.fail(`${delay}`);
  }
  t.pass();
});

test('jitter: of 2,000 nodes that lost the same hub, no 100 ms see more than a tenth come back', (t) => {
  const random = seededRandom(3);
  // Each fails three times (the hub is away for a while), then comes back at its fourth delay.
  const slots = new Map<number, number>();
  for (let i = 0; i < 2_000; i++) {
    const backoff = new Backoff(random);
    let at = 0;
    for (let k = 0; k < 4; k++) at += backoff.next();
    t.true(at <= 3.75 * SECOND);
    const slot = Math.floor(at / (100 * MS));
    slots.set(slot, (slots.get(slot) ?? 0) + 1);
  }
  const fullest = Math.max(...slots.values());
  t.true(fullest < 200, `${fullest} in one slot`);
  t.true(slots.size > 15, `${slots.size} slots used`);
});

test('the delays of one attempt are uniform between a fifth of the bound and the bound', (t) => {
  const random = seededRandom(4);
  const thirds = [0, 0, 0];
  for (let i = 0; i < 30_000; i++) {
    const x = (new Backoff(random).next() / (250 * MS) - 0.2) / 0.8;
    thirds[Math.min(2, Math.floor(x * 3))]!++;
  }
  // Five standard deviations of a binomial with p = 1/3.
  for (const n of thirds) t.true(Math.abs(n - 10_000) < 5 * Math.sqrt((30_000 * 2) / 9), `${thirds}`);
});

// A limited link against a slow model: what passes, in which order, and what is counted.

import test from 'ava';
import fc from 'fast-check';
import { type Clock, HEADER, SECOND, Slab } from '../../lib/core/index.js';
import { type LinkHandler, limitLink, memoryLinks, type RateLimit, RateMeter } from '../../lib/l2/index.js';

class ManualClock implements Clock {
  time = 0;
  now = () => this.time;
  at = () => ({ cancel() {} });
}

/** Frames back to back, each with its number as payload. */
function run(sizes: readonly number[], first: number): Slab {
  const slab = Slab.of(new Uint8Array(sizes.reduce((n, s) => n + HEADER + s, 0)));
  const view = new DataView(slab.bytes.buffer);
  let off = 0;
  for (const [i, size] of sizes.entries()) {
    writeLength(slab.bytes, off, size);
    view.setUint32(off + HEADER, first + i);
    off += HEADER + size;
  }
  return slab;
}

function writeLength(bytes: Uint8Array, off: number, length: number): void {
  // docs/spec/frame.md: the length is the last field of the header.
  new DataView(bytes.buffer).setUint32(off + 4, length);
}

function numbers(slab: Slab, start: number, end: number): number[] {
  const found: number[] = [];
  const view = new DataView(slab.bytes.buffer);
  for (let off = start; off < end; off += HEADER + view.getUint32(off + 4)) found.push(view.getUint32(off + HEADER));
  return found;
}

function setup(...limits: RateLimit[]) {
  const clock = new ManualClock();
  const pending: (() => void)[] = [];
  const [hub, node] = memoryLinks({ defer: (fn) => void pending.push(fn) });
  const meters = limits.map((limit) => new RateMeter(0, limit));
  const link = limitLink(hub, meters, clock);
  const up: number[] = [];
  const down: number[] = [];
  const control: number[] = [];
  const into = (list: number[]): LinkHandler => ({
    onPackets: (slab, start, end) => void list.push(...numbers(slab, start, end)),
    onControl: (message) => void control.push(message.length),
    onState() {},
    onWritable() {},
  });
  link.attach(into(up));
  node.attach(into(down));
  const settle = () => {
    while (pending.length > 0) pending.shift()!();
  };
  return { clock, link, node, up, down, control, meters, settle };
}

const BURST = 192 * 1024;

test('without a limit everything passes, and a limit of one direction leaves the other alone', (t) => {
  const { link, node, up, down, settle } = setup({ up: 1_000 });
  const sizes = Array(1000).fill(1400);
  const slab = run(sizes, 0);
  link.send(slab, 0, slab.bytes.length);
  settle();
  t.is(down.length, 1000);
  node.send(slab, 0, slab.bytes.length);
  settle();
  t.is(up.length, Math.floor(BURST / 1408));
  t.deepEqual([link.stats().droppedRateUp, link.stats().droppedRateDown], [1000 - up.length, 0]);
});

test('random runs and pauses: exactly what the model passes, in order, both directions; control always', (t) => {
  const rates = fc.constantFrom(10_000, 200_000, 5_000_000);
  const steps = fc.array(
    fc.tuple(
      fc.boolean(),
      fc.array(fc.integer({ min: 20, max: 65_535 }), { minLength: 1, maxLength: 12 }),
      fc.nat(900_000),
    ),
    { minLength: 1, maxLength: 30 },
  );
  fc.assert(
    fc.property(rates, rates, steps, (own, tenant, list) => {
      const all = setup({ up: own, down: own }, { up: tenant, down: tenant });
      const model = { up: [own, tenant], down: [own, tenant] };
      const levels = {
        up: model.up.map((r) => Math.max(BURST, r / 4)),
        down: model.down.map((r) => Math.max(BURST, r / 4)),
      };
      const expected: Record<'up' | 'down', number[]> = { up: [], down: [] };
      let n = 0;
      let dropped = 0;
      for (const [isUp, sizes, pause] of list) {
        all.clock.time += pause;
        for (const way of ['up', 'down'] as const)
          levels[way] = levels[way].map((level, i) =>
            Math.min(Math.max(BURST, model[way][i]! / 4), level + (pause / SECOND) * model[way][i]!),
          );
        const way = isUp ? 'up' : 'down';
        for (const [i, size] of sizes.entries()) {
          const bytes = size + HEADER;
          if (levels[way].every((level) => level >= bytes)) {
            levels[way] = levels[way].map((level) => level - bytes);
            expected[way].push(n + i);
          } else dropped++;
        }
        const slab = run(sizes, n);
        n += sizes.length;
        (isUp ? all.node : all.link).send(slab, 0, slab.bytes.length);
        (isUp ? all.node : all.link).sendControl(new Uint8Array(60_000));
        all.settle();
      }
      const { droppedRateUp, droppedRateDown } = all.link.stats();
      t.deepEqual(all.up, expected.up);
      t.deepEqual(all.down, expected.down);
      t.is(droppedRateUp! + droppedRateDown!, dropped);
      t.is(all.control.length, list.length);
    }),
    { numRuns: 300 },
  );
});

test('nodes of a tenant share its limit', (t) => {
  const shared = new RateMeter(0, { down: 1_000 });
  const clock = new ManualClock();
  const links = [1, 2].map(() => limitLink(memoryLinks()[0], [shared], clock));
  const slab = run(Array(100).fill(1400), 0);
  for (const link of links) link.send(slab, 0, slab.bytes.length);
  const dropped = links.map((link) => link.stats().droppedRateDown);
  t.deepEqual(dropped, [0, 200 - Math.floor(BURST / 1408)]);
  shared.change(0, {});
  links[1]!.send(slab, 0, slab.bytes.length);
  t.is(links[1]!.stats().droppedRateDown, dropped[1], 'a limit can be lifted while running');
});

// The parts of the l4 bench on a virtual clock: goodput under loss beside what Linux got on the same path (l4-record.ts), and
// reordering alone. Fairness of 2, 8 and 32 flows on one bottleneck: test/sim/snapshots/goodput.md.

import { readFileSync } from 'node:fs';
import { type Impairment, join, makePeers, Transfer, World } from '../../test/support/sim-net.js';

/** 100 Mbit/s, 100 ms, 1 % random loss towards the receiver; the queue holds one bandwidth-delay product. */
export const PATH = { rate: 100e6, rttMs: 100, loss: 0.01, queue: 1_250_000, mtu: 1_400, seconds: 20, seeds: 5 };

export const LINUX_FILE = new URL('./l4-linux-cubic.json', import.meta.url);

export interface Recorded {
  readonly mbps: number;
  readonly samples: number[];
  readonly kernel: string;
}

export const linuxRecord = (): Recorded => JSON.parse(readFileSync(LINUX_FILE, 'utf8')) as Recorded;

/** Mbit/s of payload in `seconds` from the first SYN. */
function goodput(seed: number, rate: number, rttMs: number, queue: number, seconds: number, bad: Impairment): number {
  const world = new World(seed);
  const [a, b] = makePeers(world, { maxSendBuffer: 16e6, maxReceiveBuffer: 16e6 }, { mtu: PATH.mtu });
  const path = { rate, queue, delay: rttMs * 500 };
  join(world, a, b, { ...path, ...bad }, path);
  const transfer = new Transfer(world, a, b, Number.MAX_SAFE_INTEGER, 1, 65_536, false);
  a.onEvents = (events) => transfer.handleSender(events);
  b.onEvents = (events) => transfer.handleReceiver(events);
  a.connect();
  world.run(world.now + seconds * 1e6);
  return (transfer.received * 8) / 1e6 / seconds;
}

/** One goodput per seed, ascending. */
export function lossyGoodput(seeds: number, seconds: number): number[] {
  const { rate, rttMs, queue, loss } = PATH;
  return Array.from({ length: seeds }, (_, i) => goodput(i + 1, rate, rttMs, queue, seconds, { loss })).sort(
    (x, y) => x - y,
  );
}

/** Goodput with 5 % of the packets held back by 5 ms, as a share of the same without. */
export function reorderedShare(seconds: number): number {
  const { rate, rttMs, queue } = PATH;
  const run = (bad: Impairment) => goodput(1, rate, rttMs, queue, seconds, bad);
  return run({ reorder: 0.05, reorderBy: 5_000 }) / run({});
}

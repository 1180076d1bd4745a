// The parts of the l4 bench on a virtual clock: goodput under loss beside what Linux got on the same path (l4-record.ts), reordering
// alone, and fairness of many flows on one bottleneck.

import { readFileSync } from 'node:fs';
import { type Impairment, join, makePeers, Network, Transfer, World } from '../../test/support/sim-net.js';

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

/** Jain's index of `flows` on one bottleneck of 1 Gbit/s and 20 ms, over `seconds` after `warm` seconds. */
export function bottleneckFairness(flows: number, warm: number, seconds: number): number {
  const world = new World(7);
  const network = new Network(world);
  const left = network.addNode();
  const right = network.addNode();
  network.connect(left, right, { rate: 1e9, delay: 10_000, queue: 2_500_000 });
  const transfers: Transfer[] = [];
  for (let i = 0; i < flows; i++) {
    const from = network.addNode();
    const to = network.addNode();
    // Without some noise packets fall into step (see test/sim/goodput.test.ts).
    network.connect(from, left, { rate: 1e9, delay: 10 + i, jitter: 1_000 }, { rate: 1e9, delay: 10 + i });
    network.connect(to, right, { rate: 1e9, delay: 10 });
    const [a, b] = network.flow(from, to, 40_000 + i, {}, {});
    const transfer = new Transfer(world, a, b, Number.MAX_SAFE_INTEGER, i, 65_536, false);
    a.onEvents = (events) => transfer.handleSender(events);
    b.onEvents = (events) => transfer.handleReceiver(events);
    world.at(world.now + world.random.float() * 1e6, () => a.connect());
    transfers.push(transfer);
  }
  world.run(world.now + warm * 1e6);
  const before = transfers.map((t) => t.received);
  world.run(world.now + seconds * 1e6);
  const got = transfers.map((t, i) => t.received - before[i]!);
  const sum = got.reduce((x, y) => x + y, 0);
  return sum ** 2 / (flows * got.reduce((x, y) => x + y * y, 0));
}

// The committed tables: goodput by loss, RTT and bandwidth, and fairness among flows on one bottleneck. A change of them is a
// change of behaviour, to be explained where it is committed:
//
//     KUBEBUS_SIM_UPDATE=1 npx ava test/sim/goodput.test.ts        writes snapshots/goodput.md anew

import { readFileSync, writeFileSync } from 'node:fs';
import test from 'ava';
import type { TcpOptions } from '../../lib/l4/tcp/types.js';
import { type Impairment, join, makePeers, Network, Transfer, World } from '../support/sim-net.js';

const FILE = new URL('./snapshots/goodput.md', import.meta.url);
const UPDATE = process.env.KUBEBUS_SIM_UPDATE === '1';
/** Math.cbrt and ** may differ in the last bit between engines, and a packet more or less follows from that. */
const TOLERANCE = 0.05;

const LOSSES = [0, 0.001, 0.01, 0.03, 0.1];
const RTTS = [1, 20, 100, 300];
const RATES = [10, 100];

interface Measured {
  goodput: number;
  queueDrops: number;
}

/** Mbit/s of payload over `seconds` of a bulk transfer, the start included; the queue holds one bandwidth-delay product. */
function measure(
  rateMbit: number,
  rttMs: number,
  impairment: Impairment,
  seconds: number,
  options: Partial<TcpOptions>,
): Measured {
  const world = new World(42);
  const [a, b] = makePeers(world, { maxSendBuffer: 16e6, maxReceiveBuffer: 16e6, ...options });
  const rate = rateMbit * 1e6;
  const queue = Math.max(64_000, (rate / 8) * (rttMs / 1_000));
  const delay = rttMs * 500;
  const [there] = join(world, a, b, { rate, delay, queue, ...impairment }, { rate, delay, queue });
  const transfer = new Transfer(world, a, b, Number.MAX_SAFE_INTEGER, 1, 65_536, false);
  a.onEvents = (events) => transfer.handleSender(events);
  b.onEvents = (events) => transfer.handleReceiver(events);
  a.connect();
  world.run(world.now + seconds * 1e6);
  return { goodput: (transfer.received * 8) / 1e6 / seconds, queueDrops: there.counts.queueDrops };
}

function fairness(flows: number, congestion: 'cubic' | 'reno', seconds: number): { jain: number; sum: number } {
  const world = new World(7);
  const network = new Network(world);
  const left = network.addNode();
  const right = network.addNode();
  network.connect(left, right, { rate: 50e6, delay: 10_000, queue: 125_000 });
  const transfers: Transfer[] = [];
  for (let i = 0; i < flows; i++) {
    const from = network.addNode();
    const to = network.addNode();
    // Without some noise packets fall into step, and a full queue always turns the same flow away: the phase effects of
    // Floyd and Jacobson, "On traffic phase effects in packet-switched gateways" (1991).
    network.connect(from, left, { rate: 1e9, delay: 10 + 37 * i, jitter: 1_000 }, { rate: 1e9, delay: 10 + 37 * i });
    network.connect(to, right, { rate: 1e9, delay: 10 });
    const [a, b] = network.flow(from, to, 40_000 + i, { congestion }, {});
    const transfer = new Transfer(world, a, b, Number.MAX_SAFE_INTEGER, i, 65_536, false);
    a.onEvents = (events) => transfer.handleSender(events);
    b.onEvents = (events) => transfer.handleReceiver(events);
    world.at(world.now + world.random.float() * 1e6, () => a.connect());
    transfers.push(transfer);
  }
  // CUBIC takes its time to find the balance: the first 20 s do not count.
  world.run(world.now + 20e6);
  const before = transfers.map((t) => t.received);
  world.run(world.now + seconds * 1e6);
  const got = transfers.map((t, i) => t.received - before[i]!);
  const sum = got.reduce((a, b) => a + b, 0);
  return { jain: sum ** 2 / (flows * got.reduce((a, b) => a + b * b, 0)), sum: (sum * 8) / 1e6 / seconds };
}

const lines: string[] = [];
let table: string[][] = [];

/** Rows of the committed tables as trimmed cells: how they are aligned does not matter. */
const committed = UPDATE
  ? []
  : readFileSync(FILE, 'utf8')
      .split('\n')
      .filter((line) => line.startsWith('|'))
      .map((line) =>
        line
          .split('|')
          .slice(1, -1)
          .map((cell) => cell.trim()),
      );

function startTable(title: string, head: string[]): void {
  endTable();
  lines.push('', `## ${title}`, '');
  table = [head, head.map(() => '')];
}

function endTable(): void {
  if (table.length === 0) return;
  const widths = table[0]!.map((_, i) => Math.max(...table.map((row) => row[i]!.length)));
  for (const [n, row] of table.entries()) {
    lines.push(`| ${row.map((cell, i) => (n === 1 ? '-'.repeat(widths[i]!) : cell.padEnd(widths[i]!))).join(' | ')} |`);
  }
  table = [];
}

/** Compares a row with the committed one, number by number; null: as it was. */
function check(key: (string | number)[], numbers: number[]): string | null {
  const keys = key.map(String);
  table.push([...keys, ...numbers.map((n) => n.toFixed(n < 10 ? 2 : 1))]);
  if (UPDATE) return null;
  const was = committed
    .find((cells) => keys.every((k, i) => cells[i] === k))
    ?.slice(keys.length)
    .map(Number);
  if (was === undefined) return `${keys.join(' ')} is not in the committed table`;
  for (const [i, n] of numbers.entries()) {
    if (!(Math.abs(n - was[i]!) <= TOLERANCE * Math.max(was[i]!, 0.2)))
      return `${keys.join(' ')}: was ${was[i]}, is ${n.toFixed(2)}`;
  }
  return null;
}

const yieldToReporter = () => new Promise((resolve) => setImmediate(resolve));

for (const congestion of ['cubic', 'reno'] as const) {
  test.serial(`goodput of ${congestion} by loss, RTT and bandwidth`, async (t) => {
    t.timeout(120_000);
    startTable(congestion, ['controller', 'Mbit/s', 'RTT ms', ...LOSSES.map((l) => `${l * 100} % loss`)]);
    for (const rate of RATES) {
      for (const rtt of RTTS) {
        await yieldToReporter();
        // Long enough for several rounds of recovery, short enough for CI.
        const seconds = rtt >= 100 ? 20 : 10;
        const row = LOSSES.map(
          (loss) => measure(rate, rtt, { loss }, congestion === 'reno' ? seconds / 2 : seconds, { congestion }).goodput,
        );
        const failure = check([congestion, rate, rtt], row);
        if (failure === null) t.pass();
        else t.fail(failure);
      }
    }
  });
}

test.serial('reordering alone costs less than a tenth of the rate', (t) => {
  startTable('Reordering alone (100 Mbit/s)', ['reordered', 'by ms', 'RTT ms', 'Mbit/s']);
  for (const [share, by, rtt] of [
    [0.05, 2, 20],
    [0.05, 5, 50],
    [0.2, 5, 50],
  ] as const) {
    const { goodput } = measure(100, rtt, { reorder: share, reorderBy: by * 1_000 }, 20, {});
    const failure = check([`${share * 100} %`, by, rtt], [goodput]);
    t.is(failure, null);
    // Of what the rate leaves for payload: 1,348 of 1,400 bytes.
    if (share === 0.05) t.true(goodput >= 90 * (1_348 / 1_400), `${goodput}`);
  }
});

test.serial('flows on one bottleneck share it', async (t) => {
  t.timeout(120_000);
  const title = 'Fairness (50 Mbit/s, 20 ms, 20 s after 20 s, queue of one BDP)';
  startTable(title, ['flows', 'controller', "Jain's index", 'Mbit/s in all']);
  for (const flows of [2, 8, 32]) {
    for (const congestion of ['cubic', 'reno'] as const) {
      await yieldToReporter();
      const { jain, sum } = fairness(flows, congestion, 20);
      t.is(check([flows, congestion], [jain, sum]), null);
      t.true(jain >= 0.9, `${flows} flows of ${congestion}: ${jain}`);
      t.true(sum >= 45);
    }
  }
});

test.after.always(() => {
  if (!UPDATE) return;
  endTable();
  writeFileSync(
    FILE,
    `# Goodput and fairness in the simulator

Written by test/sim/goodput.test.ts; payload in Mbit/s, MTU 1400, random loss in one direction, queue of one bandwidth-delay
product (64 KB at least), slow start included: 10 s (RTT below 100 ms) or 20 s, half of it for Reno.
${lines.join('\n')}
`,
  );
});

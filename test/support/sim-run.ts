// One run of the simulator over a random network: random impairments, every byte of every stream compared. The seed decides all
// of it, so one that failed runs again the same way, and is recorded then.

import { closeSync, openSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type Micros, type Random, seededRandom } from '../../lib/core/index.js';
import type { TcpOptions } from '../../lib/l4/tcp/types.js';
import { PcapngWriter } from './pcapng.js';
import { type Impairment, Network, type Peer, Transfer, World } from './sim-net.js';

/** An hour of virtual time: the longest outage and back-off, and the slowest reader, are far below it. */
const LIMIT = 3_600e6;
/** Without these: 150 kB each way over up to five bad links. The slowest of thousands takes half a minute. */
const LIMIT_OF_EAGER = 120e6;

const pick = <T>(random: Random, values: readonly T[]): T => values[Math.floor(random.float() * values.length)]!;

function randomImpairment(random: Random, offload: boolean): Impairment {
  const rate = pick(random, [Number.POSITIVE_INFINITY, 1e6, 10e6, 100e6]);
  return {
    loss: pick(random, [0, 0, 0.001, 0.01, 0.05, 0.15]),
    duplicate: pick(random, [0, 0, 0.02, 0.1]),
    // With partial checksums nothing on the way could notice (a real link that offloads is reliable).
    corrupt: offload ? 0 : pick(random, [0, 0, 0.01]),
    reorder: pick(random, [0, 0, 0.02, 0.2]),
    reorderBy: pick(random, [500, 5_000, 40_000]),
    delay: pick(random, [10, 1_000, 10_000, 80_000]),
    jitter: pick(random, [0, 0, 2_000]),
    rate,
    queue: pick(random, [20_000, 80_000, 400_000]),
    markAbove: pick(random, [Number.POSITIVE_INFINITY, 10_000]),
    ...(random.float() < 0.3 ? { mtu: pick(random, [1_300, 1_280]) } : {}),
  };
}

function randomOptions(random: Random): Partial<TcpOptions> {
  return {
    noDelay: random.float() < 0.5,
    congestion: pick(random, ['cubic', 'reno']),
    sack: random.float() < 0.85,
    timestamps: random.float() < 0.8,
    windowScaling: random.float() < 0.85,
    ecn: random.float() < 0.7,
    pacing: random.float() < 0.7,
    receiveBuffer: pick(random, [4_096, 20_000, 131_072]),
    maxReceiveBuffer: pick(random, [8_192, 65_536, 4_194_304]),
    maxSendBuffer: pick(random, [4_096, 100_000, 4_194_304]),
  };
}

interface Flow {
  name: string;
  a: Peer;
  b: Peer;
  transfers: Transfer[];
  /** Somebody reads slowly. */
  slow: boolean;
}

export interface RunOptions {
  /** Gets every packet that a peer sends or receives. */
  readonly record?: Recorder;
  /** Does something to the network that must not go unnoticed: for tests of this. */
  readonly sabotage?: (network: Network) => void;
}

type Recorder = (node: number, now: Micros, frame: Uint8Array) => void;

/** What went wrong, or null. */
export function runSeed(seed: number, options: RunOptions = {}): string | null {
  const world = new World(seed);
  const random = seededRandom(seed ^ 0x5eed);
  const network = new Network(world);
  const offload = random.float() < 0.25;
  const nodes = 2 + Math.floor(random.float() * 4);
  for (let i = 0; i < nodes; i++) {
    network.addNode();
    if (i > 0)
      network.connect(
        Math.floor(random.float() * i),
        i,
        randomImpairment(random, offload),
        randomImpairment(random, offload),
      );
  }
  if (options.record !== undefined) network.record = options.record;
  options.sabotage?.(network);
  const flows: Flow[] = [];
  for (let i = 0, n = 1 + Math.floor(random.float() * 3); i < n; i++)
    flows.push(randomFlow(world, network, random, nodes, i, offload));
  // An outage in some runs: L1 of the design, a connection outlives its link.
  let limit = flows.some((f) => f.slow) ? LIMIT : LIMIT_OF_EAGER;
  if (random.float() < 0.2) {
    limit = LIMIT;
    const pipe = pick(random, network.pipes);
    const from = world.now + random.float() * 2e6;
    world.at(from, () => (pipe.up = false));
    world.at(from + random.float() * 30e6, () => (pipe.up = true));
  }
  const done = world.run(world.now + limit, () => flows.every((f) => f.transfers.every((t) => t.finished)));
  for (const { name, a, b, transfers } of flows) {
    if (a.beyondWindow + b.beyondWindow > 0)
      return `${name}: ${a.beyondWindow + b.beyondWindow} segments beyond the window`;
    for (const [i, t] of transfers.entries()) if (t.wrongAt >= 0) return `${name}.${i}: wrong byte at ${t.wrongAt}`;
    if (!done && transfers.some((t) => !t.finished)) {
      const state = (p: Peer) =>
        `${p.connection?.state} ${p.connection?.reason} ${JSON.stringify(p.connection?.stats())}`;
      return `${name}: stuck, ${transfers.map((t) => `${t.received}/${t.sent}`).join(' ')}; a ${state(a)}; b ${state(b)}`;
    }
  }
  return null;
}

function randomFlow(world: World, network: Network, random: Random, nodes: number, i: number, offload: boolean): Flow {
  const from = Math.floor(random.float() * nodes);
  const to = (from + 1 + Math.floor(random.float() * (nodes - 1))) % nodes;
  const path = { v6: random.float() < 0.3, mtu: pick(random, [1_400, 1_500]), offload };
  const [a, b] = network.flow(from, to, 40_000 + i, randomOptions(random), path);
  let anySlow = false;
  const sizes = [0, 1, 1_000, 20_000, 150_000];
  const transfer = (from: Peer, to: Peer, which: number) => {
    const slow = random.float() < 0.2;
    anySlow ||= slow;
    const chunk = pick(random, [100, 3_000, 65_536]);
    const gulp = slow ? pick(random, [500, 5_000]) : Number.POSITIVE_INFINITY;
    return new Transfer(
      world,
      from,
      to,
      pick(random, sizes),
      which,
      chunk,
      true,
      gulp,
      slow ? pick(random, [20_000, 1e6]) : 0,
    );
  };
  const up = transfer(a, b, i);
  const down = transfer(b, a, i + 100);
  a.onEvents = (events) => {
    up.handleSender(events);
    down.handleReceiver(events);
  };
  b.onEvents = (events) => {
    down.handleSender(events);
    up.handleReceiver(events);
  };
  world.at(world.now + random.float() * 1e6, () => a.connect());
  return { name: `flow ${i} (${from} to ${to})`, a, b, transfers: [up, down], slow: anySlow };
}

/** Runs a seed; one that fails runs once more, with all packets written to a file. Returns what to tell, or null. */
export function judgeSeed(seed: number, sabotage?: RunOptions['sabotage']): string | null {
  const failure = runSeed(seed, { ...(sabotage && { sabotage }) });
  if (failure === null) return null;
  const file = join(tmpdir(), `kubebus-sim-${seed}.pcapng`);
  const fd = openSync(file, 'w');
  const writer = new PcapngWriter((bytes) => void writeSync(fd, bytes));
  const record: Recorder = (node, now, frame) => writer.packet(node, now, frame);
  const again = runSeed(seed, { record, ...(sabotage && { sabotage }) });
  closeSync(fd);
  const same = again === failure ? '' : `\nit ended otherwise the second time: ${again}`;
  return `seed ${seed}: ${failure}${same}\npackets of all nodes: ${file}\nrepeat: KUBEBUS_SIM_SEED=${seed} npx ava test/sim/streams.test.ts`;
}

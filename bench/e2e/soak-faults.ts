// What the soak does to the network of soak-net.ts, each with the time within which pings are answered again, counted from
// the end of the fault. docs/guides/links.md states the same bounds.
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { run } from '../../examples/lab/netns.js';
import type { Field } from './soak-net.js';

export interface Fault {
  /** How long it lasts, in milliseconds: from, to. */
  readonly lasts: readonly [number, number];
  /** After one that lasted `ms`. */
  bound(ms: number): number;
  /** Does it, lets it last, and undoes it: resolves at its end. */
  inflict(field: Field, ms: number): Promise<void>;
}

const sleep = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms));
/** The kernel's TCP and our timers back off while nothing passes: at most as long again. */
const asLongAgain = (ms: number) => ms + 3_000;
const START_MS = 40_000;

async function between(start: () => unknown, ms: number, end: () => unknown) {
  await start();
  try {
    await sleep(ms);
  } finally {
    await end();
  }
}

export const FAULTS = {
  'cable pulled': {
    lasts: [1_000, 8_000],
    bound: asLongAgain,
    inflict: (field, ms) =>
      between(
        () => field.cable(false),
        ms,
        () => field.cable(true),
      ),
  },
  'black hole': {
    lasts: [1_000, 8_000],
    bound: asLongAgain,
    inflict: (field, ms) =>
      between(
        () => field.rules('drop'),
        ms,
        () => field.rules(),
      ),
  },
  'black hole beyond the dead-peer time': {
    lasts: [40_000, 40_000],
    bound: () => 15_000,
    inflict: (field, ms) =>
      between(
        () => field.rules('drop'),
        ms,
        () => field.rules(),
      ),
  },
  'one direction lost': {
    lasts: [1_000, 6_000],
    bound: asLongAgain,
    inflict: (field, ms) =>
      between(
        () => field.rules('iifname "wan" drop'),
        ms,
        () => field.rules(),
      ),
  },
  '30 % loss': {
    lasts: [3_000, 8_000],
    bound: asLongAgain,
    inflict: (field, ms) =>
      between(
        () => field.rules('numgen random mod 100 < 30 drop'),
        ms,
        () => field.rules(),
      ),
  },
  'NAT rebinds': {
    lasts: [0, 0],
    bound: () => 5_000,
    inflict: (field) => field.rebind(),
  },
  'address of the edge changes': {
    lasts: [0, 0],
    bound: () => 8_000,
    inflict: (field) => field.renumber(),
  },
  'hub frozen': {
    lasts: [5_000, 5_000],
    bound: () => 3_000,
    inflict: (field, ms) =>
      between(
        () => field.hub.kill('SIGSTOP'),
        ms,
        () => field.hub.kill('SIGCONT'),
      ),
  },
  'edge frozen': {
    lasts: [5_000, 5_000],
    bound: () => 3_000,
    inflict: (field, ms) =>
      between(
        () => field.edge1.kill('SIGSTOP'),
        ms,
        () => field.edge1.kill('SIGCONT'),
      ),
  },
  'edge killed, its FIN and RST lost': {
    lasts: [0, 0],
    bound: () => 3_000,
    async inflict(field) {
      await field.rules('iifname "lan" tcp flags & (fin | rst) != 0 drop');
      await field.edge1.stop('SIGKILL');
      field.edge1 = field.startEdge('edge1');
      await field.edge1.logged(/edge up/, START_MS);
      await field.rules();
    },
  },
  'hub killed and restarted': {
    lasts: [0, 3_000],
    bound: () => 8_000,
    async inflict(field, ms) {
      await field.hub.stop('SIGKILL');
      await sleep(ms);
      field.startHub();
      await field.hub.logged(/cloud up/, START_MS);
    },
  },
  'hub killed and restarted while its disk is full': {
    lasts: [0, 0],
    bound: () => 8_000,
    async inflict(field) {
      const filler = join(field.state, 'filler');
      await run('dd', ['if=/dev/zero', `of=${filler}`, 'bs=4096']);
      try {
        await field.hub.stop('SIGKILL');
        field.startHub();
        await field.hub.logged(/cloud up/, START_MS);
      } finally {
        rmSync(filler);
      }
    },
  },
  'a clone of the edge comes': {
    lasts: [0, 0],
    bound: () => 2_000,
    async inflict(field) {
      const clone = field.startClone();
      try {
        await clone.logged(/acme\/edge1 is connected and alive/, START_MS);
      } finally {
        await clone.stop();
      }
    },
  },
} satisfies Record<string, Fault>;

export type FaultName = keyof typeof FAULTS;
export const FAULT_NAMES = Object.keys(FAULTS) as FaultName[];

export interface Outcome {
  readonly fault: FaultName;
  readonly lasted: number;
  readonly bound: number;
  /** Milliseconds until a ping was answered, and until the transfer went on. */
  readonly ping: number;
  readonly transfer: number;
}

/** TCP of the application has backed off for as long as its own packets were lost, which is all of it. */
const TRANSFER_EXTRA = 10_000;

/** One fault, and everything that must hold after it. Throws where it does not. */
export async function suffer(field: Field, fault: FaultName, ms: number): Promise<Outcome> {
  const { inflict, bound: of }: Fault = FAULTS[fault];
  const bound = of(ms);
  const before = performance.now();
  await inflict(field, ms);
  const took = performance.now() - before;
  const ping = await field.answered(bound);
  const transfer = await field.progress(bound + took + TRANSFER_EXTRA);
  // Connections that the hub cannot know to be dead are gone after the dead-peer time.
  await field.noZombie(45_000);
  return { fault, lasted: ms, bound, ping, transfer };
}

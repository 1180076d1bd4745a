// npm run soak -- [--minutes 5] [--seed N] [--transport quic,tcp] [--connections 2] [--fault NAME]...
// Faults at random from a seed against the real processes, with a checked transfer running (soak-net.ts, soak-faults.ts).
// What fails prints the command that replays it. Needs root, iproute2 and nftables.
import { Command, InvalidArgumentError, Option } from 'commander';
import { Lab } from '../../examples/lab/netns.js';
import { seededRandom } from '../../lib/core/index.js';
import { FAULT_NAMES, FAULTS, type FaultName, type Outcome, suffer } from './soak-faults.js';
import { Field } from './soak-net.js';

export interface SoakOptions {
  readonly seed: number;
  /** No fault begins after so long. */
  readonly seconds: number;
  readonly transport: string;
  readonly connections: number;
  readonly faults: readonly FaultName[];
  /** Each fault once, in order, instead of at random; at random all of them come before one comes again. */
  readonly once?: boolean;
  readonly log: (line: string) => void;
}

export interface SoakResult {
  readonly outcomes: readonly Outcome[];
  /** Bytes that came back, every one of them right. */
  readonly received: number;
}

export async function soak(prefix: string, options: SoakOptions): Promise<SoakResult> {
  const { seed, seconds, faults, log } = options;
  const random = seededRandom(seed);
  const lab = new Lab(prefix);
  const field = new Field(lab, options);
  const outcomes: Outcome[] = [];
  try {
    await field.up();
    const start = performance.now();
    let waiting: FaultName[] = [...faults];
    while (options.once ? waiting.length > 0 : performance.now() - start < seconds * 1_000) {
      if (waiting.length === 0) waiting = [...faults];
      const [fault] = waiting.splice(options.once ? 0 : random.u32() % waiting.length, 1) as [FaultName];
      const [from, to] = FAULTS[fault].lasts;
      const ms = Math.round(from + random.float() * (to - from));
      const o = await suffer(field, fault, ms);
      outcomes.push(o);
      const what = `${fault}${ms > 0 ? ` for ${(ms / 1000).toFixed(1)} s` : ''}`;
      log(`${what}: ping after ${o.ping.toFixed(0)} ms (bound ${o.bound}), transfer after ${o.transfer.toFixed(0)} ms`);
    }
    return { outcomes, received: await field.finish() };
  } catch (cause) {
    const flags = `--seed ${seed} --transport ${options.transport} --connections ${options.connections}`;
    const list = faults.length < FAULT_NAMES.length ? faults.map((fault) => ` --fault '${fault}'`).join('') : '';
    const replay = `npm run soak -- ${flags} --minutes ${seconds / 60}${options.once ? ' --once' : ''}${list}`;
    throw new Error(`fault ${outcomes.length + 1}: ${(cause as Error).message}\n${lab.logs(15)}\nreplay: ${replay}`, {
      cause,
    });
  } finally {
    await lab.down();
  }
}

if (process.argv[1] === new URL(import.meta.url).pathname) {
  const number = (text: string) => {
    const value = Number(text);
    if (!(value > 0)) throw new InvalidArgumentError('must be a number above 0');
    return value;
  };
  const program = new Command('soak')
    .description('faults at random against a hub and two edges in network namespaces, with a checked transfer running')
    .option('--minutes <n>', 'how long', number, 5)
    .option('--seed <n>', 'of the faults (default: another each time)', number)
    .option('--transport <names>', 'of the edge that suffers', 'quic,tcp')
    .option('--connections <n>', 'of its link', number, 2)
    .option('--once', 'each fault once, in order')
    .addOption(
      new Option('--fault <name>', 'only this one (repeatable)')
        .choices(FAULT_NAMES)
        .argParser((name: string, list: FaultName[] = []) => [...list, name as FaultName]),
    )
    .parse();
  const o = program.opts<{
    minutes: number;
    seed?: number;
    transport: string;
    connections: number;
    once?: true;
    fault?: FaultName[];
  }>();
  const seed = o.seed ?? Math.floor(Math.random() * 2 ** 31) + 1;
  const log = (line: string) => void process.stdout.write(`${line}\n`);
  log(`seed ${seed}`);
  const { outcomes, received } = await soak(`kbsoak${process.pid}-`, {
    ...{ seed, seconds: o.minutes * 60, transport: o.transport, connections: o.connections, log },
    faults: o.fault ?? FAULT_NAMES,
    ...(o.once ? { once: true } : {}),
  });
  log(`${outcomes.length} faults; ${received} bytes went there and back, all of them right; nothing left at the hub`);
}

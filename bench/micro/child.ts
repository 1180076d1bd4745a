// Runs one *.bench.ts file and prints one JSON line per case. Started by run.ts: child.ts FILE SECONDS(0 = smoke)
import { pathToFileURL } from 'node:url';
import Benchmark from 'benchmark';
import type { MicroBench, MicroCase, MicroResult } from './shape.js';

const [file, secondsText] = process.argv.slice(2);
const seconds = Number(secondsText);
const smoke = seconds === 0;
const bench = ((await import(pathToFileURL(file!).href)) as { default: MicroBench }).default;

for (const one of await bench.setup(smoke)) {
  process.stdout.write(`${JSON.stringify(await measure(one))}\n`);
}
process.exit(0);

async function measure(one: MicroCase): Promise<MicroResult> {
  const { opsPerSecond, rme } = 'run' in one ? await timed(one.run.bind(one)) : sync(one.fn.bind(one), one.ops);
  return {
    bench: bench.name,
    name: one.name,
    unit: one.unit,
    opsPerSecond,
    nsPerOp: 1e9 / opsPerSecond,
    ...(one.bytes === undefined ? {} : { gigabytesPerSecond: (opsPerSecond * one.bytes) / 1e9 }),
    ...(rme === undefined ? {} : { rme }),
  };
}

function sync(fn: () => void, ops: number): { opsPerSecond: number; rme?: number } {
  if (smoke) {
    const start = performance.now();
    fn();
    return { opsPerSecond: (ops * 1000) / (performance.now() - start) };
  }
  // Compiled code is what is measured: without this the first cycles of a long `fn` still run in the interpreter.
  const warm = performance.now();
  while (performance.now() - warm < 200) fn();
  const run = new Benchmark(fn, { maxTime: seconds, minSamples: 10 }).run({ async: false });
  const error: unknown = run.error;
  if (error) throw error;
  return { opsPerSecond: run.hz * ops, rme: run.stats.rme };
}

async function timed(
  run: (seconds: number) => Promise<{ ops: number; seconds: number }>,
): Promise<{ opsPerSecond: number; rme?: number }> {
  const { ops, seconds: took } = await run(smoke ? 0.05 : seconds);
  return { opsPerSecond: ops / took };
}

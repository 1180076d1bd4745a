// The l4 bench: every figure beside what it is compared with, measured in the same run, in turn. Medians of the repetitions.

import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { has, Lab } from '../../examples/lab/netns.js';
import type { BulkFigure, LatencyFigure, RateFigure } from './l4-app.js';
import { fromRegistry, type Subject, slirp } from './l4-compare.js';
import { measureOverlay, startOverlay } from './l4-overlay.js';
import { linuxRecord, lossyGoodput, PATH, reorderedShare } from './l4-sim.js';
import { allowCongestionControl } from './topology.js';
import { buildWhenStale, vpnObstacle } from './vpn.js';

export const L4_PARTS = ['memory', 'scale', 'sim', 'overlay', 'compare'] as const;
export type L4Part = (typeof L4_PARTS)[number];

export interface L4Options {
  readonly parts: readonly L4Part[];
  readonly reps: number;
  readonly seconds: number;
  readonly smoke: boolean;
  readonly log: (line: string) => void;
}

export interface L4Row {
  readonly figure: string;
  readonly value: string;
  readonly against?: string;
  /** Ours by theirs. */
  readonly ratio?: number;
  readonly bar?: string;
  readonly reached?: boolean;
}

export interface L4Report {
  readonly rows: readonly L4Row[];
  readonly skipped: readonly string[];
  readonly reps: number;
  readonly seconds: number;
}

const LOCAL = fileURLToPath(new URL('./l4-local.ts', import.meta.url));
/** Most that a connection may cost while nothing happens on it. */
const IDLE_BYTES = 4_096;

function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const half = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[half]! : (sorted[half - 1]! + sorted[half]!) / 2;
}

function spread(values: readonly number[], digits: number): string {
  const show = (n: number) => n.toFixed(digits);
  return values.length === 1
    ? show(values[0]!)
    : `${show(median(values))} [${show(Math.min(...values))}-${show(Math.max(...values))}]`;
}

class Bench {
  readonly rows: L4Row[] = [];
  readonly skipped: string[] = [];
  private readonly seconds: number;
  private readonly reps: number;

  constructor(private readonly o: L4Options) {
    this.seconds = o.smoke ? 0.3 : o.seconds;
    this.reps = o.smoke ? 1 : o.reps;
  }

  private add(measured: L4Row): void {
    // Of a smoke run no figure says anything.
    const { bar: _bar, reached: _reached, ...bare } = measured;
    const row: L4Row = this.o.smoke ? bare : measured;
    this.rows.push(row);
    const ratio = row.ratio === undefined ? '' : ` (${row.ratio.toFixed(2)} x ${row.against})`;
    const bar = row.bar === undefined ? '' : `; bar ${row.bar}: ${row.reached ? 'reached' : 'NOT reached'}`;
    this.o.log(`  ${row.figure}: ${row.value}${ratio}${bar}`);
  }

  /** `ours` and `theirs` in the same unit; `at`: the least (throughput) or most (latency) that the ratio may be. */
  private compare(
    figure: string,
    unit: string,
    ours: readonly number[],
    against: string,
    theirs: readonly number[],
    bar?: { readonly least?: number; readonly most?: number },
    digits = 2,
  ): void {
    const ratio = median(ours) / median(theirs);
    const { least, most } = bar ?? {};
    this.add({
      figure,
      value: `${spread(ours, digits)} ${unit}`,
      against: `${against}: ${spread(theirs, digits)} ${unit}`,
      ratio,
      ...(least !== undefined && { bar: `at least ${least.toFixed(2)} x`, reached: ratio >= least }),
      ...(most !== undefined && { bar: `at most ${most.toFixed(2)} x`, reached: ratio <= most }),
    });
  }

  private async local<T>(part: string, seconds = this.seconds, count = 0): Promise<T> {
    const args = ['--expose-gc', '--import', import.meta.resolve('tsx'), LOCAL, part, String(seconds), String(count)];
    // All in the same place: a namespace whose kernel uses CUBIC too, where there may be one.
    const [program, ...before] = this.inNamespace;
    const all = program === undefined ? args : [...before, process.execPath, ...args];
    const { stdout } = await promisify(execFile)(program ?? process.execPath, all, { timeout: 120_000 });
    return JSON.parse(stdout) as T;
  }

  /** What to put before a command of `local`. */
  private inNamespace: readonly string[] = [];

  async withNamespace(run: () => Promise<void>): Promise<void> {
    if (vpnObstacle() !== undefined) {
      this.skipped.push("CUBIC for node:net over loopback: it has the machine's default without root");
      return run();
    }
    const restore = allowCongestionControl('cubic');
    const lab = new Lab('kbm-');
    try {
      await lab.ns('loop', { congestion: 'cubic' });
      this.inNamespace = ['ip', 'netns', 'exec', lab.full('loop')];
      await run();
    } finally {
      this.inNamespace = [];
      await lab.down();
      restore();
    }
  }

  async memory(): Promise<void> {
    const bulks = {
      node: [] as BulkFigure[],
      whole: [] as BulkFigure[],
      cut: [] as BulkFigure[],
      sums: [] as BulkFigure[],
    };
    for (let i = 0; i < this.reps; i++) {
      bulks.node.push(await this.local<BulkFigure>('node-net'));
      bulks.whole.push(await this.local<BulkFigure>('memory'));
      bulks.cut.push(await this.local<BulkFigure>('memory-1400'));
      bulks.sums.push(await this.local<BulkFigure>('memory-1400-sums'));
    }
    const speed = (all: readonly BulkFigure[]) => all.map((b) => b.gbps);
    const cost = (all: readonly BulkFigure[]) => all.map((b) => b.cpuPerGb);
    const [node, whole, cut, sums] = [speed(bulks.node), speed(bulks.whole), speed(bulks.cut), speed(bulks.sums)];
    const one = 'node:net, loopback';
    this.compare('Two nodes, memory link: CPU per GB', 's', cost(bulks.whole), one, cost(bulks.node));
    this.compare('the same in segments of 1,400 bytes', 's', cost(bulks.cut), one, cost(bulks.node));
    this.compare('the same with checksums computed and checked', 's', cost(bulks.sums), one, cost(bulks.node));
    this.compare('Two nodes, memory link, 64 KB writes', 'Gbit/s', whole, one, node, { least: 1 });
    this.compare('the same in segments of 1,400 bytes', 'Gbit/s', cut, one, node, { least: 0.5 });
    // As on a link that takes no partial checksums: node:net has none to compute on loopback either.
    this.compare('the same with checksums computed and checked', 'Gbit/s', sums, one, node, { least: 0.5 });
    const heap: number[] = [];
    for (let i = 0; i < this.reps; i++) heap.push((await this.local<{ bytes: number }>('memory-1400-heap')).bytes);
    this.add({
      figure: 'Heap allocated per segment of 1,400 bytes, both ends, with the reads and writes of the program',
      value: `${spread(heap, 0)} bytes`,
    });
    type Rates = { latency: LatencyFigure; rate: RateFigure };
    const theirs: Rates[] = [];
    const ours: Rates[] = [];
    for (let i = 0; i < this.reps; i++) {
      theirs.push(await this.local<Rates>('node-net-rates'));
      ours.push(await this.local<Rates>('memory-rates'));
    }
    const p50 = (all: readonly Rates[]) => all.map((r) => r.latency.p50);
    this.compare('One byte there and back, memory link, p50', 'us', p50(ours), one, p50(theirs), {}, 1);
    const rate = (all: readonly Rates[]) => all.map((r) => r.rate.perCpuSecond);
    const perSecond = rate(ours);
    this.add({
      figure: 'Connection + 1 request per second of CPU time, both ends in one process',
      value: spread(perSecond, 0),
      against: `${one}: ${spread(rate(theirs), 0)}`,
      ratio: median(perSecond) / median(rate(theirs)),
      bar: 'at least 3,000',
      reached: median(perSecond) >= 3_000,
    });
  }

  async scale(): Promise<void> {
    const count = this.o.smoke ? 300 : 10_000;
    const { perSocket } = await this.local<{ perSocket: number }>('idle', 1, count);
    const theirs = await this.local<{ perSocket: number }>('node-net-idle', 1, Math.min(count, 4_000));
    this.add({
      figure: `Memory per idle connection and end (${count.toLocaleString('en')} connections, sockets included)`,
      value: `${perSocket.toFixed(0)} bytes`,
      against: `node:net, without what the kernel holds: ${theirs.perSocket.toFixed(0)} bytes`,
      ratio: perSocket / theirs.perSocket,
      bar: `under ${IDLE_BYTES.toLocaleString('en')} bytes`,
      reached: perSocket < IDLE_BYTES,
    });
    const flows = this.o.smoke ? 50 : 1_000;
    const fair = await this.local<{ jain: number; gbps: number }>('fairness', this.o.smoke ? 0.3 : 4, flows);
    this.add({
      figure: `${flows.toLocaleString('en')} active connections through a cloud in the same process: Jain's index`,
      value: `${fair.jain.toFixed(3)} at ${fair.gbps.toFixed(1)} Gbit/s in all`,
      bar: 'at least 0.95',
      reached: fair.jain >= 0.95,
    });
  }

  sim(): void {
    const seeds = this.o.smoke ? 1 : PATH.seeds;
    const linux = linuxRecord();
    const path = `${PATH.rate / 1e6} Mbit/s, ${PATH.rttMs} ms, ${PATH.loss * 100} % loss`;
    const ours = lossyGoodput(seeds, PATH.seconds);
    const name = `Linux ${linux.kernel}, recorded`;
    this.compare(`CUBIC, ${path}, simulated`, 'Mbit/s', ours, name, linux.samples, { least: 1 });
    const share = reorderedShare(this.o.smoke ? 2 : 10);
    this.add({
      figure: `${PATH.rate / 1e6} Mbit/s, ${PATH.rttMs} ms, 5 % reordered by 5 ms, no loss`,
      value: `${(share * 100).toFixed(1)} % of the goodput without`,
      bar: 'at least 90 %',
      reached: share >= 0.9,
    });
  }

  async overlay(withSubjects: boolean): Promise<void> {
    const restore = allowCongestionControl('cubic');
    const seconds = this.o.smoke ? 1 : Math.max(1, Math.round(this.seconds));
    try {
      if (this.o.parts.includes('overlay')) await this.overTls(seconds);
      if (!this.o.smoke || withSubjects) await this.insecure(seconds, withSubjects);
    } finally {
      restore();
    }
  }

  private async overTls(seconds: number): Promise<void> {
    const overlay = await startOverlay(false, 'cubic');
    try {
      const f = await measureOverlay(overlay, this.reps, seconds);
      const kernels = 'kernel to kernel, same hub';
      this.compare('Node to kernel through the hub, TLS', 'Gbit/s', f.nodeSend, kernels, f.kernelSend, { least: 0.8 });
      const back = [f.nodeReceive, kernels, f.kernelReceive] as const;
      this.compare('Kernel to node through the hub, TLS', 'Gbit/s', ...back, { least: 0.8 });
      this.add({
        figure: "CPU of the node's process per GB, sending / receiving",
        value: `${spread(f.cpuSend, 2)} / ${spread(f.cpuReceive, 2)} s`,
      });
      const p50 = (all: readonly LatencyFigure[]) => all.map((l) => l.p50);
      const theirs = [kernels, p50(f.kernelLatency), { most: 1.5 }, 0] as const;
      this.compare('One byte there and back, node and kernel, p50', 'us', p50(f.nodeLatency), ...theirs);
      this.compare('One byte there and back, node and node, p50', 'us', p50(f.nodesLatency), ...theirs);
      this.add({
        figure: 'Connection + 1 request through the hub, node to kernel, per second',
        value: spread(f.connections, 0),
        bar: 'at least 3,000',
        reached: median(f.connections) >= 3_000,
      });
    } finally {
      await overlay.down();
    }
  }

  private async insecure(seconds: number, withSubjects: boolean): Promise<void> {
    const overlay = await startOverlay(true, 'cubic');
    try {
      const f = await measureOverlay(overlay, this.reps, seconds);
      const kernels = 'kernel to kernel, same link';
      this.compare('Node to kernel, one hop, insecure', 'Gbit/s', f.nodeSend1, kernels, f.kernelSend1);
      if (!withSubjects) return;
      const subjects: Subject[] = [];
      const { lab } = overlay;
      for (const mtu of [1_500, 65_520]) subjects.push(await slirp(lab, mtu, this.reps, seconds));
      subjects.push(...(await fromRegistry(lab, this.reps, seconds, !this.o.smoke)));
      for (const { name, samples, skipped } of subjects) {
        if (samples.length === 0) this.skipped.push(`${name}: ${skipped ?? 'no sample'}`);
        else {
          const bar = name.endsWith('1500') ? { least: 1.5 } : {};
          this.compare('Node to kernel, one hop, insecure', 'Gbit/s', f.nodeSend1, name, samples, bar);
        }
      }
    } finally {
      await overlay.down();
    }
  }
}

export async function l4(options: L4Options): Promise<L4Report> {
  const bench = new Bench(options);
  const { parts, log } = options;
  await bench.withNamespace(async () => {
    if (parts.includes('memory')) await bench.memory();
    if (parts.includes('scale')) await bench.scale();
  });
  if (parts.includes('sim')) bench.sim();
  if (parts.includes('overlay') || parts.includes('compare')) {
    const obstacle = vpnObstacle() ?? (has('sysctl') ? undefined : 'it needs the program sysctl');
    if (obstacle !== undefined) bench.skipped.push(`overlay and compare: ${obstacle}`);
    else {
      buildWhenStale(log);
      await bench.overlay(parts.includes('compare'));
    }
  }
  for (const line of bench.skipped) log(`  skipped: ${line}`);
  return { rows: bench.rows, skipped: bench.skipped, reps: options.reps, seconds: options.seconds };
}

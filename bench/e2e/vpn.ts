// The end-to-end bench: KubeBus and named peers in the same namespaces, in the same run, one after another, with the
// daemons started anew for every repetition.
import { execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { isBuilt } from '../../examples/lab/command.js';
import { has } from '../../examples/lab/netns.js';
import type { Path } from './load.js';
import { type Figure, measure, type Sample, type Settings } from './measure.js';
import { ALIASES, CLOUD, missingPrograms, NAMESPACES, SUBJECTS, type Subject, versionOf } from './subjects.js';
import { allowCongestionControl, bringUp } from './topology.js';

export interface VpnOptions {
  /** Names or aliases of peers; KubeBus itself is always measured. */
  readonly peers: readonly string[];
  /** KubeBus variants. */
  readonly variants: readonly ('tls' | 'insecure')[];
  /** 2 = edge-hub-edge, 1 = edge-hub. */
  readonly hops: readonly number[];
  readonly reps: number;
  readonly seconds: number;
  readonly congestion: string;
  /** All figures on one hop too. */
  readonly full: boolean;
  /** No repetition is started after this many minutes. */
  readonly minutes: number;
  readonly tries: number;
  readonly quietMs: number;
  readonly figures: readonly Figure[];
  /** A sitting before this one, of the same run: its samples are kept and this one's added. */
  readonly earlier?: VpnReport | undefined;
  readonly log: (line: string) => void;
}

export interface VpnRow {
  readonly subject: string;
  readonly title: string;
  readonly version: string;
  readonly encryption: string;
  readonly how: string;
  readonly hops: number;
  readonly samples: Sample[];
}

export interface VpnReport {
  readonly congestion: string;
  /** Times that the measuring was begun; one run may be made in several sittings. */
  readonly sittings: number;
  readonly seconds: number;
  readonly minutes: number;
  readonly rows: VpnRow[];
}

/** Why the bench cannot run here; undefined when it can. */
export function vpnObstacle(): string | undefined {
  if (process.platform !== 'linux') return 'it needs Linux network namespaces';
  if (process.getuid?.() !== 0) return 'it needs root (network namespaces)';
  for (const program of ['ip', 'iperf3', 'ping', 'ss']) {
    if (!has(program)) return `it needs the program ${program}`;
  }
  if (!existsSync('/dev/net/tun')) return 'it needs /dev/net/tun';
  return undefined;
}

/** The subjects of a run, in order; throws on an unknown name. */
export function chooseSubjects(options: Pick<VpnOptions, 'peers' | 'variants'>): Subject[] {
  const names = [
    ...options.variants.map((variant) => (variant === 'tls' ? 'kubebus' : 'kubebus-insecure')),
    ...options.peers.flatMap((peer) => ALIASES[peer] ?? [peer]),
  ];
  return [...new Set(names)].map((name) => {
    const subject = SUBJECTS.find((candidate) => candidate.name === name);
    if (!subject) {
      throw new Error(
        `unknown peer '${name}'; known: ${[...SUBJECTS.map((s) => s.name), ...Object.keys(ALIASES)].join(', ')}`,
      );
    }
    return subject;
  });
}

/** Figures of the short path unless all are asked for. */
const SHORT: ReadonlySet<Figure> = new Set(['ping', 'tcp', 'flood']);

export async function vpn(options: VpnOptions): Promise<VpnReport> {
  const { earlier } = options;
  if (earlier && (earlier.congestion !== options.congestion || earlier.seconds !== options.seconds)) {
    throw new Error(
      `the run so far is of ${earlier.congestion} and ${earlier.seconds} s: sittings of one run agree in --cc and --seconds`,
    );
  }
  const chosen = chooseSubjects(options);
  const subjects = chosen.filter((subject) => {
    const missing = missingPrograms(subject);
    if (missing.length > 0) options.log(`  ${subject.name}: skipped, ${missing.join(', ')} not installed`);
    return missing.length === 0;
  });
  buildWhenStale(options.log);
  const rows: VpnRow[] = earlier?.rows.map((row) => ({ ...row, samples: [...row.samples] })) ?? [];
  for (const subject of subjects) {
    const version = await versionOf(subject);
    const { name, title, encryption, how } = subject;
    for (const hops of options.hops) {
      if (!rows.some((row) => row.subject === name && row.hops === hops))
        rows.push({ subject: name, title, version, encryption, how, hops, samples: [] });
    }
  }
  const settings: Settings = {
    seconds: options.seconds,
    stepSeconds: 1,
    tries: options.tries,
    quietMs: options.quietMs,
    foreignLimit: 0.08,
    log: options.log,
  };
  const start = performance.now();
  const restore = allowCongestionControl(options.congestion);
  let reps = 0;
  try {
    for (let rep = 1; rep <= options.reps; rep++) {
      // Alternating: drift of the machine hits all alike. A repetition is whole or not begun.
      const perRep = reps === 0 ? 0 : (performance.now() - start) / reps;
      if (rep > 1 && performance.now() - start + perRep > options.minutes * 60_000) {
        options.log(
          `  stopping after ${reps} of ${options.reps} repetitions: the next would pass --minutes ${options.minutes}`,
        );
        break;
      }
      for (const subject of subjects) {
        for (const [hops, sample] of await oneRepetition(subject, options, settings)) {
          rows.find((row) => row.subject === subject.name && row.hops === hops)!.samples.push(sample);
          options.log(`  #${rep} ${line(subject.name, hops, sample)}`);
        }
      }
      reps = rep;
    }
  } finally {
    restore();
  }
  if (options.reps === 0 && earlier) return earlier;
  const minutes = (earlier?.minutes ?? 0) + (performance.now() - start) / 60_000;
  const { congestion, seconds } = options;
  return { congestion, sittings: (earlier?.sittings ?? 0) + 1, seconds, minutes, rows };
}

async function oneRepetition(subject: Subject, options: VpnOptions, settings: Settings): Promise<[number, Sample][]> {
  const lab = await bringUp('kbb-', options.congestion);
  const samples: [number, Sample][] = [];
  try {
    const overlay = await subject.setup(lab);
    for (const hops of options.hops) {
      const server = hops === 2 ? 'edge2' : CLOUD;
      const target = hops === 2 ? overlay.edge2 : overlay.cloud;
      const path: Path = { lab, client: 'edge1', server, target, namespaces: NAMESPACES };
      await lab.waitPing('edge1', target);
      const all = hops === 2 || options.full;
      const figures = new Set(options.figures.filter((figure) => all || SHORT.has(figure)));
      if (figures.size > 0) samples.push([hops, await measure(path, figures, settings)]);
    }
  } catch (error) {
    const message = (error as Error).message;
    options.log(`  ${subject.name}: FAILED: ${message}`);
    const done = new Set(samples.map(([hops]) => hops));
    for (const hops of options.hops) {
      if (!done.has(hops)) samples.push([hops, { failures: [`set-up: ${message.split('\n')[0]}`] }]);
    }
  } finally {
    await lab.down();
  }
  return samples;
}

/** Users run the compiled package: without it the compiler's memory and start-up would be measured too. */
export function buildWhenStale(log: (line: string) => void): void {
  if (isBuilt()) return;
  log('  building dist/');
  const root = join(dirname(fileURLToPath(import.meta.url)), '../..');
  try {
    execFileSync(process.execPath, [join(root, 'scripts/build.mjs')], { stdio: ['ignore', 'ignore', 'inherit'] });
  } catch (error) {
    log(`  the build failed (${(error as Error).message}): running from source`);
  }
}

function line(name: string, hops: number, sample: Sample): string {
  const show = (value: number | undefined, digits: number) => (value === undefined ? '-' : value.toFixed(digits));
  return [
    `${name} ${hops} hop${hops === 1 ? '' : 's'}: ${show(sample.tcpGbps, 3)} Gbit/s`,
    `both ${show(sample.tcpBothGbps, 3)}, 4 streams ${show(sample.tcp4Gbps, 3)}`,
    `cpu ${show(sample.cpuPerGb, 2)} s/GB (hub ${show(sample.hubCpuPerGb, 2)})`,
    `64 B flood ${show(sample.floodPps, 0)}, paced ${show(sample.pacedPps, 0)} pps`,
    `rtt p50 ${show(sample.rttP50, 3)}, loaded p99 ${show(sample.loadedP99, 2)} ms`,
    `edge ${show(sample.edgePeak, 0)}, hub ${show(sample.hubPeak, 0)} MiB`,
    `foreign ${show(sample.foreignPercent, 0)} %`,
    ...sample.failures,
  ].join('; ');
}

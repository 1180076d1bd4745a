// The http bench: requests/s and latency by wrk, for one proxy alone (ours beside http-proxy) and for the whole way from a gateway to a service
// behind NAT (KubeBus beside nginx -> nginx over `ssh -R` and over a VPN). The service is nginx. All on one machine, one run.

import { type ChildProcess, execFile, fork, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import type { Lab } from '../../examples/lab/netns.js';
import { cloudNames, createAuthority, nodeNames } from '../../lib/join/driver/pki.js';
import { median } from '../report.js';
import { freePort } from './free-port.js';
import { front, nginx, overVpn, reverseTunnel, status, VPN } from './http-peers.js';
import { SUBJECTS as VPNS } from './subjects.js';
import { buildWhenStale } from './vpn.js';

const run = promisify(execFile);
const SIZES = { '0 B': 0, '1 KB': 1024, '1 MB': 1024 * 1024 } as const;
type Size = keyof typeof SIZES;
const SUBJECTS = [
  'direct',
  'nginx alone',
  'http-proxy',
  'bare undici',
  'client proxy',
  'ssh -R + nginx',
  'VPN + nginx',
  'whole way',
] as const;
type Subject = (typeof SUBJECTS)[number];

/** For comparison only, and with empty bodies only: a proxy that is not Node, and the parts of ours without ours. */
const FLOORS: readonly Subject[] = ['nginx alone', 'bare undici'];

interface Sample {
  readonly requestsPerSecond: number;
  readonly megabytesPerSecond: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
}

export interface HttpRow {
  readonly subject: Subject;
  readonly size: Size;
  readonly connections: number;
  readonly samples: readonly Sample[];
}

/** From the request to the first byte of the answer, one request at a time on one connection, 1 MB bodies. */
export interface FirstByte {
  readonly subject: Subject;
  readonly p50Ms: number;
  readonly p99Ms: number;
}

export interface HttpReport {
  readonly rows: readonly HttpRow[];
  readonly firstByte?: readonly FirstByte[];
  readonly missing: readonly string[];
}

export interface HttpOptions {
  readonly seconds: number;
  readonly reps: number;
  readonly smoke: boolean;
  readonly log: (line: string) => void;
}

const WARM_SECONDS = 4;

const have = (command: string) => spawnSync('which', [command]).status === 0;

export async function httpBench({ seconds, reps, smoke, log }: HttpOptions): Promise<HttpReport> {
  if (!have('wrk') || !have('nginx'))
    return { rows: [], missing: ['wrk and nginx are needed (apt-get install wrk nginx-light)'] };
  const dir = await mkdtemp(join(tmpdir(), 'kubebus-bench-'));
  const children: ChildProcess[] = [];
  const missing: string[] = [];
  let lab: Lab | null = null;
  try {
    await certificates(dir);
    const service = await freePort();
    await mkdir(join(dir, 'www'));
    for (const [name, bytes] of Object.entries(SIZES))
      await writeFile(join(dir, 'www', name.replace(' ', '')), Buffer.alloc(bytes, 120));
    await nginx(dir, 'service', `listen 127.0.0.1:${service}; root ${dir}/www;`, '', children);
    const target = `http://127.0.0.1:${service}`;
    buildWhenStale(log);
    const role = fileURLToPath(new URL('./http-role.mjs', import.meta.url));
    const start = async (...args: string[]) => {
      const child = fork(role, args, {
        execArgv: [],
      });
      children.push(child);
      const [ready] = (await once(child, 'message')) as [{ port: number; address?: string }];
      return ready;
    };
    const bases = new Map<Subject, string>([['direct', target]]);
    bases.set('http-proxy', `http://127.0.0.1:${(await start('http-proxy', dir, target)).port}`);
    if (!smoke) {
      bases.set('nginx alone', await front(dir, service, children, 'alone'));
      bases.set('bare undici', `http://127.0.0.1:${(await start('bare', dir, target)).port}`);
    }
    bases.set('client proxy', `http://127.0.0.1:${(await start('client-proxy', dir, target)).port}/acme/edge-1/web`);
    const cloud = await start('cloud', dir);
    await start('edge', dir, target, cloud.address!);
    bases.set('whole way', `http://127.0.0.1:${cloud.port}/acme/edge-1/web`);
    const ssh = await reverseTunnel(dir, service, children).catch((error: Error) => {
      missing.push(`ssh -R: ${error.message}`);
      return null;
    });
    if (ssh !== null) bases.set('ssh -R + nginx', await front(dir, ssh, children));
    if (process.getuid?.() !== 0 || !VPNS.find((v) => v.name === VPN)!.programs.every(have))
      missing.push(`nginx over a VPN (${VPN} and root are needed)`);
    else if (!smoke) {
      const vpn = await overVpn(join(dir, 'www')).catch((error: Error) => {
        missing.push(`nginx over a VPN: ${error.message}`);
        return null;
      });
      if (vpn !== null) bases.set('VPN + nginx', vpn.url);
      lab = vpn?.lab ?? null;
    }
    /** Where a caller of the subject stands. */
    const at = (subject: Subject): string[] =>
      subject === 'VPN + nginx' ? ['ip', 'netns', 'exec', lab!.full('cloud')] : [];
    const rows: HttpRow[] = [];
    const warm = new Set<Subject>();
    for (const size of smoke ? (['1 KB'] as const) : (Object.keys(SIZES) as Size[])) {
      for (const connections of smoke || size === '1 MB' ? [8] : [1, 32]) {
        const subjects = SUBJECTS.filter((s) => bases.has(s) && (size === '0 B' || !FLOORS.includes(s)));
        const samples = new Map(subjects.map((s) => [s, [] as Sample[]]));
        // All in turn, forth and back: what else the machine does meets all of them.
        for (let rep = 0; rep < (smoke ? 1 : reps); rep++) {
          for (const subject of rep % 2 === 0 ? subjects : subjects.toReversed()) {
            const url = `${bases.get(subject)}/${size.replace(' ', '')}`;
            if (subject !== 'VPN + nginx') await ready(url);
            // What is compiled while it runs is measured when it is compiled.
            if (!smoke && !warm.has(subject)) await wrk(at(subject), url, 32, WARM_SECONDS);
            warm.add(subject);
            samples.get(subject)!.push(await wrk(at(subject), url, connections, smoke ? 1 : seconds));
          }
        }
        for (const subject of subjects) {
          const row = { subject, size, connections, samples: samples.get(subject)! };
          rows.push(row);
          log(
            `http: ${subject}, ${size}, ${connections} connections: ${middle(row, 'requestsPerSecond').toFixed(0)}/s`,
          );
        }
      }
    }
    const firstByte: FirstByte[] = [];
    for (const subject of have('curl') ? SUBJECTS : []) {
      const base = bases.get(subject);
      if (base !== undefined)
        firstByte.push({ subject, ...(await timeToFirstByte(at(subject), `${base}/1MB`, smoke ? 20 : 500)) });
    }
    return { rows, firstByte, missing };
  } finally {
    await lab?.down();
    for (const child of children.reverse()) child.kill('SIGTERM');
    await Promise.all(
      children.map((child) => (child.exitCode === null && child.signalCode === null ? once(child, 'exit') : null)),
    );
    await rm(dir, { recursive: true, force: true });
  }
}

async function timeToFirstByte(
  at: readonly string[],
  url: string,
  count: number,
): Promise<{ p50Ms: number; p99Ms: number }> {
  // curl keeps its connection from one URL to the next.
  const format = ['-w', '%{time_pretransfer} %{time_starttransfer}\\n'];
  const [program, ...args] = [...at, 'curl', '-s', ...format, '-o', '/dev/null', `${url}?[1-${count}]`];
  const { stdout } = await run(program!, args);
  const times = stdout
    .trim()
    .split('\n')
    .map((line) => line.split(' ').map(Number))
    .map(([from, to]) => (to! - from!) * 1000)
    .sort((a, b) => a - b);
  return { p50Ms: times[Math.floor(times.length / 2)]!, p99Ms: times[Math.floor(times.length * 0.99)]! };
}

export async function certificates(dir: string): Promise<void> {
  const ca = await createAuthority('bench');
  const write = async (name: string, { cert, key }: { cert: string; key: string }) => {
    await writeFile(join(dir, `${name}.crt`), cert);
    await writeFile(join(dir, `${name}.key`), key);
  };
  await writeFile(join(dir, 'ca.crt'), ca.cert);
  await write(
    'cloud',
    await ca.issue({ name: 'cloud', days: 1, names: cloudNames('cloud', ['127.0.0.1']), server: true }),
  );
  await write('acme-edge-1', await ca.issue({ name: 'edge-1', days: 1, names: nodeNames('acme', 'edge-1', []) }));
}

async function ready(url: string): Promise<void> {
  for (let i = 0; i < 100; i++) {
    if ((await status(url)) === '200') return;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  throw new Error(`no answer from ${url}`);
}

async function wrk(at: readonly string[], url: string, connections: number, seconds: number): Promise<Sample> {
  const [program, ...args] = [...at, 'wrk', '-t1', `-c${connections}`, `-d${seconds}s`, '--latency', url];
  const { stdout } = await run(program!, args);
  const errors = /Non-2xx or 3xx responses: \d+|Socket errors: .*/.exec(stdout);
  if (errors !== null) throw new Error(`${url}: ${errors[0]}`);
  const ms = (name: string) => {
    const [, value = '0', unit = 'ms'] = new RegExp(`${name}\\s+([\\d.]+)(us|ms|s)`).exec(stdout) ?? [];
    return Number(value) * { us: 0.001, ms: 1, s: 1000 }[unit as 'us' | 'ms' | 's'];
  };
  const [, amount = '0', unit = 'MB'] = /Transfer\/sec:\s+([\d.]+)([KMG]?B)/.exec(stdout) ?? [];
  return {
    requestsPerSecond: Number(/Requests\/sec:\s+([\d.]+)/.exec(stdout)?.[1] ?? 0),
    megabytesPerSecond: Number(amount) * { B: 1e-6, KB: 1e-3, MB: 1, GB: 1e3 }[unit as 'B' | 'KB' | 'MB' | 'GB'],
    p50Ms: ms('50%'),
    p99Ms: ms('99%'),
  };
}

export function httpTable({ rows, firstByte = [], missing }: HttpReport): string {
  const lines = [
    '| body | connections | subject | requests/s | p50 ms | p99 ms | MB/s |',
    '| --- | ---: | --- | ---: | ---: | ---: | ---: |',
  ];
  for (const r of rows) {
    const rates = r.samples.map((s) => s.requestsPerSecond);
    const range = rates.length > 1 ? ` [${Math.min(...rates).toFixed(0)}-${Math.max(...rates).toFixed(0)}]` : '';
    lines.push(
      `| ${r.size} | ${r.connections} | ${r.subject} | ${middle(r, 'requestsPerSecond').toFixed(0)}${range} | ${middle(r, 'p50Ms').toFixed(2)} | ${middle(r, 'p99Ms').toFixed(2)} | ${middle(r, 'megabytesPerSecond').toFixed(1)} |`,
    );
  }
  lines.push(...goals(rows));
  if (firstByte.length > 0) {
    lines.push('', '| first byte of 1 MB, idle | p50 ms | p99 ms |', '| --- | ---: | ---: |');
    for (const r of firstByte) lines.push(`| ${r.subject} | ${r.p50Ms.toFixed(2)} | ${r.p99Ms.toFixed(2)} |`);
  }
  return [...lines, ...missing.map((text) => `\nNot measured: ${text}.`)].join('\n');
}

function middle({ samples }: HttpRow, figure: keyof Sample): number {
  return median(samples.map((s) => s[figure]).sort((a, b) => a - b))!;
}

/** Ours against the peer of each goal, medians of the same turns. */
function goals(rows: readonly HttpRow[]): string[] {
  const lines: string[] = [];
  const compare = (ours: Subject, peer: Subject) => {
    for (const a of rows.filter((r) => r.subject === ours)) {
      const b = rows.find((r) => r.subject === peer && r.size === a.size && r.connections === a.connections);
      if (b === undefined) continue;
      const times = (figure: keyof Sample) => (middle(a, figure) / middle(b, figure)).toFixed(2);
      lines.push(
        `| ${ours} / ${peer} | ${a.size} | ${a.connections} | ${times('requestsPerSecond')} | ${times('p50Ms')} | ${times('p99Ms')} |`,
      );
    }
  };
  compare('client proxy', 'http-proxy');
  compare('whole way', 'ssh -R + nginx');
  if (lines.length === 0) return [];
  return [
    '',
    '| ratio | body | connections | requests/s | p50 | p99 |',
    '| --- | --- | ---: | ---: | ---: | ---: |',
    ...lines,
  ];
}

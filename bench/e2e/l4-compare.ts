// The comparison subjects of the l4 bench, on the cable edge1 - cloud of the bench's network: slirp4netns (Debian), and two from the
// npm registry, installed into a folder of their own the first time they are asked for.

import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { copyFileSync, existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { kubebusRun } from '../../examples/lab/command.js';
import { has, type Lab } from '../../examples/lab/netns.js';
import { kernelIperf } from './l4-overlay.js';
import { CLOUD, hubAddress } from './subjects.js';

const here = dirname(fileURLToPath(import.meta.url));
/** Ignored by git, and gone with the next clean install. */
const FOLDER = join(here, '../../node_modules/.cache/kubebus-bench');
/** Exactly these: what they do differs from version to version. */
const PACKAGES = {
  libp2p: '2.10.0',
  '@libp2p/tcp': '10.1.19',
  '@libp2p/plaintext': '2.0.29',
  '@chainsafe/libp2p-yamux': '7.0.4',
  '@multiformats/multiaddr': '12.5.1',
  '@matrixai/quic': '2.0.9',
};

/** Where the packages are; a text says why not. `install`: fetch them where they are missing. */
export async function installed(install: boolean): Promise<{ folder: string } | string> {
  const wanted = JSON.stringify({ private: true, type: 'module', dependencies: PACKAGES });
  const mark = join(FOLDER, 'node_modules/@matrixai/quic/package.json');
  if (existsSync(mark)) return { folder: FOLDER };
  if (!install) return 'libp2p and @matrixai/quic are not installed (a run without --smoke does it)';
  mkdirSync(FOLDER, { recursive: true });
  writeFileSync(join(FOLDER, 'package.json'), wanted);
  try {
    const args = ['install', '--no-audit', '--no-fund', '--no-package-lock', '--loglevel=error'];
    await promisify(execFile)('npm', args, { cwd: FOLDER, timeout: 180_000 });
  } catch (error) {
    return `libp2p and @matrixai/quic could not be installed: ${(error as Error).message.split('\n')[0]}`;
  }
  return { folder: FOLDER };
}

export interface Subject {
  readonly name: string;
  /** Gbit/s, one sample per repetition. */
  readonly samples: number[];
  readonly skipped?: string;
}

/** From a namespace behind slirp4netns to an iperf3 server on the loopback of its host (the namespace `cloud`). */
export async function slirp(lab: Lab, mtu: number, reps: number, seconds: number): Promise<Subject> {
  const name = `slirp4netns, MTU ${mtu}`;
  if (!has('slirp4netns')) return { name, samples: [], skipped: 'slirp4netns is not installed' };
  const guest = `slirp${mtu}`;
  await lab.ns(guest, { congestion: 'cubic', ipv6: false });
  const daemon = lab.spawn(CLOUD, 'slirp4netns', [
    '--configure',
    `--mtu=${mtu}`,
    '--netns-type=path',
    `/run/netns/${lab.full(guest)}`,
    'tap0',
  ]);
  try {
    await lab.waitDevice(guest, 'tap0');
    await lab.waitPing(guest, '10.0.2.2');
    const samples: number[] = [];
    // Its peer is the host's loopback, by this address.
    for (let i = 0; i < reps; i++) samples.push(await kernelIperf(lab, guest, '10.0.2.2', seconds, false));
    return { name, samples };
  } finally {
    await daemon.stop();
  }
}

/** Runs `SCRIPT serve HOST` in the cloud's namespace and `SCRIPT send ADDRESS SECONDS` in edge1's; Gbit/s as received. */
async function pair(lab: Lab, folder: string, script: string, seconds: number, env: NodeJS.ProcessEnv) {
  copyFileSync(join(here, script), join(folder, script));
  const start = (ns: string, args: readonly string[]): ChildProcess =>
    spawn('ip', ['netns', 'exec', lab.full(ns), process.execPath, join(folder, script), ...args], {
      stdio: ['ignore', 'pipe', 'ignore'],
      env: { ...process.env, ...env },
    });
  const server = start(CLOUD, ['serve', hubAddress(1)]);
  let client: ChildProcess | undefined;
  try {
    const lines = createInterface({ input: server.stdout! });
    const signal = AbortSignal.timeout(10_000 + seconds * 2_000);
    const [address] = (await once(lines, 'line', { signal })) as [string];
    client = start('edge1', ['send', address, String(seconds)]);
    const [gbps] = (await once(lines, 'line', { signal })) as [string];
    return Number(gbps);
  } finally {
    server.kill('SIGKILL');
    client?.kill('SIGKILL');
  }
}

export async function fromRegistry(lab: Lab, reps: number, seconds: number, install: boolean): Promise<Subject[]> {
  const names = ['libp2p, TCP + yamux, plaintext', 'QUIC stream, quiche binding'] as const;
  const found = await installed(install);
  if (typeof found === 'string') return names.map((name) => ({ name, samples: [], skipped: found }));
  const pki = join(lab.work, 'quic');
  await kubebusRun(['ca', 'init', '--dir', pki]);
  await kubebusRun(['ca', 'cloud', '--dir', pki, '--name', 'cloud', '--host', hubAddress(1)]);
  const env = { KEY: join(pki, 'cloud.key'), CERT: join(pki, 'cloud.crt'), CA: join(pki, 'ca.crt') };
  const subjects: Subject[] = [];
  for (const [name, script] of [
    [names[0], 'l4-libp2p.mjs'],
    [names[1], 'l4-quiche.mjs'],
  ] as const) {
    const samples: number[] = [];
    try {
      for (let i = 0; i < reps; i++) samples.push(await pair(lab, found.folder, script, seconds, env));
      subjects.push({ name, samples });
    } catch (error) {
      subjects.push({ name, samples, skipped: (error as Error).message });
    }
  }
  return subjects;
}

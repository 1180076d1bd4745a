// The http bench: requests/s and latency by wrk, for one proxy alone (ours beside http-proxy) and for the whole way from a gateway to a service
// behind NAT (KubeBus beside nginx -> nginx over `ssh -R`). The service is nginx. All on loopback of one machine, one run.

import { type ChildProcess, execFile, fork, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { chmod, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir, userInfo } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { cloudNames, createAuthority, nodeNames } from '../../lib/join/driver/pki.js';

const run = promisify(execFile);
const SIZES = { '0 B': 0, '1 KB': 1024, '1 MB': 1024 * 1024 } as const;
type Size = keyof typeof SIZES;
const SUBJECTS = ['direct', 'http-proxy', 'client proxy', 'ssh -R + nginx', 'whole way'] as const;
type Subject = (typeof SUBJECTS)[number];

export interface HttpRow {
  readonly subject: Subject;
  readonly size: Size;
  readonly connections: number;
  readonly requestsPerSecond: number;
  readonly megabytesPerSecond: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
}

export interface HttpReport {
  readonly rows: readonly HttpRow[];
  readonly missing: readonly string[];
}

export interface HttpOptions {
  readonly seconds: number;
  readonly smoke: boolean;
  readonly log: (line: string) => void;
}

const have = (command: string) => spawnSync('which', [command]).status === 0;

export async function httpBench({ seconds, smoke, log }: HttpOptions): Promise<HttpReport> {
  if (!have('wrk') || !have('nginx'))
    return { rows: [], missing: ['wrk and nginx are needed (apt-get install wrk nginx-light)'] };
  const dir = await mkdtemp(join(tmpdir(), 'kubebus-bench-'));
  const children: ChildProcess[] = [];
  const missing: string[] = [];
  try {
    await certificates(dir);
    const service = await freePort();
    await mkdir(join(dir, 'www'));
    for (const [name, bytes] of Object.entries(SIZES))
      await writeFile(join(dir, 'www', name.replace(' ', '')), Buffer.alloc(bytes, 120));
    await nginx(dir, 'service', `listen 127.0.0.1:${service}; root ${dir}/www;`, '', children);
    const target = `http://127.0.0.1:${service}`;
    const start = async (...args: string[]) => {
      const child = fork(fileURLToPath(new URL('./http-role.ts', import.meta.url)), args, {
        execArgv: ['--import', import.meta.resolve('tsx')],
      });
      children.push(child);
      const [ready] = (await once(child, 'message')) as [{ port: number; address?: string }];
      return ready;
    };
    const bases = new Map<Subject, string>([['direct', target]]);
    bases.set('http-proxy', `http://127.0.0.1:${(await start('http-proxy', dir, target)).port}`);
    bases.set('client proxy', `http://127.0.0.1:${(await start('client-proxy', dir, target)).port}/acme/edge-1/web`);
    const cloud = await start('cloud', dir);
    await start('edge', dir, target, cloud.address!);
    bases.set('whole way', `http://127.0.0.1:${cloud.port}/acme/edge-1/web`);
    const ssh = await reverseTunnel(dir, service, children).catch((error: Error) => {
      missing.push(`ssh -R: ${error.message}`);
      return null;
    });
    if (ssh !== null) {
      const front = await freePort();
      await nginx(
        dir,
        'front',
        `listen 127.0.0.1:${front}; location / { proxy_pass http://up; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off; }`,
        `upstream up { server 127.0.0.1:${ssh}; keepalive 256; }`,
        children,
      );
      bases.set('ssh -R + nginx', `http://127.0.0.1:${front}`);
    }
    const rows: HttpRow[] = [];
    for (const size of smoke ? (['1 KB'] as const) : (Object.keys(SIZES) as Size[])) {
      for (const connections of smoke || size === '1 MB' ? [8] : [1, 32]) {
        for (const subject of SUBJECTS) {
          const base = bases.get(subject);
          if (base === undefined) continue;
          const url = `${base}/${size.replace(' ', '')}`;
          await ready(url);
          rows.push({ subject, size, connections, ...(await wrk(url, connections, smoke ? 1 : seconds)) });
          log(`http: ${subject}, ${size}, ${connections} connections: ${rows.at(-1)!.requestsPerSecond.toFixed(0)}/s`);
        }
      }
    }
    return { rows, missing };
  } finally {
    for (const child of children.reverse()) child.kill('SIGTERM');
    await Promise.all(
      children.map((child) => (child.exitCode === null && child.signalCode === null ? once(child, 'exit') : null)),
    );
    await rm(dir, { recursive: true, force: true });
  }
}

async function certificates(dir: string): Promise<void> {
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

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as { port: number };
  server.close();
  await once(server, 'close');
  return port;
}

async function nginx(dir: string, name: string, server: string, http: string, children: ChildProcess[]): Promise<void> {
  const own = join(dir, name);
  await mkdir(own);
  const temp = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map((t) => `${t}_temp_path ${own}/${t};`).join(' ');
  await writeFile(
    join(own, 'nginx.conf'),
    `daemon off; master_process off; pid ${own}/pid; error_log ${own}/log; events { worker_connections 2048; }
     http { access_log off; keepalive_requests 100000000; ${temp} ${http} server { ${server} } }`,
  );
  children.push(spawn('nginx', ['-c', join(own, 'nginx.conf')], { stdio: 'ignore' }));
}

/** sshd and `ssh -R` of our own on loopback; resolves with the port that leads to the service. */
async function reverseTunnel(dir: string, service: number, children: ChildProcess[]): Promise<number> {
  const sshd = '/usr/sbin/sshd';
  await run('ssh-keygen', ['-q', '-t', 'ed25519', '-N', '', '-f', join(dir, 'host')]);
  await run('ssh-keygen', ['-q', '-t', 'ed25519', '-N', '', '-f', join(dir, 'user')]);
  await run('cp', [join(dir, 'user.pub'), join(dir, 'authorized')]);
  await chmod(join(dir, 'authorized'), 0o600);
  const [port, far] = [await freePort(), await freePort()];
  await writeFile(
    join(dir, 'sshd_config'),
    `Port ${port}\nListenAddress 127.0.0.1\nHostKey ${dir}/host\nAuthorizedKeysFile ${dir}/authorized\nStrictModes no\nUsePAM no\nPidFile none\nPermitRootLogin yes\nMaxSessions 1000\n`,
  );
  if (process.getuid?.() === 0) await mkdir('/run/sshd', { recursive: true });
  children.push(spawn(sshd, ['-D', '-f', join(dir, 'sshd_config')], { stdio: 'ignore' }));
  const args = [
    '-i',
    join(dir, 'user'),
    '-p',
    String(port),
    '-N',
    '-o',
    'StrictHostKeyChecking=no',
    '-o',
    `UserKnownHostsFile=${dir}/known`,
    '-o',
    'ExitOnForwardFailure=yes',
  ];
  for (let tries = 0; tries < 20; tries++) {
    const client = spawn(
      'ssh',
      [...args, '-R', `127.0.0.1:${far}:127.0.0.1:${service}`, `${userInfo().username}@127.0.0.1`],
      { stdio: 'ignore' },
    );
    client.on('error', () => {});
    for (let i = 0; i < 20 && client.exitCode === null; i++) {
      await new Promise((resolve) => setTimeout(resolve, 100));
      if ((await status(`http://127.0.0.1:${far}/0B`)) === '200') {
        children.push(client);
        return far;
      }
    }
    client.kill();
  }
  throw new Error('no tunnel came up');
}

async function status(url: string): Promise<string> {
  return fetch(url).then(
    async (r) => {
      await r.arrayBuffer();
      return String(r.status);
    },
    () => '000',
  );
}

async function ready(url: string): Promise<void> {
  for (let i = 0; i < 100; i++) {
    if ((await status(url)) === '200') return;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  throw new Error(`no answer from ${url}`);
}

async function wrk(
  url: string,
  connections: number,
  seconds: number,
): Promise<Omit<HttpRow, 'subject' | 'size' | 'connections'>> {
  const { stdout } = await run('wrk', ['-t1', `-c${connections}`, `-d${seconds}s`, '--latency', url]);
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

export function httpTable({ rows, missing }: HttpReport): string {
  const lines = [
    '| body | connections | subject | requests/s | p50 ms | p99 ms | MB/s |',
    '| --- | ---: | --- | ---: | ---: | ---: | ---: |',
  ];
  for (const r of rows) {
    lines.push(
      `| ${r.size} | ${r.connections} | ${r.subject} | ${r.requestsPerSecond.toFixed(0)} | ${r.p50Ms.toFixed(2)} | ${r.p99Ms.toFixed(2)} | ${r.megabytesPerSecond.toFixed(1)} |`,
    );
  }
  return [...lines, ...missing.map((text) => `\nNot measured: ${text}.`)].join('\n');
}

// An upload and a download of many gigabytes through the whole way (curl, gateway, hub, edge, service), and what the processes take meanwhile.
//
//     node --import tsx bench/e2e/http-big.ts [gigabytes]        10 by default

import { type ChildProcess, execFile, fork } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { certificates } from './http.js';
import { buildWhenStale } from './vpn.js';

const run = promisify(execFile);
const bytes = Number(process.argv[2] ?? 10) * 1e9;
const chunk = Buffer.alloc(64 * 1024);

const service = createServer((req, res) => {
  if (req.method === 'PUT') {
    let count = 0;
    req.on('data', (part: Buffer) => {
      count += part.length;
    });
    req.on('end', () => res.end(String(count)));
    return;
  }
  let left = bytes;
  res.writeHead(200, { 'content-length': bytes });
  const more = () => {
    while (left > 0) {
      const part = left >= chunk.length ? chunk : chunk.subarray(0, left);
      left -= part.length;
      if (!res.write(part)) return void res.once('drain', more);
    }
    res.end();
  };
  more();
}).listen(0, '127.0.0.1');

/** Peak of the resident memory in MiB, from the kernel's own mark. */
async function peak(child: ChildProcess): Promise<number> {
  return Number(/VmHWM:\s+(\d+)/.exec(await readFile(`/proc/${child.pid}/status`, 'utf8'))?.[1]) / 1024;
}

const dir = await mkdtemp(join(tmpdir(), 'kubebus-bench-'));
const children: ChildProcess[] = [];
try {
  buildWhenStale((line) => process.stderr.write(`${line}\n`));
  await certificates(dir);
  const start = async (...args: string[]) => {
    const child = fork(fileURLToPath(new URL('./http-role.mjs', import.meta.url)), args, { execArgv: [] });
    children.push(child);
    const [ready] = (await once(child, 'message')) as [{ port: number; address?: string }];
    return { ...ready, child };
  };
  const cloud = await start('cloud', dir);
  const target = `http://127.0.0.1:${(service.address() as AddressInfo).port}`;
  const edge = await start('edge', dir, target, cloud.address!);
  const url = `http://127.0.0.1:${cloud.port}/acme/edge-1/web/`;
  const report = async (what: string, command: string) => {
    const began = performance.now();
    const { stdout } = await run('bash', ['-c', `set -o pipefail; ${command}`]);
    const seconds = (performance.now() - began) / 1000;
    if (Number(stdout) !== bytes) throw new Error(`${what}: ${stdout} of ${bytes} bytes arrived`);
    const [c, e] = [await peak(cloud.child), await peak(edge.child)];
    process.stdout.write(
      `${what}: ${bytes / 1e9} GB in ${seconds.toFixed(0)} s, ${(bytes / 1e6 / seconds).toFixed(0)} MB/s; ` +
        `peak resident so far: cloud ${c.toFixed(0)} MiB, edge ${e.toFixed(0)} MiB\n`,
    );
  };
  await report('upload', `head -c ${bytes} /dev/zero | curl -sS -T - ${url}`);
  await report('download', `curl -sS ${url} | wc -c`);
} finally {
  for (const child of children) child.kill('SIGTERM');
  service.closeAllConnections();
  service.close();
  await rm(dir, { recursive: true, force: true });
}

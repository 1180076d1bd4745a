// `npm start`: a whole overlay on this machine, no root: a cloud, two edges and a virtual router as processes of their own
// over real TLS on loopback. Pings every pair, moves bytes over TCP, fetches a page, prints a matrix, exits 0.

import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import http from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { KubeBusCloud, KubeBusNode } from '../lib/index.js';
import { cloudNames, createAuthority, nodeNames, save } from '../lib/join/driver/pki.js';
import { tcpTransport } from '../transports/tcp.js';

const TENANT = 'acme';
const NODES = [
  { node: 'edge-1', prefixes: [] },
  { node: 'edge-2', prefixes: [] },
  { node: 'router', prefixes: ['10.1.0.0/24'] },
] as const;
const LIMIT_SECONDS = 50;
/** The transfer ends with whichever comes first. */
const TRANSFER_BYTES = 256 * 1024 * 1024;
const TRANSFER_MS = 4_000;

type Ready = { addresses: readonly string[]; gateway?: readonly string[]; web?: string };
type Request =
  | { do: 'ping'; address: string }
  | { do: 'serve' }
  | { do: 'transfer'; host: string; bytes: number }
  | { do: 'fetch'; host: string }
  | { do: 'stop' };

// ---- the processes

async function child(role: string, dir: string, cloudAddress: string): Promise<void> {
  const pem = (file: string) => readFileSync(join(dir, file), 'utf8');
  const tls = (who: string) => ({ ca: pem('ca.crt'), cert: pem(`${who}.crt`), key: pem(`${who}.key`) });
  const say = (message: unknown) => process.send?.(message);
  if (role === 'cloud') {
    const cloud = await KubeBusCloud.start({
      transports: [tcpTransport({ listen: { host: '127.0.0.1', port: 0 }, tls: tls('cloud') })],
      tenants: { [TENANT]: { pools: ['10.80.0.0/16', 'fd80::/64'] } },
      stateDir: dir,
      gateways: [{ host: '127.0.0.1', port: 0 }],
    });
    say({ addresses: cloud.addresses, web: `http://127.0.0.1:${cloud.gateways[0]!.port}` });
    for await (const request of requests()) {
      if (request.do !== 'stop') continue;
      await cloud.stop();
      process.exit(0);
    }
    return;
  }
  const advertise = NODES.find((n) => n.node === role)!.prefixes.map((prefix) => ({ prefix, kind: 'vm' as const }));
  const node = await KubeBusNode.join({
    cloud: [cloudAddress],
    transport: tcpTransport({ tls: tls(`${TENANT}-${role}`) }),
    tenant: TENANT,
    node: role,
    advertise,
  });
  say({ addresses: node.addresses, gateway: node.gateway });
  for await (const request of requests()) say(await answer(node, request));
}

async function* requests(): AsyncGenerator<Request> {
  process.on('disconnect', () => process.exit(1));
  for (;;) {
    const [request] = (await once(process, 'message')) as [Request];
    yield request;
  }
}

async function answer(node: KubeBusNode, request: Request): Promise<unknown> {
  if (request.do === 'ping') {
    const { rtts, lost } = await node.ping(request.address, { count: 20, intervalMs: 0 });
    return { rtts, lost };
  }
  if (request.do === 'serve') {
    node.net.createServer((socket) => socket.resume().on('end', () => socket.end('done'))).listen(9);
    const page = `<h1>Hello from ${node.node}</h1>`;
    node.sockets.http.createServer((_request, response) => response.end(page)).listen(80);
    node.publish('hello', (_request, response) => response.end(page), { public: true });
    await node.services.ready();
    return {};
  }
  if (request.do === 'transfer') {
    const socket = await node.sockets.connect({ host: request.host, port: 9 });
    const chunk = Buffer.alloc(64 * 1024);
    const started = performance.now();
    let bytes = 0;
    for (; bytes < request.bytes && performance.now() - started < TRANSFER_MS; bytes += chunk.length) {
      if (!socket.write(chunk)) await once(socket, 'drain');
    }
    socket.end();
    socket.resume();
    await once(socket, 'end');
    return { bytes, seconds: (performance.now() - started) / 1000 };
  }
  if (request.do === 'fetch') {
    const get = http.get({ host: request.host, path: '/', agent: node.sockets.httpAgent() });
    const [response] = (await once(get, 'response')) as [http.IncomingMessage];
    let page = '';
    for await (const part of response.setEncoding('utf8')) page += part;
    return { status: response.statusCode, page };
  }
  await node.stop();
  process.exit(0);
}

// ---- the conductor

const children: ChildProcess[] = [];

function start(role: string, dir: string, cloudAddress = ''): Promise<Ready & { process: ChildProcess }> {
  const worker = fork(fileURLToPath(import.meta.url), [role, dir, cloudAddress]);
  children.push(worker);
  return new Promise((resolve, reject) => {
    worker.once('message', (ready: Ready) => resolve({ ...ready, process: worker }));
    worker.once('exit', (code) => reject(new Error(`${role} ended with code ${code}`)));
    worker.once('error', reject);
  });
}

async function ask<T>(worker: ChildProcess, request: Request): Promise<T> {
  worker.send(request);
  const ended = new AbortController();
  const exit = once(worker, 'exit', { signal: ended.signal }).then(() => {
    throw new Error('a process ended before it was told to');
  });
  exit.catch(() => {});
  try {
    const [reply] = (await Promise.race([once(worker, 'message', { signal: ended.signal }), exit])) as [T];
    return reply;
  } finally {
    ended.abort();
  }
}

const median = (values: readonly number[]) => [...values].sort((a, b) => a - b)[values.length >> 1] ?? Number.NaN;

async function main(): Promise<void> {
  const dir = await mkdtemp(join(tmpdir(), 'kubebus-'));
  const cleanUp = async () => {
    for (const worker of children) worker.kill('SIGKILL');
    await rm(dir, { recursive: true, force: true });
  };
  let over = false;
  const giveUp = (why: string, code = 1) => {
    // The processes that are ended now make further steps fail: the first reason is the one to show.
    if (over) return;
    over = true;
    process.stderr.write(`${why}\n`);
    void cleanUp().then(() => process.exit(code));
  };
  process.on('SIGINT', () => giveUp('stopped', 130));
  process.on('SIGTERM', () => giveUp('stopped', 143));
  setTimeout(() => giveUp(`not done within ${LIMIT_SECONDS} s`), LIMIT_SECONDS * 1000).unref();
  try {
    console.log('certificates: a CA, the cloud and three nodes');
    const ca = await createAuthority('KubeBus demo');
    await save(dir, 'ca', ca);
    await save(
      dir,
      'cloud',
      await ca.issue({ name: 'cloud', days: 1, names: cloudNames('cloud', ['127.0.0.1']), server: true }),
    );
    for (const { node, prefixes } of NODES) {
      const names = nodeNames(TENANT, node, prefixes);
      await save(dir, `${TENANT}-${node}`, await ca.issue({ name: node, days: 1, names }));
    }
    const cloud = await start('cloud', dir);
    const address = cloud.addresses[0]!;
    console.log(`cloud: listens on ${address} (TLS 1.3, certificates on both sides)`);
    const nodes = await Promise.all(
      NODES.map(async ({ node }) => ({ name: node as string, ...(await start(node, dir, address)) })),
    );
    for (const n of nodes) console.log(`${n.name}: joined as ${n.addresses.join(', ')}`);

    console.log('\nround trips through the overlay, median of 20, milliseconds (IPv4 / IPv6)');
    const targets = [
      ...nodes.map((n) => ({ name: n.name, addresses: n.addresses })),
      { name: 'cloud', addresses: nodes[0]!.gateway! },
    ];
    console.log(['from \\ to'.padEnd(12), ...targets.map((t) => t.name.padStart(15))].join(''));
    for (const from of nodes) {
      const cells = [];
      for (const to of targets) {
        const both = [];
        for (const target of to.addresses) {
          const { rtts, lost } = await ask<{ rtts: number[]; lost: number }>(from.process, {
            do: 'ping',
            address: target,
          });
          if (lost > 0) throw new Error(`${from.name} -> ${to.name} (${target}): ${lost} of 20 lost`);
          both.push(median(rtts).toFixed(2));
        }
        cells.push((from.name === to.name ? '-' : both.join(' / ')).padStart(15));
      }
      console.log([from.name.padEnd(12), ...cells].join(''));
    }
    const [edge1, edge2] = nodes as [(typeof nodes)[0], (typeof nodes)[0]];
    await ask(edge2.process, { do: 'serve' });
    const { bytes, seconds } = await ask<{ bytes: number; seconds: number }>(edge1.process, {
      do: 'transfer',
      host: 'edge-2',
      bytes: TRANSFER_BYTES,
    });
    console.log(
      `\nTCP edge-1 -> edge-2, userspace sockets, ${bytes >> 20} MiB: ${((bytes * 8) / seconds / 1e9).toFixed(2)} Gbit/s`,
    );
    const page = await ask<{ status: number; page: string }>(edge1.process, {
      do: 'fetch',
      host: `edge-2.${TENANT}.kubebus`,
    });
    if (page.status !== 200) throw new Error(`the page came with status ${page.status}`);
    console.log(`http://edge-2.${TENANT}.kubebus/ from edge-1: ${page.status} ${page.page}`);
    const published = await fetch(`${cloud.web}/${TENANT}/edge-2/hello/`);
    const text = await published.text();
    if (published.status !== 200) throw new Error(`the published page came with status ${published.status}: ${text}`);
    console.log(`${published.url} from outside, through the gateway: ${published.status} ${text}`);
    for (const worker of [...nodes.map((n) => n.process), cloud.process]) {
      const gone = once(worker, 'exit');
      worker.send({ do: 'stop' });
      await gone;
    }
    console.log('\nall stopped in order');
    await cleanUp();
    process.exit(0);
  } catch (error) {
    giveUp(`failed: ${error instanceof Error ? error.message : String(error)}`);
  }
}

const [role, dir, cloudAddress = ''] = process.argv.slice(2);
if (role !== undefined && process.send !== undefined) await child(role, dir!, cloudAddress);
else await main();

// Many nodes in two processes beside the hub's own: how many join per second, with a certificate and by token, and how soon all of them
// are back after the hub was killed, with the CPU and the memory that this takes the hub.

import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { cloudNames, createAuthority, nodeNames, save } from '../../lib/join/driver/pki.js';
import { freePort } from './free-port.js';
import type { LinksFigure } from './links.js';
import type { HubCpu } from './links-cpu.js';
import type { Back, FleetOrder, NodeOf } from './links-nodes.js';

const PROCESSES = 2;
/** Joins at a time of each process. */
const PARALLEL = 16;
const HUB = fileURLToPath(new URL('./links-hub.ts', import.meta.url));
const BARE = fileURLToPath(new URL('./links-bare.ts', import.meta.url));
const NODES = fileURLToPath(new URL('./links-nodes.ts', import.meta.url));
const EXEC = ['--import', 'tsx'];

/** `count` nodes, a quarter of it for those that come by token. */
export async function fleetFigures(
  count: number,
  outageMs: number,
  log: (line: string) => void,
): Promise<LinksFigure[]> {
  const dir = await mkdtemp(join(tmpdir(), 'kubebus-bench-'));
  try {
    const secure = await certificates(join(dir, 'pki'), count);
    const bare = await floor(secure, dir, log);
    const tls = await restart(secure, dir, 'tls', outageMs, log);
    const plain = await restart(
      Array.from({ length: count }, (_, i) => ({ name: `n${i}` })),
      dir,
      'plain',
      outageMs,
      log,
    );
    const tokens = await byToken(Math.max(10, count >> 2), dir, log);
    return [...tls.map(([figure, value], i): LinksFigure => ({ figure, values: [value, plain[i]![1]] })), bare, tokens];
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
}

async function certificates(dir: string, count: number): Promise<NodeOf[]> {
  const ca = await createAuthority('bench');
  await save(dir, 'ca', ca);
  const names = cloudNames('cloud', ['127.0.0.1']);
  await save(dir, 'cloud', await ca.issue({ name: 'cloud', days: 1, names, server: true }));
  const text = await readFile(join(dir, 'ca.crt'), 'utf8');
  const nodes: NodeOf[] = [];
  for (let i = 0; i < count; i++) {
    const name = `n${i}`;
    nodes.push({ name, tls: { ca: text, ...(await ca.issue({ name, days: 1, names: nodeNames('acme', name, []) })) } });
  }
  return nodes;
}

async function hubUp(args: readonly string[], program = HUB): Promise<ChildProcess> {
  const hub = fork(program, args, { execArgv: EXEC });
  await once(hub, 'message');
  return hub;
}

async function cpuOf(hub: ChildProcess): Promise<HubCpu> {
  hub.send('cpu');
  return (await once(hub, 'message'))[0] as HubCpu;
}

async function killed(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const gone = once(child, 'exit');
  child.kill('SIGKILL');
  await gone;
}

async function order<T>(child: ChildProcess, what: FleetOrder): Promise<T> {
  child.send(what);
  const [{ result, error }] = (await once(child, 'message')) as [{ result?: T; error?: string }];
  if (error !== undefined) throw new Error(`${what.do}: ${error}`);
  return result as T;
}

/** Seconds until all have joined. */
async function joinAll(
  fleet: readonly ChildProcess[],
  nodes: readonly NodeOf[],
  port: number,
  dir: string,
  what: 'join' | 'bare' = 'join',
) {
  const share = Math.ceil(nodes.length / fleet.length);
  // They have started up.
  await Promise.all(fleet.map((child) => order(child, { do: 'stop' })));
  const start = Date.now();
  const ends = await Promise.all(
    fleet.map((child, i) =>
      order<number>(child, {
        do: what,
        port,
        dir,
        parallel: PARALLEL,
        nodes: nodes.slice(i * share, (i + 1) * share),
      }),
    ),
  );
  return (Math.max(...ends) - start) / 1_000;
}

/** What two processes and a server of Node's own take for as many TLS handshakes, both with certificates. */
async function floor(nodes: readonly NodeOf[], dir: string, log: (line: string) => void): Promise<LinksFigure> {
  const port = await freePort();
  const server = await hubUp([String(port), join(dir, 'pki')], BARE);
  const fleet = Array.from({ length: PROCESSES }, () => fork(NODES, { execArgv: EXEC }));
  try {
    const before = await cpuOf(server);
    const seconds = await joinAll(fleet, nodes, port, dir, 'bare');
    const cpu = (await cpuOf(server)).cpu - before.cpu;
    log(`  bare TLS: ${nodes.length} connected in ${seconds.toFixed(1)} s, server ${cpu.toFixed(1)} s of CPU`);
    const figure = `for comparison: ${nodes.length} bare TLS connections in the same way; CPU of the server`;
    return { figure, values: [`${seconds.toFixed(1)} s; ${cpu.toFixed(1)} s`, '-'] };
  } finally {
    await Promise.all([server, ...fleet].map(killed));
  }
}

type Row = [figure: string, value: string];

async function restart(
  nodes: readonly NodeOf[],
  dir: string,
  name: string,
  outageMs: number,
  log: (line: string) => void,
): Promise<Row[]> {
  const count = nodes.length;
  const port = await freePort();
  const args = [String(port), join(dir, name), ...(name === 'tls' ? [join(dir, 'pki')] : [])];
  let hub = await hubUp(args);
  const fleet = Array.from({ length: PROCESSES }, () => fork(NODES, { execArgv: EXEC }));
  try {
    const before = await cpuOf(hub);
    const seconds = await joinAll(fleet, nodes, port, dir);
    const joined = await cpuOf(hub);
    log(`  ${name}: ${count} joined in ${seconds.toFixed(1)} s, hub ${(joined.cpu - before.cpu).toFixed(1)} s of CPU`);
    // The last addresses get to the disk: a hub dies at any time, but not just then.
    await new Promise((resolve) => setTimeout(resolve, 1_000));
    await killed(hub);
    const back = fleet.map((child) => order<Back>(child, { do: 'back' }));
    await new Promise((resolve) => setTimeout(resolve, outageMs));
    hub = await hubUp(args);
    const fresh = await cpuOf(hub);
    const open = Date.now();
    const all = await Promise.all(back);
    const after = await cpuOf(hub);
    const last = (times: readonly number[]) => (Math.max(...times) - open) / 1_000;
    const up = last(all.flatMap((part) => part.up));
    const answered = last(all.flatMap((part) => part.answered));
    log(`  ${name}: all back after ${answered.toFixed(1)} s, hub ${(after.cpu - fresh.cpu).toFixed(1)} s of CPU`);
    return [
      [`joins per second, ${count} nodes in ${PROCESSES} processes`, (count / seconds).toFixed(0)],
      ['CPU of the hub for each join', `${(((joined.cpu - before.cpu) / count) * 1_000).toFixed(1)} ms`],
      [`hub killed, back after ${outageMs / 1_000} s: all ${count} links up`, `${up.toFixed(1)} s`],
      ['all answered by the hub again', `${answered.toFixed(1)} s`],
      ['CPU of the hub until then', `${(after.cpu - fresh.cpu).toFixed(1)} s`],
      [
        'resident memory of the hub: before, after, most; heap and buffers after',
        `${fresh.rss.toFixed(0)}, ${after.rss.toFixed(0)}, ${after.peak.toFixed(0)}; ${after.heap.toFixed(0)} MiB`,
      ],
    ];
  } finally {
    await Promise.all([hub, ...fleet].map(killed));
  }
}

async function byToken(count: number, dir: string, log: (line: string) => void): Promise<LinksFigure> {
  const port = await freePort();
  const hub = await hubUp([String(port), join(dir, 'join'), 'join']);
  const fleet = Array.from({ length: PROCESSES }, () => fork(NODES, { execArgv: EXEC }));
  try {
    hub.send({ tokens: count });
    const [tokens] = (await once(hub, 'message')) as [string[]];
    const before = await cpuOf(hub);
    const seconds = await joinAll(
      fleet,
      tokens.map((token, i) => ({ name: `t${i}`, token })),
      port,
      dir,
    );
    const { cpu } = await cpuOf(hub);
    const each = (((cpu - before.cpu) / count) * 1_000).toFixed(1);
    log(`  by token: ${count} joined in ${seconds.toFixed(1)} s, hub ${(cpu - before.cpu).toFixed(1)} s of CPU`);
    const figure = `joins by token (key, certificate, link) per second, ${count} nodes; CPU of the hub for each`;
    return { figure, values: [`${(count / seconds).toFixed(0)}; ${each} ms`, '-'] };
  } finally {
    await Promise.all([hub, ...fleet].map(killed));
  }
}

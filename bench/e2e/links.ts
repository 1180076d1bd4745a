// Idle links and a hub's restart, over real TCP on loopback (insecure, so that it is the links that are measured and not
// the certificates): memory per link at the hub, and how soon everybody is back with the same address.

import { fork } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { KubeBusNode } from '../../lib/index.js';
import { tcpTransport } from '../../transports/tcp.js';

export interface LinksOptions {
  /** Idle links. */
  readonly links: number;
  /** Edges that see the hub die and come back; at most `links`. */
  readonly edges: number;
  readonly log: (line: string) => void;
}

export interface LinksFigure {
  readonly figure: string;
  readonly value: string;
}

interface Memory {
  readonly heap: number;
  readonly rss: number;
}

const child = fileURLToPath(new URL('./links-hub.ts', import.meta.url));

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as { port: number };
  server.close();
  await once(server, 'close');
  return port;
}

async function startHub(port: number, stateDir: string) {
  const hub = fork(child, [String(port), stateDir], { execArgv: ['--import', 'tsx', '--expose-gc'] });
  await once(hub, 'message');
  const ask = async (what: string) => {
    hub.send(what);
    const [reply] = (await once(hub, 'message')) as [unknown];
    return reply;
  };
  return { hub, ask };
}

export async function links({ links: idle, edges: fleet, log }: LinksOptions): Promise<LinksFigure[]> {
  const dir = await mkdtemp(join(tmpdir(), 'kubebus-bench-'));
  const port = await freePort();
  const join1 = (node: string) =>
    KubeBusNode.join({
      cloud: [`kubebus://127.0.0.1:${port}`],
      transport: tcpTransport({ insecure: true }),
      tenant: 'acme',
      node,
    });
  let { hub, ask } = await startHub(port, dir);
  const nodes: KubeBusNode[] = [];
  try {
    const before = (await ask('memory')) as Memory;
    const started = performance.now();
    for (let i = 0; i < idle; i += 50) {
      nodes.push(...(await Promise.all(Array.from({ length: Math.min(50, idle - i) }, (_, k) => join1(`n${i + k}`)))));
    }
    const joined = (performance.now() - started) / 1000;
    const after = (await ask('memory')) as Memory;
    log(`  ${idle} links`);
    for (const node of nodes.splice(fleet)) await node.stop();

    // The hub goes without a word, and comes back a second later.
    const addresses = new Map(nodes.map((node) => [node.node, node.addresses.join()]));
    const gone = once(hub, 'exit');
    hub.kill('SIGKILL');
    await gone;
    const times: number[] = [];
    const back = Promise.all(nodes.map((node) => once(node, 'up').then(() => times.push(performance.now()))));
    await new Promise((resolve) => setTimeout(resolve, 1000));
    ({ hub, ask } = await startHub(port, dir));
    const open = performance.now();
    await back;
    await ask('memory');
    times.sort((a, b) => a - b);
    const at = (share: number) =>
      `${((times[Math.min(times.length - 1, Math.floor(times.length * share))]! - open) / 1000).toFixed(2)} s`;
    const same = nodes.filter((node) => addresses.get(node.node) === node.addresses.join()).length;
    const kib = (bytes: number) => `${(bytes / idle / 1024).toFixed(1)} KiB`;
    return [
      {
        figure: `joins per second of one hub (${idle}, client in the same machine)`,
        value: (idle / joined).toFixed(0),
      },
      { figure: `heap per idle link at the hub (${idle} links)`, value: kib(after.heap - before.heap) },
      { figure: 'resident memory per idle link', value: kib(after.rss - before.rss) },
      { figure: `hub killed and restarted: first of ${fleet} edges back after the port is open`, value: at(0) },
      { figure: 'half of them', value: at(0.5) },
      { figure: 'all of them', value: at(1) },
      { figure: 'with the same addresses', value: `${same} of ${fleet}` },
    ];
  } finally {
    await Promise.all(nodes.map((node) => node.stop()));
    hub.kill('SIGKILL');
    await rm(dir, { recursive: true, force: true });
  }
}

// Idle links and a hub's restart, over real TCP on loopback: memory per link at the hub, and how soon everybody is back with
// the same address. With TLS and without: what the certificates cost shows as the difference.

import { fork } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { KubeBusNode } from '../../lib/index.js';
import { cloudNames, createAuthority, nodeNames, save } from '../../lib/join/driver/pki.js';
import { type TcpOptions, tcpTransport } from '../../transports/tcp.js';
import { freePort } from './free-port.js';

export interface LinksOptions {
  /** Idle links. */
  readonly links: number;
  /** Edges that see the hub die and come back; at most `links`. */
  readonly edges: number;
  /** How long the hub stays away: long enough for every edge to have reached its longest wait between attempts. */
  readonly outageMs: number;
  readonly log: (line: string) => void;
}

export interface LinksFigure {
  readonly figure: string;
  /** With TLS, and insecure. */
  readonly values: readonly [string, string];
}

interface Hub {
  readonly heap: number;
  readonly rss: number;
  readonly addresses: Readonly<Record<string, string>>;
}

const child = fileURLToPath(new URL('./links-hub.ts', import.meta.url));

export async function links(options: LinksOptions): Promise<LinksFigure[]> {
  const secure = await measure(options, true);
  const plain = await measure(options, false);
  return secure.map(([figure, value], i) => ({ figure, values: [value, plain[i]![1]] as const }));
}

async function measure(options: LinksOptions, secure: boolean): Promise<[figure: string, value: string][]> {
  const { links: idle, outageMs, log } = options;
  const fleet = Math.min(options.edges, idle);
  const dir = await mkdtemp(join(tmpdir(), 'kubebus-bench-'));
  const port = await freePort();
  const security = secure ? await certificates(dir, idle) : () => ({ insecure: true });
  const joinOne = (i: number) =>
    KubeBusNode.join({
      cloud: [`kubebus://127.0.0.1:${port}`],
      transport: tcpTransport(security(i)),
      tenant: 'acme',
      node: `n${i}`,
    });
  const hubArgs = [String(port), dir, ...(secure ? [dir] : [])];
  let { hub, ask } = await startHub(hubArgs);
  const nodes: KubeBusNode[] = [];
  try {
    const before = await ask();
    const started = performance.now();
    for (let i = 0; i < idle; i += 50) {
      nodes.push(...(await Promise.all(Array.from({ length: Math.min(50, idle - i) }, (_, k) => joinOne(i + k)))));
    }
    const joined = (performance.now() - started) / 1000;
    const after = await ask();
    log(`  ${idle} links, ${secure ? 'TLS' : 'insecure'}`);
    for (const node of nodes.splice(fleet)) await node.stop();

    // The hub goes without a word.
    const addresses = new Map(nodes.map((node) => [node.node, node.addresses.join()]));
    const gone = once(hub, 'exit');
    hub.kill('SIGKILL');
    await gone;
    const times: number[] = [];
    const back = Promise.all(
      nodes.map(async (node) => {
        await once(node, 'up');
        times.push(performance.now());
        await answered(node);
        return performance.now();
      }),
    );
    await new Promise((resolve) => setTimeout(resolve, outageMs));
    ({ hub, ask } = await startHub(hubArgs));
    const open = performance.now();
    const all = Math.max(...(await back)) - open;
    const { addresses: assigned } = await ask();
    const since = times.map((time) => time - open).sort((a, b) => a - b);
    const at = (share: number) => `${(since[Math.ceil((since.length - 1) * share)]! / 1000).toFixed(2)} s`;
    const same = [...addresses].filter(([node, text]) => assigned[node] === text).length;
    const kib = (bytes: number) => `${(bytes / idle / 1024).toFixed(1)} KiB`;
    return [
      [`joins per second of one hub (${idle} links, clients in one process)`, (idle / joined).toFixed(0)],
      [`heap per idle link at the hub (${idle} links)`, kib(after.heap - before.heap)],
      ['resident memory per idle link at the hub', kib(after.rss - before.rss)],
      [
        `hub killed, back after ${outageMs / 1000} s: links up after the port is open, first / half / 90 % / last of ${fleet}`,
        [0, 0.5, 0.9, 1].map(at).join(' / '),
      ],
      ['links up in each half second', histogram(since, 500)],
      ['most links up within 100 ms', String(busiest(since, 100))],
      [`all ${fleet} edges answered by the hub again`, `${(all / 1000).toFixed(2)} s`],
      ['with the same addresses, as the hub says', `${same} of ${fleet}`],
    ];
  } finally {
    await Promise.all(nodes.map((node) => node.stop()));
    hub.kill('SIGKILL');
    await rm(dir, { recursive: true, force: true });
  }
}

/** Until the hub, which drops what comes from addresses that it has not assigned, has answered a ping. */
async function answered(node: KubeBusNode): Promise<void> {
  for (;;) {
    const { lost } = await node.ping(node.gateway[0]!, { count: 1, timeoutMs: 1_000 });
    if (lost === 0) return;
  }
}

/** How many of the sorted times lie in each slice of `width`. */
function histogram(times: readonly number[], width: number): string {
  const slices = new Array<number>(Math.floor(times.at(-1)! / width) + 1).fill(0);
  for (const time of times) slices[Math.max(0, Math.floor(time / width))]!++;
  return slices.join(' ');
}

/** The most of the sorted times that lie within `width`. */
function busiest(times: readonly number[], width: number): number {
  return Math.max(...times.map((from) => times.filter((time) => time >= from && time < from + width).length));
}

async function certificates(dir: string, nodes: number): Promise<(i: number) => Pick<TcpOptions, 'tls'>> {
  const ca = await createAuthority('bench');
  await save(dir, 'ca', ca);
  const names = cloudNames('cloud', ['127.0.0.1']);
  await save(dir, 'cloud', await ca.issue({ name: 'cloud', days: 1, names, server: true }));
  const issued: { cert: string; key: string }[] = [];
  for (let i = 0; i < nodes; i++) {
    issued.push(await ca.issue({ name: `n${i}`, days: 1, names: nodeNames('acme', `n${i}`, []) }));
  }
  const authority = await readFile(join(dir, 'ca.crt'), 'utf8');
  return (i) => ({ tls: { ca: authority, ...issued[i]! } });
}

async function startHub(args: readonly string[]) {
  const hub = fork(child, args, { execArgv: ['--import', 'tsx', '--expose-gc'] });
  await once(hub, 'message');
  const ask = async (): Promise<Hub> => {
    hub.send('memory');
    const [reply] = (await once(hub, 'message')) as [Hub];
    return reply;
  };
  return { hub, ask };
}

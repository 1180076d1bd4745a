// The transports beside each other: through a hub over loopback, and on a path of 50 ms and 1 % loss that lies under the kernel's UDP
// and TCP (lossy-path.ts).

import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { has, Lab } from '../../examples/lab/netns.js';
import { lossyPath } from './lossy-path.js';
import { allowCongestionControl } from './topology.js';
import type { Counts, Kind, QuicCongestion, TransportOrder } from './transports-peer.js';
import { certificates, type Peer, startPeer } from './transports-peers.js';
import { vpnObstacle } from './vpn.js';

export const TRANSPORT_PARTS = ['loopback', 'lossy'] as const;

export interface TransportsOptions {
  readonly parts: readonly string[];
  readonly reps: number;
  readonly seconds: number;
  readonly smoke: boolean;
  readonly log: (line: string) => void;
}

export interface LoopbackRow {
  readonly transport: string;
  readonly gbps: number[];
  /** CPU seconds per gigabyte: of the hub, and of hub and both nodes. */
  readonly hubCpu: number[];
  readonly cpu: number[];
  /** Microseconds. */
  readonly p50: number[];
  readonly p99: number[];
}

export interface LossyRow {
  readonly link: string;
  /** Congestion control of the flow inside. */
  readonly inner: string;
  readonly flows: number;
  /** Received, one sample per repetition. */
  readonly mbps: number[];
}

export interface TransportsReport {
  readonly loopback: LoopbackRow[];
  readonly lossy: LossyRow[];
  readonly skipped: readonly string[];
  readonly seconds: number;
  readonly reps: number;
}

/** 100 Mbit/s and one bandwidth-delay product of queue. */
export const LOSSY = { rate: 100e6, rttMs: 50, loss: 0.01, queue: 625_000 };

const TITLES: readonly [Kind, string][] = [
  ['tcp', 'TCP/TLS'],
  ['quic', 'QUIC, datagrams'],
  ['webtransport', 'WebTransport'],
  ['websocket', 'WebSocket'],
];
const later = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms));

export async function transports(options: TransportsOptions): Promise<TransportsReport> {
  const { parts, reps, seconds, log } = options;
  const skipped: string[] = [];
  const loopback: LoopbackRow[] = [];
  const lossy: LossyRow[] = [];
  const dir = await mkdtemp(join(tmpdir(), 'kubebus-bench-'));
  try {
    if (parts.includes('loopback')) {
      await certificates(dir, ['127.0.0.1'], ['a', 'b']);
      for (const [, transport] of TITLES) {
        loopback.push({ transport, gbps: [], hubCpu: [], cpu: [], p50: [], p99: [] });
      }
      for (let rep = 0; rep < reps; rep++) {
        for (const [i, [kind]] of TITLES.entries()) await overLoopback(kind, dir, seconds, loopback[i]!, log);
      }
    }
    if (parts.includes('lossy')) {
      const obstacle = vpnObstacle() ?? (has('sysctl') ? undefined : 'it needs the program sysctl');
      if (obstacle === undefined) lossy.push(...(await overLossyPath(options, join(dir, 'lossy'))));
      else skipped.push(`lossy: ${obstacle}`);
    }
  } finally {
    await rm(dir, { recursive: true, force: true });
  }
  for (const line of skipped) log(`  skipped: ${line}`);
  return { loopback, lossy, skipped, seconds, reps };
}

async function overLoopback(
  kind: Kind,
  pki: string,
  seconds: number,
  row: LoopbackRow,
  log: (line: string) => void,
): Promise<void> {
  const peers = [startPeer(), startPeer(), startPeer()] as const;
  const [hub, a, b] = peers;
  try {
    const [cloud] = await hub.ask<string[]>({ do: 'hub', kind, pki, name: 'cloud', host: '127.0.0.1' });
    const join = (peer: Peer, name: string) =>
      peer.ask<string>({ do: 'join', kind, pki, name, cloud: cloud!, connections: 1 });
    await join(a, 'a');
    const host = await join(b, 'b');
    const echoes = await b.ask<number>({ do: 'echo' });
    const { p50, p99 } = await a.ask<{ p50: number; p99: number }>({
      do: 'latency',
      host,
      port: echoes,
      seconds: seconds / 2,
    });
    const port = await b.ask<number>({ do: 'sink' });
    await a.ask({ do: 'send', host, port, flows: 1 });
    await later(Math.min(700, seconds * 500));
    const counts = () => Promise.all(peers.map((peer) => peer.ask<Counts>({ do: 'counts' })));
    const before = await counts();
    await later(seconds * 1_000);
    const after = await counts();
    const bytes = after[2]!.bytes - before[2]!.bytes;
    const cpu = after.map((count, i) => count.cpu - before[i]!.cpu);
    row.gbps.push((bytes * 8) / 1e6 / (after[2]!.at - before[2]!.at));
    row.hubCpu.push(cpu[0]! / (bytes / 1e9));
    row.cpu.push((cpu[0]! + cpu[1]! + cpu[2]!) / (bytes / 1e9));
    row.p50.push(p50);
    row.p99.push(p99);
    log(
      `  ${row.transport}: ${row.gbps.at(-1)!.toFixed(3)} Gbit/s, p50 ${p50.toFixed(0)}, p99 ${p99.toFixed(0)} us, ` +
        `CPU ${row.cpu.at(-1)!.toFixed(2)} s/GB (hub ${row.hubCpu.at(-1)!.toFixed(2)})`,
    );
  } finally {
    await Promise.all(peers.map((peer) => peer.stop()));
  }
}

export interface LossyLink {
  readonly title: string;
  readonly kind: Kind;
  readonly connections: number;
  readonly quic?: QuicCongestion;
  /** Of the kernel's TCP that carries the link. */
  readonly outer?: string;
  readonly flows: number;
  readonly inner: readonly string[];
}

const ONE = { connections: 1, flows: 1, inner: ['cubic', 'bbr'] } as const;
const EIGHT = { flows: 8, inner: ['cubic'] } as const;
export const LOSSY_LINKS: readonly LossyLink[] = [
  { title: 'TCP/TLS, cubic', kind: 'tcp', outer: 'cubic', ...ONE },
  { title: 'TCP/TLS, bbr', kind: 'tcp', outer: 'bbr', ...ONE },
  { title: 'QUIC, cubic', kind: 'quic', quic: 'cubic', ...ONE },
  { title: 'QUIC, bbr', kind: 'quic', quic: 'bbr', ...ONE },
  { title: 'TCP/TLS, cubic, 1 connection', kind: 'tcp', outer: 'cubic', connections: 1, ...EIGHT },
  { title: 'TCP/TLS, cubic, 4 connections', kind: 'tcp', outer: 'cubic', connections: 4, ...EIGHT },
  { title: 'QUIC, cubic, 1 connection', kind: 'quic', quic: 'cubic', connections: 1, ...EIGHT },
  { title: 'QUIC, bbr, 1 connection', kind: 'quic', quic: 'bbr', connections: 1, ...EIGHT },
];

async function overLossyPath(options: TransportsOptions, pki: string): Promise<LossyRow[]> {
  const { reps, smoke, log } = options;
  const seconds = smoke ? 1 : Math.max(3, options.seconds);
  await certificates(pki, ['10.72.1.1', '10.72.2.1'], ['a', 'b']);
  const links = smoke ? LOSSY_LINKS.slice(2, 3) : LOSSY_LINKS;
  const rows = links.flatMap((link) =>
    link.inner.map((inner): LossyRow => ({ link: link.title, inner, flows: link.flows, mbps: [] })),
  );
  const restores = ['cubic', 'bbr'].map(allowCongestionControl);
  try {
    for (let rep = 1; rep <= reps; rep++) {
      for (const link of links) {
        const mbps = await oneLossyLink(link, pki, seconds, rep);
        for (const [i, inner] of link.inner.entries()) {
          rows.find((row) => row.link === link.title && row.inner === inner)!.mbps.push(mbps[i]!);
          log(`  ${link.title}; ${link.flows} x ${inner} inside: ${mbps[i]!.toFixed(2)} Mbit/s`);
        }
      }
    }
  } finally {
    for (const restore of restores.reverse()) restore();
  }
  return rows;
}

/** Node a with a device - lossy path - hub - cable - node b with a device; iperf3 from a's kernel to b's. One goodput per inner control. */
export async function oneLossyLink(link: LossyLink, pki: string, seconds: number, seed: number): Promise<number[]> {
  const lab = new Lab('kbq-');
  const peers: Peer[] = [];
  let unplug = () => {};
  try {
    for (const ns of ['a', 'hub', 'b']) {
      await lab.ns(ns, { congestion: link.outer ?? 'cubic', ipv6: false });
      await lab.sysctl(ns, 'net.ipv4.tcp_no_metrics_save=1', 'net.ipv4.tcp_slow_start_after_idle=0');
    }
    const path = await lossyPath(
      lab,
      [
        ['a', '10.72.1.2/24'],
        ['hub', '10.72.1.1/24'],
      ],
      { ...LOSSY, loss: [LOSSY.loss, LOSSY.loss], seed },
    );
    unplug = path.close;
    await lab.veth('b', 'up0', ['10.72.2.2/24'], 'hub', 'down0', ['10.72.2.1/24']);
    for (const ns of ['hub', 'a', 'b']) peers.push(startPeer(lab.full(ns)));
    const [hub, a, b] = peers as [Peer, Peer, Peer];
    const order = (name: string): TransportOrder => ({
      kind: link.kind,
      pki,
      name,
      ...(link.quic === undefined ? {} : { congestion: link.quic }),
    });
    const [address] = await hub.ask<string[]>({ do: 'hub', ...order('cloud'), host: '0.0.0.0' });
    const { port } = new URL(address!);
    const join = (peer: Peer, name: string, host: string, connections: number) =>
      peer.ask<string>({
        do: 'join',
        ...order(name),
        cloud: `kubebus://${host}:${port}`,
        connections,
        tun: 'kb0',
      });
    await join(a, 'a', '10.72.1.1', link.connections);
    const target = await join(b, 'b', '10.72.2.1', 1);
    await lab.waitPing('a', target);
    const out: number[] = [];
    for (const [i, inner] of link.inner.entries()) {
      // A server for each run: one that is still busy with the run before would refuse.
      lab.spawn('b', 'iperf3', ['-s', '-1', '-p', String(5_201 + i)]);
      await lab.waitListen('b', 5_201 + i);
      out.push(await iperf(lab, target, 5_201 + i, link.flows, inner, seconds));
    }
    return out;
  } finally {
    await Promise.all(peers.map((peer) => peer.stop()));
    unplug();
    await lab.down();
  }
}

async function iperf(
  lab: Lab,
  host: string,
  port: number,
  flows: number,
  congestion: string,
  seconds: number,
): Promise<number> {
  // Slow start is over after a second.
  const load = ['-t', String(seconds), '-O', '1', '-P', String(flows), '-C', congestion];
  const args = ['-c', host, '-p', String(port), '-J', ...load];
  const { stdout, stderr } = await lab.run('a', 'iperf3', args, { timeoutMs: (seconds + 20) * 1_000 });
  const json = JSON.parse(stdout || '{}') as { error?: string; end?: { sum_received?: { bits_per_second: number } } };
  const bits = json.end?.sum_received?.bits_per_second;
  if (json.error !== undefined || bits === undefined) throw new Error(`iperf3: ${json.error ?? stderr}\n${lab.logs()}`);
  return bits / 1e6;
}

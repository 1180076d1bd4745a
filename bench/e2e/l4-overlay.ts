// The parts of the l4 bench that need namespaces: a node without a device against the kernel behind another node's TUN, through a
// hub, beside kernel to kernel through the same hub; and the comparison subjects on the same cables.

import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { kubebus, nodePki } from '../../examples/lab/command.js';
import { type Lab, until } from '../../examples/lab/netns.js';
import type { BulkFigure, LatencyFigure, RateFigure } from './l4-app.js';
import type { JoinOrder, Order } from './l4-peer.js';
import { PeerProcess } from './peer-process.js';
import { CLOUD, EDGES, hubAddress } from './subjects.js';
import { bringUp } from './topology.js';

const TENANT = 'bench';
const PEER = fileURLToPath(new URL('./l4-peer.ts', import.meta.url));
/** Nodes without a device, in the same namespaces as the edges. */
const USERS = ['user1', 'user2'] as const;

/** A process of l4-peer.ts in a namespace. Gone with the lab. */
type Peer = PeerProcess<Order>;
const startPeer = (lab: Lab, ns: string): Peer => PeerProcess.start<Order>(PEER, lab.full(ns));

/** Cloud with a device, two edges with one each, and what is needed to start nodes without. */
export interface Overlay {
  readonly lab: Lab;
  readonly cloud: string;
  readonly edge2: string;
  readonly joinOf: (user: (typeof USERS)[number], edge: 1 | 2) => JoinOrder;
  down(): Promise<void>;
}

export async function startOverlay(insecure: boolean, congestion: string): Promise<Overlay> {
  const lab = await bringUp('kbl-', congestion);
  try {
    const pki = join(lab.work, 'pki');
    if (!insecure) {
      const nodes = [...EDGES, ...USERS].map((node) => ({ tenant: TENANT, node }));
      await nodePki(pki, [hubAddress(1), hubAddress(2)], nodes);
    }
    const files = (name: string) => ({
      cert: join(pki, `${name}.crt`),
      key: join(pki, `${name}.key`),
      ca: join(pki, 'ca.crt'),
    });
    const flags = (name: string) => {
      const { cert, key, ca } = files(name);
      return insecure ? ['--insecure'] : ['--cert', cert, '--key', key, '--ca', ca];
    };
    const tun = ['--tenant', `${TENANT}=10.99.0.0/24`, '--tun', `${TENANT}=kb0`];
    kubebus(lab, CLOUD, ['cloud', '--listen', '0.0.0.0:7443', ...tun, ...flags('cloud')]);
    await lab.waitListen(CLOUD, 7443, 15_000);
    const dial = (edge: number) => `kubebus://${hubAddress(edge)}:7443`;
    for (const [i, edge] of EDGES.entries()) {
      const who = insecure ? ['--tenant', TENANT, '--node', edge] : [];
      kubebus(lab, edge, ['edge', '--cloud', dial(i + 1), '--tun', 'kb0', ...flags(`${TENANT}-${edge}`), ...who]);
    }
    const address = (ns: string) =>
      until(`an address of kb0 in ${ns}\n${lab.logs()}`, 15_000, async () => (await lab.addresses(ns, 'kb0'))[0]);
    const cloud = await address(CLOUD);
    const edge2 = await address('edge2');
    for (const ns of [CLOUD, 'edge2']) {
      lab.spawn(ns, 'iperf3', ['-s']);
      await lab.waitListen(ns, 5201);
    }
    await lab.waitPing('edge1', edge2);
    return {
      lab,
      cloud,
      edge2,
      joinOf: (node, edge) => ({
        cloud: dial(edge),
        tenant: TENANT,
        node,
        ...(insecure ? {} : { tls: files(`${TENANT}-${node}`) }),
      }),
      down: () => lab.down(),
    };
  } catch (error) {
    await lab.down();
    throw error;
  }
}

/** iperf3 to iperf3, kernel to kernel; Gbit/s received. */
export async function kernelIperf(
  lab: Lab,
  ns: string,
  host: string,
  seconds: number,
  reverse: boolean,
): Promise<number> {
  return (await kernelIperfRun(lab, ns, host, seconds, reverse)).gbps;
}

/** The same with what the sending kernel says of the path: its mean RTT in milliseconds (NaN where the sender is the far end). */
export async function kernelIperfRun(
  lab: Lab,
  ns: string,
  host: string,
  seconds: number,
  reverse: boolean,
): Promise<{ gbps: number; meanRttMs: number }> {
  const args = ['-c', host, '-J', '-t', String(seconds), '--connect-timeout', '3000', ...(reverse ? ['-R'] : [])];
  for (let attempt = 1; ; attempt++) {
    const { stdout, stderr } = await lab.run(ns, 'iperf3', args, { timeoutMs: (seconds + 15) * 1_000 });
    const json = JSON.parse(stdout) as IperfReport;
    const bits = json.end?.sum_received?.bits_per_second;
    if (json.error === undefined && bits !== undefined) {
      return { gbps: bits / 1e9, meanRttMs: (json.end?.streams?.[0]?.sender?.mean_rtt ?? Number.NaN) / 1_000 };
    }
    // Between two clients the server listens anew.
    if (attempt === 10) throw new Error(`iperf3: ${json.error ?? stderr}`);
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
}

interface IperfReport {
  readonly error?: string;
  readonly end?: {
    readonly sum_received?: { readonly bits_per_second: number };
    readonly streams?: readonly { readonly sender?: { readonly mean_rtt?: number } }[];
  };
}

export interface OverlayFigures {
  /** Gbit/s, one sample per repetition: from edge1, and towards it. */
  readonly kernelSend: number[];
  readonly kernelReceive: number[];
  readonly nodeSend: number[];
  readonly nodeReceive: number[];
  /** The same over one hop: to the cloud's own kernel. */
  readonly kernelSend1: number[];
  readonly nodeSend1: number[];
  readonly nodeReceive1: number[];
  /** CPU seconds per gigabyte of the node's process: sending and receiving over two hops. */
  readonly cpuSend: number[];
  readonly cpuReceive: number[];
  /** Microseconds. */
  readonly kernelLatency: LatencyFigure[];
  readonly nodeLatency: LatencyFigure[];
  readonly nodesLatency: LatencyFigure[];
  /** Connections with one request each per second, node to kernel. */
  readonly connections: number[];
}

const EMPTY = (): OverlayFigures => ({
  kernelSend: [],
  kernelReceive: [],
  nodeSend: [],
  nodeReceive: [],
  kernelSend1: [],
  nodeSend1: [],
  nodeReceive1: [],
  cpuSend: [],
  cpuReceive: [],
  kernelLatency: [],
  nodeLatency: [],
  nodesLatency: [],
  connections: [],
});

export async function measureOverlay(overlay: Overlay, reps: number, seconds: number): Promise<OverlayFigures> {
  const { lab, cloud, edge2 } = overlay;
  const figures = EMPTY();
  const kernel = startPeer(lab, 'edge1');
  const node = startPeer(lab, 'edge1');
  const far = startPeer(lab, 'edge2');
  const farNode = startPeer(lab, 'edge2');
  try {
    await node.ask({ do: 'join', ...overlay.joinOf('user1', 1) });
    const farAddress = await farNode.ask<string>({ do: 'join', ...overlay.joinOf('user2', 2) });
    await kernel.ask({ do: 'kernel' });
    const port = await far.ask<number>({ do: 'echo' });
    const farPort = await farNode.ask<number>({ do: 'echo' });
    const iperf = (host: string, reverse: boolean, time = seconds) =>
      node.ask<BulkFigure>({ do: 'iperf', host, seconds: time, reverse });
    const latency = (peer: Peer, host: string, to: number) =>
      peer.ask<LatencyFigure>({ do: 'latency', host, port: to, seconds: Math.min(seconds, 2) });
    // Warm: everybody's code is compiled, and the kernels know the path.
    for (const reverse of [false, true]) {
      await kernelIperf(lab, 'edge1', edge2, 1, reverse);
      await iperf(edge2, reverse, 1);
    }
    for (let rep = 0; rep < reps; rep++) {
      figures.kernelSend.push(await kernelIperf(lab, 'edge1', edge2, seconds, false));
      const sent = await iperf(edge2, false);
      figures.nodeSend.push(sent.gbps);
      figures.cpuSend.push(sent.cpuPerGb);
      figures.kernelReceive.push(await kernelIperf(lab, 'edge1', edge2, seconds, true));
      const received = await iperf(edge2, true);
      figures.nodeReceive.push(received.gbps);
      figures.cpuReceive.push(received.cpuPerGb);
      figures.kernelSend1.push(await kernelIperf(lab, 'edge1', cloud, seconds, false));
      figures.nodeSend1.push((await iperf(cloud, false)).gbps);
      figures.nodeReceive1.push((await iperf(cloud, true)).gbps);
      figures.kernelLatency.push(await latency(kernel, edge2, port));
      figures.nodeLatency.push(await latency(node, edge2, port));
      figures.nodesLatency.push(await latency(node, farAddress, farPort));
      figures.connections.push(
        (
          await node.ask<RateFigure>({
            do: 'connections',
            host: edge2,
            port,
            seconds: Math.min(seconds, 2),
            parallel: 32,
          })
        ).perSecond,
      );
    }
    return figures;
  } finally {
    await Promise.all([kernel, node, far, farNode].map((peer) => peer.stop()));
  }
}

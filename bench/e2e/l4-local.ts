// One part of the l4 bench in a process of its own: two nodes in this process over the memory link, or node:net over loopback.
// Started by l4.ts: l4-local.ts PART SECONDS COUNT; prints one JSON line.

import { once } from 'node:events';
import { Session } from 'node:inspector/promises';
import type { Socket } from 'node:net';
import * as nodeNet from 'node:net';
import { systemClock } from '../../lib/core/index.js';
import { KubeBusCloud, KubeBusNode } from '../../lib/index.js';
import { memoryLinks } from '../../lib/l2/index.js';
import { attachLink, makePrefix, parseAddress, Router } from '../../lib/l3/index.js';
import { createNet, type Net } from '../../lib/l4/index.js';
import { memoryTransport } from '../../transports/memory.js';
import { asNode, bulk, connectionRate, echo, type NetApi, requestResponse } from './l4-app.js';

const LOOPBACK = '127.0.0.1';
const FAR = '10.80.0.2';

/** Two nodes, 10.80.0.1 and .2, joined by a memory link, and what of super-packets and partial checksums crosses it. */
function memoryPair(offload: boolean, partialChecksums: boolean): [Net, Net] {
  const nodes = memoryLinks({ mtu: 1_400, offload, partialChecksums }).map((link, i) => {
    const vrf = new Router().addVrf('bench');
    vrf.endpoint.useClock(() => systemClock.now());
    vrf.setAddresses([parseAddress(`10.80.0.${i + 1}`)]);
    const port = attachLink({ vrf, link, sources: null, onControl() {} });
    vrf.addStaticRoute(makePrefix(new Uint8Array(4), 0), port);
    return createNet(vrf.endpoint);
  });
  return nodes as [Net, Net];
}

const [part = '', secondsText = '1', countText = '0'] = process.argv.slice(2);
const seconds = Number(secondsText);
const count = Number(countText);

const memory = (offload = true, partialChecksums = true): { server: NetApi; client: NetApi } => {
  const [a, b] = memoryPair(offload, partialChecksums);
  return { server: asNode(b.net), client: asNode(a.net) };
};

/** Two nodes and their cloud in this process: links with queues of their own, as in production. */
async function throughCloud(): Promise<{ server: NetApi; client: NetApi; host: string }> {
  const transport = memoryTransport();
  const cloud = await KubeBusCloud.start({ transports: [transport], tenants: { bench: { pools: ['10.80.0.0/16'] } } });
  const join = (node: string) => KubeBusNode.join({ cloud: cloud.addresses, transport, tenant: 'bench', node });
  const [a, b] = [await join('a'), await join('b')];
  return { server: asNode(b.net), client: asNode(a.net), host: b.addresses[0]! };
}

async function rates(server: NetApi, client: NetApi, host: string) {
  const port = await echo(server, host);
  return {
    latency: await requestResponse(client, host, port, seconds),
    rate: await connectionRate(client, host, port, seconds, 32),
  };
}

/** Heap and buffers per socket: `count` connections, both ends in this process, each of which has carried a byte each way. */
async function idle(server: NetApi, client: NetApi, host: string): Promise<{ perSocket: number }> {
  const port = await echo(server, host);
  const open = async (n: number, into: Socket[]) => {
    for (let i = 0; i < n; i += 100) {
      await Promise.all(
        Array.from({ length: Math.min(100, n - i) }, async () => {
          const socket = client.connect({ host, port });
          into.push(socket);
          socket.write(Buffer.of(1));
          await once(socket, 'data');
          socket.pause();
        }),
      );
    }
  };
  const used = async () => {
    // Twice, with a turn between: buffers go when their finalizers have run.
    for (let i = 0; i < 3; i++) {
      globalThis.gc?.();
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    const { heapUsed, external } = process.memoryUsage();
    return heapUsed + external;
  };
  const sockets: Socket[] = [];
  await open(200, sockets); // compiled code and the like
  const before = await used();
  await open(count, sockets);
  const after = await used();
  return { perSocket: (after - before) / count / 2 };
}

/** Jain's index over `count` connections that all send as fast as they can. */
async function fairness(server: NetApi, client: NetApi, host: string): Promise<{ jain: number; gbps: number }> {
  const got: number[] = [];
  const listener = server.createServer((socket) => {
    const i = got.push(0) - 1;
    socket.on('error', () => socket.destroy());
    socket.on('data', (bytes) => {
      got[i]! += bytes.length;
    });
  });
  listener.listen(0, host);
  await once(listener, 'listening');
  const { port } = listener.address() as { port: number };
  const chunk = Buffer.alloc(65_536, 7);
  const sockets: Socket[] = [];
  for (let i = 0; i < count; i++) {
    const socket = client.connect({ host, port });
    sockets.push(socket);
    await once(socket, 'connect');
  }
  for (const socket of sockets) {
    const fill = () => {
      while (!socket.destroyed && socket.write(chunk));
    };
    socket.on('drain', fill);
    fill();
  }
  await new Promise((resolve) => setTimeout(resolve, seconds * 1_000));
  const before = [...got];
  const start = performance.now();
  await new Promise((resolve) => setTimeout(resolve, seconds * 1_000));
  const took = (performance.now() - start) / 1_000;
  const shares = got.map((n, i) => n - before[i]!);
  const sum = shares.reduce((a, b) => a + b, 0);
  return {
    jain: sum ** 2 / (shares.length * shares.reduce((a, b) => a + b * b, 0)),
    gbps: (sum * 8) / 1e9 / took,
  };
}

/** Young garbage included: what V8's sampling allocation profile says of a transfer, by 1,348 bytes of payload. */
async function heapPerSegment(server: NetApi, client: NetApi): Promise<{ bytes: number }> {
  const session = new Session();
  session.connect();
  await bulk(server, client, FAR, seconds);
  await session.post('HeapProfiler.startSampling', {
    samplingInterval: 4_096,
    includeObjectsCollectedByMajorGC: true,
    includeObjectsCollectedByMinorGC: true,
  } as never);
  let got = 0;
  const counting: NetApi = {
    ...server,
    createServer: ((listener: (socket: Socket) => void) =>
      server.createServer((socket) => {
        socket.on('data', (data) => {
          got += data.length;
        });
        listener(socket);
      })) as NetApi['createServer'],
  };
  await bulk(counting, client, FAR, seconds);
  const { profile } = await session.post('HeapProfiler.stopSampling');
  const sizeOf = (node: typeof profile.head): number =>
    node.selfSize + node.children.reduce((n, c) => n + sizeOf(c), 0);
  return { bytes: sizeOf(profile.head) / (got / 1_348) };
}

async function measure(): Promise<unknown> {
  switch (part) {
    case 'node-net':
      return bulk(nodeNet, nodeNet, LOOPBACK, seconds);
    case 'memory':
    case 'memory-1400':
    case 'memory-1400-sums': {
      const { server, client } = memory(part === 'memory', part !== 'memory-1400-sums');
      return bulk(server, client, FAR, seconds);
    }
    case 'memory-1400-heap': {
      const { server, client } = memory(false);
      return heapPerSegment(server, client);
    }
    case 'node-net-rates':
      return rates(nodeNet, nodeNet, LOOPBACK);
    case 'memory-rates': {
      const { server, client } = memory();
      return rates(server, client, FAR);
    }
    case 'node-net-idle':
      return idle(nodeNet, nodeNet, LOOPBACK);
    case 'idle': {
      const { server, client } = memory();
      return idle(server, client, FAR);
    }
    case 'fairness': {
      const { server, client, host } = await throughCloud();
      return fairness(server, client, host);
    }
    default:
      throw new Error(`unknown part '${part}'`);
  }
}

process.stdout.write(`${JSON.stringify(await measure())}\n`);
process.exit(0);

// One process in a network namespace: a cloud, a node with a TUN device (the namespace's kernel is on the overlay), and a
// rootless node whose sockets are ours. Between the latter and its network a seeded impairment may lie. The test that
// started it speaks to it by IPC: one request, one answer.

import { execFile } from 'node:child_process';
import { once } from 'node:events';
import * as http from 'node:http';
import * as net from 'node:net';
import type { Duplex } from 'node:stream';
import { promisify } from 'node:util';
import { type CloudOptions, KubeBusCloud, KubeBusNode, type NodeOptions } from '../../lib/index.js';
import { createNet, type Net, type Socket } from '../../lib/l4/index.js';
import { memoryTransport } from '../../transports/memory.js';
import { tcpTransport } from '../../transports/tcp.js';
import { body, hash } from './body.js';
import { type Impairment, impairedEndpoint } from './impaired-endpoint.js';

export interface HostOptions {
  readonly mtu: number;
  readonly offload: boolean;
  readonly impairment?: Impairment;
  readonly seed: number;
  /** The links are real TCP connections, through a relay that can cut them (`disturb`). **Default:** false, they are memory. */
  readonly relayed?: boolean;
}

export interface HostReady {
  /** Addresses, IPv4 first: of the kernel (and of the node that shares them), and of the rootless node. */
  readonly kernel: readonly string[];
  readonly rootless: readonly string[];
  readonly device: string;
}

export type HostRequest =
  | { do: 'forward-out'; host: string; port: number }
  | { do: 'forward-in'; port: number; to: number; on: Where }
  | { do: 'echo'; port: number; on: Where; family?: 4 | 6 }
  | { do: 'unlisten'; port: number; on: Where }
  | { do: 'listen-error'; port: number; on: Where }
  | { do: 'udp-bind-error'; port: number; on: Where }
  | { do: 'web'; port: number; bytes: number }
  | { do: 'get'; host: string; port: number; path: string }
  | { do: 'exchange'; host: string; port: number; bytes: number; on: Where }
  | { do: 'local-port'; host: string; port: number; on: Where }
  | { do: 'connect-error'; host: string; port: number; on: Where }
  | { do: 'udp-echo'; port: number; on: Where }
  | { do: 'udp-exchange'; host: string; port: number; sizes: readonly number[]; on: Where }
  | { do: 'udp-error'; host: string; port: number; on: Where }
  | { do: 'ping'; host: string }
  | { do: 'program'; command: readonly string[] }
  | { do: 'disturbed-echo'; port: number; bytes: number; how: Disturbance }
  | { do: 'disturbed-exchange'; host: string; port: number; bytes: number; how: Disturbance }
  | { do: 'all'; requests: readonly HostRequest[] }
  | { do: 'stats'; on: Where };

type Where = 'shared' | 'rootless';
/** All links are cut, or the hub restarts and has forgotten everything. */
export type Disturbance = 'links' | 'hub';

async function main(options: HostOptions): Promise<void> {
  const { mtu, offload, impairment, seed } = options;
  const tenants = { acme: { pools: ['10.80.0.0/16', 'fd80::/64'] } };
  const { cloud, transport, disturb } = options.relayed
    ? await relayedCloud(mtu, tenants)
    : await memoryCloud(mtu, tenants);
  const join = (node: string, tun: boolean) =>
    KubeBusNode.join({
      cloud,
      transport,
      tenant: 'acme',
      node,
      mtu,
      ...(tun ? { tun: { name: 'kb0', offload } } : {}),
    });
  const kernel = await join('kernel', true);
  const rootless = await join('rootless', false);
  const sockets: Net =
    impairment === undefined
      ? rootless.sockets
      : createNet(impairedEndpoint(rootless.endpoint, impairment, seed, mtu), { resolver: () => [] });
  /** Ends when both nodes have lost the hub and found it again. */
  const disturbAll = async (how: Disturbance) => {
    const back = [kernel, rootless].map(async (node) => {
      await once(node, 'down');
      await once(node, 'up');
    });
    await disturb(how);
    await Promise.all(back);
  };
  const at = (where: Where): Net => (where === 'shared' ? kernel.sockets : sockets);
  const servers = new Map<string, { close(): unknown }>();

  const answer = async (r: HostRequest): Promise<unknown> => {
    switch (r.do) {
      case 'forward-out': {
        const server = net.createServer((s) => join2(s, sockets.net.connect({ host: r.host, port: r.port })));
        server.listen(0, '127.0.0.1');
        await once(server, 'listening');
        return (server.address() as net.AddressInfo).port;
      }
      case 'forward-in': {
        const server = at(r.on).net.createServer({ allowHalfOpen: true }, (s) =>
          join2(s, net.connect({ host: '127.0.0.1', port: r.to, allowHalfOpen: true })),
        );
        server.listen(r.port);
        await once(server, 'listening');
        return true;
      }
      case 'echo': {
        const server = at(r.on).net.createServer({ allowHalfOpen: true }, (s) => {
          s.pipe(s);
          s.on('error', () => {});
        });
        server.listen(r.port);
        await once(server, 'listening');
        servers.set(`${r.on}:${r.port}`, server);
        return true;
      }
      case 'listen-error': {
        const server = at(r.on).net.createServer();
        const failed = once(server, 'error');
        server.listen(r.port);
        return ((await failed) as [NodeJS.ErrnoException])[0].code;
      }
      case 'udp-bind-error': {
        const socket = at(r.on).dgram.createSocket('udp4');
        const failed = once(socket, 'error');
        socket.bind(r.port);
        return ((await failed) as [NodeJS.ErrnoException])[0].code;
      }
      case 'unlisten':
        servers.get(`${r.on}:${r.port}`)!.close();
        return true;
      case 'web': {
        const page = body(r.bytes);
        sockets.http
          .createServer((req, res) => {
            if (req.method === 'POST') req.pipe(res);
            else res.end(page);
          })
          .listen(r.port);
        return hash(page);
      }
      case 'get': {
        const request = http.get({ host: r.host, port: r.port, path: r.path, agent: sockets.httpAgent() });
        const [response] = (await once(request, 'response')) as [http.IncomingMessage];
        const chunks: Buffer[] = [];
        for await (const chunk of response) chunks.push(chunk as Buffer);
        return [response.statusCode, hash(Buffer.concat(chunks))];
      }
      case 'exchange':
        return exchange(at(r.on), r.host, r.port, r.bytes);
      case 'local-port': {
        const socket = await at(r.on).connect({ host: r.host, port: r.port });
        const { localPort } = socket;
        socket.destroy();
        return localPort;
      }
      case 'connect-error': {
        const socket = at(r.on).net.connect({ host: r.host, port: r.port });
        const [error] = (await once(socket, 'error')) as [NodeJS.ErrnoException];
        return error.code;
      }
      case 'udp-echo': {
        for (const type of ['udp4', 'udp6'] as const) {
          const socket = at(r.on).dgram.createSocket({ type, ipv6Only: true }, (m, from) =>
            socket.send(m, from.port, from.address),
          );
          socket.bind(r.port);
          await once(socket, 'listening');
        }
        return true;
      }
      case 'udp-exchange': {
        const socket = at(r.on).dgram.createSocket(net.isIP(r.host) === 6 ? 'udp6' : 'udp4');
        const got: number[] = [];
        for (const size of r.sizes) {
          const message = body(size);
          socket.send(message, r.port, r.host);
          const [back] = (await once(socket, 'message')) as [Buffer];
          if (!back.equals(message)) throw new Error(`another datagram of ${back.length} bytes`);
          got.push(back.length);
        }
        socket.close();
        return got;
      }
      case 'udp-error': {
        const socket = at(r.on).dgram.createSocket(net.isIP(r.host) === 6 ? 'udp6' : 'udp4');
        socket.connect(r.port, r.host);
        await once(socket, 'connect');
        socket.send('is there anybody');
        const [error] = (await once(socket, 'error')) as [NodeJS.ErrnoException];
        socket.close();
        return error.code;
      }
      case 'ping':
        return (await sockets.ping(r.host, { count: 2, intervalMs: 1 })).lost;
      case 'program': {
        const [program, ...args] = r.command;
        return (await promisify(execFile)(program!, args)).stdout.trim();
      }
      case 'disturbed-echo': {
        const server = sockets.net.createServer({ allowHalfOpen: true }).listen(r.port);
        const [socket] = (await once(server, 'connection')) as [Socket];
        server.close();
        socket.pipe(socket);
        await halfway(socket, r.bytes, () => disturbAll(r.how));
        return true;
      }
      case 'disturbed-exchange': {
        const socket = await sockets.connect({ host: r.host, port: r.port });
        const data = body(r.bytes);
        const chunks: Buffer[] = [];
        socket.on('data', (chunk: Buffer) => chunks.push(chunk));
        socket.end(data);
        await halfway(socket, r.bytes, () => disturbAll(r.how));
        return Buffer.concat(chunks).equals(data) ? 'same' : 'different';
      }
      case 'all':
        return Promise.all(r.requests.map(answer));
      case 'stats':
        return at(r.on).stats();
    }
  };

  process.on('message', (request: HostRequest) => {
    answer(request).then(
      (value) => process.send!({ value }),
      (error: unknown) =>
        process.send!({ error: error instanceof Error ? (error.stack ?? error.message) : String(error) }),
    );
  });
  process.on('disconnect', () => process.exit(0));
  // The kernel's configuration is applied in order, but in its own time: an echo through the device says that it is there.
  for (const address of kernel.addresses) {
    while ((await rootless.ping(address, { count: 1, timeoutMs: 200 })).lost > 0);
  }
  const ready: HostReady = { kernel: kernel.addresses, rootless: rootless.addresses, device: 'kb0' };
  process.send!({ value: ready });
}

interface Hub {
  /** Where nodes find it. */
  readonly cloud: readonly string[];
  readonly transport: NodeOptions['transport'];
  disturb(how: Disturbance): Promise<void>;
}
type Tenants = CloudOptions['tenants'];

async function memoryCloud(mtu: number, tenants: Tenants): Promise<Hub> {
  const transport = memoryTransport();
  const cloud = await KubeBusCloud.start({ transports: [transport], tenants, mtu });
  return { cloud: cloud.addresses, transport, disturb: () => Promise.reject(new Error('these links are memory')) };
}

async function relayedCloud(mtu: number, tenants: Tenants): Promise<Hub> {
  const start = (port: number) => {
    const listen = { host: '127.0.0.1', port };
    return KubeBusCloud.start({ transports: [tcpTransport({ insecure: true, listen })], tenants, mtu });
  };
  let cloud = await start(0);
  const port = Number(new URL(cloud.addresses[0]!).port);
  const carried = new Set<net.Socket>();
  const relay = net.createServer((s) => {
    carried.add(s);
    s.on('close', () => carried.delete(s));
    join2(s, net.connect(port, '127.0.0.1'));
  });
  relay.listen(0, '127.0.0.1');
  await once(relay, 'listening');
  return {
    cloud: [`kubebus://127.0.0.1:${(relay.address() as net.AddressInfo).port}`],
    transport: tcpTransport({ insecure: true }),
    async disturb(how) {
      if (how === 'links') for (const s of carried) s.destroy();
      else {
        await cloud.stop();
        cloud = await start(port);
      }
    },
  };
}

/** Until the socket is closed; `act` runs, and ends, once half of `bytes` has come. */
async function halfway(socket: Socket, bytes: number, act: () => Promise<void>): Promise<void> {
  let got = 0;
  let acting: Promise<void> | null = null;
  socket.on('data', (data: Buffer) => {
    got += data.length;
    if (got >= bytes / 2) acting ??= act();
  });
  await once(socket, 'close');
  if (acting === null) throw new Error(`only ${got} bytes came: nothing was disturbed`);
  await acting;
}

/** Sends `bytes` and compares what comes back from an echo. */
async function exchange(sockets: Net, host: string, port: number, bytes: number): Promise<string> {
  const socket = await sockets.connect({ host, port });
  const data = body(bytes);
  socket.end(data);
  const chunks: Buffer[] = [];
  for await (const chunk of socket) chunks.push(chunk as Buffer);
  return Buffer.concat(chunks).equals(data) ? 'same' : 'different';
}

function join2(a: Duplex, b: Duplex): void {
  a.pipe(b).pipe(a);
  a.on('error', () => b.destroy());
  b.on('error', () => a.destroy());
}

await main(JSON.parse(process.argv[2]!) as HostOptions);

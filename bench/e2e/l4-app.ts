// What the l4 bench runs on top of a net module, node:net and ours alike: a bulk transfer, a request/response ping-pong, short
// connections, and a client of iperf3's protocol (so that the other end can be an unmodified iperf3 server).

import { once } from 'node:events';
import type { Socket } from 'node:net';
import type { NetModule } from '../../lib/l4/index.js';

/** node:net or the `net` of a node: what the loads below use of it. */
export type NetApi = Pick<typeof import('node:net'), 'createServer' | 'connect'>;

/** Ours is Node's API: for the loads it is `node:net`. */
export const asNode = (net: NetModule): NetApi => net as unknown as NetApi;

const later = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms));

async function connected(net: NetApi, host: string, port: number): Promise<Socket> {
  const socket = net.connect({ host, port });
  await once(socket, 'connect');
  return socket;
}

async function listening(net: NetApi, host: string | undefined, onSocket: (socket: Socket) => void) {
  const server = net.createServer((socket) => {
    socket.on('error', destroyThis);
    onSocket(socket);
  });
  server.listen(0, host);
  await once(server, 'listening');
  return { server, port: (server.address() as { port: number }).port };
}

export interface BulkFigure {
  readonly gbps: number;
  /** CPU seconds of this process per gigabyte: both ends, when both run in it. */
  readonly cpuPerGb: number;
}

/** Writes of `size` bytes from one module to the other, both in this process, for `seconds` after a warm-up. */
export async function bulk(
  server: NetApi,
  client: NetApi,
  host: string,
  seconds: number,
  size = 65_536,
): Promise<BulkFigure> {
  let got = 0;
  const { server: listener, port } = await listening(server, host, (socket) => {
    socket.on('data', (data) => {
      got += data.length;
    });
  });
  const socket = await connected(client, host, port);
  const chunk = Buffer.alloc(size, 7);
  const fill = () => {
    while (!socket.destroyed && socket.write(chunk));
  };
  socket.on('drain', fill);
  fill();
  await later(Math.min(700, seconds * 500));
  const before = { got, at: performance.now(), cpu: process.cpuUsage() };
  await later(seconds * 1_000);
  const bytes = got - before.got;
  const cpu = process.cpuUsage(before.cpu);
  const took = (performance.now() - before.at) / 1_000;
  socket.destroy();
  listener.close();
  await once(listener, 'close');
  return { gbps: (bytes * 8) / 1e9 / took, cpuPerGb: (cpu.user + cpu.system) / 1e6 / (bytes / 1e9) };
}

// Without a closure per socket: memory is measured with these.
function destroyThis(this: Socket): void {
  this.destroy();
}

function writeBack(this: Socket, data: Buffer): void {
  this.write(data);
}

/** An echo server; returns its port. */
export async function echo(net: NetApi, host?: string): Promise<number> {
  return (
    await listening(net, host, (socket) => {
      socket.setNoDelay(true);
      socket.on('data', writeBack);
    })
  ).port;
}

export interface LatencyFigure {
  readonly p50: number;
  readonly p99: number;
}

/** One byte there and back on one connection; microseconds. */
export async function requestResponse(
  net: NetApi,
  host: string,
  port: number,
  seconds: number,
): Promise<LatencyFigure> {
  const socket = await connected(net, host, port);
  socket.setNoDelay(true);
  const byte = Buffer.of(1);
  const times: number[] = [];
  let sent = 0;
  const start = performance.now();
  const end = start + seconds * 1_000;
  await new Promise<void>((resolve, reject) => {
    socket.on('error', reject);
    socket.on('data', () => {
      const now = performance.now();
      // The first third warms up.
      if (now > start + seconds * 333) times.push((now - sent) * 1_000);
      if (now > end) resolve();
      else {
        sent = performance.now();
        socket.write(byte);
      }
    });
    sent = performance.now();
    socket.write(byte);
  });
  socket.destroy();
  times.sort((a, b) => a - b);
  const at = (q: number) => times[Math.floor(times.length * q)] ?? Number.NaN;
  return { p50: at(0.5), p99: at(0.99) };
}

/** Connections measured at most: the ports of those before stay in TIME-WAIT for a second. */
const MOST = 8_000;

export interface RateFigure {
  readonly perSecond: number;
  /** Per second of CPU time of this process. */
  readonly perCpuSecond: number;
}

/** Connections per second: connect, one byte there, one back, close; `parallel` of them at any time. */
export async function connectionRate(
  net: NetApi,
  host: string,
  port: number,
  seconds: number,
  parallel: number,
): Promise<RateFigure> {
  const byte = Buffer.of(1);
  // The first ones only get the code compiled.
  const warm = seconds >= 1 ? 3_000 : 100;
  let count = 0;
  let from = Number.POSITIVE_INFINITY;
  let end = Number.POSITIVE_INFINITY;
  let done = 0;
  let cpu = process.cpuUsage();
  const one = () =>
    new Promise<void>((resolve, reject) => {
      const socket = net.connect({ host, port }, () => socket.write(byte));
      socket.on('error', reject);
      socket.on('data', () => socket.end());
      socket.on('close', () => resolve());
    });
  await Promise.all(
    Array.from({ length: parallel }, async () => {
      while (performance.now() < end) {
        await one();
        const now = performance.now();
        if (++count === warm) {
          cpu = process.cpuUsage();
          from = now;
          end = now + seconds * 1_000;
        } else if (now > from && now < end && ++done === MOST) end = now;
      }
    }),
  );
  const { user, system } = process.cpuUsage(cpu);
  return { perSecond: done / ((end - from) / 1_000), perCpuSecond: done / ((user + system) / 1e6) };
}

/** States of iperf3's control connection. */
const Iperf = {
  testStart: 1,
  testRunning: 2,
  testEnd: 4,
  paramExchange: 9,
  createStreams: 10,
  exchangeResults: 13,
  displayResults: 14,
  iperfDone: 16,
  accessDenied: 0xff,
} as const;

/** One run against an unmodified `iperf3 -s`; Gbit/s as the receiver counted them. `reverse`: the server sends. */
export async function iperfClient(
  net: NetApi,
  host: string,
  port: number,
  seconds: number,
  reverse: boolean,
): Promise<BulkFigure> {
  for (let attempt = 1; ; attempt++) {
    // The server has one client at a time: it resets the next one while it is not done with the last, and refuses for a moment.
    const control = net.connect({ host, port });
    try {
      await once(control, 'connect').catch((error: Error) => {
        throw new Busy(error.message);
      });
      control.setNoDelay(true);
      const reader = new Reader(control);
      const first = await start(control, reader);
      return await iperfRun(net, host, port, seconds, reverse, control, reader, first);
    } catch (error) {
      control.destroy();
      if (!(error instanceof Busy) || attempt === 20) throw error;
      await later(100);
    }
  }
}

class Busy extends Error {}
const cookie = Buffer.from(`${'kubebus'.padEnd(36, 'x')}\0`);

async function start(control: Socket, reader: Reader): Promise<number> {
  control.write(cookie);
  const first = await reader.take(1).catch((error: Error) => {
    throw new Busy(error.message);
  });
  if (first[0] === Iperf.accessDenied) throw new Busy('the iperf3 server is busy');
  return first[0]!;
}

async function iperfRun(
  net: NetApi,
  host: string,
  port: number,
  seconds: number,
  reverse: boolean,
  control: Socket,
  reader: Reader,
  first: number,
): Promise<BulkFigure> {
  let data: Socket | null = null;
  let got = 0;
  let sent = 0;
  let running = false;
  let figure: BulkFigure | null = null;
  let cpu = process.cpuUsage();
  let took = seconds;
  const chunk = Buffer.alloc(65_536, 7);
  const run = async (socket: Socket) => {
    const start = performance.now();
    cpu = process.cpuUsage();
    running = true;
    const fill = () => {
      while (running) {
        sent += chunk.length;
        if (!socket.write(chunk)) return;
      }
    };
    if (!reverse) {
      socket.on('drain', fill);
      fill();
    }
    await later(seconds * 1_000);
    running = false;
    took = (performance.now() - start) / 1_000;
    cpu = process.cpuUsage(cpu);
    control.write(Buffer.of(Iperf.testEnd));
  };
  for (let state = first; figure === null; ) {
    switch (state) {
      case Iperf.paramExchange:
        // That the key is there counts, whatever its value.
        control.write(
          json({ tcp: true, omit: 0, time: seconds, parallel: 1, len: 131_072, ...(reverse && { reverse }) }),
        );
        break;
      case Iperf.createStreams:
        data = await connected(net, host, port);
        data.on('error', () => {});
        data.on('data', (bytes) => {
          if (running) got += bytes.length;
        });
        data.write(cookie);
        break;
      case Iperf.testRunning:
        void run(data!);
        break;
      case Iperf.exchangeResults: {
        const stream = { id: 1, bytes: reverse ? got : sent, retransmits: 0, jitter: 0, errors: 0, packets: 0 };
        control.write(
          json({
            cpu_util_total: 0,
            cpu_util_user: 0,
            cpu_util_system: 0,
            sender_has_retransmits: 0,
            streams: [{ ...stream, start_time: 0, end_time: took }],
          }),
        );
        const length = (await reader.take(4)).readUInt32BE();
        const result = JSON.parse((await reader.take(length)).toString()) as { streams: { bytes: number }[] };
        const bytes = reverse ? got : result.streams[0]!.bytes;
        const gbps = (bytes * 8) / 1e9 / took;
        figure = { gbps, cpuPerGb: (cpu.user + cpu.system) / 1e6 / (bytes / 1e9) };
        break;
      }
      default:
      // testStart and the like: nothing to do.
    }
    if (figure === null) state = (await reader.take(1))[0]!;
  }
  control.write(Buffer.of(Iperf.iperfDone));
  // The server takes the next client once it has closed this one.
  await reader.over;
  data?.destroy();
  control.destroy();
  return figure;
}

function json(value: unknown): Buffer {
  const text = Buffer.from(JSON.stringify(value));
  const head = Buffer.alloc(4);
  head.writeUInt32BE(text.length);
  return Buffer.concat([head, text]);
}

/** Exact numbers of bytes off a socket. */
class Reader {
  private held: Buffer = Buffer.alloc(0);
  private failure: Error | null = null;
  private wake: () => void = () => {};
  /** The other side has ended, or the socket broke. */
  readonly over: Promise<void>;

  constructor(socket: Socket) {
    socket.on('data', (bytes) => {
      this.held = Buffer.concat([this.held, bytes]);
      this.wake();
    });
    const over = (error?: Error) => {
      this.failure ??= error ?? new Error('the iperf3 server closed the control connection');
      this.wake();
    };
    socket.on('error', over);
    this.over = new Promise((resolve) => {
      socket.on('end', () => {
        over();
        resolve();
      });
      socket.on('error', () => resolve());
    });
  }

  async take(n: number): Promise<Buffer> {
    while (this.held.length < n) {
      if (this.failure !== null) throw this.failure;
      await new Promise<void>((resolve) => {
        this.wake = resolve;
      });
    }
    const bytes = this.held.subarray(0, n);
    this.held = this.held.subarray(n);
    return bytes;
  }
}

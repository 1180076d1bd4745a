// Behaviours of node:net, each a function that asserts: run on node:net itself and on ours (test/l4/net-*.test.ts). What
// is written here is what Node 20, 22 and 24 do on Linux.

import { once } from 'node:events';
import type * as NodeNet from 'node:net';
import { PassThrough } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import type { ExecutionContext } from 'ava';

export type NetModule = typeof NodeNet;

export interface NetWorld {
  /** Where clients are made, and where servers are; the same module for node:net. */
  readonly client: NetModule;
  readonly server: NetModule;
  /** Address of the servers' node, and of the clients'. */
  readonly host: string;
  readonly clientHost: string;
  /** The same node under an IPv6 address. */
  readonly host6: string;
  /** An address that nobody has. */
  readonly nobody: string;
}

type Behaviour = (t: ExecutionContext, w: NetWorld) => Promise<void>;

/** Name and what it does. */
export const netBehaviours: [string, Behaviour][] = [];
const it = (name: string, fn: Behaviour) => netBehaviours.push([name, (t, w) => tidy(t, w, fn)]);

/** Runs the behaviour, then destroys whatever it left open. */
async function tidy(t: ExecutionContext, world: NetWorld, fn: Behaviour): Promise<void> {
  const open: (Socket | Server)[] = [];
  const track = <T extends Socket | Server>(s: T): T => {
    open.push(s);
    return s;
  };
  const watch = (net: NetModule): NetModule =>
    ({
      ...net,
      connect: (...args: Parameters<NetModule['connect']>) => track(net.connect(...args)),
      createConnection: (...args: Parameters<NetModule['connect']>) => track(net.createConnection(...args)),
      createServer: (...args: Parameters<NetModule['createServer']>) =>
        track(net.createServer(...args)).on('connection', track),
    }) as NetModule;
  try {
    await fn(t, { ...world, client: watch(world.client), server: watch(world.server) });
  } finally {
    for (const s of open) {
      s.on('error', () => {});
      if ('destroy' in s) s.destroy();
      else s.close();
    }
  }
}

type Server = NodeNet.Server;
type Socket = NodeNet.Socket;
interface SystemError extends Error {
  code?: string;
  errno?: number;
  syscall?: string;
  address?: string;
  port?: number;
}

// ---- helpers

async function listen(server: Server, host: string): Promise<number> {
  server.listen(0, host);
  await once(server, 'listening');
  return (server.address() as NodeNet.AddressInfo).port;
}

/** A connected pair: [client, server's socket, server]. */
async function pair(
  w: NetWorld,
  serverOptions: NodeNet.ServerOpts = {},
  clientOptions: Partial<NodeNet.TcpNetConnectOpts> = {},
): Promise<[Socket, Socket, Server]> {
  const server = w.server.createServer(serverOptions);
  const port = await listen(server, w.host);
  const accepted = once(server, 'connection');
  const client = w.client.connect({ port, host: w.host, ...clientOptions });
  await once(client, 'connect');
  const [socket] = (await accepted) as [Socket];
  server.close();
  return [client, socket, server];
}

async function closedPort(w: NetWorld): Promise<number> {
  const server = w.server.createServer();
  const port = await listen(server, w.host);
  server.close();
  await closing(server);
  return port;
}

function record(emitter: NodeJS.EventEmitter, names: string[], into: string[], prefix = ''): void {
  for (const name of names) emitter.on(name, () => into.push(prefix + name));
}

/** Arguments of 'close'; an error does not reject it, as it would with `once` of node:events. */
const closing = (s: Socket | Server) =>
  new Promise<unknown[]>((done) => s.once('close', (...args: unknown[]) => done(args)));
const closed = (...sockets: (Socket | Server)[]) => Promise.all(sockets.map(closing));
const turn = () => new Promise<void>((done) => setImmediate(done));

/** All that comes until the end. */
async function collect(socket: Socket): Promise<Buffer> {
  const chunks: Buffer[] = [];
  socket.on('data', (chunk) => chunks.push(chunk));
  await once(socket, 'end');
  return Buffer.concat(chunks);
}

function end(...sockets: Socket[]): void {
  for (const s of sockets) {
    s.on('error', () => {});
    s.destroy();
  }
}

// ---- connecting

it('connect emits lookup-free connect, then ready; the callback is a connect listener', async (t, w) => {
  const server = w.server.createServer((s) => s.end());
  const port = await listen(server, w.host);
  const events: string[] = [];
  const client = w.client.connect(port, w.host, () => events.push('callback'));
  record(client, ['lookup', 'connect', 'ready', 'end', 'close'], events);
  client.resume();
  t.true(client.connecting);
  t.true(client.pending);
  t.is(client.readyState, 'opening');
  await closed(client);
  t.deepEqual(events, ['callback', 'connect', 'ready', 'end', 'close']);
  server.close();
});

it('connect(options, cb), connect(port, host, cb) and createConnection are the same', async (t, w) => {
  const server = w.server.createServer((s) => s.end('x'));
  const port = await listen(server, w.host);
  for (const make of [
    (cb: () => void) => w.client.connect({ port, host: w.host }, cb),
    (cb: () => void) => w.client.connect(port, w.host, cb),
    (cb: () => void) => w.client.createConnection({ port, host: w.host }, cb),
    (cb: () => void) => new w.client.Socket().connect({ port, host: w.host }, cb),
    (cb: () => void) => new w.client.Socket().connect(port, w.host, cb),
    (cb: () => void) => w.client.connect(`${port}` as unknown as number, w.host, cb),
  ]) {
    let connected = false;
    const client = make(() => {
      connected = true;
    });
    t.is((await collect(client)).toString(), 'x');
    t.true(connected);
  }
  server.close();
});

it('addresses of both ends agree', async (t, w) => {
  const [a, b] = await pair(w);
  t.is(a.remoteAddress, w.host);
  t.is(b.localAddress, w.host);
  t.is(a.localAddress, b.remoteAddress);
  t.is(a.localAddress, w.clientHost);
  t.is(a.remotePort, b.localPort);
  t.is(a.localPort, b.remotePort);
  t.is(a.remoteFamily, 'IPv4');
  t.is(a.localFamily, 'IPv4');
  t.deepEqual(a.address(), { address: a.localAddress!, family: 'IPv4', port: a.localPort! });
  end(a, b);
});

it('works over IPv6', async (t, w) => {
  const server = w.server.createServer((s) => s.end('six'));
  const port = await listen(server, w.host6);
  const client = w.client.connect(port, w.host6);
  await once(client, 'connect');
  t.is(client.remoteFamily, 'IPv6');
  t.is((await collect(client)).toString(), 'six');
  t.is((server.address() as NodeNet.AddressInfo).family, 'IPv6');
  server.close();
});

it('a socket that was never connected knows no addresses', (async (t, w) => {
  const s = new w.client.Socket();
  t.is(s.remoteAddress, undefined);
  t.is(s.remotePort, undefined);
  t.is(s.remoteFamily, undefined);
  t.is(s.localAddress, undefined);
  t.deepEqual(s.address(), {} as never);
  t.is(s.bytesRead, 0);
  t.is(s.bytesWritten, 0);
  t.true(s.pending);
  t.false(s.connecting);
  s.destroy();
}) as Behaviour);

it('remoteAddress stays known after the end if it was asked for before', async (t, w) => {
  const [a, b] = await pair(w);
  const { remoteAddress } = a;
  end(a, b);
  await closed(a);
  t.is(a.remoteAddress, remoteAddress);
});

it('remoteAddress is unknown after the end if nobody asked', async (t, w) => {
  const [a, b] = await pair(w);
  end(a, b);
  await closed(a);
  t.is(a.remoteAddress, undefined);
});

it('ECONNREFUSED carries errno, syscall, address and port; then close with hadError', async (t, w) => {
  const port = await closedPort(w);
  const client = w.client.connect(port, w.host);
  const order: string[] = [];
  client.on('error', () => order.push('error'));
  const [hadError] = await closing(client);
  const error = client.errored as SystemError;
  t.true(hadError);
  t.deepEqual(order, ['error']);
  t.is(error.code, 'ECONNREFUSED');
  t.is(error.errno, -111);
  t.is(error.syscall, 'connect');
  t.is(error.address, w.host);
  t.is(error.port, port);
  t.is(error.message, `connect ECONNREFUSED ${w.host}:${port}`);
  t.false(client.connecting);
  t.is(client.readyState, 'closed');
});

it('a name that does not exist is ENOTFOUND from getaddrinfo, told by lookup first', async (t, w) => {
  const client = w.client.connect(1, 'no-such-host.invalid');
  const events: string[] = [];
  client.on('lookup', (error: Error | null) => events.push(`lookup ${(error as SystemError | null)?.code}`));
  const [error] = (await once(client, 'error')) as [SystemError & { hostname: string }];
  t.is(error.code, 'ENOTFOUND');
  t.is(error.syscall, 'getaddrinfo');
  t.is(error.hostname, 'no-such-host.invalid');
  t.deepEqual(events, ['lookup ENOTFOUND']);
});

it('a custom lookup is asked, and its answer told by the event', async (t, w) => {
  const server = w.server.createServer((s) => s.end());
  const port = await listen(server, w.host);
  const asked: string[] = [];
  const client = w.client.connect({
    port,
    host: 'some.name',
    autoSelectFamily: false,
    lookup: (name, options, callback) => {
      asked.push(name);
      t.falsy(options.all);
      setImmediate(() => callback(null, w.host, 4));
    },
  });
  const told: unknown[] = [];
  client.on('lookup', (...args: unknown[]) => told.push(args));
  client.resume();
  await closed(client);
  t.deepEqual(asked, ['some.name']);
  t.deepEqual(told, [[null, w.host, 4, 'some.name']]);
  server.close();
});

it('the error of a custom lookup destroys the socket', async (t, w) => {
  const boom = new Error('boom');
  const client = w.client.connect({ port: 1, host: 'some.name', lookup: (_n, _o, cb) => cb(boom, '', 4) });
  const [error] = await once(client, 'error');
  t.is(error, boom);
});

it('bad ports throw ERR_SOCKET_BAD_PORT', async (t, w) => {
  for (const port of [-1, 65_536, 1.5, Number.NaN, '70000', 'x1', ' ']) {
    t.throws(
      () => w.client.connect({ port: port as number, host: w.host }),
      { code: 'ERR_SOCKET_BAD_PORT' },
      `${port}`,
    );
  }
});

it('no port at all throws ERR_MISSING_ARGS, a wrong type ERR_INVALID_ARG_TYPE', async (t, w) => {
  t.throws(() => w.client.connect({ host: w.host } as never), { code: 'ERR_MISSING_ARGS' });
  t.throws(() => w.client.connect({ host: w.host, port: {} as number }), { code: 'ERR_INVALID_ARG_TYPE' });
});

it('localAddress and localPort are validated', async (t, w) => {
  t.throws(() => w.client.connect({ port: 1, host: w.host, localAddress: 'nonsense' }), {
    code: 'ERR_INVALID_IP_ADDRESS',
  });
  t.throws(() => w.client.connect({ port: 1, host: w.host, localPort: 'x' as unknown as number }), {
    code: 'ERR_INVALID_ARG_TYPE',
  });
});

it('localAddress and localPort are used', async (t, w) => {
  const server = w.server.createServer((s) => s.end(`${s.remoteAddress} ${s.remotePort}`));
  const port = await listen(server, w.host);
  const localPort = 20_000 + Math.floor(Math.random() * 10_000);
  const client = w.client.connect({ port, host: w.host, localAddress: w.clientHost, localPort });
  t.is((await collect(client)).toString(), `${w.clientHost} ${localPort}`);
  server.close();
});

it('destroy while connecting: close without connect', async (t, w) => {
  const server = w.server.createServer((s) => s.on('error', () => {}));
  const port = await listen(server, w.host);
  const client = w.client.connect(port, w.host);
  const events: string[] = [];
  record(client, ['connect', 'ready', 'error', 'close'], events);
  client.destroy();
  await closed(client);
  await turn();
  t.deepEqual(events, ['close']);
  t.true(client.destroyed);
  server.close();
});

it('destroy(error) while connecting: that error, then close', async (t, w) => {
  const server = w.server.createServer((s) => s.on('error', () => {}));
  const port = await listen(server, w.host);
  const client = w.client.connect(port, w.host);
  const events: string[] = [];
  record(client, ['connect', 'close'], events);
  client.on('error', (e) => events.push(e.message));
  client.destroy(new Error('mine'));
  const [hadError] = await closing(client);
  t.true(hadError);
  t.deepEqual(events, ['mine', 'close']);
  server.close();
});

it('writes before the connection is up are sent in order', async (t, w) => {
  const server = w.server.createServer();
  const port = await listen(server, w.host);
  const got = once(server, 'connection').then(([s]) => collect(s as Socket));
  const client = w.client.connect(port, w.host);
  client.write('a');
  client.write('b');
  client.write('c');
  t.is(client.bytesWritten, 3);
  client.end('d');
  t.is((await got).toString(), 'abcd');
  t.is(client.bytesWritten, 4);
  client.destroy();
  server.close();
});

it('a write before a connection that fails: ERR_SOCKET_CLOSED_BEFORE_CONNECTION', async (t, w) => {
  const port = await closedPort(w);
  const client = w.client.connect(port, w.host);
  client.on('error', () => {});
  const error = await new Promise<SystemError>((done) => client.write('x', (e) => done(e as SystemError)));
  t.is(error.code, 'ERR_SOCKET_CLOSED_BEFORE_CONNECTION');
});

it('write on a socket that was never connected: ERR_SOCKET_CLOSED', async (t, w) => {
  const s = new w.client.Socket();
  const error = once(s, 'error');
  const told = new Promise<SystemError>((done) => s.write('x', (e) => done(e as SystemError)));
  t.is((await told).code, 'ERR_SOCKET_CLOSED');
  t.is(((await error)[0] as SystemError).code, 'ERR_SOCKET_CLOSED');
});

it('a socket can connect again after close', async (t, w) => {
  const server = w.server.createServer((s) => s.end('again'));
  const port = await listen(server, w.host);
  const client = w.client.connect(port, w.host);
  client.resume();
  await closed(client);
  t.is(client.bytesRead, 5);
  client.connect(port, w.host);
  let text = '';
  client.on('data', (d) => {
    text += d;
  });
  await closed(client);
  t.is(text, 'again');
  server.close();
});

it('connect while connecting: EALREADY, and no second connection', async (t, w) => {
  const server = w.server.createServer((s) => s.on('error', () => {}));
  const port = await listen(server, w.host);
  const client = w.client.connect(port, w.host);
  const events: string[] = [];
  record(client, ['connect', 'close'], events);
  const failed = once(client, 'error');
  client.connect(port, w.host);
  const [error] = (await failed) as [SystemError];
  t.is(error.code, 'EALREADY');
  t.is(error.syscall, 'connect');
  await closed(client);
  t.deepEqual(events, ['close']);
  t.true(client.destroyed);
  server.close();
  await closed(server);
});

it('connect on a connection that is up: connect and ready again, and no second connection', async (t, w) => {
  const accepted: Socket[] = [];
  const server = w.server.createServer((s) => accepted.push(s));
  const port = await listen(server, w.host);
  const client = w.client.connect(port, w.host);
  await Promise.all([once(client, 'ready'), once(server, 'connection')]);
  const { localPort } = client;
  const events: string[] = [];
  record(client, ['connect', 'ready', 'error'], events);
  client.connect(port, w.host);
  await once(client, 'ready');
  client.write('x');
  await once(accepted[0]!, 'data');
  t.deepEqual(events, ['connect', 'ready']);
  t.is(client.localPort, localPort);
  t.is(accepted.length, 1);
  end(client, ...accepted);
  server.close();
});

it('connect on a socket that a server has accepted: EISCONN', async (t, w) => {
  const [client, socket] = await pair(w);
  const failed = once(socket, 'error');
  socket.connect(1, w.clientHost);
  const [error] = (await failed) as [SystemError];
  t.is(error.code, 'EISCONN');
  end(client, socket);
});

it('connect to port 0 is refused or unavailable, never a hang', async (t, w) => {
  const client = w.client.connect(0, w.host);
  const [error] = (await once(client, 'error')) as [SystemError];
  t.true(['ECONNREFUSED', 'EADDRNOTAVAIL'].includes(error.code!));
});

it('a signal that aborts destroys with AbortError', async (t, w) => {
  const server = w.server.createServer((s) => s.on('error', () => {}));
  const port = await listen(server, w.host);
  const controller = new AbortController();
  const client = w.client.connect({ port, host: w.host, signal: controller.signal } as NodeNet.NetConnectOpts);
  await once(client, 'connect');
  controller.abort();
  const [error] = (await once(client, 'error')) as [SystemError];
  t.is(error.name, 'AbortError');
  t.is(error.code, 'ABORT_ERR');
  server.close();
});

it('a signal that is aborted already: AbortError, no connection', async (t, w) => {
  const port = await closedPort(w);
  const client = new w.client.Socket({ signal: AbortSignal.abort() });
  client.connect(port, w.host);
  const [error] = (await once(client, 'error')) as [SystemError];
  t.is(error.name, 'AbortError');
});

// ---- data

it('echo of a large amount, byte for byte', async (t, w) => {
  const server = w.server.createServer((s) => s.pipe(s));
  const port = await listen(server, w.host);
  const data = Buffer.alloc(3_000_001);
  for (let i = 0; i < data.length; i++) data[i] = (i * 31) ^ (i >>> 9);
  const client = w.client.connect(port, w.host);
  client.end(data);
  t.true((await collect(client)).equals(data));
  t.is(client.bytesWritten, data.length);
  t.is(client.bytesRead, data.length);
  server.close();
});

it('strings are written in the encoding that is named', async (t, w) => {
  const [a, b] = await pair(w);
  a.write('c3a4', 'hex');
  a.write('ä', 'latin1');
  a.write('4pyT', 'base64');
  a.end('ü');
  t.is((await collect(b)).toString('hex'), 'c3a4e4e29c93c3bc');
  end(a, b);
});

it('setEncoding gives strings and keeps characters whole', async (t, w) => {
  const [a, b] = await pair(w);
  b.setEncoding('utf8');
  const bytes = Buffer.from('€€');
  a.setNoDelay(true);
  a.write(bytes.subarray(0, 2));
  await turn();
  a.end(bytes.subarray(2));
  let text = '';
  for await (const part of b) {
    t.is(typeof part, 'string');
    text += part;
  }
  t.is(text, '€€');
  end(a, b);
});

it('Uint8Array can be written; other objects throw ERR_INVALID_ARG_TYPE', async (t, w) => {
  const [a, b] = await pair(w);
  a.write(new Uint8Array([65, 66]));
  t.throws(() => a.write({} as string), { code: 'ERR_INVALID_ARG_TYPE' });
  t.throws(() => a.write(5 as unknown as string), { code: 'ERR_INVALID_ARG_TYPE' });
  t.throws(() => a.write(null as unknown as string), { code: 'ERR_STREAM_NULL_VALUES' });
  a.end();
  t.is((await collect(b)).toString(), 'AB');
  end(a, b);
});

it('cork and uncork write what was collected, in order', async (t, w) => {
  const [a, b] = await pair(w);
  a.cork();
  for (const part of ['1', '2', '3']) a.write(part);
  a.uncork();
  a.end('4');
  t.is((await collect(b)).toString(), '1234');
  end(a, b);
});

it('write returns false above the high-water mark, drain follows when the reader reads', async (t, w) => {
  const [a, b] = await pair(w);
  b.pause();
  const chunk = Buffer.alloc(1 << 20);
  let writes = 0;
  while (a.write(chunk) || a.writableLength === 0) if (++writes > 200) break;
  t.true(a.writableLength > 0 || a.writableNeedDrain);
  t.true(a.writableNeedDrain);
  const drained = once(a, 'drain');
  b.resume();
  await drained;
  t.is(a.writableLength, 0);
  end(a, b);
});

it('a paused reader stops the writer: what is buffered is bounded', async (t, w) => {
  const [a, b] = await pair(w);
  b.pause();
  const chunk = Buffer.alloc(1 << 16);
  let accepted = 0;
  for (let i = 0; i < 4_000 && !a.writableNeedDrain; i++) {
    a.write(chunk, () => {
      accepted += chunk.length;
    });
    await turn();
  }
  t.true(a.writableNeedDrain);
  t.true(accepted < 128 << 20);
  t.is(b.bytesRead <= 1 << 20, true);
  end(a, b);
});

it('pause before data: nothing is told until resume', async (t, w) => {
  const [a, b] = await pair(w);
  b.pause();
  let got = 0;
  b.on('data', (d) => {
    got += d.length;
  });
  b.pause();
  await new Promise<void>((done) => a.write('hello', () => done()));
  for (let i = 0; i < 10; i++) await turn();
  t.is(got, 0);
  b.resume();
  await once(b, 'data');
  t.is(got, 5);
  end(a, b);
});

it('pauseOnConnect: the socket is paused and reads nothing', async (t, w) => {
  const server = w.server.createServer({ pauseOnConnect: true });
  const port = await listen(server, w.host);
  const client = w.client.connect(port, w.host);
  client.write('early');
  const [s] = (await once(server, 'connection')) as [Socket];
  for (let i = 0; i < 10; i++) await turn();
  t.true(s.isPaused());
  t.is(s.bytesRead, 0);
  s.resume();
  const [data] = await once(s, 'data');
  t.is(String(data), 'early');
  end(client, s);
  server.close();
});

it('reads in paused mode with readable and read(n)', async (t, w) => {
  const [a, b] = await pair(w);
  a.end('abcdef');
  let text = '';
  b.on('readable', () => {
    for (let part = b.read(2); part !== null; part = b.read(2)) text += `${part} `;
  });
  await once(b, 'end');
  t.is(text, 'ab cd ef ');
  end(a, b);
});

it('async iteration ends with the stream', async (t, w) => {
  const [a, b] = await pair(w);
  a.end('iterate');
  let text = '';
  for await (const part of b) text += part;
  t.is(text, 'iterate');
  end(a, b);
});

it('pipeline through a socket', async (t, w) => {
  const [a, b] = await pair(w, { allowHalfOpen: true });
  const source = new PassThrough();
  source.end(Buffer.alloc(500_000, 7));
  const received = collect(b);
  await pipeline(source, a, { end: true } as never).catch(() => {});
  t.is((await received).length, 500_000);
  end(a, b);
});

it('bytesRead and bytesWritten count payload, also after close', async (t, w) => {
  const [a, b] = await pair(w);
  a.write('12345');
  a.end('678');
  await collect(b);
  b.end();
  a.resume();
  if (!a.closed) await closed(a);
  t.is(a.bytesWritten, 8);
  t.is(b.bytesRead, 8);
  end(a, b);
});

it('the callback of write comes in order, once each', async (t, w) => {
  const [a, b] = await pair(w);
  b.resume();
  const order: number[] = [];
  await new Promise<void>((done) => {
    for (let i = 0; i < 5; i++) {
      a.write(`${i}`, () => {
        order.push(i);
        if (i === 4) done();
      });
    }
  });
  t.deepEqual(order, [0, 1, 2, 3, 4]);
  end(a, b);
});

it('writing an empty buffer is fine and calls back', async (t, w) => {
  const [a, b] = await pair(w);
  await new Promise<void>((done) => a.write(Buffer.alloc(0), () => done()));
  await new Promise<void>((done) => a.write('', () => done()));
  a.end('x');
  t.is((await collect(b)).toString(), 'x');
  end(a, b);
});

it('a buffer may be changed once its callback has come', async (t, w) => {
  const [a, b] = await pair(w);
  const buffer = Buffer.alloc(50_000, 'a');
  const received = collect(b);
  await new Promise<void>((done) => a.write(buffer, () => done()));
  buffer.fill('b');
  a.end();
  t.true((await received).every((x) => x === 97));
  end(a, b);
});

it('onread puts data into the given buffer and stops when told', async (t, w) => {
  const server = w.server.createServer((s) => s.end('0123456789'));
  const port = await listen(server, w.host);
  let text = '';
  const sizes: number[] = [];
  const client = w.client.connect({
    port,
    host: w.host,
    onread: {
      buffer: Buffer.alloc(4),
      callback: (n, buffer) => {
        sizes.push(n);
        text += Buffer.from(buffer.buffer, buffer.byteOffset, n).toString();
        return true;
      },
    },
  } as NodeNet.NetConnectOpts);
  let dataEvents = 0;
  client.on('data', () => dataEvents++);
  await once(client, 'end');
  t.is(text, '0123456789');
  t.deepEqual(sizes, [4, 4, 2]);
  t.is(dataEvents, 0);
  server.close();
});

it('onread returning false pauses, resume goes on', async (t, w) => {
  const server = w.server.createServer((s) => s.end('0123456789'));
  const port = await listen(server, w.host);
  let text = '';
  let stop = true;
  const client = w.client.connect({
    port,
    host: w.host,
    onread: {
      buffer: () => Buffer.alloc(4),
      callback: (n, buffer) => {
        text += Buffer.from(buffer.buffer, buffer.byteOffset, n).toString();
        return !stop;
      },
    },
  } as NodeNet.NetConnectOpts);
  while (text.length < 4) await turn();
  for (let i = 0; i < 20; i++) await turn();
  t.is(text, '0123');
  stop = false;
  client.resume();
  await once(client, 'end');
  t.is(text, '0123456789');
  server.close();
});

// ---- closing

it('end: finish on one side, end on the other, close on both, without error', async (t, w) => {
  const [a, b] = await pair(w);
  const events: string[] = [];
  record(a, ['finish', 'end', 'error', 'close'], events, 'a-');
  record(b, ['finish', 'end', 'error', 'close'], events, 'b-');
  a.resume();
  b.resume();
  a.end();
  await closed(a, b);
  t.deepEqual([...events].sort(), ['a-close', 'a-end', 'a-finish', 'b-close', 'b-end', 'b-finish']);
  const of = (p: string) => events.filter((e) => e.startsWith(p)).map((e) => e.slice(2));
  t.deepEqual(of('a'), ['finish', 'end', 'close']);
  t.deepEqual(of('b'), ['end', 'finish', 'close']);
});

it('end without a reader on the other side: that side does not close by itself', async (t, w) => {
  const [a, b] = await pair(w);
  let ended = false;
  b.on('end', () => {
    ended = true;
  });
  a.end('data');
  for (let i = 0; i < 20; i++) await turn();
  t.false(ended);
  b.resume();
  await once(b, 'end');
  end(a, b);
});

it('end(data, cb): the callback is a finish listener', async (t, w) => {
  const [a, b] = await pair(w);
  b.resume();
  const order: string[] = [];
  a.on('finish', () => order.push('finish'));
  await new Promise<void>((done) =>
    a.end('x', () => {
      order.push('callback');
      done();
    }),
  );
  t.true(a.writableEnded);
  t.true(a.writableFinished);
  t.is(order.length >= 1, true);
  end(a, b);
});

it('without allowHalfOpen the other end is ended automatically', async (t, w) => {
  const [a, b] = await pair(w);
  b.resume();
  a.resume();
  a.end();
  await closed(b);
  t.true(b.writableEnded);
});

it('with allowHalfOpen the server can answer after the end', async (t, w) => {
  const [a, b] = await pair(w, { allowHalfOpen: true });
  a.end('question');
  t.is((await collect(b)).toString(), 'question');
  t.is(b.readyState, 'writeOnly');
  b.end('answer');
  t.is((await collect(a)).toString(), 'answer');
});

it('allowHalfOpen on the client side: it stays writable after the end', async (t, w) => {
  const [a, b] = await pair(w, {}, { allowHalfOpen: true });
  b.end('bye');
  t.is((await collect(a)).toString(), 'bye');
  t.true(a.writable);
  t.true(a.allowHalfOpen);
  b.resume();
  a.end();
  await closed(a);
  end(b);
});

it('write after the other side has ended and ours was ended for it: EPIPE of the stream', async (t, w) => {
  const [a, b] = await pair(w);
  b.on('error', () => {});
  b.end();
  a.resume();
  a.on('error', () => {});
  const error = await new Promise<SystemError>((done) => {
    a.on('finish', () => a.write('late', (e) => done(e as SystemError)));
  });
  t.is(error.code, 'EPIPE');
  t.is(error.message, 'This socket has been ended by the other party');
  end(a, b);
});

it('write after end: ERR_STREAM_WRITE_AFTER_END', async (t, w) => {
  const [a, b] = await pair(w);
  b.resume();
  a.end();
  const error = once(a, 'error');
  a.write('late');
  t.is(((await error)[0] as SystemError).code, 'ERR_STREAM_WRITE_AFTER_END');
  end(a, b);
});

it('write after destroy: ERR_STREAM_DESTROYED to the callback', async (t, w) => {
  const [a, b] = await pair(w);
  a.destroy();
  const error = await new Promise<SystemError>((done) => a.write('x', (e) => done(e as SystemError)));
  t.is(error.code, 'ERR_STREAM_DESTROYED');
  end(a, b);
});

it('destroy is idempotent and closes once', async (t, w) => {
  const [a, b] = await pair(w);
  let closes = 0;
  a.on('close', () => closes++);
  t.is(a.destroy(), a);
  a.destroy();
  await closed(a);
  a.destroy();
  await turn();
  t.is(closes, 1);
  t.true(a.destroyed);
  t.is(a.readyState, 'closed');
  end(b);
});

it('destroy of one side ends the other in order', async (t, w) => {
  const [a, b] = await pair(w);
  b.resume();
  const events: string[] = [];
  record(b, ['end', 'error', 'close'], events);
  a.destroy();
  const [hadError] = await closing(b);
  t.false(hadError);
  t.deepEqual(events, ['end', 'close']);
});

it('destroy with unread data resets the other side', async (t, w) => {
  const [a, b] = await pair(w);
  a.pause();
  // More than the stream's own buffer, so that something is left in the connection.
  b.write(Buffer.alloc(1 << 20));
  while (a.readableLength < a.readableHighWaterMark) await turn();
  const failed = once(b, 'error');
  b.resume();
  a.destroy();
  t.is(((await failed)[0] as SystemError).code, 'ECONNRESET');
});

it('data written before destroySoon arrives', async (t, w) => {
  const [a, b] = await pair(w);
  const received = collect(b);
  a.write(Buffer.alloc(300_000, 1));
  a.destroySoon();
  t.is((await received).length, 300_000);
  if (!a.closed) await closed(a);
  t.true(a.destroyed);
  end(b);
});

it('resetAndDestroy: ECONNRESET on the other side, no error on this one', async (t, w) => {
  const [a, b] = await pair(w);
  const events: string[] = [];
  record(a, ['error', 'close'], events);
  const failed = once(b, 'error');
  b.resume();
  t.is(a.resetAndDestroy(), a);
  const [error] = (await failed) as [SystemError];
  t.is(error.code, 'ECONNRESET');
  t.is(error.syscall, 'read');
  t.is(error.errno, -104);
  t.is(error.message, 'read ECONNRESET');
  await turn();
  t.deepEqual(events, ['close']);
});

it('resetAndDestroy of a socket without connection: ERR_SOCKET_CLOSED', async (t, w) => {
  const s = new w.client.Socket();
  const failed = once(s, 'error');
  s.resetAndDestroy();
  t.is(((await failed)[0] as SystemError).code, 'ERR_SOCKET_CLOSED');
});

it('resetAndDestroy while connecting waits for the connection', async (t, w) => {
  const server = w.server.createServer();
  const port = await listen(server, w.host);
  const accepted = once(server, 'connection');
  const client = w.client.connect(port, w.host);
  client.resetAndDestroy();
  const [s] = (await accepted) as [Socket];
  s.resume();
  t.is(((await once(s, 'error'))[0] as SystemError).code, 'ECONNRESET');
  server.close();
});

it('a write to a connection that the other side has reset fails', async (t, w) => {
  const [a, b] = await pair(w);
  a.on('error', () => {});
  b.resetAndDestroy();
  await closed(b);
  const code = await new Promise<string>((done) => {
    a.on('error', (e: SystemError) => done(e.code!));
    const again = () => {
      if (!a.destroyed) a.write('x', () => setImmediate(again));
    };
    again();
  });
  t.true(['ECONNRESET', 'EPIPE'].includes(code));
});

it('readyState follows the halves', async (t, w) => {
  const [a, b] = await pair(w, { allowHalfOpen: true }, { allowHalfOpen: true });
  t.is(a.readyState, 'open');
  a.end();
  t.is(a.readyState, 'readOnly');
  b.resume();
  await once(b, 'end');
  t.is(b.readyState, 'writeOnly');
  b.end();
  a.resume();
  await closed(a);
  t.is(a.readyState, 'closed');
});

it('a socket survives an exception-free error handler: error comes before close', async (t, w) => {
  const [a, b] = await pair(w);
  const events: string[] = [];
  b.on('error', () => events.push('error'));
  b.on('close', (had: boolean) => events.push(`close ${had}`));
  b.resume();
  a.resetAndDestroy();
  await closed(b);
  t.deepEqual(events, ['error', 'close true']);
});

it('both ends end at once', async (t, w) => {
  const [a, b] = await pair(w);
  a.resume();
  b.resume();
  const done = closed(a, b);
  a.end('x');
  b.end('y');
  await done;
  t.is(a.bytesRead, 1);
  t.is(b.bytesRead, 1);
});

// ---- options of sockets

it('setTimeout: timeout when idle, the socket stays open', async (t, w) => {
  const [a, b] = await pair(w);
  const before = Date.now();
  t.is(a.setTimeout(30), a);
  t.is(a.timeout, 30);
  await once(a, 'timeout');
  t.true(Date.now() - before >= 25);
  t.false(a.destroyed);
  end(a, b);
});

it('setTimeout(ms, cb) once; setTimeout(0) disables', async (t, w) => {
  const [a, b] = await pair(w);
  let fired = 0;
  a.setTimeout(20, () => fired++);
  a.setTimeout(0);
  await new Promise<void>((done) => setTimeout(done, 50));
  t.is(fired, 0);
  t.is(a.timeout, 0);
  a.setTimeout(10);
  await once(a, 'timeout');
  t.is(fired, 1);
  end(a, b);
});

it('setTimeout validates', async (t, w) => {
  const s = new w.client.Socket();
  t.throws(() => s.setTimeout('x' as unknown as number), { code: 'ERR_INVALID_ARG_TYPE' });
  t.throws(() => s.setTimeout(-1), { code: 'ERR_OUT_OF_RANGE' });
  t.throws(() => s.setTimeout(Number.POSITIVE_INFINITY), { code: 'ERR_OUT_OF_RANGE' });
  t.throws(() => s.setTimeout(10, 'x' as unknown as () => void), { code: 'ERR_INVALID_ARG_TYPE' });
  s.destroy();
});

it('traffic puts the timeout off', async (t, w) => {
  const [a, b] = await pair(w);
  b.resume();
  let fired = false;
  a.setTimeout(120, () => {
    fired = true;
  });
  for (let i = 0; i < 6; i++) {
    await new Promise<void>((done) => setTimeout(done, 40));
    a.write('x');
  }
  t.false(fired);
  end(a, b);
});

it('the timeout option of connect', async (t, w) => {
  const server = w.server.createServer(() => {});
  const port = await listen(server, w.host);
  const client = w.client.connect({ port, host: w.host, timeout: 25 });
  t.is(client.timeout, 25);
  await once(client, 'timeout');
  end(client);
  server.close();
  t.pass();
});

it('setNoDelay, setKeepAlive, ref and unref return the socket, in any state', async (t, w) => {
  const fresh = new w.client.Socket();
  t.is(fresh.setNoDelay(), fresh);
  t.is(fresh.setKeepAlive(true, 1_000), fresh);
  t.is(fresh.ref(), fresh);
  t.is(fresh.unref(), fresh);
  fresh.destroy();
  const [a, b] = await pair(w, { noDelay: true, keepAlive: true }, { noDelay: true, keepAlive: true });
  t.is(a.setNoDelay(false), a);
  t.is(a.setKeepAlive(false), a);
  t.is(a.unref(), a);
  t.is(a.ref(), a);
  end(a, b);
});

it('bufferSize and writableLength say what waits', async (t, w) => {
  const [a, b] = await pair(w);
  b.pause();
  const chunk = Buffer.alloc(1 << 20);
  while (!a.writableNeedDrain || a.writableLength < 2 << 20) {
    a.write(chunk);
    if (a.writableLength > 64 << 20) break;
  }
  t.is(a.bufferSize, a.writableLength);
  t.true(a.bytesWritten > 0 && a.bytesWritten % chunk.length === 0);
  end(a, b);
  t.is(a.bufferSize, undefined as never);
});

it('instanceof and exports', async (t, w) => {
  const s = w.client.connect({ port: await closedPort(w), host: w.host });
  s.on('error', () => {});
  t.true(s instanceof w.client.Socket);
  t.true(w.server.createServer() instanceof w.server.Server);
  t.is(w.client.isIP('1.2.3.4'), 4);
  t.is(w.client.isIP('::1'), 6);
  t.is(w.client.isIP('x'), 0);
  t.true(w.client.isIPv4('1.2.3.4'));
  t.true(w.client.isIPv6('::'));
  t.is(typeof w.client.BlockList, 'function');
  t.is(typeof w.client.SocketAddress, 'function');
  await closed(s);
});

// ---- servers

it('listen: forms of arguments', async (t, w) => {
  const tries: ((s: Server) => void)[] = [
    (s) => s.listen(0, w.host),
    (s) => s.listen({ port: 0, host: w.host }),
    (s) => s.listen(0, w.host, 10),
    (s) => s.listen(0, w.host, 10, () => {}),
    (s) => s.listen({ port: 0, host: w.host, backlog: 5, exclusive: true }),
    (s) => s.listen('0' as unknown as number, w.host),
    (s) => s.listen(),
    (s) => s.listen(() => {}),
    (s) => s.listen(0),
  ];
  for (const listenWith of tries) {
    const server = w.server.createServer();
    listenWith(server);
    await once(server, 'listening');
    t.true(server.listening);
    t.true((server.address() as NodeNet.AddressInfo).port > 0);
    server.close();
    await closing(server);
    t.false(server.listening);
    t.is(server.address(), null);
  }
});

it('without a host the server listens on :: and takes IPv4 as well', async (t, w) => {
  const server = w.server.createServer((s) => s.end('any'));
  server.listen(0);
  await once(server, 'listening');
  const { address, family, port } = server.address() as NodeNet.AddressInfo;
  t.deepEqual([address, family], ['::', 'IPv6']);
  t.is((await collect(w.client.connect(port, w.host))).toString(), 'any');
  t.is((await collect(w.client.connect(port, w.host6))).toString(), 'any');
  server.close();
});

it('0.0.0.0 takes IPv4 only', async (t, w) => {
  const server = w.server.createServer((s) => s.end('v4'));
  server.listen(0, '0.0.0.0');
  await once(server, 'listening');
  const { address, family, port } = server.address() as NodeNet.AddressInfo;
  t.deepEqual([address, family], ['0.0.0.0', 'IPv4']);
  t.is((await collect(w.client.connect(port, w.host))).toString(), 'v4');
  const six = w.client.connect(port, w.host6);
  t.is(((await once(six, 'error'))[0] as SystemError).code, 'ECONNREFUSED');
  server.close();
});

it('EADDRINUSE carries code, errno, syscall, address and port', async (t, w) => {
  const first = w.server.createServer();
  const port = await listen(first, w.host);
  const second = w.server.createServer();
  second.listen(port, w.host);
  const [error] = (await once(second, 'error')) as [SystemError];
  t.is(error.code, 'EADDRINUSE');
  t.is(error.errno, -98);
  t.is(error.syscall, 'listen');
  t.is(error.address, w.host);
  t.is(error.port, port);
  t.is(error.message, `listen EADDRINUSE: address already in use ${w.host}:${port}`);
  t.false(second.listening);
  first.close();
  await closing(first);
  second.listen(port, w.host);
  await once(second, 'listening');
  second.close();
});

it('a foreign address is EADDRNOTAVAIL', async (t, w) => {
  const server = w.server.createServer();
  server.listen(0, w.nobody);
  const [error] = (await once(server, 'error')) as [SystemError];
  t.is(error.code, 'EADDRNOTAVAIL');
  t.is(error.syscall, 'listen');
});

it('listen twice throws ERR_SERVER_ALREADY_LISTEN; after close it may listen again', async (t, w) => {
  const server = w.server.createServer();
  await listen(server, w.host);
  t.throws(() => server.listen(0), { code: 'ERR_SERVER_ALREADY_LISTEN' });
  server.close();
  await closing(server);
  await listen(server, w.host);
  server.close();
});

it('listen validates its port', async (t, w) => {
  const server = w.server.createServer();
  t.throws(() => server.listen(-1), { code: 'ERR_SOCKET_BAD_PORT' });
  t.throws(() => server.listen(65_536), { code: 'ERR_SOCKET_BAD_PORT' });
  t.throws(() => server.listen({ port: -1 }), { code: 'ERR_SOCKET_BAD_PORT' });
  t.throws(() => server.listen({} as NodeNet.ListenOptions), { code: 'ERR_INVALID_ARG_VALUE' });
  t.throws(() => server.listen(true as unknown as number), { code: 'ERR_INVALID_ARG_VALUE' });
});

it('createServer validates its arguments', async (t, w) => {
  t.throws(() => w.server.createServer('x' as never), { code: 'ERR_INVALID_ARG_TYPE' });
  t.throws(() => w.server.createServer(5 as never), { code: 'ERR_INVALID_ARG_TYPE' });
});

it('listening comes after listen returned, the callback once', async (t, w) => {
  const server = w.server.createServer();
  const events: string[] = [];
  server.on('listening', () => events.push('event'));
  server.listen(0, w.host, () => events.push('callback'));
  events.push('returned');
  await once(server, 'listening');
  t.deepEqual(events, ['returned', 'event', 'callback']);
  server.close();
});

it('close waits for its connections', async (t, w) => {
  const server = w.server.createServer();
  const port = await listen(server, w.host);
  const accepted = once(server, 'connection');
  const client = w.client.connect(port, w.host);
  const [s] = (await accepted) as [Socket];
  let isClosed = false;
  server.close((error) => {
    t.is(error, undefined);
    isClosed = true;
  });
  t.false(server.listening);
  for (let i = 0; i < 10; i++) await turn();
  t.false(isClosed);
  s.resume();
  client.end();
  await closing(server);
  await turn();
  t.true(isClosed);
  end(client, s);
});

it('close of a server that does not listen: ERR_SERVER_NOT_RUNNING', async (t, w) => {
  const server = w.server.createServer();
  const error = await new Promise<SystemError | undefined>((done) => server.close((e) => done(e as SystemError)));
  t.is(error?.code, 'ERR_SERVER_NOT_RUNNING');
});

it('a closed server refuses', async (t, w) => {
  const server = w.server.createServer();
  const port = await listen(server, w.host);
  server.close();
  const client = w.client.connect(port, w.host);
  t.is(((await once(client, 'error'))[0] as SystemError).code, 'ECONNREFUSED');
});

it('getConnections counts', async (t, w) => {
  const server = w.server.createServer();
  const port = await listen(server, w.host);
  const count = () => new Promise<number>((done) => server.getConnections((_e, n) => done(n)));
  t.is(await count(), 0);
  const a = w.client.connect(port, w.host);
  await once(server, 'connection');
  const b = w.client.connect(port, w.host);
  const [s] = (await once(server, 'connection')) as [Socket];
  t.is(await count(), 2);
  s.destroy();
  await closed(s);
  t.is(await count(), 1);
  end(a, b);
  server.close();
});

it('maxConnections: more are closed and told by drop', async (t, w) => {
  const server = w.server.createServer((s) => s.on('error', () => {}));
  server.maxConnections = 1;
  const port = await listen(server, w.host);
  const first = w.client.connect(port, w.host);
  await once(server, 'connection');
  const dropped = once(server, 'drop');
  const second = w.client.connect(port, w.host);
  second.on('error', () => {});
  const [info] = (await dropped) as [NodeNet.DropArgument];
  t.is(info.localPort, port);
  t.is(info.remoteAddress, w.clientHost);
  t.is(info.remoteFamily, 'IPv4');
  second.resume();
  if (!second.closed) await closed(second);
  end(first);
  server.close();
});

it('a signal closes the server', async (t, w) => {
  const controller = new AbortController();
  const server = w.server.createServer();
  server.listen({ port: 0, host: w.host, signal: controller.signal });
  await once(server, 'listening');
  controller.abort();
  await closing(server);
  t.false(server.listening);
});

it('ref and unref of a server return it; asyncDispose closes', async (t, w) => {
  const server = w.server.createServer();
  await listen(server, w.host);
  t.is(server.unref(), server);
  t.is(server.ref(), server);
  const dispose = (Symbol as unknown as { asyncDispose?: symbol }).asyncDispose;
  if (dispose === undefined) server.close();
  else await (server as unknown as Record<symbol, () => Promise<void>>)[dispose]!();
  t.false(server.listening);
});

it('the socket knows its server, and connection comes before its data', async (t, w) => {
  const server = w.server.createServer();
  const port = await listen(server, w.host);
  const client = w.client.connect(port, w.host);
  client.write('first');
  const [s] = (await once(server, 'connection')) as [Socket & { server: Server }];
  t.is(s.server, server);
  t.is(s.bytesRead, 0);
  const [data] = await once(s, 'data');
  t.is(String(data), 'first');
  end(client, s);
  server.close();
});

it('a hundred connections at once', async (t, w) => {
  const server = w.server.createServer((s) => s.pipe(s));
  const port = await listen(server, w.host);
  const answers = await Promise.all(
    Array.from({ length: 100 }, async (_, i) => {
      const client = w.client.connect(port, w.host);
      client.end(`hello ${i}`);
      return (await collect(client)).toString();
    }),
  );
  t.deepEqual(
    answers,
    Array.from({ length: 100 }, (_, i) => `hello ${i}`),
  );
  server.close();
});

it('highWaterMark of the server goes to its sockets', async (t, w) => {
  const [a, b] = await pair(w, { highWaterMark: 1_234 } as NodeNet.ServerOpts);
  t.is(b.readableHighWaterMark, 1_234);
  t.is(b.writableHighWaterMark, 1_234);
  end(a, b);
});

it('net.Server is an EventEmitter that can be given connections by hand', async (t, w) => {
  const server = w.server.createServer();
  const fake = new PassThrough();
  const got = once(server, 'connection');
  server.emit('connection', fake);
  t.is((await got)[0], fake);
});

// ---- several addresses

const ATTEMPTS = [
  'connectionAttempt',
  'connectionAttemptFailed',
  'connectionAttemptTimeout',
  'lookup',
  'connect',
  'error',
];

/** What happens, with the arguments that are the same everywhere. */
function attempts(socket: Socket): string[] {
  const told: string[] = [];
  for (const name of ATTEMPTS) {
    socket.on(name, (...args: unknown[]) => {
      const shown = name === 'lookup' ? args.slice(1, 3) : args;
      told.push([name, ...shown.map((a) => (a instanceof Error ? (a as SystemError).code : a))].join(' '));
    });
  }
  return told;
}

const answers =
  (...addresses: { address: string; family: number }[]): NonNullable<NodeNet.TcpNetConnectOpts['lookup']> =>
  (_name, options, callback) => {
    setImmediate(() => {
      if (options.all) (callback as (error: null, all: typeof addresses) => void)(null, addresses);
      else callback(null, addresses[0]!.address, addresses[0]!.family);
    });
  };

it('several addresses: the one that refuses is told, the next one is taken', async (t, w) => {
  const server = w.server.createServer((s) => s.end());
  const port = await listen(server, w.host);
  const lookup = answers({ address: w.host6, family: 6 }, { address: w.host, family: 4 });
  const client = w.client.connect({ port, host: 'some.name', lookup, autoSelectFamily: true });
  const told = attempts(client);
  client.resume();
  await closed(client);
  t.deepEqual(told, [
    `lookup ${w.host6} 6`,
    `lookup ${w.host} 4`,
    `connectionAttempt ${w.host6} ${port} 6`,
    `connectionAttemptFailed ${w.host6} ${port} 6 ECONNREFUSED`,
    `connectionAttempt ${w.host} ${port} 4`,
    'connect',
  ]);
  t.deepEqual(client.autoSelectFamilyAttemptedAddresses, [`${w.host6}:${port}`, `${w.host}:${port}`]);
  server.close();
});

it('several addresses that all refuse: an AggregateError with one error each', async (t, w) => {
  const port = await closedPort(w);
  const lookup = answers({ address: w.host6, family: 6 }, { address: w.host, family: 4 });
  const client = w.client.connect({ port, host: 'some.name', lookup, autoSelectFamily: true });
  const told = attempts(client);
  const [error] = (await once(client, 'error')) as [AggregateError & SystemError];
  t.true(error instanceof AggregateError);
  t.is(error.code, 'ECONNREFUSED');
  t.deepEqual(
    error.errors.map((e: SystemError) => [e.code, e.syscall, e.address, e.port]),
    [
      ['ECONNREFUSED', 'connect', w.host6, port],
      ['ECONNREFUSED', 'connect', w.host, port],
    ],
  );
  t.is(told.at(-1), 'error ECONNREFUSED');
});

it('families take turns, and an address is tried once', async (t, w) => {
  const port = await closedPort(w);
  const four = { address: w.host, family: 4 };
  const lookup = answers(four, four, { address: w.clientHost, family: 4 }, { address: w.host6, family: 6 });
  const client = w.client.connect({ port, host: 'some.name', lookup, autoSelectFamily: true });
  await once(client, 'error');
  const wanted = [`${w.host}:${port}`, `${w.host6}:${port}`];
  if (w.clientHost !== w.host) wanted.push(`${w.clientHost}:${port}`);
  t.deepEqual(client.autoSelectFamilyAttemptedAddresses, wanted);
});

it('one address: attempt and failure are told, no list is kept', async (t, w) => {
  const port = await closedPort(w);
  const lookup = answers({ address: w.host, family: 4 });
  const client = w.client.connect({ port, host: 'some.name', lookup, autoSelectFamily: true });
  const told = attempts(client);
  await once(client, 'error');
  t.deepEqual(told, [
    `lookup ${w.host} 4`,
    `connectionAttempt ${w.host} ${port} 4`,
    `connectionAttemptFailed ${w.host} ${port} 4 ECONNREFUSED`,
    'error ECONNREFUSED',
  ]);
  t.falsy(client.autoSelectFamilyAttemptedAddresses);
});

it('an address: attempt and failure are told without lookup', async (t, w) => {
  const port = await closedPort(w);
  const client = w.client.connect(port, w.host);
  const told = attempts(client);
  await once(client, 'error');
  t.deepEqual(told, [
    `connectionAttempt ${w.host} ${port} 4`,
    `connectionAttemptFailed ${w.host} ${port} 4 ECONNREFUSED`,
    'error ECONNREFUSED',
  ]);
});

it('family chooses among the answers; a lookup that answers nonsense is an error', async (t, w) => {
  const server = w.server.createServer((s) => s.end());
  const port = await listen(server, w.host6);
  const client = w.client.connect({
    port,
    host: 'some.name',
    family: 6,
    lookup: (_name, options, callback) => {
      t.is(options.family, 6);
      t.falsy(options.all);
      callback(null, w.host6, 6);
    },
  });
  client.resume();
  await closed(client);
  t.is(client.bytesRead, 0);
  const wrong = w.client.connect({
    port,
    host: 'some.name',
    autoSelectFamily: false,
    lookup: (_name, _options, callback) => callback(null, 'not an address', 4),
  });
  t.is(((await once(wrong, 'error')) as [SystemError])[0].code, 'ERR_INVALID_IP_ADDRESS');
  server.close();
});

it('a block list of the client: ERR_IP_BLOCKED', async (t, w) => {
  const blockList = new w.client.BlockList();
  blockList.addAddress(w.host);
  const options = { port: 9, host: w.host, blockList };
  const client = w.client.connect(options);
  const [error] = (await once(client, 'error')) as [SystemError];
  // Node knows the option since version 22.13.
  t.true(error.code === 'ERR_IP_BLOCKED' || error.code === 'ECONNREFUSED', error.code);
});

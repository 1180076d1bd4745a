// Behaviours of node:dgram, each a function that asserts: run on node:dgram itself and on ours (test/l4/dgram.test.ts).

import type * as NodeDgram from 'node:dgram';
import { once } from 'node:events';
import type { ExecutionContext } from 'ava';

export type DgramModule = typeof NodeDgram;

export interface DgramWorld {
  readonly a: DgramModule;
  readonly b: DgramModule;
  /** Address of b's node and of a's; b's under IPv6. */
  readonly host: string;
  readonly clientHost: string;
  readonly host6: string;
  readonly nobody: string;
}

type Socket = NodeDgram.Socket;
type Behaviour = (t: ExecutionContext, w: DgramWorld) => Promise<void>;
interface SystemError extends Error {
  code?: string;
  errno?: number;
  syscall?: string;
  address?: string;
  port?: number;
}

/** Name and what it does. */
export const dgramBehaviours: [string, Behaviour][] = [];
const it = (name: string, fn: Behaviour) => dgramBehaviours.push([name, (t, w) => tidy(t, w, fn)]);

async function tidy(t: ExecutionContext, world: DgramWorld, fn: Behaviour): Promise<void> {
  const open: Socket[] = [];
  const watch = (dgram: DgramModule): DgramModule =>
    ({
      ...dgram,
      createSocket: (...args: Parameters<DgramModule['createSocket']>) => {
        const s = dgram.createSocket(...args);
        open.push(s);
        return s;
      },
    }) as DgramModule;
  try {
    await fn(t, { ...world, a: watch(world.a), b: watch(world.b) });
  } finally {
    for (const s of open) {
      s.on('error', () => {});
      try {
        s.close();
      } catch {
        // Closed by the behaviour itself.
      }
    }
  }
}

async function bound(dgram: DgramModule, host: string): Promise<[Socket, number]> {
  const s = dgram.createSocket(host.includes(':') ? 'udp6' : 'udp4');
  s.bind(0, host);
  await once(s, 'listening');
  return [s, s.address().port];
}

async function closedPort(w: DgramWorld): Promise<number> {
  const [s, port] = await bound(w.b, w.host);
  s.close();
  await once(s, 'close');
  return port;
}

const turn = () => new Promise<void>((done) => setImmediate(done));

it('a datagram and its sender', async (t, w) => {
  const [b, port] = await bound(w.b, w.host);
  const [a, from] = await bound(w.a, w.clientHost);
  a.send('hello', port, w.host);
  const [message, info] = (await once(b, 'message')) as [Buffer, NodeDgram.RemoteInfo];
  t.true(Buffer.isBuffer(message));
  t.is(message.toString(), 'hello');
  t.deepEqual({ ...info }, { address: w.clientHost, family: 'IPv4', port: from, size: 5 });
});

it('IPv6', async (t, w) => {
  const [b, port] = await bound(w.b, w.host6);
  const a = w.a.createSocket('udp6');
  a.send('six', port, w.host6);
  const [message, info] = (await once(b, 'message')) as [Buffer, NodeDgram.RemoteInfo];
  t.is(message.toString(), 'six');
  t.is(info.family, 'IPv6');
});

it('createSocket takes a listener for message', async (t, w) => {
  const got: string[] = [];
  const b = w.b.createSocket({ type: 'udp4' }, (m) => got.push(m.toString()));
  b.bind(0, w.host);
  await once(b, 'listening');
  const a = w.a.createSocket('udp4');
  a.send('x', b.address().port, w.host);
  await once(b, 'message');
  t.deepEqual(got, ['x']);
});

it('createSocket validates the type', async (t, w) => {
  t.throws(() => w.a.createSocket('udp5' as 'udp4'), { code: 'ERR_SOCKET_BAD_TYPE' });
  t.throws(() => w.a.createSocket({} as never), { code: 'ERR_SOCKET_BAD_TYPE' });
});

it('bind: forms of arguments', async (t, w) => {
  const forms: ((s: Socket) => void)[] = [
    (s) => s.bind(),
    (s) => s.bind(0),
    (s) => s.bind(0, w.host),
    (s) => s.bind({ port: 0, address: w.host }),
    (s) => s.bind({ port: 0, exclusive: true }),
    (s) => s.bind(() => {}),
  ];
  for (const form of forms) {
    const s = w.b.createSocket('udp4');
    form(s);
    await once(s, 'listening');
    t.true(s.address().port > 0);
    t.is(s.address().family, 'IPv4');
    s.close();
  }
});

it('without an address: 0.0.0.0', async (t, w) => {
  const s = w.b.createSocket('udp4');
  await new Promise<void>((done) => s.bind(0, () => done()));
  t.is(s.address().address, '0.0.0.0');
});

it('bind twice throws ERR_SOCKET_ALREADY_BOUND', async (t, w) => {
  const [s] = await bound(w.b, w.host);
  t.throws(() => s.bind(0), { code: 'ERR_SOCKET_ALREADY_BOUND' });
});

it('EADDRINUSE carries code, errno, syscall, address and port', async (t, w) => {
  const [, port] = await bound(w.b, w.host);
  const s = w.b.createSocket('udp4');
  s.bind(port, w.host);
  const [error] = (await once(s, 'error')) as [SystemError];
  t.is(error.code, 'EADDRINUSE');
  t.is(error.errno, -98);
  t.is(error.syscall, 'bind');
  t.is(error.address, w.host);
  t.is(error.port, port);
  t.is(error.message, `bind EADDRINUSE ${w.host}:${port}`);
});

it('reuseAddr lets two sockets have one port', async (t, w) => {
  const one = w.b.createSocket({ type: 'udp4', reuseAddr: true });
  one.bind(0, w.host);
  await once(one, 'listening');
  const two = w.b.createSocket({ type: 'udp4', reuseAddr: true });
  two.bind(one.address().port, w.host);
  await once(two, 'listening');
  t.is(two.address().port, one.address().port);
});

it('a foreign address is EADDRNOTAVAIL', async (t, w) => {
  const s = w.b.createSocket('udp4');
  s.bind(0, w.nobody);
  t.is(((await once(s, 'error'))[0] as SystemError).code, 'EADDRNOTAVAIL');
});

it('address of an unbound socket throws EBADF', async (t, w) => {
  const s = w.a.createSocket('udp4');
  t.throws(() => s.address(), { code: 'EBADF' });
});

it('send: forms of arguments', async (t, w) => {
  const [b, port] = await bound(w.b, w.host);
  const a = w.a.createSocket('udp4');
  const bytes = Buffer.from('abcdef');
  const forms: [() => void, string][] = [
    [() => a.send(bytes, port, w.host), 'abcdef'],
    [() => a.send('text', port, w.host), 'text'],
    [() => a.send(new Uint8Array([97, 98]), port, w.host), 'ab'],
    [() => a.send(new DataView(new Uint8Array([99]).buffer), port, w.host), 'c'],
    [() => a.send(bytes, 1, 3, port, w.host), 'bcd'],
    [() => a.send(bytes, 2, 0, port, w.host), ''],
    [() => a.send(['ab', Buffer.from('cd')], port, w.host), 'abcd'],
    [() => a.send([], port, w.host), ''],
    [() => a.send(Buffer.alloc(0), port, w.host), ''],
  ];
  for (const [send, text] of forms) {
    const got = once(b, 'message');
    send();
    t.is(String((await got)[0]), text);
  }
});

it('the callback of send tells the bytes', async (t, w) => {
  const [, port] = await bound(w.b, w.host);
  const a = w.a.createSocket('udp4');
  const result = await new Promise<unknown[]>((done) => a.send('12345', port, w.host, (...args) => done(args)));
  t.deepEqual(result, [null, 5]);
});

it('send binds to any address and a free port', async (t, w) => {
  const [b, port] = await bound(w.b, w.host);
  const a = w.a.createSocket('udp4');
  a.send('x', port, w.host);
  const [, info] = (await once(b, 'message')) as [Buffer, NodeDgram.RemoteInfo];
  t.is(a.address().address, '0.0.0.0');
  t.is(a.address().port, info.port);
});

it('datagrams of one socket stay in order', async (t, w) => {
  const [b, port] = await bound(w.b, w.host);
  const a = w.a.createSocket('udp4');
  const got: string[] = [];
  const done = new Promise<void>((resolve) =>
    b.on('message', (m) => {
      if (got.push(m.toString()) === 50) resolve();
    }),
  );
  for (let i = 0; i < 50; i++) a.send(`${i}`, port, w.host);
  await done;
  t.deepEqual(
    got,
    Array.from({ length: 50 }, (_, i) => `${i}`),
  );
});

it('a large datagram arrives whole', async (t, w) => {
  const [b, port] = await bound(w.b, w.host);
  const a = w.a.createSocket('udp4');
  const big = Buffer.alloc(60_000);
  for (let i = 0; i < big.length; i++) big[i] = i * 7;
  a.send(big, port, w.host);
  const [message] = (await once(b, 'message')) as [Buffer];
  t.true(message.equals(big));
});

it('too large: EMSGSIZE to the callback', async (t, w) => {
  const [, port] = await bound(w.b, w.host);
  const a = w.a.createSocket('udp4');
  const error = await new Promise<SystemError>((done) =>
    a.send(Buffer.alloc(65_508), port, w.host, (e) => done(e as SystemError)),
  );
  t.is(error.code, 'EMSGSIZE');
  t.is(error.syscall, 'send');
  t.is(error.port, port);
});

it('too large without a callback: nobody is told', async (t, w) => {
  const [b, port] = await bound(w.b, w.host);
  const a = w.a.createSocket('udp4');
  a.on('error', () => t.fail());
  a.send(Buffer.alloc(65_508), port, w.host);
  a.send('next', port, w.host);
  t.is(String((await once(b, 'message'))[0]), 'next');
});

it('a lookup that fails without a callback: error event', async (t, w) => {
  const a = w.a.createSocket('udp4');
  a.send('x', 1, 'no-such-host.invalid');
  t.is(((await once(a, 'error'))[0] as SystemError).code, 'ENOTFOUND');
});

it('send validates', async (t, w) => {
  const a = w.a.createSocket('udp4');
  t.throws(() => a.send('x', 0, w.host), { code: 'ERR_SOCKET_BAD_PORT' });
  t.throws(() => a.send('x', 65_536, w.host), { code: 'ERR_SOCKET_BAD_PORT' });
  t.throws(() => a.send({} as string, 1, w.host), { code: 'ERR_INVALID_ARG_TYPE' });
  t.throws(() => a.send([{} as string], 1, w.host), { code: 'ERR_INVALID_ARG_TYPE' });
  t.throws(() => a.send('x', 1, 5 as unknown as string), { code: 'ERR_INVALID_ARG_TYPE' });
  t.throws(() => a.send(Buffer.alloc(3), 4, 1, 1, w.host), { code: 'ERR_BUFFER_OUT_OF_BOUNDS' });
  t.throws(() => a.send(Buffer.alloc(3), 0, 4, 1, w.host), { code: 'ERR_BUFFER_OUT_OF_BOUNDS' });
});

it('a name that does not exist', async (t, w) => {
  const a = w.a.createSocket('udp4');
  const error = await new Promise<SystemError>((done) =>
    a.send('x', 1, 'no-such-host.invalid', (e) => done(e as SystemError)),
  );
  t.is(error.code, 'ENOTFOUND');
});

it('connect, remoteAddress, send without address, disconnect', async (t, w) => {
  const [b, port] = await bound(w.b, w.host);
  const a = w.a.createSocket('udp4');
  a.connect(port, w.host);
  await once(a, 'connect');
  t.deepEqual({ ...a.remoteAddress() }, { address: w.host, family: 'IPv4', port });
  t.is(a.address().address, w.clientHost);
  const got = once(b, 'message');
  a.send('connected');
  t.is(String((await got)[0]), 'connected');
  const part = once(b, 'message');
  a.send(Buffer.from('abcdef'), 2, 3);
  t.is(String((await part)[0]), 'cde');
  t.throws(() => a.send('x', 0, 1, port, w.host), { code: 'ERR_SOCKET_DGRAM_IS_CONNECTED' });
  t.throws(() => a.connect(port, w.host), { code: 'ERR_SOCKET_DGRAM_IS_CONNECTED' });
  a.disconnect();
  t.throws(() => a.remoteAddress(), { code: 'ERR_SOCKET_DGRAM_NOT_CONNECTED' });
  t.throws(() => a.disconnect(), { code: 'ERR_SOCKET_DGRAM_NOT_CONNECTED' });
});

it('connect validates its port; its callback comes with connect', async (t, w) => {
  const [, port] = await bound(w.b, w.host);
  const a = w.a.createSocket('udp4');
  t.throws(() => a.connect(0, w.host), { code: 'ERR_SOCKET_BAD_PORT' });
  await new Promise<void>((done) => a.connect(port, w.host, () => done()));
  t.is(a.remoteAddress().port, port);
});

it('a connected socket takes datagrams of its peer only', async (t, w) => {
  const [peer, port] = await bound(w.b, w.host);
  const [stranger] = await bound(w.b, w.host);
  const a = w.a.createSocket('udp4');
  a.connect(port, w.host);
  await once(a, 'connect');
  const mine = a.address().port;
  const got: string[] = [];
  a.on('message', (m) => got.push(m.toString()));
  await new Promise<void>((done) => stranger.send('no', mine, w.clientHost, () => done()));
  peer.send('yes', mine, w.clientHost);
  await once(a, 'message');
  t.deepEqual(got, ['yes']);
});

it('nobody listens: ECONNREFUSED of recvmsg on a connected socket', async (t, w) => {
  const port = await closedPort(w);
  const a = w.a.createSocket('udp4');
  a.connect(port, w.host);
  await once(a, 'connect');
  a.send('x');
  const [error] = (await once(a, 'error')) as [SystemError];
  t.is(error.code, 'ECONNREFUSED');
  t.is(error.errno, -111);
  t.is(error.syscall, 'recvmsg');
});

it('nobody listens: an unconnected socket hears nothing of it', async (t, w) => {
  const port = await closedPort(w);
  const [b, other] = await bound(w.b, w.host);
  const a = w.a.createSocket('udp4');
  a.on('error', () => t.fail());
  a.send('x', port, w.host);
  a.send('y', other, w.host);
  await once(b, 'message');
  for (let i = 0; i < 5; i++) await turn();
  t.pass();
});

it('close: event, callback, and nothing works any more', async (t, w) => {
  const [s] = await bound(w.b, w.host);
  const events: string[] = [];
  s.on('close', () => events.push('event'));
  t.is(
    s.close(() => events.push('callback')),
    s,
  );
  await turn();
  t.deepEqual(events, ['event', 'callback']);
  t.throws(() => s.close(), { code: 'ERR_SOCKET_DGRAM_NOT_RUNNING' });
  t.throws(() => s.send('x', 1, w.host), { code: 'ERR_SOCKET_DGRAM_NOT_RUNNING' });
  t.throws(() => s.address(), { code: 'ERR_SOCKET_DGRAM_NOT_RUNNING' });
  t.throws(() => s.bind(0), { code: 'ERR_SOCKET_DGRAM_NOT_RUNNING' });
});

it('close right after bind: closed at once, and never listening', async (t, w) => {
  const s = w.a.createSocket('udp4');
  const events: string[] = [];
  s.on('listening', () => events.push('listening'));
  s.on('close', () => events.push('close'));
  s.bind(0);
  s.close();
  t.throws(() => s.close(), { code: 'ERR_SOCKET_DGRAM_NOT_RUNNING' });
  await once(s, 'close');
  await turn();
  t.deepEqual(events, ['close']);
});

it('close right after the first send waits for the address', async (t, w) => {
  const s = w.a.createSocket('udp4');
  const events: string[] = [];
  s.on('listening', () => events.push('listening'));
  s.send('x', 9, w.host);
  s.close();
  await once(s, 'close');
  t.deepEqual(events, ['listening']);
});

it('a signal closes the socket', async (t, w) => {
  const controller = new AbortController();
  const s = w.b.createSocket({ type: 'udp4', signal: controller.signal } as NodeDgram.SocketOptions);
  s.bind(0, w.host);
  await once(s, 'listening');
  controller.abort();
  await once(s, 'close');
  t.pass();
});

it('buffer sizes: unbound throws, bound gives numbers', async (t, w) => {
  const s = w.b.createSocket('udp4');
  t.throws(() => s.getRecvBufferSize(), { code: 'ERR_SOCKET_BUFFER_SIZE' });
  t.throws(() => s.setSendBufferSize(1_000), { code: 'ERR_SOCKET_BUFFER_SIZE' });
  s.bind(0, w.host);
  await once(s, 'listening');
  t.true(s.getRecvBufferSize() > 0);
  t.true(s.getSendBufferSize() > 0);
  s.setRecvBufferSize(20_000);
  t.true(s.getRecvBufferSize() >= 20_000);
  t.throws(() => s.setRecvBufferSize(-1), { code: 'ERR_SOCKET_BAD_BUFFER_SIZE' });
  t.is(s.getSendQueueSize(), 0);
  t.is(s.getSendQueueCount(), 0);
});

it('ref, unref and setTTL return as documented', async (t, w) => {
  const [s] = await bound(w.b, w.host);
  t.is(s.unref(), s);
  t.is(s.ref(), s);
  t.is(s.setTTL(10), 10);
  t.throws(() => s.setTTL(0), { code: 'EINVAL' });
  t.throws(() => s.setTTL(256), { code: 'EINVAL' });
  t.throws(() => s.setTTL('x' as unknown as number), { code: 'ERR_INVALID_ARG_TYPE' });
});

it('an answer goes back to where the question came from', async (t, w) => {
  const [b, port] = await bound(w.b, w.host);
  b.on('message', (m, info) => b.send(m.toString().toUpperCase(), info.port, info.address));
  const a = w.a.createSocket('udp4');
  a.send('question', port, w.host);
  const [message, info] = (await once(a, 'message')) as [Buffer, NodeDgram.RemoteInfo];
  t.is(message.toString(), 'QUESTION');
  t.is(info.port, port);
  t.is(info.address, w.host);
});

it('without an address send goes to this node itself', async (t, w) => {
  const [self, port] = await bound(w.b, '127.0.0.1');
  const other = w.b.createSocket('udp4');
  other.send('me', port);
  t.is(String((await once(self, 'message'))[0]), 'me');
});

it('listening comes after bind returned', async (t, w) => {
  const s = w.b.createSocket('udp4');
  let returned = false;
  s.on('listening', () => t.true(returned));
  s.bind(0, w.host);
  returned = true;
  await once(s, 'listening');
});

// What a network that is gone, or that never was, does to sockets: codes and fields are those of Node on Linux.

import { once } from 'node:events';
import test from 'ava';
import { makeWorld } from '../support/l4-pair.js';

interface SystemError extends Error {
  code?: string;
  errno?: number;
  syscall?: string;
  address?: string;
  port?: number;
}

const fields = ({ code, errno, syscall, address, port }: SystemError) => ({ code, errno, syscall, address, port });

test('a peer whose link is down: EHOSTUNREACH, by ICMP of the hub, in both families', async (t) => {
  const world = makeWorld(2, { gateway: true });
  const [a, b] = world.nodes as [(typeof world.nodes)[0], (typeof world.nodes)[0]];
  world.setUp(1, false);
  for (const address of [b.v4, b.v6]) {
    const [error] = (await once(a.l4.net.connect(9, address), 'error')) as [SystemError];
    t.deepEqual(fields(error), { code: 'EHOSTUNREACH', errno: -113, syscall: 'connect', address, port: 9 });
    t.is(error.message, `connect EHOSTUNREACH ${address}:9`);
  }
  const udp = a.l4.dgram.createSocket('udp4');
  udp.connect(9, b.v4);
  await once(udp, 'connect');
  udp.send('x');
  const [error] = (await once(udp, 'error')) as [SystemError];
  t.like(error, { code: 'EHOSTUNREACH', syscall: 'recvmsg' });
  udp.close();
  world.close();
});

test('an address that is nowhere: ENETUNREACH', async (t) => {
  const world = makeWorld(1, { gateway: true });
  const { l4 } = world.nodes[0]!;
  for (const address of ['192.0.2.1', '2001:db8::1']) {
    const [error] = (await once(l4.net.connect(9, address), 'error')) as [SystemError];
    t.is(error.code, 'ENETUNREACH', address);
  }
  world.close();
});

test('silence: ETIMEDOUT after the connect timeout', async (t) => {
  const world = makeWorld(2, { lose: () => true, tcp: { connectTimeout: 300_000 } });
  const [a, b] = world.nodes as [(typeof world.nodes)[0], (typeof world.nodes)[0]];
  const [error] = (await once(a.l4.net.connect(9, b.v4), 'error')) as [SystemError];
  t.deepEqual(fields(error), { code: 'ETIMEDOUT', errno: -110, syscall: 'connect', address: b.v4, port: 9 });
  world.close();
});

test('silence: ETIMEDOUT after the user timeout, once connected', async (t) => {
  let silent = false;
  const world = makeWorld(2, { lose: () => silent, tcp: { userTimeout: 300_000, minRto: 20_000 } });
  const [a, b] = world.nodes as [(typeof world.nodes)[0], (typeof world.nodes)[0]];
  b.l4.net.createServer((s) => s.resume()).listen(9);
  // The connect timeout is the default: this has to get through on however slow a machine.
  const socket = await a.l4.connect(9, b.v4);
  silent = true;
  socket.write('is there anybody');
  const [late] = (await once(socket, 'error')) as [SystemError];
  t.like(late, { code: 'ETIMEDOUT', errno: -110, syscall: 'read' });
  await once(socket, 'close');
  world.close();
});

test('keep-alive finds out that the other side is gone', async (t) => {
  let silent = false;
  const keepAlive = { keepAliveIdle: 30_000, keepAliveInterval: 20_000, keepAliveCount: 3 };
  const world = makeWorld(2, { lose: () => silent, tcp: keepAlive });
  const [a, b] = world.nodes as [(typeof world.nodes)[0], (typeof world.nodes)[0]];
  b.l4.net.createServer((s) => s.resume()).listen(9);
  const socket = await a.l4.connect({ port: 9, host: b.v4 });
  socket.setKeepAlive(true);
  silent = true;
  const [error] = (await once(socket, 'error')) as [SystemError];
  t.is(error.code, 'ETIMEDOUT');
  world.close();
});

test('ICMP on a connection that is up does not end it: the link returns, and so does the data', async (t) => {
  const world = makeWorld(2, { gateway: true });
  const [a, b] = world.nodes as [(typeof world.nodes)[0], (typeof world.nodes)[0]];
  b.l4.net.createServer((s) => s.pipe(s)).listen(9);
  const socket = await a.l4.connect(9, b.v4);
  socket.write('a');
  await once(socket, 'data');
  world.setUp(1, false);
  socket.write('b');
  // The hub says "host unreachable" to that.
  await a.l4.ping(b.v4, { count: 1, timeoutMs: 50 });
  world.setUp(1, true);
  world.setUp(0, true);
  t.is(String((await once(socket, 'data'))[0]), 'b');
  socket.destroy();
  world.close();
});

test('no more connections than the bound: ENOBUFS', async (t) => {
  const world = makeWorld(2, { limits: { connections: 3 } });
  const [a, b] = world.nodes as [(typeof world.nodes)[0], (typeof world.nodes)[0]];
  b.l4.net.createServer((s) => s.resume()).listen(9);
  const open = [];
  for (let i = 0; i < 3; i++) open.push(await a.l4.connect(9, b.v4));
  await t.throwsAsync(a.l4.connect(9, b.v4), { code: 'ENOBUFS' });
  for (const s of open) s.resetAndDestroy();
  world.close();
});

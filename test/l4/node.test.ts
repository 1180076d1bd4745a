// The sockets of a node as an application gets them: KubeBusNode.join, a hub, and another node. And what a connection
// outlives (link lost and back, another connection of the link, the hub's restart), over real TCP on loopback.

import { once } from 'node:events';
import * as http from 'node:http';
import * as net from 'node:net';
import test, { type ExecutionContext } from 'ava';
import { Agent, fetch as undiciFetch } from 'undici';
import { KubeBusCloud, KubeBusNode, type NodeOptions } from '../../lib/index.js';
import { memoryTransport } from '../../transports/memory.js';
import { tcpTransport } from '../../transports/tcp.js';

type Socket = Awaited<ReturnType<KubeBusNode['connect']>>;

async function pair(t: ExecutionContext): Promise<[KubeBusNode, KubeBusNode]> {
  const transport = memoryTransport();
  const cloud = await KubeBusCloud.start({
    transports: [transport],
    tenants: { acme: { pools: ['10.80.0.0/16', 'fd80::/64'] } },
  });
  const join = (node: string) => KubeBusNode.join({ cloud: cloud.addresses, transport, tenant: 'acme', node });
  const [a, b] = [await join('edge-1'), await join('edge-2')];
  t.teardown(async () => {
    await a.stop();
    await b.stop();
    await cloud.stop();
  });
  return [a, b];
}

async function textOf(response: http.IncomingMessage): Promise<string> {
  let text = '';
  for await (const part of response.setEncoding('utf8')) text += part;
  return text;
}

test('net, http, agent, dispatcher, dgram and ping of a node, without root', async (t) => {
  const [node, other] = await pair(t);
  node.net.createServer((s) => s.pipe(s)).listen(7);
  const s = other.net.connect({ host: node.addresses[0]!, port: 7 });
  s.write('hello');
  t.is(String((await once(s, 'data'))[0]), 'hello');
  t.deepEqual(s.peer, { tenant: 'acme', node: 'edge-1' });
  s.destroy();

  node.http.createServer((req, res) => res.end(`${req.url}`)).listen(80);
  const [response] = (await once(http.get({ host: 'edge-1', path: '/a', agent: other.httpAgent() }), 'response')) as [
    http.IncomingMessage,
  ];
  t.is(await textOf(response), '/a');
  // Node's own fetch as well as undici's: each with a dispatcher made of the installed package.
  const url = `http://${node.addresses[0]}/b`;
  t.is(await (await undiciFetch(url, { dispatcher: other.dispatcher(Agent) })).text(), '/b');
  const dispatcher: Agent = other.dispatcher();
  t.is(await (await undiciFetch(`http://[${node.addresses[1]}]/c`, { dispatcher })).text(), '/c');

  const udp = node.dgram.createSocket('udp4', (message, from) => udp.send(message, from.port, from.address));
  udp.bind(53);
  const asker = other.dgram.createSocket('udp4');
  asker.send('ping', 53, 'edge-1');
  t.is(String((await once(asker, 'message'))[0]), 'ping');
  udp.close();
  asker.close();
  for (const host of [node.addresses[0]!, 'edge-1', 'Edge-1.acme.kubebus', 'edge-2', ...other.gateway]) {
    t.is((await other.ping(host, { count: 1 })).lost, 0, host);
  }
  const unknown = await t.throwsAsync(other.ping('edge-9'), { code: 'ERR_INVALID_ARGUMENT' });
  t.regex(unknown!.message, /edge-9 .*tenant acme has no node of that name/);
});

test('who the other end is, also of a node whose name comes after its first packets', async (t) => {
  const transport = memoryTransport();
  const cloud = await KubeBusCloud.start({ transports: [transport], tenants: { acme: { pools: ['10.80.0.0/16'] } } });
  const join = (node: string) => KubeBusNode.join({ cloud: cloud.addresses, transport, tenant: 'acme', node });
  const server = await join('server');
  t.teardown(async () => {
    await server.stop();
    await cloud.stop();
  });
  // Its name, to another node that has not heard of it yet.
  const client = await join('client');
  t.teardown(() => client.stop());
  const early = await join('early');
  early.net.createServer((s) => s.end('here')).listen(8);
  const first = client.net.connect(8, 'early');
  t.is(String((await once(first, 'data'))[0]), 'here');
  await early.stop();

  const seen: unknown[] = [];
  server.net
    .createServer((socket) => {
      socket.on('error', () => {});
      const early = socket.peer;
      void socket.identify().then((peer) => {
        seen.push(early);
        socket.end(JSON.stringify(peer));
      });
    })
    .listen(9);
  // Names are told in steps: now and then one comes before the first packet.
  for (let i = 0; i < 5 || (i < 100 && !seen.includes(undefined)); i++) {
    const node = await join(`node-${i}`);
    const socket = node.net.connect({ host: server.addresses[0]!, port: 9 });
    t.deepEqual(JSON.parse(String((await once(socket, 'data'))[0])), { tenant: 'acme', node: `node-${i}` });
    await node.stop();
  }
  t.true(seen.includes(undefined), 'in this test names come late, or it shows nothing');
  // Nobody is there (yet).
  const lone = server.net.connect({ host: '10.80.9.9', port: 1 });
  lone.on('error', () => {});
  t.is(await lone.identify({ timeoutMs: 10 }), undefined);
  lone.destroy();
});

test('an http.Server of node:http takes connections of node.net', async (t) => {
  const [node, other] = await pair(t);
  const server = http.createServer((_req, res) => res.end('plain'));
  node.net.createServer((socket) => server.emit('connection', socket)).listen(80);
  const [response] = (await once(http.get({ host: 'edge-1', agent: other.httpAgent() }), 'response')) as [
    http.IncomingMessage,
  ];
  t.is(await textOf(response), 'plain');
});

test('listen, accept, connect and disconnect as promises; the listener is an async iterable', async (t) => {
  const [node, other] = await pair(t);
  const listener = await node.listen(80);
  t.is(listener.address().port, 80);
  const [client, accepted] = await Promise.all([other.connect(80, 'edge-1'), listener.accept()]);
  t.is(accepted.remotePort, client.localPort);
  accepted.resume();
  client.write('bye');
  await other.disconnect(client);
  t.is(client.bytesWritten, 3);
  await once(accepted, 'close');
  t.is(accepted.bytesRead, 3);

  const seen: number[] = [];
  const loop = (async () => {
    for await (const socket of listener) {
      seen.push(socket.remotePort!);
      socket.resume();
      if (seen.length === 3) break;
    }
  })();
  const clients: Socket[] = [];
  for (let i = 0; i < 3; i++) clients.push(await other.connect({ port: 80, host: 'edge-1' }));
  await loop;
  t.deepEqual(
    seen,
    clients.map((c) => c.localPort),
  );
  for (const c of clients) await other.disconnect(c);
  // The end of the loop has closed the listener.
  await t.throwsAsync(other.connect(80, 'edge-1'), { code: 'ECONNREFUSED' });
  await t.throwsAsync(listener.accept(), { name: 'AbortError' });
});

test('promise forms give up when their signal aborts, and reject with the error of the connection', async (t) => {
  const [node, other] = await pair(t);
  await t.throwsAsync(node.listen(80, { host: '10.9.9.9' }), { code: 'EADDRNOTAVAIL' });
  const listener = await node.listen();
  await t.throwsAsync(node.listen(listener.address().port), { code: 'EADDRINUSE' });
  await t.throwsAsync(listener.accept({ signal: AbortSignal.abort() }), { name: 'AbortError' });
  const abort = new AbortController();
  const waiting = listener.accept({ signal: abort.signal });
  abort.abort();
  await t.throwsAsync(waiting, { name: 'AbortError' });

  const [client, accepted] = await Promise.all([
    other.connect(listener.address().port, node.addresses[1]),
    listener.accept(),
  ]);
  // The other side does not read, so it does not end.
  const hanging = new AbortController();
  const ended = other.disconnect(client, { signal: hanging.signal });
  hanging.abort();
  await t.throwsAsync(ended, { name: 'AbortError' });
  t.true(client.destroyed);
  accepted.resume();
  await once(accepted, 'close');

  // A connection that has waited for whoever takes it: its errors are his to hear, and nobody else's.
  const early = await other.connect(listener.address().port, node.addresses[0]);
  await new Promise((resolve) => listener.server.getConnections(resolve));
  const late = await listener.accept();
  t.is(late.listenerCount('error'), 0);
  early.destroy();
  late.destroy();
  await listener.close();
});

// ---- what a connection outlives

const CHUNK = 16_384;
const TOTAL = 64 * CHUNK;
const pattern = (i: number) => ((i * 131) ^ (i >>> 9)) & 0xff;

/** A hub that can be stopped and started again on its port, behind a relay whose connections can be cut one by one. */
async function restartable(t: ExecutionContext, options: Partial<NodeOptions> = {}) {
  const start = (port: number) =>
    KubeBusCloud.start({
      transports: [tcpTransport({ insecure: true, listen: { host: '127.0.0.1', port } })],
      tenants: { acme: { pools: ['10.80.0.0/16', 'fd80::/64'] } },
    });
  let cloud = await start(0);
  const port = Number(new URL(cloud.addresses[0]!).port);
  const carried: net.Socket[] = [];
  const relay = net.createServer((s) => {
    const on = net.connect(port, '127.0.0.1');
    s.on('error', () => on.destroy()).on('close', () => on.destroy());
    on.on('error', () => s.destroy()).on('close', () => s.destroy());
    s.pipe(on).pipe(s);
    carried.push(s);
  });
  relay.listen(0, '127.0.0.1');
  await once(relay, 'listening');
  const relayPort = (relay.address() as net.AddressInfo).port;
  const join = (node: string, through: number, more: Partial<NodeOptions> = {}) =>
    KubeBusNode.join({
      cloud: [`kubebus://127.0.0.1:${through}`],
      transport: tcpTransport({ insecure: true }),
      tenant: 'acme',
      node,
      ...more,
    });
  const a = await join('edge-1', relayPort, options);
  const b = await join('edge-2', port);
  t.teardown(async () => {
    await a.stop();
    await b.stop();
    await cloud.stop();
    relay.close();
  });
  return {
    a,
    b,
    /** Cuts the connection through the relay that has carried most. */
    cut() {
      const open = carried.filter((s) => !s.destroyed);
      open.reduce((x, y) => (y.bytesRead > x.bytesRead ? y : x)).destroy();
    },
    connections: () => carried.length,
    /** Cuts the connection, and lets no other through. */
    lose() {
      relay.close();
      for (const s of carried) s.destroy();
    },
    async restart() {
      await cloud.stop();
      cloud = await start(port);
    },
  };
}

/** An echo of TOTAL bytes; `disturb` runs once a quarter is back, and the rest has to come back whole. */
async function echoThrough(
  t: ExecutionContext,
  [a, b]: [KubeBusNode, KubeBusNode],
  disturb: () => Promise<void>,
): Promise<void> {
  b.net.createServer((s) => s.pipe(s)).listen(7);
  const socket = await a.connect(7, b.addresses[0]);
  let sent = 0;
  let got = 0;
  let wrong = -1;
  let disturbed: Promise<void> | null = null;
  const chunk = () => Buffer.from(Array.from({ length: CHUNK }, () => pattern(sent++)));
  socket.write(chunk());
  socket.on('data', (data: Buffer) => {
    for (const byte of data) if (byte !== pattern(got++) && wrong < 0) wrong = got - 1;
    if (disturbed === null && got >= TOTAL / 4) disturbed = disturb();
    while (sent < TOTAL && sent - got < 4 * CHUNK) socket.write(chunk());
    if (got === TOTAL) socket.end();
  });
  await once(socket, 'close');
  await disturbed;
  t.is(wrong, -1);
  t.is(got, TOTAL);
}

test('a connection survives the loss and return of its link', async (t) => {
  const { a, b, cut, connections } = await restartable(t);
  await echoThrough(t, [a, b], async () => {
    const down = once(a, 'down');
    cut();
    await down;
    t.is(a.link.state, 'connecting');
  });
  t.is(connections(), 2, 'the link has been dialled again');
});

test('a connection survives a change of the connection that carries it', async (t) => {
  const { a, b, cut } = await restartable(t, { connections: 3 });
  let downs = 0;
  a.on('down', () => downs++);
  // One of three carries the flow.
  await echoThrough(t, [a, b], async () => cut());
  t.is(downs, 0, 'the link as a whole stayed up');
});

test('a connection survives a restart of the hub, which has forgotten everything', async (t) => {
  const { a, b, restart } = await restartable(t);
  const before = [a.addresses, b.addresses];
  await echoThrough(t, [a, b], restart);
  t.deepEqual([a.addresses, b.addresses], before);
});

test('a connection whose link does not come back ends after the user timeout, with the reason', async (t) => {
  const { a, b, lose } = await restartable(t, { sockets: { tcp: { userTimeout: 700_000 } } });
  b.net.createServer((s) => s.resume()).listen(9);
  const socket = await a.connect(9, b.addresses[0]);
  lose();
  await once(a, 'down');
  socket.write('into the void');
  const [error] = (await once(socket, 'error')) as [NodeJS.ErrnoException];
  // Whether the node has said so itself (ICMP) before the time was out.
  t.true(error.code === 'ETIMEDOUT' || error.code === 'EHOSTUNREACH', error.code);
});

test('stopping a node ends what is open on it: connections, servers, datagram sockets, pings', async (t) => {
  const [node, other] = await pair(t);
  const server = node.net.createServer().listen(7);
  const http80 = node.http.createServer().listen(80);
  const udp = node.dgram.createSocket('udp4').bind(53);
  await once(udp, 'listening');
  const theirs = await other.connect(7, 'edge-1');
  const ours = await node.connect(7, 'edge-1');
  const ends = [
    once(server, 'close'),
    once(http80, 'close'),
    once(udp, 'close'),
    once(theirs, 'error').then(([e]) => t.is((e as NodeJS.ErrnoException).code, 'ECONNRESET')),
    // Its own program stopped the node: no error.
    once(ours, 'close').then(([hadError]) => t.false(hadError)),
    t.throwsAsync(node.connect(7, '10.80.9.9'), { code: 'ENETDOWN' }),
  ];
  theirs.resume();
  ours.resume();
  await node.stop();
  await Promise.all(ends);
  await t.throwsAsync(node.connect(7, '10.80.0.1'), { code: 'ENETDOWN' });
  await t.throwsAsync(node.listen(7), { code: 'ENETDOWN' });
  const late = node.dgram.createSocket('udp4');
  const refused = once(late, 'error');
  late.bind(1);
  t.is(((await refused)[0] as NodeJS.ErrnoException).code, 'ENETDOWN');
});

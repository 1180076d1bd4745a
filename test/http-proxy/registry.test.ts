// Services appear, change and vanish with their node; several behind one name; the registry over a restart of the cloud; generic TCP.

import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import http from 'node:http';
import net from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { KubeBusCloud, KubeBusNode } from '../../lib/index.js';
import { memoryTransport } from '../../transports/memory.js';
import { ask, makeWorld, until } from './support/world.js';

const brief = (list: readonly { tenant: string; node: string; name: string; online: boolean; public: boolean }[]) =>
  list.map((s) => `${s.node}/${s.name}${s.public ? ' public' : ''}${s.online ? '' : ' offline'}`).sort();

test('appear, change, vanish: in the cloud and on other nodes', async (t) => {
  const world = await makeWorld(['acme/edge-1', 'acme/edge-2']);
  t.teardown(() => world.close());
  const lists = [() => brief(world.cloud.services.list()), () => brief(world.node('acme/edge-2').services.list())];
  await world.node('acme/edge-2').services.ready();
  const everywhere = (...expected: string[]) => until(() => lists.every((list) => list().join() === expected.join()));
  const edge = world.node('acme/edge-1');
  const one = edge.publish('one', (_req, res) => res.end('1'));
  await everywhere('edge-1/one');
  edge.publish('two', (_req, res) => res.end('2'));
  await everywhere('edge-1/one', 'edge-1/two');
  edge.publish('one', (_req, res) => res.end('1'), { public: true });
  await everywhere('edge-1/one public', 'edge-1/two');
  one.close();
  // The first publication was replaced: its handle takes nothing away.
  edge.services.unpublish('two');
  await everywhere('edge-1/one public');
  await edge.stop();
  await until(() => lists.every((list) => list().every((s) => s.endsWith('offline'))));
  const answer = await ask(world.gateway, '/acme/edge-1/one/');
  t.is(answer.status, 503);
  t.truthy(answer.headers['retry-after']);
  t.is((JSON.parse(answer.text) as { error: { code: string } }).error.code, 'ERR_HTTP_NODE_OFFLINE');
});

test('names, targets and limits that cannot be are refused with a code', async (t) => {
  const world = await makeWorld(['acme/edge-1']);
  t.teardown(() => world.close());
  const edge = world.node('acme/edge-1');
  t.throws(() => edge.publish('Bad Name', 'http://127.0.0.1:1'), { code: 'ERR_SERVICE_NAME' });
  for (const target of ['ftp://x/', 'not a url', 'tcp://127.0.0.1', 'http://u@h/', 'unix:relative', []] as (
    | string
    | string[]
  )[]) {
    t.throws(() => edge.publish('x', target), { code: 'ERR_SERVICE_TARGET' }, String(target));
  }
});

test('several instances behind one name: shared, and the dead one left out', async (t) => {
  const world = await makeWorld(['acme/edge-1', 'acme/edge-2']);
  t.teardown(() => world.close());
  const a = await world.serve((_req, res) => res.end('a'));
  const b = await world.serve((_req, res) => res.end('b'));
  world.node('acme/edge-1').publish('web', [a.url, b.url], { public: true, health: false });
  await until(() => world.cloud.services.list().length === 1);
  const get = async (path = '/acme/edge-1/web/') => (await ask(world.gateway, path)).text;
  const four = [await get(), await get(), await get(), await get()];
  t.deepEqual(four.sort(), ['a', 'a', 'b', 'b']);
  a.server.closeAllConnections();
  a.server.close();
  await once(a.server, 'close');
  for (let i = 0; i < 6; i++) t.is(await get(), 'b');
  // The same name on another node, and a call to any.
  world.node('acme/edge-2').publish('web', (_req, res) => res.end('c'), { public: true });
  await until(() => world.cloud.services.list().length === 2);
  const any = new Set<string>();
  for (let i = 0; i < 6; i++) any.add(await get('/acme/any/web/'));
  t.deepEqual([...any].sort(), ['b', 'c']);
});

test('a check finds a service that went down and came back', async (t) => {
  const world = await makeWorld(['acme/edge-1']);
  t.teardown(() => world.close());
  let status = 200;
  const { url } = await world.serve((_req, res) => res.writeHead(status).end());
  world.node('acme/edge-1').publish('web', url, { health: { path: '/health', intervalMs: 10 } });
  const healthy = () => world.cloud.services.list()[0]?.healthy;
  await until(() => healthy() === true);
  status = 500;
  await until(() => healthy() === false);
  status = 200;
  await until(() => healthy() === true);
  t.pass();
});

test('a restart of the cloud: offline services are known at once, and are back with their nodes', async (t) => {
  const dir = await mkdtemp(join(tmpdir(), 'kubebus-'));
  t.teardown(() => rm(dir, { recursive: true, force: true }));
  const transport = memoryTransport();
  const options = {
    transports: [transport],
    tenants: { acme: { pools: ['10.80.0.0/16'] } },
    gateways: [{ host: '127.0.0.1', port: 0 }],
    stateDir: dir,
  };
  const first = await KubeBusCloud.start(options);
  const joinNode = (node: string) => KubeBusNode.join({ cloud: first.addresses, transport, tenant: 'acme', node });
  const edge = await joinNode('edge-1');
  const other = await joinNode('edge-2');
  t.teardown(async () => {
    await edge.stop();
    await other.stop();
  });
  edge.publish('one', (_req, res) => res.end('1'), { public: true });
  await other.services.ready();
  await until(() => brief(other.services.list()).join() === 'edge-1/one public');
  await first.stop();
  const second = await KubeBusCloud.start(options);
  t.teardown(() => second.stop());
  t.deepEqual(brief(second.services.list()), ['edge-1/one public offline']);
  await until(() => brief(second.services.list()).join() === 'edge-1/one public');
  await until(() => other.services.synced && brief(other.services.list()).join() === 'edge-1/one public');
  t.is((await ask(second.gateways[0]!.port, '/acme/edge-1/one/')).text, '1');
  t.is(await (await other.fetch('kubebus://acme/edge-1/one/')).text(), '1');
});

test('a service of the cloud is reached by nodes, in the tenants that it is for', async (t) => {
  const world = await makeWorld(['acme/edge-1', 'globex/edge-1']);
  t.teardown(() => world.close());
  world.cloud.publish(
    'time',
    (req, res) => res.end(`for ${req.headers['x-kubebus-tenant']}/${req.headers['x-kubebus-node']}`),
    { tenants: ['acme'] },
  );
  const call = (from: string, tenant: string) => world.node(from).fetch(`kubebus://${tenant}/cloud/time/`);
  t.is(await (await call('acme/edge-1', 'acme')).text(), 'for acme/edge-1');
  t.is((await call('globex/edge-1', 'acme')).status, 403);
  t.is((await call('globex/edge-1', 'globex')).status, 404);
});

test('generic TCP: a forwarded port, CONNECT and SOCKS5, with half-close', async (t) => {
  const world = await makeWorld(['acme/edge-1', 'acme/edge-2']);
  t.teardown(() => world.close());
  const echo = net.createServer({ allowHalfOpen: true }, (socket) => socket.pipe(socket)).listen(0, '127.0.0.1');
  await once(echo, 'listening');
  t.teardown(() => echo.close());
  const { port } = echo.address() as net.AddressInfo;
  world.node('acme/edge-1').publish('echo', `tcp://127.0.0.1:${port}`, { port: 7000 });
  const { services } = world.node('acme/edge-2');
  await services.ready();
  await until(() => services.list().length === 1);
  const through = async (socket: net.Socket, text: string) => {
    socket.end(text);
    let back = '';
    for await (const part of socket.setEncoding('utf8')) back += part;
    return back;
  };
  for (const target of ['acme/edge-1:7000', 'edge-1:7000', 'acme/edge-1/echo']) {
    const { address } = await services.forward({ host: '127.0.0.1', port: 0 }, target);
    t.is(await through(net.connect({ ...address, host: '127.0.0.1', allowHalfOpen: true }), target), target);
  }
  const proxy = await services.listen({ host: '127.0.0.1', port: 0 });
  const req = http.request({
    host: '127.0.0.1',
    port: proxy.address.port,
    method: 'CONNECT',
    path: 'edge-1.acme.kubebus:7000',
  });
  req.end();
  const [answer, socket] = (await once(req, 'connect')) as [http.IncomingMessage, net.Socket];
  t.is(answer.statusCode, 200);
  socket.write('connect');
  t.is(String((await once(socket, 'data'))[0]), 'connect');
  socket.destroy();
  const no = http.request({ host: '127.0.0.1', port: proxy.address.port, method: 'CONNECT', path: 'example.com:80' });
  no.end();
  t.is(((await once(no, 'connect')) as [http.IncomingMessage])[0].statusCode, 404, 'never the plain Internet');
  const socks = await services.socks({ host: '127.0.0.1', port: 0 });
  const client = net.connect({ port: socks.address.port, host: '127.0.0.1', allowHalfOpen: true });
  client.write(Buffer.from([5, 1, 0]));
  t.deepEqual([...((await once(client, 'data')) as [Buffer])[0]], [5, 0]);
  const host = Buffer.from('edge-1.acme.kubebus');
  client.write(Buffer.concat([Buffer.from([5, 1, 0, 3, host.length]), host, Buffer.from([7000 >> 8, 7000 & 255])]));
  t.deepEqual([...((await once(client, 'data')) as [Buffer])[0].subarray(0, 2)], [5, 0]);
  t.is(await through(client, 'socks'), 'socks');
  t.throws(() => world.node('acme/edge-2').publish('x', 'tcp://h'), { code: 'ERR_SERVICE_TARGET' });
});

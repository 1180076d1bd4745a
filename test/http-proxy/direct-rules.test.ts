// When the cloud's proxy speaks to a service past its node's proxy, and what the node still decides.

import { once } from 'node:events';
import http from 'node:http';
import net from 'node:net';
import test from 'ava';
import { readService } from '../../lib/http-proxy/service.js';
import { ask, makeWorld, raw, until, type World } from './support/world.js';

let world: World;
let url = '';
/** One proxy of ours in Via: the cloud's alone. */
const wayOf = (text: string) =>
  text === '1.1 kubebus' ? 'direct' : text === '1.1 kubebus, 1.1 kubebus' ? 'read' : text;
let served = 0;

test.before(async () => {
  world = await makeWorld(['acme/edge-1', 'acme/edge-2', 'globex/edge-1'], { http: { direct: 'always' } });
  const made = await world.serve((req, res) => {
    served++;
    if (req.url === '/base/see')
      res.end(
        JSON.stringify({ via: req.headers.via, host: req.headers.host, caller: req.headers['x-kubebus-caller'] }),
      );
    else if (req.url === '/base/to') res.writeHead(302, { location: `${url}/base/there` }).end();
    else if (req.url === '/wait') res.writeHead(200).flushHeaders();
    else res.end(String(req.headers.via));
  });
  url = made.url;
  const edge = world.node('acme/edge-1');
  edge.publish('web', url, { public: true });
  edge.publish('read', url, { public: true, direct: false });
  edge.publish('two', [url, url], { public: true });
  edge.publish('slow', url, { public: true, limits: { headersTimeoutMs: 9_000 } });
  edge.publish('based', `${url}/base/`, { public: true, host: 'target' });
  edge.publish('closed', url);
  await until(() => world.cloud.services.list().filter((s) => s.node === 'edge-1').length === 6);
});
test.after.always(() => world.close());

const way = async (service: string) => wayOf((await ask(world.gateway, `/acme/edge-1/${service}/`)).text);

test.serial('direct for one plain URL; read by the node where it has something to decide', async (t) => {
  t.is(await way('web'), 'direct');
  t.is(await way('read'), 'read');
  t.is(await way('two'), 'read');
  t.is(await way('slow'), 'read');
});

test.serial('the path and the Host of the service are as the node would have made them', async (t) => {
  const { text } = await ask(world.gateway, '/acme/edge-1/based/see');
  t.deepEqual(JSON.parse(text), { via: '1.1 kubebus', host: new URL(url).host, caller: 'internet' });
  const { headers } = await ask(world.gateway, '/acme/edge-1/based/to');
  t.is(headers.location, '/acme/edge-1/based/there');
});

test.serial('an answer without a length that breaks is seen to be broken', async (t) => {
  let last: net.Socket;
  const server = net.createServer((socket) => {
    last = socket.on('error', () => {});
    socket.once('data', () => socket.write('HTTP/1.1 200 OK\r\n\r\nhalf'));
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const to = `http://127.0.0.1:${(server.address() as net.AddressInfo).port}`;
  for (const direct of [true, false]) {
    const service = world.node('acme/edge-1').publish('cut', to, { public: true, direct, health: false });
    const listed = () => world.cloud.services.registry.find('acme', 'edge-1', 'cut')?.service;
    await until(() => listed() !== undefined && (listed()?.direct !== undefined) === direct);
    const req = http.get({ host: '127.0.0.1', port: world.gateway, path: '/acme/edge-1/cut/', agent: false });
    const [res] = (await once(req, 'response')) as [http.IncomingMessage];
    const [part] = await once(res, 'data');
    t.is(String(part), 'half');
    last!.resetAndDestroy();
    await t.throwsAsync(() => once(res, 'end'), { code: 'ECONNRESET' }, `direct: ${direct}`);
    service.close();
  }
  server.close();
});

test.serial('the node counts what it did not read', async (t) => {
  const edge = world.node('acme/edge-1');
  const count = () => edge.services.list().find((s) => s.name === 'web')?.traffic?.requests ?? 0;
  const before = world.cloud.services.list().find((s) => s.node === 'edge-1' && s.name === 'web')!.traffic!.requests;
  await way('web');
  await until(() => count() === before + 1);
  t.true(edge.services.list().find((s) => s.name === 'web')!.traffic!.bytesOut > 0);
});

test.serial(
  'a service that is withdrawn loses its connections at once, and one that is closed its callers',
  async (t) => {
    const edge = world.node('acme/edge-1');
    const service = edge.publish('gone', url, { public: true });
    const listed = () => world.cloud.services.list().find((s) => s.node === 'edge-1' && s.name === 'gone');
    await until(() => listed() !== undefined);
    const req = http.get({ host: '127.0.0.1', port: world.gateway, path: '/acme/edge-1/gone/wait', agent: false });
    const [res] = (await once(req, 'response')) as [http.IncomingMessage];
    service.close();
    await t.throwsAsync(async () => {
      for await (const _ of res);
    });
    edge.publish('gone', url);
    await until(() => listed()?.public === false);
    t.is((await ask(world.gateway, '/acme/edge-1/gone/')).status, 403);
  },
);

test.serial('a service that does not run is 502, and its node is not to blame', async (t) => {
  const down = await world.serve(() => {});
  down.server.close();
  await once(down.server, 'close');
  world.node('acme/edge-1').publish('down', down.url, { public: true, health: false });
  await until(() => world.cloud.services.list().some((s) => s.name === 'down'));
  const { status, text } = await ask(world.gateway, '/acme/edge-1/down/');
  t.is(status, 502);
  t.is(JSON.parse(text).error.code, 'ERR_HTTP_SERVICE_DOWN');
});

test.serial('nobody but the cloud gets past the proxy of a node', async (t) => {
  const text = async (from: string, lines: string) => {
    const socket = world.node(from).net.connect({ host: 'edge-1', port: 7480 });
    socket.write(
      `GET / HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: kubebus-direct\r\n${lines}\r\n` +
        'GET / HTTP/1.1\r\nHost: x\r\nX-KubeBus-Tenant: globex\r\nConnection: close\r\n\r\n',
    );
    let got = '';
    for await (const part of socket.setEncoding('latin1')) got += part;
    return got;
  };
  const before = served;
  for (const service of ['web', 'closed', 'none']) {
    const got = await text(
      'acme/edge-2',
      `X-KubeBus-Address: acme/edge-1/${service}\r\nX-KubeBus-Caller: plane\r\nX-KubeBus-Base: \r\n`,
    );
    t.regex(got, service === 'none' ? /^HTTP\/1\.1 404 / : /^HTTP\/1\.1 403 /, service);
    t.is(got.split('HTTP/1.1').length, 2, 'one answer, and the connection is closed');
  }
  t.is(served, before, 'nothing reached the service');
});

test.serial('a caller cannot ask for it through the gateway', async (t) => {
  const before = served;
  for (const base of ['X-KubeBus-Base: ', 'X_KubeBus_Base: ']) {
    const got = await raw(
      world.gateway,
      `GET /acme/edge-1/web/ HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: kubebus-direct\r\n${base}\r\n\r\n` +
        'GET / HTTP/1.1\r\nHost: x\r\nX-KubeBus-Tenant: globex\r\nConnection: close\r\n\r\n',
    );
    t.regex(got, /^HTTP\/1\.1 400 /);
    t.is(got.split('HTTP/1.1').length, 2);
  }
  t.is(served, before);
});

test.serial('the node decides for the caller that the cloud names', async (t) => {
  // The registry of this cloud is out of date on purpose: it takes the service for public.
  const { registry } = world.cloud.services;
  const info = registry.find('acme', 'edge-1', 'closed')!.service!;
  registry.put('acme', 'edge-1', { ...info, public: true });
  t.is((await ask(world.gateway, '/acme/edge-1/closed/')).status, 403);
  registry.put('acme', 'edge-1', { ...info, public: true, direct: { ...info.direct!, base: '/elsewhere' } });
  t.is((await ask(world.plane, '/acme/edge-1/closed/')).status, 502);
  registry.put('acme', 'edge-1', info);
});

test('where a service is on its node is told to nobody', (t) => {
  const all = JSON.stringify([
    world.node('acme/edge-2').services.list(),
    world.node('globex/edge-1').services.list(),
    world.cloud.services.list(),
  ]);
  t.true(all.includes('"web"'));
  t.false(all.includes(new URL(url).host));
});

test('what a node says of itself cannot leave its place in a request', (t) => {
  const service = (direct: unknown) =>
    readService({ name: 'a', kind: 'http', public: true, grants: [], healthy: true, instances: 1, direct });
  const good = { base: '/a/b', authority: '[::1]:80', ownHost: true };
  t.deepEqual(service(good)?.direct, good);
  for (const bad of [
    { ...good, base: '/a b' },
    { ...good, base: '/a\r\nx: y' },
    { ...good, base: 'a' },
    { ...good, base: '/a?b' },
    { ...good, authority: 'a\r\nx: y' },
    { ...good, authority: 'a/b' },
    { ...good, authority: '' },
    { base: '' },
    'yes',
    null,
  ]) {
    t.is(service(bad), null, JSON.stringify(bad));
  }
});

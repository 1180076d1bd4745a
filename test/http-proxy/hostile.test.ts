// Callers and services that mean harm to the proxy itself: memory, time, connections, and names that are not theirs.

import { once } from 'node:events';
import http from 'node:http';
import net from 'node:net';
import test from 'ava';
import { mendResponse } from '../../lib/http-proxy/mend.js';
import { clientKey, RateLimiter } from '../../lib/http-proxy/rate-limit.js';
import { createAuthority } from '../../lib/join/driver/pki.js';
import { ask, makeWorld, raw, until, type World } from './support/world.js';

const worlds: Record<'always' | 'never', World> = {} as never;
const servers: net.Server[] = [];
const stuck: http.ServerResponse[] = [];
const seenTrailers: Record<string, unknown>[] = [];

test.before(async () => {
  const { cert, key } = await (await createAuthority('test')).issue({
    name: 'gw',
    days: 1,
    names: [{ type: 'dns', value: 'localhost' }],
    server: true,
  });
  const at = { host: '127.0.0.1', port: 0 };
  const flood = net.createServer((socket) => {
    socket.on('error', () => {});
    socket.resume();
    const more = () => {
      while (!socket.destroyed && socket.write('HTTP/1.1 103 Early Hints\r\nlink: </a>; rel=preload\r\n\r\n'));
    };
    socket.on('drain', more);
    more();
  });
  const plain = http.createServer((req, res) => {
    if (req.url === '/stuck') stuck.push(res);
    else
      req.resume().on('end', () => {
        seenTrailers.push(req.trailers);
        res.writeHead(200, { trailer: 'X-Kept, X-KubeBus-Node' });
        res.addTrailers({ 'X-Kept': '1', 'X-KubeBus-Node': 'forged' });
        res.end('ok');
      });
  });
  for (const server of [flood, plain]) {
    servers.push(server);
    await once(server.listen(0, '127.0.0.1'), 'listening');
  }
  const [floodUrl, url] = servers.map((s) => `http://127.0.0.1:${(s.address() as net.AddressInfo).port}`);
  for (const direct of ['always', 'never'] as const) {
    const world = await makeWorld(['acme/edge-1'], {
      http: { direct },
      gateways: [at, { ...at, tls: { cert, key }, limits: { connections: 3 } }],
    });
    worlds[direct] = world;
    const edge = world.node('acme/edge-1');
    edge.publish('flood', floodUrl!, { public: true, health: false });
    edge.publish('main', url!, { public: true, health: false });
    edge.publish(
      'inside',
      (req, res) =>
        void req.resume().on('end', () => {
          seenTrailers.push(req.trailers);
          res.end('ok');
        }),
      { public: true },
    );
    edge.publish('host', (req, res) => res.end(`${req.headers.host} ${req.headers['x-forwarded-host']}`), {
      public: true,
    });
    await until(() => world.cloud.services.list().length === 4);
  }
});
test.after.always(async () => {
  for (const server of servers) server.close();
  for (const res of stuck) res.destroy();
  await Promise.all(Object.values(worlds).map((w) => w.close()));
});

for (const direct of ['always', 'never'] as const) {
  test.serial(`a service that never stops to announce an answer gives none (direct: ${direct})`, async (t) => {
    const { status, text } = await ask(worlds[direct].gateway, '/acme/edge-1/flood/');
    t.is(status, 502);
    t.regex(text, /ERR_HTTP_SERVICE_DOWN/);
  });

  test.serial(`trailers name no caller, and pass otherwise (direct: ${direct})`, async (t) => {
    const { gateway } = worlds[direct];
    for (const service of ['main', 'inside']) {
      seenTrailers.length = 0;
      const req = http.request({
        host: '127.0.0.1',
        port: gateway,
        path: `/acme/edge-1/${service}/`,
        method: 'POST',
        headers: {
          trailer: 'X-Sum, X-KubeBus-Tenant, X_KubeBus_Node, X-Forwarded-For',
          te: 'trailers',
        },
      });
      req.write('body');
      req.addTrailers({
        'X-Sum': '1',
        'X-KubeBus-Tenant': 'globex',
        X_KubeBus_Node: 'boss',
        'X-Forwarded-For': '192.0.2.1',
      });
      req.end();
      const [res] = (await once(req, 'response')) as [http.IncomingMessage];
      let body = '';
      for await (const chunk of res) body += String(chunk);
      t.deepEqual([res.statusCode, body], [200, 'ok']);
      t.deepEqual(seenTrailers.map(Object.keys), [['x-sum']], service);
      if (service === 'main') t.deepEqual(Object.keys(res.trailers), ['x-kept']);
    }
  });

  test.serial(`a connection has a bounded number of requests in progress (direct: ${direct})`, async (t) => {
    const socket = net.connect(worlds[direct].gateway, '127.0.0.1');
    socket.on('error', () => {});
    socket.write('GET /acme/edge-1/main/stuck HTTP/1.1\r\nHost: x\r\n\r\n'.repeat(200));
    await once(socket.resume(), 'close');
    t.true(stuck.length <= 2 * 17, `${stuck.length} reached the service`);
  });
}

test.serial('connections count from their first byte, not from the end of their TLS handshake', async (t) => {
  const port = worlds.always.cloud.gateways[1]!.port;
  const silent = Array.from({ length: 4 }, () => net.connect(port, '127.0.0.1').on('error', () => {}));
  await Promise.race(silent.map((s) => once(s.resume(), 'close')));
  t.is(silent.filter((s) => !s.destroyed).length, 3);
  for (const s of silent) s.destroy();
});

test.serial('the host of an absolute target counts, and no other goes on (RFC 9112 §3.2.2)', async (t) => {
  const { gateway } = worlds.always;
  const answer = await raw(
    gateway,
    'GET http://good.test/acme/edge-1/host/ HTTP/1.1\r\nHost: evil.test\r\nConnection: close\r\n\r\n',
  );
  t.regex(answer, /\r\n\r\ngood\.test good\.test$/);
});

test('a Refresh field of spaces takes no time', (t) => {
  const mend = { hosts: ['svc'], base: '', prefix: '/a/b/c', path: '/', cookieHost: null };
  const of = (value: string) => mendResponse(['Refresh', value], mend)[1];
  for (const evil of [`0;url=${' '.repeat(30_000)}"`, `${' '.repeat(30_000)}x`, `0${' '.repeat(30_000)};`])
    t.is(of(evil), evil);
  t.is(of('5; url=/x'), '5; url=/a/b/c/x');
  t.is(of('5;URL="http://svc/x"'), '5;URL="/a/b/c/x"');
  t.is(of("0, url='/x' "), "0, url='/a/b/c/x'");
  t.is(of('5'), '5');
  t.is(of('5; url=https://elsewhere/x'), '5; url=https://elsewhere/x');
});

test('a flood of addresses does not reset the rate of one that goes on', (t) => {
  const limiter = new RateLimiter({ perSecond: 1, burst: 2 }, 3);
  t.is(limiter.take(0, 'a'), 0);
  for (let i = 0; i < 10; i++) {
    limiter.take(0, 'a');
    limiter.take(0, `new${i}`);
    t.true(limiter.take(0, 'a') > 0, `after ${i + 1} strangers`);
  }
});

test('addresses of one IPv6 network count as one caller', (t) => {
  t.is(clientKey('192.0.2.7'), '192.0.2.7');
  t.is(clientKey('2001:db8:1:2:3:4:5:6'), clientKey('2001:db8:1:2::1'));
  t.is(clientKey('2001:db8::1'), clientKey('2001:db8::2'));
  t.not(clientKey('2001:db8:0:1::1'), clientKey('2001:db8::1'));
  t.is(clientKey('fe80::1%eth0'), clientKey('fe80::2'));
  t.is(clientKey('::1'), clientKey('::2'));
});

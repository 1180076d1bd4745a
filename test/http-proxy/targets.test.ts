// Where a service may be: a unix socket, behind TLS, under a path; and what a wrong one says.

import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import http from 'node:http';
import https from 'node:https';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { WebSocket, WebSocketServer } from 'ws';
import { createAuthority } from '../../lib/join/driver/pki.js';
import { ask, makeWorld, until, type World } from './support/world.js';

const see: http.RequestListener = (req, res) => {
  if (req.url?.endsWith('/away'))
    res.writeHead(302, { location: '/base/there', 'set-cookie': 'a=b; Path=/base' }).end();
  else if (req.url?.endsWith('/echo')) req.pipe(res);
  else res.end(`${req.url} at ${req.headers.host}`);
};

let dir: string;
let ca: Awaited<ReturnType<typeof createAuthority>>;
const closers: (() => void)[] = [];
const worlds: Record<'always' | 'never', World> = {} as never;

test.before(async () => {
  dir = await mkdtemp(join(tmpdir(), 'kubebus-http-'));
  ca = await createAuthority('test');
  for (const direct of ['always', 'never'] as const)
    worlds[direct] = await makeWorld(['acme/edge-1'], { http: { direct } });
});
test.after.always(async () => {
  for (const close of closers) close();
  await Promise.all(Object.values(worlds).map((w) => w.close()));
  await rm(dir, { recursive: true, force: true });
});

async function serve(server: http.Server | https.Server, at: string | number): Promise<number> {
  if (typeof at === 'string') server.listen(at);
  else server.listen(at, '127.0.0.1');
  await once(server, 'listening');
  closers.push(() => {
    server.closeAllConnections();
    server.close();
  });
  return typeof at === 'string' ? 0 : (server.address() as AddressInfo).port;
}

async function publish(
  world: World,
  name: string,
  target: string,
  options: Parameters<ReturnType<World['node']>['publish']>[2] = {},
): Promise<void> {
  world.node('acme/edge-1').publish(name, target, { public: true, ...options });
  await until(() => world.cloud.services.list().some((s) => s.name === name));
}

for (const direct of ['always', 'never'] as const) {
  test(`a unix socket, also under a path, with upload and WebSocket (direct: ${direct})`, async (t) => {
    const world = worlds[direct];
    const path = join(dir, `${direct}.sock`);
    const server = http.createServer(see);
    new WebSocketServer({ server }).on('connection', (ws) => ws.on('message', (data) => ws.send(data)));
    await serve(server, path);
    await publish(world, 'unix', `unix:${path}`);
    await publish(world, 'based', `unix:${path}:/base`, { host: 'target' });
    t.is((await ask(world.gateway, '/acme/edge-1/unix/x')).text, `/x at 127.0.0.1:${world.gateway}`);
    t.is((await ask(world.gateway, '/acme/edge-1/based/x')).text, '/base/x at localhost');
    const { headers } = await ask(world.gateway, '/acme/edge-1/based/away');
    t.is(headers.location, '/acme/edge-1/based/there');
    t.deepEqual(headers['set-cookie'], ['a=b; Path=/acme/edge-1/based/']);
    const body = Buffer.alloc(3_000_000, 'k');
    t.deepEqual((await ask(world.gateway, '/acme/edge-1/unix/echo', { method: 'POST', body })).body, body);
    const ws = new WebSocket(`ws://127.0.0.1:${world.gateway}/acme/edge-1/unix/`);
    await once(ws, 'open');
    ws.send('hello');
    t.is(String((await once(ws, 'message'))[0]), 'hello');
    ws.close();
    await once(ws, 'close');
    await publish(world, 'nobody', `unix:${join(dir, 'none.sock')}`, { health: false });
    const none = await ask(world.gateway, '/acme/edge-1/nobody/');
    t.is(none.status, 502);
    t.regex(none.text, /ENOENT/);
  });

  test(`behind TLS: the certificate is checked (direct: ${direct})`, async (t) => {
    const world = worlds[direct];
    const names = [{ type: 'dns' as const, value: 'localhost' }];
    const { cert, key } = await ca.issue({ name: 'service', days: 1, names, server: true });
    const port = await serve(https.createServer({ cert, key }, see), 0);
    await publish(world, 'tls', `https://localhost:${port}`, { tls: { ca: ca.cert } });
    await publish(world, 'stranger', `https://localhost:${port}`, { health: false });
    await publish(world, 'careless', `https://127.0.0.1:${port}`, { tls: { rejectUnauthorized: false } });
    t.is((await ask(world.gateway, '/acme/edge-1/tls/x')).text, `/x at 127.0.0.1:${world.gateway}`);
    const body = Buffer.alloc(1_000_000, 'k');
    t.deepEqual((await ask(world.gateway, '/acme/edge-1/tls/echo', { method: 'POST', body })).body, body);
    const refused = await ask(world.gateway, '/acme/edge-1/stranger/');
    t.is(refused.status, 502);
    t.regex(refused.text, /UNABLE_TO_VERIFY|SELF_SIGNED/);
    t.is((await ask(world.gateway, '/acme/edge-1/careless/')).status, 200);
  });
}

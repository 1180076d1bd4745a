// Unmodified libraries on our sockets: what they get is an http.Server, an agent, a connector or a socket.

import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import * as http from 'node:http';
import * as https from 'node:https';
import * as net from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as tls from 'node:tls';
import autocannon from 'autocannon';
import test from 'ava';
import express from 'express';
import Fastify from 'fastify';
import { AbstractConnector, Redis, type RedisOptions } from 'ioredis';
import { Agent, fetch, request } from 'undici';
import { WebSocket, WebSocketServer } from 'ws';
import { has } from '../../examples/lab/netns.js';
import { createAuthority } from '../../lib/join/driver/pki.js';
import { kernelTest } from '../support/kernel.js';
import { makeWorld } from '../support/l4-pair.js';

const { nodes, close } = makeWorld(2);
const [a, b] = nodes as [(typeof nodes)[0], (typeof nodes)[0]];
test.after.always(close);

async function get(options: http.RequestOptions, body?: string): Promise<{ status: number; text: string }> {
  const req = http.request(options);
  req.end(body);
  const [res] = (await once(req, 'response')) as [http.IncomingMessage];
  let text = '';
  for await (const part of res) text += part;
  return { status: res.statusCode!, text };
}

test('node:http: server and agent, keep-alive', async (t) => {
  const ports = new Set<number>();
  const server = b.l4.http.createServer((req, res) => {
    ports.add(req.socket.remotePort!);
    res.end(`${req.method} ${req.url} from ${req.socket.remoteAddress}`);
  });
  server.listen(8080);
  await once(server, 'listening');
  const agent = a.l4.httpAgent();
  for (let i = 0; i < 3; i++) {
    const { text } = await get({ host: 'edge-2', family: 4, port: 8080, path: `/${i}`, agent });
    t.is(text, `GET /${i} from ${a.v4}`);
  }
  t.is(ports.size, 1);
  agent.destroy();
  server.close();
  await once(server, 'close');
});

test('node:http: a large body both ways, chunked', async (t) => {
  const server = b.l4.http.createServer((req, res) => req.pipe(res));
  server.listen(8081);
  const body = 'x'.repeat(2_000_000);
  const { text } = await get(
    { host: b.v4, port: 8081, method: 'POST', agent: a.l4.httpAgent({ keepAlive: false }) },
    body,
  );
  t.is(text.length, body.length);
  server.close();
});

test('node:http: a refused connection is an error of the request', async (t) => {
  const req = http.get({ host: b.v4, port: 1, agent: a.l4.httpAgent() });
  const [error] = (await once(req, 'error')) as [NodeJS.ErrnoException];
  t.is(error.code, 'ECONNREFUSED');
});

test('express', async (t) => {
  const app = express();
  app.use(express.json());
  app.get('/hello/:name', (req, res) => {
    res.json({ hello: req.params.name, ip: req.ip });
  });
  app.post('/sum', (req, res) => {
    res.json((req.body as number[]).reduce((x, y) => x + y, 0));
  });
  const server = b.l4.http.createServer(app).listen(3000);
  const agent = a.l4.httpAgent({ keepAlive: false });
  t.deepEqual(JSON.parse((await get({ host: b.v4, port: 3000, path: '/hello/bus', agent })).text), {
    hello: 'bus',
    ip: a.v4,
  });
  const headers = { 'content-type': 'application/json' };
  t.is((await get({ host: b.v4, port: 3000, path: '/sum', method: 'POST', headers, agent }, '[1,2,3]')).text, '6');
  t.is((await get({ host: b.v4, port: 3000, path: '/none', agent })).status, 404);
  server.close();
});

test('fastify listens by itself', async (t) => {
  const app = Fastify({ serverFactory: (handler) => b.l4.http.createServer(handler), forceCloseConnections: true });
  app.get('/', async () => ({ it: 'works' }));
  await app.listen({ port: 3001, host: b.v4 });
  const { text } = await get({ host: b.v4, port: 3001, agent: a.l4.httpAgent({ keepAlive: false }) });
  t.deepEqual(JSON.parse(text), { it: 'works' });
  await app.close();
});

test('ws: both directions, large messages, close codes', async (t) => {
  const server = b.l4.http.createServer();
  const wss = new WebSocketServer({ server });
  wss.on('connection', (ws) => ws.on('message', (m, binary) => ws.send(m, { binary })));
  server.listen(3002);
  const ws = new WebSocket(`ws://${b.v4}:3002`, { agent: a.l4.httpAgent({ keepAlive: false }) });
  await once(ws, 'open');
  ws.send('hello');
  t.is(String((await once(ws, 'message'))[0]), 'hello');
  const big = Buffer.alloc(1_000_000, 3);
  ws.send(big);
  t.true(((await once(ws, 'message'))[0] as Buffer).equals(big));
  ws.close(4001, 'done');
  const [code] = await once(ws, 'close');
  t.is(code, 4001);
  wss.close();
  server.close();
});

test('undici: request and fetch, by node name', async (t) => {
  const server = b.l4.http.createServer((req, res) => res.end(`you asked ${req.headers.host}`)).listen(3003);
  const dispatcher = a.l4.dispatcher(Agent);
  const { body } = await request('http://edge-2:3003/', { dispatcher });
  t.is(await body.text(), 'you asked edge-2:3003');
  const response = await fetch('http://edge-2.acme.kubebus:3003/', { dispatcher });
  t.is(await response.text(), 'you asked edge-2.acme.kubebus:3003');
  await t.throwsAsync(fetch('http://example.com/', { dispatcher }), { message: /fetch failed/ });
  await dispatcher.close();
  server.close();
});

test('TLS inside the overlay: https.Server by hand, https.Agent, undici, tls.connect over a socket', async (t) => {
  const ca = await createAuthority('test');
  const names = [{ type: 'dns', value: 'edge-2' } as const];
  const { cert, key } = await ca.issue({ name: 'edge-2', names, days: 1, server: true });
  const server = https.createServer({ cert, key }, (req, res) => {
    res.end(`${req.url} ${(req.socket as tls.TLSSocket).getProtocol()}`);
  });
  const inner = b.l4.net.createServer((socket) => server.emit('connection', socket)).listen(443);
  const agent = a.l4.httpsAgent({ ca: ca.cert });
  const req = https.get({ host: 'edge-2', path: '/x', agent });
  const [res] = (await once(req, 'response')) as [http.IncomingMessage];
  let text = '';
  for await (const part of res) text += part;
  t.is(text, '/x TLSv1.3');
  agent.destroy();

  const dispatcher = new Agent({ connect: a.l4.undiciConnector({ ca: ca.cert }) as never });
  t.is(await (await fetch('https://edge-2/y', { dispatcher })).text(), '/y TLSv1.3');
  await dispatcher.close();

  const plain = a.l4.net.connect(443, 'edge-2');
  const secure = tls.connect({ socket: plain, servername: 'edge-2', ca: ca.cert });
  await once(secure, 'secureConnect');
  t.true(secure.authorized);
  secure.destroy();
  // Another CA: refused, and nothing is left open.
  const strange = tls.connect({ socket: a.l4.net.connect(443, 'edge-2'), servername: 'edge-2' });
  const [error] = (await once(strange, 'error')) as [NodeJS.ErrnoException];
  t.regex(error.code!, /UNABLE_TO|SELF_SIGNED/);
  server.closeAllConnections();
  inner.close();
  await once(inner, 'close');
});

test('autocannon through a forwarded port: no error in a thousand requests', async (t) => {
  const server = b.l4.http.createServer((_req, res) => res.end('ok')).listen(3004);
  // The one place where a host's socket is needed: autocannon makes its own.
  const forward = net.createServer((s) => {
    const overlay = a.l4.net.connect(3004, b.v4);
    s.pipe(overlay).pipe(s);
    s.on('error', () => overlay.destroy());
    overlay.on('error', () => s.destroy());
  });
  forward.listen(0, '127.0.0.1');
  await once(forward, 'listening');
  const { port } = forward.address() as net.AddressInfo;
  const result = await autocannon({ url: `http://127.0.0.1:${port}`, amount: 1_000, connections: 20 });
  t.is(result['2xx'], 1_000);
  t.is(result.errors + result.timeouts + result.non2xx, 0);
  forward.close();
  server.close();
});

const noRedis = has('redis-server') ? null : 'the program redis-server';
kernelTest(noRedis)(
  'ioredis to a real redis-server behind a node: commands, pipelines, transactions, pub/sub',
  async (t) => {
    const directory = mkdtempSync(join(tmpdir(), 'kubebus-redis-'));
    const path = join(directory, 'socket');
    const args = ['--port', '0', '--unixsocket', path, '--dir', directory, '--save', '', '--appendonly', 'no'];
    const server = spawn('redis-server', args, { stdio: ['ignore', 'pipe', 'inherit'] });
    t.teardown(async () => {
      server.kill();
      if (server.exitCode === null) await once(server, 'exit');
      rmSync(directory, { recursive: true });
    });
    for await (const line of server.stdout) if (String(line).includes('ready to accept connections')) break;
    server.stdout.resume();
    // The node hands the connections on to the server of its host.
    const forward = b.l4.net.createServer((s) => {
      const host = net.connect(path);
      s.pipe(host).pipe(s);
      s.on('error', () => host.destroy());
      host.on('error', () => s.destroy());
    });
    forward.listen(6379);

    // Its own extension point: who makes the connection.
    class Overlay extends AbstractConnector {
      constructor(private readonly o: RedisOptions) {
        super(1_000);
      }
      connect(): Promise<net.Socket> {
        this.connecting = true;
        const stream = a.l4.net.connect(this.o.port!, this.o.host!) as unknown as net.Socket;
        this.stream = stream;
        return Promise.resolve(stream);
      }
    }
    const options = { host: 'edge-2', port: 6379, Connector: Overlay as never };
    const redis = new Redis(options);
    const failures: Error[] = [];
    redis.on('error', (error) => failures.push(error));
    t.is(await redis.set('greeting', 'hello'), 'OK');
    t.is(await redis.get('greeting'), 'hello');
    const large = randomBytes(3_000_000);
    await redis.set('large', large);
    t.true((await redis.getBuffer('large'))!.equals(large));
    const pipeline = redis.pipeline();
    for (let i = 0; i < 2_000; i++) pipeline.incr('count');
    t.is((await pipeline.exec())!.at(-1)![1], 2_000);
    t.deepEqual(await redis.multi().set('x', 1).get('x').exec(), [
      [null, 'OK'],
      [null, '1'],
    ]);

    const listener = new Redis(options);
    listener.on('error', (error) => failures.push(error));
    await listener.subscribe('news');
    const message = once(listener, 'message');
    t.is(await redis.publish('news', 'here'), 1);
    t.deepEqual(await message, ['news', 'here']);

    // Its connection lost, it connects again over the overlay and goes on.
    const again = once(redis, 'ready');
    redis.stream.destroy();
    await again;
    t.is(await redis.get('greeting'), 'hello');
    t.deepEqual(failures, []);
    await redis.quit();
    await listener.quit();
    forward.close();
    await once(forward, 'close');
  },
);

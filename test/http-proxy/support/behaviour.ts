// What HTTP can do, through the whole way: gateway, hub, node, service; Node's own clients and servers, ws and undici at both ends. The same
// whether the node's proxy reads each request or only joins connections (`direct`).

import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import http from 'node:http';
import net from 'node:net';
import test from 'ava';
import express from 'express';
import Fastify from 'fastify';
import { request as undici } from 'undici';
import { WebSocket, WebSocketServer } from 'ws';
import { ask, makeWorld, raw, until, type World } from './world.js';

/** Longer than a piece of memory that is used again, and different in each of them. */
const NOISE = randomBytes(3 * 1024 * 1024 + 17);

export function behaviour(direct: 'always' | 'never'): void {
  let world: World;
  const at = (path: string) => `/acme/edge-1/main${path}`;

  /** What the service does is said by the path. */
  let last: http.IncomingMessage;
  const closed: string[] = [];
  const service = http.createServer((req, res) => {
    last = req;
    const url = new URL(req.url!, 'http://x');
    const path = url.pathname;
    req.on('close', () => closed.push(path));
    if (path === '/echo') req.pipe(res);
    else if (path === '/see')
      res.end(JSON.stringify({ url: req.url, method: req.method, headers: req.headers, raw: req.rawHeaders }));
    else if (path === '/hash') {
      const hash = createHash('sha256');
      req.on('data', (chunk) => hash.update(chunk)).on('end', () => res.end(hash.digest('hex')));
    } else if (path === '/trailers') {
      res.writeHead(200, { trailer: 'X-Sum' });
      res.write('body');
      req.on('end', () => {
        res.addTrailers({ 'X-Sum': req.trailers['x-in'] ?? 'none' });
        res.end();
      });
      req.resume();
    } else if (path === '/hints') {
      res.writeEarlyHints({ link: '</style.css>; rel=preload' });
      res.end('late');
    } else if (path === '/range') {
      res.writeHead(206, { 'content-range': 'bytes 1-3/10', 'content-length': 3 });
      res.end('123');
    } else if (path === '/head') {
      res.writeHead(200, { 'content-length': 12345, etag: '"e"' });
      res.end();
    } else if (path === '/sse') {
      res.writeHead(200, { 'content-type': 'text/event-stream' });
      res.flushHeaders();
      req.socket.once('close', () => closed.push('sse socket'));
      pushes.push((text) => res.write(text));
    } else if (path === '/big') {
      let left = Number(url.searchParams.get('bytes'));
      const chunk = Buffer.alloc(64 * 1024, 7);
      const more = () => {
        while (left > 0) {
          left -= chunk.length;
          written += chunk.length;
          if (!res.write(chunk)) return void res.once('drain', more);
        }
        res.end();
      };
      more();
    } else if (path === '/noise') {
      res.writeHead(200, { 'content-length': NOISE.length });
      res.end(NOISE);
    } else if (path === '/redirect') {
      const to = url.searchParams.get('to')!;
      res.writeHead(302, {
        location: to,
        'set-cookie': ['a=1; Path=/; HttpOnly', 'b=2; Path=/x; Domain=example.test', 'c=3'],
      });
      res.end();
    } else if (path === '/hop') {
      res.writeHead(200, [
        'Connection',
        'X-Secret',
        'X-Secret',
        'no',
        'Keep-Alive',
        'timeout=9',
        'X-KubeBus-Tenant',
        'forged',
        'X-Kept',
        'yes',
      ]);
      res.end();
    } else if (path === '/cut') {
      res.writeHead(200, { 'content-length': 100 });
      res.write('half', () => req.socket.destroy());
    } else if (path === '/slam') req.socket.destroy();
    else if (path === '/early') {
      res.writeHead(413, { connection: 'close' });
      res.end('too much');
    } else if (path === '/stuck') stuck.push(res);
    else res.writeHead(404).end(`no ${path}`);
  });
  service.on('checkContinue', (req, res) => {
    if (req.url === '/refuse') res.writeHead(417).end('no');
    else {
      res.writeContinue();
      service.emit('request', req, res);
    }
  });
  const wss = new WebSocketServer({ server: service });
  wss.on('connection', (socket) => {
    socket.on('message', (data, binary) => socket.send(data, { binary }));
  });
  const pushes: ((text: string) => void)[] = [];
  const stuck: http.ServerResponse[] = [];
  let written = 0;
  let url = '';

  test.before(async () => {
    service.listen(0, '127.0.0.1');
    await once(service, 'listening');
    url = `http://127.0.0.1:${(service.address() as net.AddressInfo).port}`;
    world = await makeWorld(['acme/edge-1', 'acme/edge-2'], {
      gateways: [{ host: '127.0.0.1', port: 0, domains: ['example.test'], limits: { bodyBytes: 8 * 1024 * 1024 } }],
      http: { direct },
    });
    const edge = world.node('acme/edge-1');
    edge.publish('main', url, { public: true });
    edge.publish('sub', `${url}/see/..`.replace('/see/..', '/base'), { public: true });
    edge.publish('fast', url, { public: true, limits: { headersTimeoutMs: 300, idleTimeoutMs: 300 } });
    edge.publish('gone', 'http://127.0.0.1:9', { public: true, health: false });
    await until(() => world.cloud.services.list().length === 4);
  });
  test.after.always(async () => {
    wss.close();
    service.closeAllConnections();
    service.close();
    await world.close();
  });

  const see = async (path: string, headers: http.OutgoingHttpHeaders | readonly string[] = {}, host?: string) => {
    const { text } = await ask(world.gateway, path, {
      headers: Array.isArray(headers) ? (headers as string[]) : { ...headers, ...(host === undefined ? {} : { host }) },
    });
    return JSON.parse(text) as { url: string; headers: Record<string, string>; raw: string[] };
  };

  test.serial('path form and host form: what the service sees', async (t) => {
    const path = await see(at('/see?a=1&b=%20'));
    t.is(path.url, '/see?a=1&b=%20');
    t.is(path.headers['x-forwarded-prefix'], '/acme/edge-1/main');
    t.is(path.headers['x-forwarded-for'], '127.0.0.1');
    t.is(path.headers.host, `127.0.0.1:${world.gateway}`);
    t.is(path.headers.forwarded, `for=127.0.0.1;host="127.0.0.1:${world.gateway}";proto=http`);
    const host = await see('/see', {}, 'main.edge-1.acme.example.test');
    t.is(host.url, '/see');
    t.is(host.headers.host, 'main.edge-1.acme.example.test');
    t.is(host.headers['x-forwarded-prefix'], undefined);
  });

  test.serial('nobody forges who calls, and hop-by-hop fields end at the proxy', async (t) => {
    const { headers } = await see(at('/see'), {
      'X-KubeBus-Tenant': 'globex',
      'X-KubeBus-Node': 'boss',
      'X-KubeBus-Caller': 'plane',
      X_KubeBus_Tenant: 'globex',
      'x-kubebus-address': 'globex/x/y',
      Forwarded: 'for=1.2.3.4',
      'X-Forwarded-For': '1.2.3.4',
      'X-Real-IP': '1.2.3.4',
      X_Forwarded_Host: 'evil',
      Connection: 'close, X-Private',
      'X-Private': 'secret',
      'Proxy-Authorization': 'Basic x',
      TE: 'trailers, gzip',
      'X-Kept': 'yes',
    });
    t.deepEqual(
      Object.keys(headers).filter((name) => /kubebus|x_|private|proxy|real/.test(name)),
      ['x-kubebus-caller'],
    );
    t.is(headers['x-kubebus-caller'], 'internet');
    t.is(headers['x-forwarded-for'], '127.0.0.1');
    t.is(headers.te, 'trailers');
    t.is(headers['x-kept'], 'yes');
    t.is(headers.via, direct === 'always' ? '1.1 kubebus' : '1.1 kubebus, 1.1 kubebus');
    const back = await ask(world.gateway, at('/hop'));
    t.is(back.headers['x-secret'], undefined);
    t.is(back.headers['x-kubebus-tenant'], undefined);
    t.is(back.headers['x-kept'], 'yes');
  });

  test.serial('a service on another node sees whose call it is', async (t) => {
    const answer = await world.node('acme/edge-2').fetch('kubebus://acme/edge-1/main/see', {
      headers: { 'x-kubebus-tenant': 'globex', 'x-kubebus-caller': 'plane' },
    });
    const { headers } = (await answer.json()) as { headers: Record<string, string> };
    t.deepEqual(
      [headers['x-kubebus-caller'], headers['x-kubebus-tenant'], headers['x-kubebus-node']],
      ['tenant', 'acme', 'edge-2'],
    );
  });

  test.serial('redirects and cookies are those of the place where the caller sees the service', async (t) => {
    const location = async (to: string) => {
      const { headers } = await ask(world.gateway, at(`/redirect?to=${encodeURIComponent(to)}`));
      return headers.location;
    };
    t.is(await location('/login?x=1'), '/acme/edge-1/main/login?x=1');
    t.is(await location(`${url}/login`), '/acme/edge-1/main/login');
    t.is(await location(`http://127.0.0.1:${world.gateway}/login`), '/acme/edge-1/main/login');
    t.is(await location('login'), 'login');
    t.is(await location('../../../up'), '/acme/edge-1/main/up');
    t.is(await location('https://elsewhere.test/x'), 'https://elsewhere.test/x');
    t.is(await location('/acme/edge-1/main/knows'), '/acme/edge-1/main/knows');
    const { headers } = await ask(world.gateway, at('/redirect?to=/'));
    t.deepEqual(headers['set-cookie'], [
      'a=1; Path=/acme/edge-1/main/; HttpOnly',
      'b=2; Path=/acme/edge-1/main/x',
      'c=3',
    ]);
    const byHost = await ask(world.gateway, '/redirect?to=/login', {
      headers: { host: 'main.edge-1.acme.example.test' },
    });
    t.is(byHost.headers.location, '/login');
    t.deepEqual(byHost.headers['set-cookie'], ['a=1; Path=/; HttpOnly', 'b=2; Path=/x', 'c=3']);
    const bare = await ask(world.gateway, '/acme/edge-1/main?q=1');
    t.deepEqual([bare.status, bare.headers.location], [308, '/acme/edge-1/main/?q=1']);
  });

  test.serial('bodies: chunked both ways, lengths, HEAD, ranges, empty', async (t) => {
    const body = Buffer.from('x'.repeat(100_000));
    t.deepEqual((await ask(world.gateway, at('/echo'), { method: 'POST', body })).body, body);
    const chunked = await ask(world.gateway, at('/echo'), {
      method: 'PUT',
      headers: { 'transfer-encoding': 'chunked' },
      body: 'abc',
    });
    t.is(chunked.text, 'abc');
    const head = await ask(world.gateway, at('/head'), { method: 'HEAD' });
    t.deepEqual([head.status, head.headers['content-length'], head.headers.etag, head.text], [200, '12345', '"e"', '']);
    const range = await ask(world.gateway, at('/range'), { headers: { range: 'bytes=1-3' } });
    t.deepEqual([range.status, range.headers['content-range'], range.text], [206, 'bytes 1-3/10', '123']);
    t.is((await ask(world.gateway, at('/echo'), { method: 'POST' })).text, '');
    t.is((await ask(world.gateway, at('/see'), { method: 'DELETE' })).status, 200);
  });

  test.serial('trailers of requests and answers', async (t) => {
    const req = http.request({
      host: '127.0.0.1',
      port: world.gateway,
      path: at('/trailers'),
      method: 'POST',
      headers: { trailer: 'X-In', te: 'trailers', 'transfer-encoding': 'chunked' },
    });
    req.write('part');
    req.addTrailers({ 'X-In': '42' });
    req.end();
    const [res] = (await once(req, 'response')) as [http.IncomingMessage];
    res.resume();
    await once(res, 'end');
    t.is(res.trailers['x-sum'], '42');
    t.is((await ask(world.gateway, at('/trailers'))).trailers['x-sum'], 'none');
  });

  test.serial('100-continue comes from the service; a refusal as well; 103 passes', async (t) => {
    const req = http.request({
      host: '127.0.0.1',
      port: world.gateway,
      path: at('/echo'),
      method: 'POST',
      headers: { expect: '100-continue', 'content-length': 4 },
    });
    req.flushHeaders();
    await once(req, 'continue');
    req.end('body');
    const [res] = (await once(req, 'response')) as [http.IncomingMessage];
    res.setEncoding('utf8');
    const [text] = (await once(res, 'data')) as [string];
    t.is(text, 'body');

    const no = http.request({
      host: '127.0.0.1',
      port: world.gateway,
      path: at('/refuse'),
      method: 'POST',
      headers: { expect: '100-continue', 'content-length': 4 },
    });
    no.on('continue', () => t.fail('there was no word of the service'));
    no.on('error', () => {});
    no.flushHeaders();
    const [refused] = (await once(no, 'response')) as [http.IncomingMessage];
    t.is(refused.statusCode, 417);
    no.destroy();

    const hints = http.get({ host: '127.0.0.1', port: world.gateway, path: at('/hints') });
    const answered = once(hints, 'response') as Promise<[http.IncomingMessage]>;
    const [information] = (await once(hints, 'information')) as [
      { statusCode: number; headers: http.IncomingHttpHeaders },
    ];
    t.deepEqual([information.statusCode, information.headers.link], [103, '</style.css>; rel=preload']);
    const [late] = await answered;
    late.resume();
    t.is(late.statusCode, 200);
  });

  test.serial('server-sent events arrive one by one; when the watcher leaves, the service is told', async (t) => {
    const req = http.get({ host: '127.0.0.1', port: world.gateway, path: at('/sse') });
    const [res] = (await once(req, 'response')) as [http.IncomingMessage];
    res.setEncoding('utf8');
    t.is(res.headers['content-type'], 'text/event-stream');
    for (const text of ['data: 1\n\n', 'data: 2\n\n']) {
      pushes.at(-1)!(text);
      t.deepEqual(await once(res, 'data'), [text]);
    }
    req.destroy();
    await until(() => closed.includes('sse socket'));
    t.pass();
  });

  test.serial('an upload that its caller breaks off is broken off at the service', async (t) => {
    const req = http.request({ host: '127.0.0.1', port: world.gateway, path: at('/stuck'), method: 'POST' });
    req.on('error', () => {});
    const arrived = once(service, 'request') as Promise<[http.IncomingMessage]>;
    req.write('first');
    const [incoming] = await arrived;
    incoming.on('error', () => {});
    t.is(String((await once(incoming, 'data'))[0]), 'first');
    req.destroy();
    // (`once` would take the 'error' that comes first for a failure.)
    await new Promise((resolve) => incoming.on('close', resolve));
    t.false(incoming.complete);
  });

  test.serial('an answer that breaks in the middle is seen to be broken; one that never begins is 502', async (t) => {
    const error = await t.throwsAsync(ask(world.gateway, at('/cut')));
    t.is((error as NodeJS.ErrnoException).code, 'ECONNRESET');
    const answer = await ask(world.gateway, at('/slam'));
    t.deepEqual([answer.status, JSON.parse(answer.text).error.code], [502, 'ERR_HTTP_SERVICE_DOWN']);
  });

  test.serial('an early answer reaches a caller that is still sending', async (t) => {
    const req = http.request({
      host: '127.0.0.1',
      port: world.gateway,
      path: at('/early'),
      method: 'POST',
      headers: { 'content-length': 4_000_000 },
    });
    req.on('error', () => {});
    req.write(Buffer.alloc(100_000));
    const [res] = (await once(req, 'response')) as [http.IncomingMessage];
    t.is(res.statusCode, 413);
    req.destroy();
  });

  test.serial('too large: 413 by length, 413 on the way, 431 for header fields', async (t) => {
    const length = 9 * 1024 * 1024;
    t.is(
      (
        await ask(world.gateway, at('/hash'), {
          method: 'POST',
          headers: { 'content-length': length },
          body: Buffer.alloc(0),
        }).catch(() => ({ status: 0 }))
      ).status,
      413,
    );
    const req = http.request({ host: '127.0.0.1', port: world.gateway, path: at('/hash'), method: 'POST' });
    req.on('error', () => {});
    req.end(Buffer.alloc(length));
    const [res] = (await once(req, 'response')) as [http.IncomingMessage];
    t.is(res.statusCode, 413);
    req.destroy();
    const big = await ask(world.gateway, at('/see'), { headers: { 'x-big': 'x'.repeat(20_000) } });
    t.deepEqual([big.status, JSON.parse(big.text).error.code], [431, 'ERR_HTTP_HEADERS_TOO_LARGE']);
  });

  test.serial('no progress is 504 before the answer, and an end after it; progress is not bounded', async (t) => {
    const late = await ask(world.gateway, '/acme/edge-1/fast/stuck');
    t.deepEqual([late.status, JSON.parse(late.text).error.code], [504, 'ERR_HTTP_TIMEOUT']);
    const req = http.get({ host: '127.0.0.1', port: world.gateway, path: '/acme/edge-1/fast/sse' });
    const [res] = (await once(req, 'response')) as [http.IncomingMessage];
    pushes.at(-1)!('one');
    await t.throwsAsync(async () => {
      for await (const _part of res);
    });
  });

  test.serial('what cannot be: status, code, Retry-After, request id, and text for who wants text', async (t) => {
    const code = async (path: string, headers: http.OutgoingHttpHeaders = {}) => {
      const { status, text, headers: back } = await ask(world.gateway, path, { headers });
      const { error } = JSON.parse(text) as { error: { code: string; requestId: string; reason: string } };
      t.is(error.requestId, back['x-request-id'] as string);
      t.true(error.reason.length > 5);
      return `${status} ${error.code}`;
    };
    t.is(await code('/'), '404 ERR_HTTP_ADDRESS');
    t.is(await code('/nobody/edge-1/main/'), '404 ERR_HTTP_TENANT_UNKNOWN');
    t.is(await code('/acme/edge-9/main/'), '404 ERR_HTTP_NODE_UNKNOWN');
    t.is(await code('/acme/edge-1/nothing/'), '404 ERR_HTTP_SERVICE_UNKNOWN');
    t.is(await code('/acme/edge-1/gone/'), '502 ERR_HTTP_SERVICE_DOWN');
    t.is(await code(at('/../x')), '400 ERR_HTTP_BAD_REQUEST');
    const text = await ask(world.gateway, '/acme/edge-1/nothing/', { headers: { accept: 'text/html' } });
    t.regex(text.text, /^404 .*\nERR_HTTP_SERVICE_UNKNOWN, request \S+\n$/);
    t.is((await ask(world.gateway, at('/see'), { headers: { 'x-request-id': 'my-own-id-1' } })).status, 200);
    t.is(last.headers['x-request-id'], 'my-own-id-1');
  });

  test.serial('WebSocket: messages both ways, subprotocol errors, close from either side, head bytes', async (t) => {
    const socket = new WebSocket(`ws://127.0.0.1:${world.gateway}${at('/ws')}`);
    await once(socket, 'open');
    for (const data of ['text', Buffer.alloc(100_000, 1)]) {
      socket.send(data);
      const [back] = (await once(socket, 'message')) as [Buffer];
      t.deepEqual(back, Buffer.from(data));
    }
    socket.close(4001, 'bye');
    const [code] = (await once(socket, 'close')) as [number];
    t.is(code, 4001);
    const other = new WebSocket(`ws://main.edge-1.acme.example.test/ws`, {
      createConnection: () => net.connect(world.gateway, '127.0.0.1'),
    } as object);
    await once(other, 'open');
    const [far] = [...wss.clients].slice(-1);
    far!.terminate();
    await once(other, 'close');
    const refused = new WebSocket(`ws://127.0.0.1:${world.gateway}/acme/edge-1/nothing/ws`);
    const [error] = (await once(refused, 'error')) as [Error];
    t.regex(error.message, /404/);
  });

  test.serial('many WebSockets at once', async (t) => {
    const sockets = await Promise.all(
      Array.from({ length: 100 }, async (_, i) => {
        const socket = new WebSocket(`ws://127.0.0.1:${world.gateway}${at('/ws')}`);
        await once(socket, 'open');
        const back = once(socket, 'message') as Promise<[Buffer]>;
        socket.send(`hello ${i}`);
        t.is((await back)[0].toString(), `hello ${i}`);
        return socket;
      }),
    );
    for (const socket of sockets) socket.terminate();
    await until(() => wss.clients.size === 0);
  });

  test.serial('a download waits for its reader: what the service can write is bounded', async (t) => {
    written = 0;
    const bytes = 256 * 1024 * 1024;
    const req = http.get({ host: '127.0.0.1', port: world.gateway, path: at(`/big?bytes=${bytes}`) });
    const [res] = (await once(req, 'response')) as [http.IncomingMessage];
    res.pause();
    // Nothing is read: the service comes to a stop, which shows as no growth over many turns of the loop.
    for (let still = 0, before = -1; still < 2_000; still = written === before ? still + 1 : 0) {
      before = written;
      await new Promise((resolve) => setImmediate(resolve));
    }
    t.true(written < 64 * 1024 * 1024, `${written} bytes are under way`);
    req.destroy();
  });

  test.serial('large answers side by side, to readers that pause: every byte is right', async (t) => {
    const sum = createHash('sha256').update(NOISE).digest('hex');
    const one = async (slow: boolean) => {
      const req = http.get({ host: '127.0.0.1', port: world.gateway, path: at('/noise'), agent: false });
      const [res] = (await once(req, 'response')) as [http.IncomingMessage];
      const hash = createHash('sha256');
      for await (const chunk of res) {
        hash.update(chunk as Buffer);
        if (slow) await new Promise((resolve) => setImmediate(resolve));
      }
      return hash.digest('hex');
    };
    for (let round = 0; round < 3; round++) {
      const sums = await Promise.all(Array.from({ length: 8 }, (_, i) => one(i % 2 === 0)));
      t.deepEqual(sums, Array<string>(8).fill(sum));
    }
  });

  test.serial('keep-alive: many requests, few connections to the service', async (t) => {
    const before = await new Promise<number>((resolve) => service.getConnections((_e, n) => resolve(n)));
    const agent = new http.Agent({ keepAlive: true, maxSockets: 1 });
    for (let i = 0; i < 50; i++) t.is((await ask(world.gateway, at('/see'), { agent })).status, 200);
    const after = await new Promise<number>((resolve) => service.getConnections((_e, n) => resolve(n)));
    t.true(after - before <= 2, `${after - before} more`);
    agent.destroy();
  });

  test.serial('express, fastify and an http.Server as services of the process', async (t) => {
    const edge = world.node('acme/edge-2');
    const app = express();
    app.get('/who/:name', (req, res) => {
      res.json({
        name: req.params.name,
        caller: req.header('x-kubebus-caller'),
        forged: req.header('x-kubebus-tenant') ?? null,
      });
    });
    edge.publish('express', app, { public: true });
    const fastify = Fastify();
    fastify.post('/sum', async (req) => ({ sum: (req.body as number[]).reduce((a, b) => a + b, 0) }));
    await fastify.ready();
    edge.publish('fastify', (req, res) => fastify.routing(req, res), { public: true });
    const server = http.createServer();
    const sockets = new WebSocketServer({ server });
    sockets.on('connection', (socket) => socket.send('hi'));
    edge.publish('ws', server, { public: true });
    await until(() => world.cloud.services.list().filter((s) => s.node === 'edge-2').length === 3);
    const who = await ask(world.gateway, '/acme/edge-2/express/who/me', { headers: { 'x-kubebus-tenant': 'forged' } });
    t.deepEqual(JSON.parse(who.text), { name: 'me', caller: 'internet', forged: null });
    const { body } = await undici(`http://127.0.0.1:${world.gateway}/acme/edge-2/fastify/sum`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: '[1,2,3]',
    });
    t.deepEqual(await body.json(), { sum: 6 });
    const socket = new WebSocket(`ws://127.0.0.1:${world.gateway}/acme/edge-2/ws/`);
    t.is(String((await once(socket, 'message'))[0]), 'hi');
    socket.terminate();
    sockets.close();
    await fastify.close();
  });

  test.serial('HTTP/1.0 and pipelined requests get their answers in order', async (t) => {
    const old = await raw(world.gateway, `GET ${at('/range')} HTTP/1.0\r\nHost: x\r\n\r\n`);
    t.regex(old, /^HTTP\/1\.1 206 [\s\S]*123$/);
    const two = await raw(
      world.gateway,
      `GET ${at('/range')} HTTP/1.1\r\nHost: x\r\n\r\nGET ${at('/no')} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n`,
    );
    t.regex(two, /206 [\s\S]*123HTTP\/1\.1 404 [\s\S]*no \/no/);
  });
}

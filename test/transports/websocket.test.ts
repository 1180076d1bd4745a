// WebSocket links: direct, behind nginx that ends the TLS, through a proxy, with somebody in between.
import { once } from 'node:events';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import https from 'node:https';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { has } from '../../examples/lab/netns.js';
import { KubeBusCloud, KubeBusNode } from '../../lib/index.js';
import { type Authority, cloudNames, createAuthority, nodeNames } from '../../lib/join/driver/pki.js';
import { shortLived } from '../../transports/web/short-lived.js';
import { type WebSocketOptions, webSocketTransport } from '../../transports/websocket.js';
import { foreignServer } from '../support/foreign-server.js';
import { tlsMiddle } from '../support/tls-middle.js';
import { transfer } from '../support/transfer.js';

const ca = await createAuthority('test CA');
const other = await createAuthority('another CA');
const listenAt = { host: '127.0.0.1', port: 0 };

async function cloud(t: ExecutionContext, options: Partial<WebSocketOptions> = {}) {
  const issued = await ca.issue({ name: 'cloud', days: 1, names: cloudNames('cloud', ['127.0.0.1']), server: true });
  const running = await KubeBusCloud.start({
    transports: [webSocketTransport({ listen: listenAt, tls: { ca: ca.cert, ...issued }, ...options })],
    tenants: { acme: { pools: ['10.80.0.0/16'] } },
  });
  t.teardown(() => running.stop());
  return { running, port: Number(new URL(running.addresses[0]!).port) };
}

async function transportOf(node: string, authority: Authority = ca) {
  const leaf = await authority.issue({ name: node, days: 1, names: nodeNames('acme', node, []) });
  return webSocketTransport({ tls: { ca: ca.cert, ...leaf } });
}

async function join2(t: ExecutionContext, port: number, node: string) {
  const joined = await KubeBusNode.join({
    cloud: [`kubebus://127.0.0.1:${port}`],
    transport: await transportOf(node),
    tenant: 'acme',
    node,
  });
  t.teardown(() => joined.stop());
  return joined;
}

test('an overlay over WebSockets', async (t) => {
  const { running, port } = await cloud(t);
  const [a, b] = [await join2(t, port, 'a'), await join2(t, port, 'b')];
  t.is((await a.ping(b.addresses[0]!, { count: 3, intervalMs: 0 })).lost, 0);
  t.true(await transfer(a, b, 4 * 1024 * 1024));
  const gone = once(b, 'down');
  await running.stop();
  t.is(((await gone)[0] as { code?: string }).code, 'ERR_PEER_GOODBYE');
});

const nginxTest: typeof test | typeof test.skip =
  has('nginx') || process.env.KUBEBUS_REQUIRE_ALL === '1' ? test : test.skip;
nginxTest('behind nginx, which ends the TLS with a certificate of its own (needs nginx)', async (t) => {
  const front = await shortLived();
  const { port } = await cloud(t, { behind: { certificates: [front.cert] } });
  const dir = await mkdtemp(join(tmpdir(), 'kubebus-nginx-'));
  t.teardown(() => rm(dir, { recursive: true, force: true }));
  await writeFile(join(dir, 'cert.pem'), front.cert);
  await writeFile(join(dir, 'key.pem'), front.key);
  const conf = (own: number) =>
    `daemon off; pid ${dir}/pid; error_log ${dir}/error.log; events {}
     http { access_log off; client_body_temp_path ${dir}/b; proxy_temp_path ${dir}/p; fastcgi_temp_path ${dir}/f; uwsgi_temp_path ${dir}/u; scgi_temp_path ${dir}/s;
       server { listen 127.0.0.1:${own} ssl; ssl_certificate ${dir}/cert.pem; ssl_certificate_key ${dir}/key.pem;
         location /kubebus { proxy_pass http://127.0.0.1:${port}; proxy_http_version 1.1;
           proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade; } } }`;
  const public_ = await foreignServer(t, 'nginx', async (own) => {
    await writeFile(join(dir, 'nginx.conf'), conf(own));
    return ['-c', join(dir, 'nginx.conf'), '-p', dir];
  });
  const [a, b] = [await join2(t, public_, 'a'), await join2(t, public_, 'b')];
  t.true(await transfer(a, b, 2 * 1024 * 1024));
  // What is not the path of links stays nginx's and ours to refuse.
  const status = await new Promise<number>((resolve, reject) => {
    https
      .get({ host: '127.0.0.1', port: public_, path: '/kubebus', rejectUnauthorized: false }, (response) => {
        response.resume();
        resolve(response.statusCode ?? 0);
      })
      .on('error', reject);
  });
  t.is(status, 426);
});

test('a node of another CA is refused with the reason on its side', async (t) => {
  const { port } = await cloud(t);
  const error = await t.throwsAsync(
    (await transportOf('a', other)).dial(`kubebus://127.0.0.1:${port}`, AbortSignal.timeout(30_000)),
  );
  t.is((error as { code?: string }).code, 'ERR_CERTIFICATE');
  t.regex(error!.message, /not signed by our CA/);
});

test('somebody in between who ends the TLS is found out', async (t) => {
  const { port } = await cloud(t);
  const through = await tlsMiddle(t, port, 'http/1.1');
  const error = await t.throwsAsync((await transportOf('a')).dial(through, AbortSignal.timeout(30_000)));
  t.regex(error!.message, /in between/);
});

test('what is no link is answered as HTTP: another path, no upgrade', async (t) => {
  const { port } = await cloud(t);
  const ask = (path: string, headers: Record<string, string>) =>
    new Promise<number>((resolve, reject) => {
      https
        .get({ host: '127.0.0.1', port, path, rejectUnauthorized: false, headers, agent: false }, (response) => {
          response.resume();
          resolve(response.statusCode ?? 0);
        })
        .on('error', reject);
    });
  t.is(await ask('/', {}), 426);
  const upgrade = { connection: 'upgrade', upgrade: 'websocket' };
  t.is(await ask('/admin', upgrade), 404);
  t.is(await ask('/kubebus', upgrade), 400, 'no key of a WebSocket handshake');
});

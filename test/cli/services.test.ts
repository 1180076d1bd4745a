// The HTTP layer's options and `kubebus services`, with real processes: a cloud with a gateway, an edge that publishes, curl's part played by Node.

import { readFileSync } from 'node:fs';
import http from 'node:http';
import type { AddressInfo } from 'node:net';
import test, { type ExecutionContext } from 'ava';
import { forward, gatewaysOf, publication } from '../../examples/cli/services.js';
import { makePki, type Pki } from './support/pki.js';
import { Kubebus, type Line } from './support/process.js';
import { run } from './support/run.js';

let pki: Pki;
const web = http.createServer((req, res) => res.end(`web ${req.url} for ${req.headers['x-kubebus-caller']}`));

test.before(async () => {
  pki = await makePki();
  await pki.node('acme', 'e1');
  await new Promise<void>((resolve) => web.listen(0, '127.0.0.1', resolve));
});
test.after.always(async () => {
  web.close();
  await pki.remove();
});

function start(t: ExecutionContext, ...argv: string[]): Kubebus {
  const process = new Kubebus(...argv);
  t.teardown(() => process.stop('SIGKILL'));
  return process;
}

const listener = (up: Line, kind: string) =>
  (up.listeners as { kind: string; address: string }[]).find((l) => l.kind === kind)!.address;

test('published on an edge, called through gateway, proxy and forwarded port, and listed in three formats', async (t) => {
  const [cloudSocket, edgeSocket, log] = [pki.file('c.sock'), pki.file('e.sock'), pki.file('access.log')];
  const { port } = web.address() as AddressInfo;
  const cloud = start(
    t,
    ...['cloud', '--listen', '127.0.0.1:0', '--tenant', 'acme=10.80.0.0/16', ...pki.flags('cloud')],
    ...['--gateway', '127.0.0.1:0', '--gateway-domain', 'example.test', '--proxy', '0', '--access-log', log],
    ...['--status-socket', cloudSocket],
  );
  const up = await cloud.says(/^cloud up$/);
  const edge = start(
    t,
    ...['edge', '--cloud', (up.addresses as string[])[0]!, ...pki.flags('acme-e1'), '--status-socket', edgeSocket],
    ...['--publish', `web=http://127.0.0.1:${port},public,grant=globex,health=/ok`, '--publish', 'own=127.0.0.1:9'],
    ...['--publish', `raw=tcp://127.0.0.1:${port},port=8080`, '--proxy', '0', '--forward', '0=acme/e1/raw'],
  );
  const edgeUp = await edge.says(/^edge up$/);
  const services = async (...more: string[]) => {
    const { code, out, err } = await run('services', '--socket', ...more);
    t.is(code, 0, err);
    return out;
  };
  // The edge is up before its services are known everywhere.
  let listed: { name: string; healthy: boolean }[] = [];
  while (listed.length < 3) listed = JSON.parse(await services(cloudSocket, '--format', 'json'));
  t.deepEqual(listed.map((s) => s.name).sort(), ['own', 'raw', 'web']);

  const get = async (url: string) => (await fetch(url)).text();
  t.is(await get(`http://${listener(up, 'gateway')}/acme/e1/web/a?b`), 'web /a?b for internet');
  t.is(await get(`http://${listener(up, 'proxy')}/acme/e1/web/`), 'web / for plane');
  t.is(await get(`http://${listener(edgeUp, 'proxy')}/acme/e1/web/`), 'web / for tenant');
  t.is(await get(`http://${listener(edgeUp, 'forward acme/e1/raw')}/x`), 'web /x for undefined');

  const table = await services(cloudSocket);
  const rows = table.split('\n').map((line) => line.split(/ {2,}/));
  t.deepEqual(rows[0], ['service', 'kind', 'state', 'open to', 'instances', 'requests', 'bytes']);
  const row = (name: string) => rows.find((cells) => cells[0] === `acme/e1/${name}`)!;
  t.deepEqual(row('web'), ['acme/e1/web', 'http', 'up', 'public', '1', '2', '36 B']);
  t.deepEqual([row('raw')[1], row('raw')[3]], ['tcp:8080', 'tenant']);
  t.regex(await services(edgeSocket), /^acme\/e1\/web +http +up +public +1 +\d+ /m);
  const metrics = await services(cloudSocket, '--format', 'prometheus');
  t.regex(metrics, /^kubebus_http_requests_total\{tenant="acme",node="e1",service="web",status="2xx"\} 2$/m);

  const none = await fetch(`http://${listener(up, 'gateway')}/acme/e1/own/`);
  t.is(none.status, 403);
  // Without a word: its services stay known.
  await edge.stop('SIGKILL');
  await cloud.says(/^node left/);
  t.regex(await services(cloudSocket), /^acme\/e1\/web +http +offline +public +/m);
  t.is((await fetch(`http://${listener(up, 'gateway')}/acme/e1/web/`)).status, 503);
  t.is(await cloud.stop(), 0, cloud.err);
  const entries = readFileSync(log, 'utf8')
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line));
  t.deepEqual(
    entries.map((e) => [e.status, e.caller, e.path, e.error]),
    [
      [200, 'internet', '/acme/e1/web/a', undefined],
      [200, 'plane', '/acme/e1/web/', undefined],
      [403, 'internet', '/acme/e1/own/', 'ERR_HTTP_FORBIDDEN'],
      [503, 'internet', '/acme/e1/web/', 'ERR_HTTP_NODE_OFFLINE'],
    ],
  );
});

test('--publish: what it means, and what it cannot mean', (t) => {
  t.deepEqual(publication('a=127.0.0.1:80'), { name: 'a', urls: ['http://127.0.0.1:80'], options: { grant: [] } });
  t.deepEqual(publication('a=unix:/run/a.sock:/base,https://b,public,grant=x,grant=y,health=/h,host=target,port=5'), {
    name: 'a',
    urls: ['unix:/run/a.sock:/base', 'https://b'],
    options: { public: true, grant: ['x', 'y'], health: { path: '/h' }, host: 'target', port: 5 },
  });
  for (const bad of ['a', 'a=', '=b', 'A=b', 'a=public', 'a=b,health=h', 'a=b,host=x', 'a=b,port=0', 'a=b,grant=X']) {
    t.throws(() => publication(bad), { name: 'InvalidArgumentError' }, bad);
  }
});

test('--forward: on loopback unless it says otherwise', (t) => {
  t.deepEqual(forward('5432=acme/e1:5432'), { host: '127.0.0.1', port: 5432, target: 'acme/e1:5432' });
  t.deepEqual(forward('[::]:0=acme/e1/pg'), { host: '::', port: 0, target: 'acme/e1/pg' });
  for (const bad of ['5432', '=x', 'x=', '70000=a/b:1', 'a b=c'])
    t.throws(() => forward(bad), { name: 'InvalidArgumentError' }, bad);
});

test('gateways: certificate and key go together, a redirect needs them', (t) => {
  const gateway = [{ host: '0.0.0.0', port: 443 }];
  t.throws(() => gatewaysOf({ gateway, gatewayCert: 'a' }), { message: /go together/ });
  t.throws(() => gatewaysOf({ gateway, gatewayRedirect: { host: '', port: 80 } }), { message: /needs '--gateway'/ });
  const made = gatewaysOf({
    gateway,
    gatewayCert: 'a',
    gatewayKey: 'b',
    gatewayRedirect: { host: '0.0.0.0', port: 80 },
    gatewayTrust: true,
    clientRate: 5,
    tenantRate: 9,
  });
  t.deepEqual(made, [
    {
      ...{ host: '0.0.0.0', port: 443, tls: { cert: 'a', key: 'b' }, trustForwarded: true },
      ...{ clientRate: { perSecond: 5 }, tenantRate: { perSecond: 9 } },
    },
    { host: '0.0.0.0', port: 80, redirectToHttps: 443 },
  ]);
});

test('kubebus services: mistakes are named', async (t) => {
  const wrong = await run('services', '--socket', pki.file('none.sock'));
  t.is(wrong.code, 1);
  t.regex(wrong.err, /none\.sock/);
  t.regex((await run('services', '--socket', 'x', '--format', 'xml')).err, /not table, json or prometheus: xml/);
  t.regex((await run('services')).err, /'--socket <path>' not specified|'--socket/);
});

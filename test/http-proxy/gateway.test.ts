// What belongs to a gateway alone: rates, access log, metrics, redirect to https, a trusted proxy in front.

import test from 'ava';
import type { AccessEntry } from '../../lib/index.js';
import { ask, makeWorld, until } from './support/world.js';

test('rates by client and by tenant, access log, metrics, redirect, trusted proxy', async (t) => {
  const log: AccessEntry[] = [];
  const accessLog = (entry: AccessEntry) => log.push(entry);
  const at = { host: '127.0.0.1', port: 0 };
  const slow = { perSecond: 0.001, burst: 2 };
  const world = await makeWorld(['acme/edge-1', 'globex/edge-1'], {
    gateways: [
      { ...at, accessLog },
      { ...at, clientRate: slow },
      { ...at, tenantRate: slow },
      { ...at, redirectToHttps: 8443 },
      { ...at, trustForwarded: true },
    ],
  });
  t.teardown(() => world.close());
  for (const tenant of ['acme', 'globex']) {
    world.node(`${tenant}/edge-1`).publish('web', (req, res) => res.end(JSON.stringify(req.headers)), { public: true });
  }
  await until(() => world.cloud.services.list().length === 2);
  const [plain, byClient, byTenant, redirect, trusting] = world.cloud.gateways.map((g) => g.port) as [
    number,
    number,
    number,
    number,
    number,
  ];
  const status = async (port: number, path = '/acme/edge-1/web/') => (await ask(port, path)).status;

  t.deepEqual(
    [await status(byClient), await status(byClient, '/globex/edge-1/web/'), await status(byClient)],
    [200, 200, 429],
  );
  t.deepEqual(
    [
      await status(byTenant),
      await status(byTenant),
      await status(byTenant),
      await status(byTenant, '/globex/edge-1/web/'),
    ],
    [200, 200, 429, 200],
  );
  t.truthy((await ask(byTenant, '/acme/edge-1/web/')).headers['retry-after']);

  await ask(plain, '/acme/edge-1/web/a?token=secret', { headers: { 'x-request-id': 'one-request' } });
  await ask(plain, '/acme/edge-1/none/');
  await until(() => log.length === 2);
  const [done, refused] = log as [AccessEntry, AccessEntry];
  t.like(done, {
    requestId: 'one-request',
    caller: 'internet',
    client: '127.0.0.1',
    method: 'GET',
    path: '/acme/edge-1/web/a',
    tenant: 'acme',
    node: 'edge-1',
    service: 'web',
    status: 200,
  });
  t.true(done.bytesOut > 100 && done.ms > 0);
  t.false(JSON.stringify(log).includes('secret'));
  t.like(refused, { status: 404, error: 'ERR_HTTP_SERVICE_UNKNOWN' });
  const metrics = world.cloud.services.metrics.prometheus();
  t.regex(metrics, /kubebus_http_requests_total\{tenant="globex",node="edge-1",service="web",status="2xx"\} 2\n/);
  t.regex(metrics, /kubebus_http_refused_total\{code="ERR_HTTP_RATE_LIMITED"\} 3\n/);

  const moved = await ask(redirect, '/acme/edge-1/web/?x', { headers: { host: 'gw.test:8080' } });
  t.deepEqual([moved.status, moved.headers.location], [308, 'https://gw.test:8443/acme/edge-1/web/?x']);

  const headers = {
    forwarded: 'for=192.0.2.1',
    'x-forwarded-for': '192.0.2.1',
    'x-forwarded-proto': 'https',
    'x-kubebus-tenant': 'acme',
  };
  const seen = JSON.parse((await ask(trusting, '/acme/edge-1/web/', { headers })).text) as Record<string, string>;
  t.is(seen['x-forwarded-for'], '192.0.2.1, 127.0.0.1');
  t.is(seen['x-forwarded-proto'], 'https');
  t.regex(seen.forwarded!, /^for=192\.0\.2\.1, for=127\.0\.0\.1;/);
  t.is(seen['x-kubebus-tenant'], undefined);
});

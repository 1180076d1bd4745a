// Routes, names and tenants as a user sees them.

import { once } from 'node:events';
import test from 'ava';
import { SECOND } from '../../lib/core/index.js';
import type { KubeBusNode } from '../../lib/index.js';
import { Overlay } from './support/overlay.js';

const subnets = (node: KubeBusNode) =>
  node.routes().flatMap((r) => (r.kind === 'edge' ? [] : [`${r.prefix} ${r.kind} ${r.node}`]));

test('routes come and go while everybody is connected, without a new start of anybody', async (t) => {
  const net = new Overlay(t);
  await net.cloud();
  const edge = await net.join('edge');
  const router = await net.join('router', { advertise: [{ prefix: '10.1.0.0/24', kind: 'vm' }] });
  await net.until(() => subnets(edge).length === 1);
  t.deepEqual(subnets(edge), ['10.1.0.0/24 vm router']);
  router.advertise([
    { prefix: '10.1.0.0/24', kind: 'vm', metric: 7 },
    { prefix: '10.244.0.0/16', kind: 'container' },
    { prefix: 'fd01::/48', kind: 'vm' },
  ]);
  await net.until(() => subnets(edge).length === 3);
  t.is(edge.routes().find((r) => r.prefix === '10.1.0.0/24')?.metric, 7);
  router.advertise([{ prefix: '10.244.0.0/16', kind: 'container' }]);
  await net.until(() => subnets(edge).length === 1);
  t.deepEqual(subnets(edge), ['10.244.0.0/16 container router']);
  router.advertise([]);
  await net.until(() => subnets(edge).length === 0);
  t.deepEqual(subnets(router), [], 'one’s own are not among the routes of others');
});

test('an overlapping route is refused on both sides by its code, and stands when the other is withdrawn', async (t) => {
  const net = new Overlay(t);
  const cloud = await net.cloud();
  const first = await net.join('first', { advertise: [{ prefix: '10.1.0.0/16', kind: 'vm' }] });
  await net.until(() => cloud.nodes()[0]!.routes.length === 1);
  const second = await net.join('second');
  const refused: string[] = [];
  second.on('refused', (reason) => refused.push(`${reason.code} ${reason.side} ${reason.message}`));
  second.advertise([
    { prefix: '10.1.2.0/24', kind: 'vm' },
    { prefix: '10.2.0.0/16', kind: 'vm' },
  ]);
  await net.until(() => refused.length > 0);
  t.deepEqual(refused, ['ERR_ROUTE_OVERLAP remote 10.1.2.0/24 is inside 10.1.0.0/16 of first']);
  t.true(net.log.some((line) => line.startsWith('warn ERR_ROUTE_OVERLAP')));
  await net.until(() => subnets(first).length === 1);
  t.deepEqual(subnets(first), ['10.2.0.0/16 vm second']);
  first.advertise([]);
  await net.until(() => subnets(first).length === 2);
  t.deepEqual(subnets(first).sort(), ['10.1.2.0/24 vm second', '10.2.0.0/16 vm second']);
});

test('hold time: routes of a node that is away stay for it and then go; its own does not matter meanwhile', async (t) => {
  const net = new Overlay(t);
  const cloud = await net.cloud({ holdMs: 4_000 });
  const edge = await net.join('edge');
  const router = await net.join('router', { advertise: [{ prefix: '10.1.0.0/24', kind: 'vm' }] });
  await net.until(() => subnets(edge).length === 1);
  await net.settle(router.stop());
  await net.until(() => cloud.nodes().length === 1);
  await net.pass(3 * SECOND);
  t.deepEqual(subnets(edge), ['10.1.0.0/24 vm router']);
  const back = await net.join('router', { advertise: [{ prefix: '10.1.0.0/24', kind: 'vm' }] });
  await net.pass(6 * SECOND);
  t.deepEqual(subnets(edge), ['10.1.0.0/24 vm router'], 'it came back in time');
  await net.settle(back.stop());
  await net.pass(5 * SECOND);
  t.deepEqual(subnets(edge), []);
  t.is(edge.routes().find((r) => r.node === 'router')?.prefix, `${back.addresses[0]}/32`, 'its address stays its own');
});

test('names: nodes, the full form, the cloud; not those of another tenant, not of who was forgotten', async (t) => {
  const net = new Overlay(t);
  const cloud = await net.cloud({
    name: 'hub',
    tenants: { acme: { pools: ['10.80.0.0/16', 'fd80::/64'] }, blue: { pools: ['10.80.0.0/16'] } },
  });
  const [a, b] = [await net.join('a'), await net.join('b')];
  await net.join('only-blue', { tenant: 'blue' });
  await net.until(() => a.routes().length > 0);
  // Nobody listens there: the refusal tells which address was meant.
  const lookup = async (host: string, family = 4) => {
    const [error] = (await net.settle(
      once(a.net.connect({ host, port: 9, family: family as 4 | 6 }).resume(), 'close').catch((e) => [e]),
    )) as [NodeJS.ErrnoException & { address?: string }];
    return error.code === 'ECONNREFUSED' ? error.address : error.code;
  };
  t.is(await lookup('b'), b.addresses[0]);
  t.is(await lookup('b', 6), b.addresses[1]);
  t.is(await lookup('b.acme.kubebus'), b.addresses[0]);
  t.is(await lookup('a'), a.addresses[0]);
  for (const stranger of ['only-blue', 'b.blue.kubebus', 'c', 'b.acme'])
    t.is(await lookup(stranger), 'ENOTFOUND', stranger);
  await net.settle(b.stop());
  await net.until(() => cloud.nodes().length === 2);
  t.is(await lookup('b'), 'ENETUNREACH', 'away');
  t.true(cloud.forget('acme', 'b'));
  await net.pass(SECOND);
  t.is(await lookup('b'), 'ENOTFOUND', 'forgotten');
});

test('tenants: the same pools, prefixes, addresses and names in each, and no way between them', async (t) => {
  const net = new Overlay(t);
  const pools = ['10.80.0.0/16', 'fd80::/64'];
  const cloud = await net.cloud({ tenants: { acme: { pools }, blue: { pools } } });
  const advertise = [{ prefix: '10.1.0.0/24', kind: 'vm' as const }];
  const of = async (tenant: string) => [await net.join('x', { tenant, advertise }), await net.join('y', { tenant })];
  const [[ax, ay], [bx]] = [await of('acme'), await of('blue')] as [KubeBusNode[], KubeBusNode[]];
  t.deepEqual([ax!.addresses, ay!.addresses], [bx!.addresses, ['10.80.0.3', 'fd80::3']]);
  await net.until(() => subnets(ay!).length === 1);
  t.is(cloud.nodes().length, 4);
  // A third node of one tenant only: whoever has the same address in the other is not it.
  const third = await net.join('z', { tenant: 'acme' });
  t.true(await net.ping(ax!, third.addresses[0]!));
  t.false(await net.ping(bx!, third.addresses[0]!));
  t.deepEqual(
    bx!.routes().filter((r) => r.node === 'z'),
    [],
  );
  await t.throwsAsync(net.cloud({ tenants: { 'not a name': { pools } } }), { code: 'ERR_INVALID_ARGUMENT' });
});

test('IPv6 alone: addresses, names, ping and routes', async (t) => {
  const net = new Overlay(t);
  await net.cloud({ tenants: { acme: { pools: ['fd80:0:0:1::/64'] } } });
  const a = await net.join('a', { advertise: [{ prefix: 'fd01::/48', kind: 'vm' }] });
  const b = await net.join('b');
  t.deepEqual([a.addresses, b.addresses, a.gateway], [['fd80:0:0:1::2'], ['fd80:0:0:1::3'], ['fd80:0:0:1::1']]);
  t.true(await net.ping(a, b.addresses[0]!));
  t.true(await net.ping(b, b.gateway[0]!));
  await net.until(() => subnets(b).length === 1);
  await t.throwsAsync(a.ping('10.80.0.1'), { code: 'ERR_INVALID_ARGUMENT', message: /no IPv4 address/ });
});

test('a stream of changes: each increment tells of all that came since the last, which is at least 50 ms ago', async (t) => {
  const net = new Overlay(t);
  const cloud = await net.cloud();
  const [router, edge] = [await net.join('router'), await net.join('edge')];
  await net.pass(SECOND);
  const updates = () => (cloud.stats().tenants as { acme: { control: { updates: number } } }).acme.control.updates;
  const before = updates();
  // A change every 10 ms for a second: a hundred of them, and at most 21 increments to two nodes.
  const at = net.world.now();
  for (let i = 0; i < 100; i++) {
    router.advertise([{ prefix: `10.1.${i}.0/24`, kind: 'vm' }]);
    await net.pass(10_000);
  }
  await net.until(() => subnets(edge).join() === '10.1.99.0/24 vm router');
  t.true(net.world.now() - at < 1.2 * SECOND);
  const increments = (updates() - before) / 2;
  // One is one withdrawal and one addition, each a message.
  t.true(increments > 20 && increments <= 2 * 22, `${increments}`);
});

test('bounds of routes: per node, per tenant at the cloud, and at a node that is told too many', async (t) => {
  const net = new Overlay(t);
  const cloud = await net.cloud({ controlLimits: { routesPerNode: 3, routesPerTenant: 4 } });
  const small = await net.join('small', { controlLimits: { routesPerTenant: 1 } });
  const list = (second: number, n: number) =>
    Array.from({ length: n }, (_, i) => ({ prefix: `10.${second}.${i}.0/24`, kind: 'vm' as const }));
  const codes: string[] = [];
  const note = (reason: { code: string }) => void codes.push(reason.code);
  const a = await net.join('a');
  const b = await net.join('b');
  for (const node of [a, b]) node.on('refused', note);
  a.advertise(list(1, 5));
  await net.until(() => codes.length === 1);
  b.advertise(list(2, 2));
  await net.until(() => codes.length === 2);
  t.deepEqual(codes, ['ERR_ROUTE_LIMIT', 'ERR_ROUTE_LIMIT']);
  t.is(cloud.nodes().flatMap((n) => n.routes).length, 4);
  await net.pass(SECOND);
  t.true((small.stats().control as { routesBeyondLimit: number }).routesBeyondLimit > 0);
  t.true(subnets(small).length <= 2);
});

import test from 'ava';
import { HEADER, MS, putHeader, Slab } from '../../lib/core/index.js';
import { parseAddress } from '../../lib/l3/address.js';
import { Router } from '../../lib/l3/router.js';
import { putIpv4 } from '../../lib/l3/wire/ipv4.js';
import { routeOf, SimCloud, World } from './support/net.js';

function network(options: ConstructorParameters<typeof SimCloud>[4] = {}) {
  const world = new World();
  const router = new Router({ defer: world.defer });
  return { world, router, acme: new SimCloud(world, router, 'acme', undefined, options) };
}

const a = parseAddress;

test('edges get an address of each family from the pools and reach each other and the cloud, both families', (t) => {
  const { world, acme } = network();
  const [e1, e2] = [acme.node('edge-1').up(), acme.node('edge-2').up()];
  world.run();
  t.deepEqual(e1.addresses, ['10.80.0.2', 'fd80::2']);
  t.deepEqual(e2.addresses, ['10.80.0.3', 'fd80::3']);
  for (const to of ['10.80.0.3', 'fd80::3', '10.80.0.1', 'fd80::1', '10.80.0.2']) {
    const result = e1.ping(a(to));
    t.true(result.ok, to);
  }
  const far = e1.ping(a('10.80.0.3'));
  // Two hops there and two back at 5 ms; one router between them took one off the fresh TTL.
  t.deepEqual(far.ok && [far.rttMicros, far.ttl], [20 * MS, 63]);
  t.deepEqual(e1.peers, ['10.80.0.3 edge-2', 'fd80::3 edge-2'], 'each knows whose address is whose');
  t.deepEqual([...e1.kernelPrefixes], ['10.80.0.0/16', 'fd80::/64'], 'the pools are enough for the kernel');
});

test('traceroute: TTL 1 ends at the hub in its own name, TTL 2 arrives (RFC 1812 §5.3.1, RFC 4443 §3.3)', (t) => {
  const { world, acme } = network();
  const [e1] = [acme.node('edge-1').up(), acme.node('edge-2').up()];
  world.run();
  for (const [to, hub] of [
    ['10.80.0.3', '10.80.0.1'],
    ['fd80::3', 'fd80::1'],
  ] as const) {
    const first = e1.ping(a(to), { ttl: 1 });
    t.like(first, { ok: false, failure: { reason: 'ttl-exceeded', from: hub } });
    t.true(e1.ping(a(to), { ttl: 2 }).ok);
  }
  t.is(acme.vrf.counters.get('drop-ttl-exceeded'), 2);
});

test('path MTU: too big for the far link tells the MTU, in both families; without DF IPv4 is fragmented', (t) => {
  const { world, acme } = network();
  const [e1, e2] = [acme.node('edge-1', { mtu: 1400 }).up(), acme.node('edge-2', { mtu: 1300 }).up()];
  world.run();
  t.like(e1.ping(a('10.80.0.3'), { size: 1350 }), {
    ok: false,
    failure: { reason: 'too-big', from: '10.80.0.1', mtu: 1300 },
  });
  t.like(e1.ping(a('fd80::3'), { size: 1350 }), {
    ok: false,
    failure: { reason: 'too-big', from: 'fd80::1', mtu: 1300 },
  });
  t.true(e1.ping(a('10.80.0.3'), { size: 1300 - 28 }).ok);
  t.is(acme.vrf.counters.get('drop-too-big'), 2);
  t.is(e2.vrf.counters.dropped, 0);
});

test('a virtual router: edges reach the VM behind it and the VM reaches them; routes come and go without a restart', (t) => {
  const { world, acme } = network();
  const e1 = acme.node('edge-1').up();
  const vr = acme
    .node('router', { allowed: ['10.1.0.0/16', '10.244.0.0/16'], advertise: ['10.1.0.0/24'], vm: '10.1.0.5' })
    .up();
  world.run();
  t.deepEqual(e1.routes, ['10.1.0.0/24 router']);
  t.true(e1.kernelPrefixes.has('10.1.0.0/24'));
  t.false(vr.kernelPrefixes.has('10.1.0.0/24'), 'its own subnet is not routed into the overlay');
  t.true(e1.ping(a('10.1.0.5')).ok);
  t.true(e1.ping(a('10.80.0.2'), { as: vr.vm! }).ok, 'VM to edge');
  t.false(e1.ping(a('10.244.0.1')).ok);

  vr.control.setAdvertise([routeOf('10.1.0.0/24'), routeOf('10.244.0.0/16', { kind: 'container', metric: 7 })]);
  world.run();
  t.deepEqual(e1.routes, ['10.1.0.0/24 router', '10.244.0.0/16 router']);
  t.true(e1.control.routes.some((r) => r.kind === 'container' && r.metric === 7 && r.node === 'router'));
  t.is(acme.vrf.egressTo(a('10.244.9.9'))?.name, 'router');

  vr.control.setAdvertise([]);
  world.run();
  t.deepEqual(e1.routes, []);
  t.false(e1.kernelPrefixes.has('10.1.0.0/24'));
  t.like(e1.ping(a('10.1.0.5')), { ok: false, failure: { reason: 'unreachable' } });
  t.is(acme.vrf.egressTo(a('10.1.0.5')), null);
});

test('tenants are separate worlds: the same prefixes in two of them, and no way from one to the other', (t) => {
  const { world, router, acme } = network();
  const other = new SimCloud(world, router, 'other');
  const [a1, a2] = [acme.node('edge-1').up(), acme.node('edge-2').up()];
  const b1 = other.node('edge-1').up();
  world.run();
  t.deepEqual(a1.addresses, b1.addresses);
  t.true(a1.ping(a('10.80.0.3')).ok);
  t.like(b1.ping(a('10.80.0.3')), { ok: false, failure: { reason: 'unreachable', from: '10.80.0.1' } });
  t.is(a2.vrf.counters.get('echo-replies'), 1);
  t.is(other.vrf.counters.get('drop-no-route'), 1);
});

test('a source that is not the sender’s is dropped at the hub, counted and not answered', (t) => {
  const { world, acme } = network();
  const [e1, e2] = [acme.node('edge-1').up(), acme.node('edge-2').up()];
  world.run();
  const spoofed = (source: string) => {
    const slab = Slab.of(Buffer.alloc(HEADER + 28));
    putHeader(slab.bytes, 0, 0, 0, 0, 28);
    putIpv4(slab.bytes, HEADER, 17, 28, a(source), a('10.80.0.3'), 64);
    // From the kernel side of the link: what a patched node could put on the wire.
    const port = acme.vrf.egressTo(a('10.80.0.2'))!;
    port.handlePackets(world.now(), slab, 0, HEADER + 28);
    world.run();
  };
  const received = () => e2.vrf.stats().delivered! + e2.vrf.stats()['drop-no-listener']!;
  spoofed('10.80.0.2');
  t.is(received(), 1);
  for (const source of ['10.80.0.3', '10.80.0.1', '10.80.0.99', '192.168.1.1', '0.0.0.0']) spoofed(source);
  t.is(received(), 1);
  t.is(acme.vrf.counters.get('drop-spoofed-source'), 5);
  t.is(e1.vrf.counters.get('drop-no-listener'), 1, 'the port unreachable about its own packet');
  t.is(e1.vrf.counters.dropped, 1);
});

test('a link that is down: the hub says host unreachable, the route comes back with the link, the address stays', (t) => {
  const { world, acme } = network();
  const [e1, e2] = [acme.node('edge-1').up(), acme.node('edge-2').up()];
  world.run();
  e2.down();
  world.run();
  t.like(e1.ping(a('10.80.0.3')), { ok: false, failure: { reason: 'unreachable', from: '10.80.0.1' } });
  t.like(e2.ping(a('10.80.0.2')), { ok: false, failure: { reason: 'unreachable' } }, 'the edge itself knows too');
  e2.up();
  world.run();
  t.deepEqual(e2.addresses, ['10.80.0.3', 'fd80::3']);
  t.true(e1.ping(a('10.80.0.3')).ok);
});

test('a hub that restarts without its record gives each node the address it remembers; with its record, that wins', (t) => {
  const { world, acme } = network();
  const nodes = [1, 2, 3].map((i) => acme.node(`edge-${i}`).up());
  world.run();
  const before = nodes.map((n) => n.addresses);
  const restart = (record?: unknown) => {
    const router = new Router({ defer: world.defer });
    return new SimCloud(world, router, 'acme', undefined, {}, record);
  };
  const lost = restart();
  // In another order, so that sequence alone cannot give the same result.
  for (const node of [...nodes].reverse()) {
    node.down();
    Object.assign(node, { cloud: lost });
    node.up();
    world.run(20 * MS);
  }
  world.run();
  t.deepEqual(
    nodes.map((n) => n.addresses),
    before,
  );
  const kept = restart(JSON.parse(JSON.stringify(acme.pool.snapshot())));
  const late = kept.node('edge-9').up();
  world.run();
  t.deepEqual(late.addresses, ['10.80.0.5', 'fd80::5'], 'the remembered addresses are not given to others');
});

test('redundant virtual routers: the better metric carries, the other takes over when it goes', (t) => {
  const { world, acme } = network();
  const e1 = acme.node('edge-1').up();
  const make = (name: string, metric: number) => {
    const node = acme.node(name, { allowed: ['10.1.0.0/24'], advertise: [], vm: '10.1.0.5' }).up();
    node.control.setAdvertise([routeOf('10.1.0.0/24', { metric })]);
    return node;
  };
  const [best, second] = [make('vr-1', 10), make('vr-2', 20)];
  world.run();
  t.deepEqual(e1.routes, ['10.1.0.0/24 vr-1', '10.1.0.0/24 vr-2']);
  t.true(e1.ping(a('10.1.0.5')).ok);
  t.is(best.vm!.vrf.counters.get('echo-replies'), 1);
  best.down();
  world.run();
  t.true(e1.ping(a('10.1.0.5')).ok);
  t.is(second.vm!.vrf.counters.get('echo-replies'), 1);
});

import { readFileSync } from 'node:fs';
import test from 'ava';
import { MS, SECOND } from '../../lib/core/index.js';
import { formatPrefix, parseAddress, parsePrefix } from '../../lib/l3/address.js';
import { decodeControl, encodeControl } from '../../lib/l3/control-codec.js';
import { Router } from '../../lib/l3/router.js';
import { routeOf, SimCloud, type SimNode, World } from './support/net.js';

function cloud(more: ConstructorParameters<typeof SimCloud>[4] = {}, pools = ['10.80.0.0/16']) {
  const world = new World();
  return { world, acme: new SimCloud(world, new Router({ defer: world.defer }), 'acme', pools, more) };
}

const advertise = (node: SimNode, ...prefixes: string[]) => node.control.setAdvertise(prefixes.map((p) => routeOf(p)));

test('refused routes: the node’s user is told which, why and by which code; the others stand', (t) => {
  const { world, acme } = cloud();
  const e1 = acme.node('edge-1').up();
  const vr = acme.node('vr', { allowed: ['10.1.0.0/16', '10.80.0.0/12', '0.0.0.0/0'] }).up();
  const plain = acme.node('plain').up();
  world.run();
  advertise(vr, '10.1.0.0/24', '10.80.9.0/24', '10.0.0.0/8', '127.0.0.0/8', '169.254.1.0/24', '224.1.0.0/16');
  advertise(plain, '10.7.0.0/24', '10.7.1.0/24');
  world.run();
  t.deepEqual(e1.routes, ['10.1.0.0/24 vr']);
  t.deepEqual(vr.refused, [
    'ERR_ROUTE_OVERLAP 10.80.9.0/24 overlaps the edge pool 10.80.0.0/16 [1]',
    'ERR_ROUTE_OVERLAP 10.0.0.0/8 overlaps the edge pool 10.80.0.0/16 [1]',
    'ERR_ROUTE_OVERLAP 127.0.0.0/8 is not unicast [1]',
    'ERR_ROUTE_OVERLAP 169.254.1.0/24 is not unicast [1]',
    'ERR_ROUTE_OVERLAP 224.1.0.0/16 is not unicast [1]',
  ]);
  t.deepEqual(plain.refused, [
    'ERR_ROUTE_NOT_ALLOWED 10.7.0.0/24 is not among the allowed prefixes of plain (none) [1]',
    'ERR_ROUTE_NOT_ALLOWED 10.7.1.0/24 is not among the allowed prefixes of plain (none) [1]',
  ]);
  // The same set again is refused again, but said only once.
  advertise(plain, '10.7.0.0/24', '10.7.1.0/24');
  world.run();
  t.is(plain.refused.length, 2);
});

test('a prefix inside or around another node’s is refused, exactly the same is redundancy; it stands once the other goes', (t) => {
  const { world, acme } = cloud();
  const allowed = ['10.0.0.0/12'];
  const [a, b, c] = ['a', 'b', 'c'].map((n) => acme.node(n, { allowed }).up()) as [SimNode, SimNode, SimNode];
  world.run();
  advertise(a, '10.1.0.0/16', '10.1.7.0/24');
  world.run();
  advertise(b, '10.1.2.0/24', '10.0.0.0/15');
  advertise(c, '10.1.0.0/16');
  world.run();
  t.deepEqual(a.refused, [], 'a node may nest its own prefixes');
  t.deepEqual(b.refused, [
    'ERR_ROUTE_OVERLAP 10.1.2.0/24 is inside 10.1.0.0/16 of a [1]',
    'ERR_ROUTE_OVERLAP 10.0.0.0/15 contains 10.1.0.0/16 of a [1]',
  ]);
  t.deepEqual(c.refused, []);
  t.deepEqual(
    acme.control.routes.map((r) => `${formatPrefix(r.prefix)} ${r.node}`),
    ['10.1.0.0/16 a', '10.1.0.0/16 c', '10.1.7.0/24 a'],
  );
  advertise(a);
  advertise(c);
  world.run();
  t.deepEqual(
    acme.control.routes.map((r) => `${formatPrefix(r.prefix)} ${r.node}`),
    ['10.0.0.0/15 b', '10.1.2.0/24 b'],
  );
  t.deepEqual(a.routes, ['10.0.0.0/15 b', '10.1.2.0/24 b']);
});

test('limits: routes per node and per tenant; what is over is refused and the rest stands', (t) => {
  const { world, acme } = cloud({ limits: { routesPerNode: 3, routesPerTenant: 4 } });
  const allowed = ['10.0.0.0/12'];
  const [a, b] = ['a', 'b'].map((n) => acme.node(n, { allowed }).up()) as [SimNode, SimNode];
  world.run();
  advertise(a, ...Array.from({ length: 50 }, (_, i) => `10.1.${i}.0/24`));
  advertise(b, '10.2.0.0/24', '10.2.1.0/24');
  world.run();
  t.deepEqual(b.routes, ['10.1.0.0/24 a', '10.1.1.0/24 a', '10.1.2.0/24 a']);
  t.deepEqual(a.routes, ['10.2.0.0/24 b']);
  t.deepEqual(a.refused, ['ERR_ROUTE_LIMIT a node may originate 3 prefixes [1]']);
  t.deepEqual(b.refused, ['ERR_ROUTE_LIMIT the tenant may have 4 routes [1]']);
  t.is(acme.control.counters.refusedRoutes, 48);
  advertise(a, '10.1.0.0/24');
  world.run();
  t.deepEqual(a.routes, ['10.2.0.0/24 b', '10.2.1.0/24 b'], 'room that became free is used');
});

test('a link that breaks: routes stay announced for the hold time, then go; a return in time is no change at all', (t) => {
  const { world, acme } = cloud({ holdMs: 15_000 });
  const e1 = acme.node('edge-1').up();
  const vr = acme.node('vr', { allowed: ['10.1.0.0/16'], advertise: ['10.1.0.0/24'], vm: '10.1.0.5' }).up();
  world.run();
  const { updates } = acme.control.counters;
  vr.down();
  world.run(10 * SECOND);
  acme.control.handleTimeout(world.now());
  t.deepEqual(e1.routes, ['10.1.0.0/24 vr']);
  t.is(acme.vrf.egressTo(parseAddress('10.1.0.5')), null, 'but nothing is sent into the void');
  vr.up();
  world.run();
  t.is(acme.control.counters.updates, updates);
  t.is(acme.control.pollDeadline(), Number.POSITIVE_INFINITY);
  t.true(e1.ping(parseAddress('10.1.0.5')).ok);

  vr.down();
  const deadline = acme.control.pollDeadline();
  t.is(deadline, world.now() + 15 * SECOND);
  world.run(15 * SECOND);
  acme.control.handleTimeout(world.now());
  world.run();
  t.deepEqual(e1.routes, []);
  t.deepEqual(e1.peers, ['10.80.0.3 vr'], 'its address stays its own');
  t.is(acme.control.nodes.length, 1);
});

test('a second session of a node replaces the first without a gap, and the end of the first changes nothing', (t) => {
  const { world, acme } = cloud();
  const e1 = acme.node('edge-1').up();
  const vr = acme.node('vr', { allowed: ['10.1.0.0/16'], advertise: ['10.1.0.0/24'] }).up();
  world.run();
  const first = vr.session!;
  vr.up();
  world.run();
  first.down(world.now());
  acme.control.handleTimeout(world.now() + 60 * SECOND);
  world.run();
  t.deepEqual(e1.routes, ['10.1.0.0/24 vr']);
  t.deepEqual(acme.control.nodes.map((n) => n.node).sort(), ['edge-1', 'vr']);
  t.true(e1.ping(parseAddress(vr.addresses[0]!)).ok);
});

test('an exhausted pool: the node is told, and has no address; others are not touched', (t) => {
  const { world, acme } = cloud({}, ['10.80.0.0/30']);
  const [a, b] = [acme.node('a').up(), acme.node('b').up()];
  world.run();
  t.deepEqual(a.addresses, ['10.80.0.2']);
  t.deepEqual(b.addresses, []);
  t.deepEqual(b.refused, ['ERR_POOL_EXHAUSTED no free address for b in 10.80.0.0/30 [0]']);
  t.false(b.control.assigned);
  a.down();
  t.true(acme.control.forget('a'));
  b.down();
  b.up();
  world.run();
  t.deepEqual(b.addresses, ['10.80.0.2']);
});

test('200 nodes with 100 routes each: all of them reach everyone, in messages that grow with the changes and not their square', (t) => {
  const { world, acme } = cloud();
  const real = acme.node('real').up();
  let messages = 0;
  let bytes = 0;
  const sessions = Array.from({ length: 200 }, (_, i) => {
    const port = acme.vrf.addPort({ name: `n${i}`, kind: 'link', mtu: 1400, sink: { send() {} } });
    const send = (message: Uint8Array) => {
      messages++;
      bytes += message.length;
    };
    const session = acme.control.nodeUp(0, { node: `n${i}`, port, allowed: [parsePrefix('11.0.0.0/8')], send });
    session.handleControl(0, encodeControl({ type: 'register', addresses: [] }));
    return session;
  });
  world.run();
  t.is(
    messages,
    999,
    'assignment, routes, the names so far, those of this turn (but for the last), and the one that came later',
  );
  t.is(real.peers.length, 200);
  const set = (i: number, count: number) => {
    const routes = Array.from({ length: count }, (_, k) => routeOf(`11.${i}.${k}.0/24`));
    sessions[i]!.handleControl(0, encodeControl({ type: 'advertise', revision: 1, routes, more: false }));
  };
  messages = bytes = 0;
  for (let i = 0; i < 200; i++) set(i, 100);
  world.run();
  t.is(real.routes.length, 20_000);
  t.true(messages / 200 < 60, `${messages / 200} messages for each node`);
  t.true(bytes / 200 / 20_000 < 40, `${bytes / 200 / 20_000} bytes for each route`);
  messages = 0;
  set(7, 99);
  world.run();
  t.is(messages, 200, 'one change, one message for each node');
  t.is(real.routes.length, 19_999);
});

test('messages that are too long, too many, malformed, unknown or out of place are counted, and change nothing', (t) => {
  const { world, acme } = cloud({ limits: { messagesPerSecond: 10, messageBurst: 20, messageBytes: 1000 } });
  const node = acme.node('a', { allowed: ['10.1.0.0/16'] });
  node.up();
  const session = node.session!;
  const send = (bytes: Uint8Array) => session.handleControl(world.now(), bytes);
  send(encodeControl({ type: 'advertise', revision: 1, routes: [routeOf('10.1.0.0/24')], more: false }));
  t.is(acme.control.counters.unexpected, 1, 'advertise before register');
  send(Uint8Array.of(0xff, 0xff, 0xff));
  send(Uint8Array.of(0x0a, 0x05, 0x0a, 0x03, 1, 2, 3));
  t.is(acme.control.counters.malformed, 2);
  send(new Uint8Array(1001));
  t.is(acme.control.counters.tooLong, 1);
  send(Uint8Array.of(0x7a, 0x00)); // field 15: a message of a later version
  t.is(acme.control.counters.unknown, 1);
  for (let i = 0; i < 40; i++) send(encodeControl({ type: 'register', addresses: [] }));
  // 16 of the burst are left; the first one costs 1, all others 1 and a quarter of the burst.
  t.is(acme.control.counters.rateLimited, 40 - 3);
  world.run(SECOND);
  send(encodeControl({ type: 'register', addresses: [] }));
  t.is(acme.control.counters.rateLimited, 37 + 2, 'the node’s own Register and Advertise came in between');
  t.deepEqual(acme.control.routes, []);
});

test('sets of routes that come too fast wait; the last one counts, also where another’s withdrawal asks for it', (t) => {
  const lines: string[] = [];
  const logger = { debug() {}, info() {}, error() {}, warn: (_: object, text: string) => void lines.push(text) };
  const limits = { messagesPerSecond: 10, messageBurst: 50 };
  const { world, acme } = cloud({ limits, logger: logger as never });
  const other = acme.node('other', { allowed: ['10.9.0.0/16'] }).up();
  const evil = acme.node('evil', { allowed: ['10.1.0.0/16', '10.9.0.0/16'] }).up();
  world.run();
  advertise(other, '10.9.0.0/24');
  // 100 routes each, none of which stays: 12 or 13 of the 50 each time.
  const set = (round: number) => [...Array(100).keys()].map((i) => `10.1.${round}.${i}/32`);
  for (let round = 0; round < 20; round++) {
    world.run(MS);
    advertise(evil, ...set(round), '10.9.0.0/16');
    world.run(10 * MS);
  }
  const { counters } = acme.control;
  t.is(counters.rateLimited, 0);
  t.true(counters.setsLate >= 15, `${counters.setsLate} waited`);
  const rounds = new Set(acme.control.routes.map((r) => r.prefix.address[2]));
  t.false(rounds.has(19), 'the last set waits');
  // What a withdrawal of another's may make possible is no way around it.
  const before = counters.setsLate;
  for (let i = 0; i < 5; i++) {
    advertise(other, ...(i % 2 === 0 ? [] : ['10.9.0.0/24']));
    world.run(10 * MS);
  }
  t.true(counters.setsLate > before);
  const at = acme.control.pollDeadline();
  t.true(at > world.now() && at < world.now() + 3 * SECOND);
  world.run(at - world.now());
  acme.control.handleTimeout(world.now());
  world.run();
  const now = acme.control.routes.filter((r) => r.node === 'evil').map((r) => formatPrefix(r.prefix));
  t.deepEqual(new Set(now), new Set([...set(19), '10.9.0.0/16']));
  t.is(acme.control.pollDeadline(), Number.POSITIVE_INFINITY);
  // Of a thousand refusals a log shows some, and how many more there were.
  lines.length = 0;
  advertise(evil, ...[...Array(40).keys()].map((i) => `10.80.0.${i}/32`));
  world.run(10 * SECOND);
  acme.control.handleTimeout(world.now());
  world.run();
  t.is(lines.length, 8);
  t.regex(lines[7]!, /^10\.80\.0\.7\/32 is not among the allowed prefixes .*, and 32 more$/);
});

test('what decodes is legal: host bits, lengths, kinds and address sizes are checked', (t) => {
  const wire = (m: Parameters<typeof encodeControl>[0]) => decodeControl(encodeControl(m));
  const good = {
    type: 'advertise',
    revision: 3,
    routes: [routeOf('10.1.0.0/24', { kind: 'container', metric: 7, node: 'x' })],
    more: true,
  } as const;
  t.deepEqual(wire(good), good);
  const bad = (prefix: { address: Uint8Array; length: number }) =>
    wire({ ...good, routes: [{ ...good.routes[0]!, prefix }] });
  t.is(bad({ address: Uint8Array.of(10, 1, 0, 1), length: 24 }), null);
  t.is(bad({ address: Uint8Array.of(10, 1, 0, 0), length: 33 }), null);
  t.is(bad({ address: Uint8Array.of(10, 1, 0), length: 8 }), null);
  t.is(wire({ ...good, routes: [routeOf('10.1.0.0/24', { node: 'x'.repeat(300) })] }), null);
  t.is(wire({ type: 'register', addresses: [new Uint8Array(5)] }), null);
  t.deepEqual(decodeControl(new Uint8Array(0)), { type: 'unknown' });
});

test('the test vectors of docs/spec/control.md, both ways', (t) => {
  const text = readFileSync(new URL('../../docs/spec/control.md', import.meta.url), 'utf8');
  const lines = /```vectors\n([^`]*)```/.exec(text)![1]!.trim().split('\n');
  const revive = (key: string, value: unknown) => {
    if (key === 'prefix') return parsePrefix(value as string);
    if (key === 'pools' || key === 'prefixes') return (value as string[]).map(parsePrefix);
    if (key === 'digest' || key === 'list') return Uint8Array.from(Buffer.from(value as string, 'hex'));
    if (key === 'addresses' || key === 'gateway') return (value as string[]).map(parseAddress);
    return value;
  };
  t.is(lines.length, 14);
  for (let i = 0; i < lines.length; i += 2) {
    const message = JSON.parse(lines[i]!, revive);
    t.is(Buffer.from(encodeControl(message)).toString('hex'), lines[i + 1]!);
    t.deepEqual(decodeControl(Buffer.from(lines[i + 1]!, 'hex')), message);
  }
});

// Hostile control messages at both ends: no exception, no unbounded state.

import test from 'ava';
import { seededRandom } from '../../lib/core/index.js';
import { parseAddress, parsePrefix } from '../../lib/l3/address.js';
import { type ControlMessage, encodeControl } from '../../lib/l3/control-codec.js';
import { Router } from '../../lib/l3/router.js';
import { routeOf, SimCloud, World } from '../l3/support/net.js';

const CASES = 30_000;
const SEED = Number(process.env.KUBEBUS_FUZZ_SEED ?? 1);

test(`hostile control messages (KUBEBUS_FUZZ_SEED=${SEED})`, (t) => {
  const random = seededRandom(SEED);
  const below = (n: number) => random.u32() % n;
  const world = new World();
  const limits = { routesPerNode: 20, routesPerTenant: 30, messagesPerSecond: 1e9, messageBurst: 1e9 };
  const acme = new SimCloud(world, new Router({ defer: world.defer }), 'acme', ['10.80.0.0/24'], {
    limits,
    holdMs: 10,
  });
  const nodes = ['a', 'b', 'c'].map((n) =>
    acme.node(n, { allowed: ['10.0.0.0/12', 'fd00::/16'], ...(n === 'c' ? { vm: '10.1.0.5' } : {}) }).up(),
  );
  world.run();
  const prefixText = () =>
    [`10.${below(4)}.0.0/${12 + below(8)}`, `fd00:${below(4)}::/${16 + below(48)}`, '10.80.0.0/25', '0.0.0.0/0'][
      below(4)
    ]!;
  const route = () => routeOf(prefixText(), { metric: below(5), node: ['', 'a', 'b', 'z'][below(4)]! });
  const routes = () => Array.from({ length: below(30) }, route);
  const address = () => parseAddress(['10.80.0.7', 'fd80::1', '0.0.0.0', '255.255.255.255'][below(4)]!);
  const message = (): Exclude<ControlMessage, { type: 'unknown' }> => {
    switch (below(5)) {
      case 0:
        return { type: 'register', addresses: [address(), address()] };
      case 1:
        return { type: 'advertise', revision: below(9), routes: routes(), more: below(4) === 0 };
      case 2:
        return {
          type: 'assign',
          addresses: [address()],
          pools: [parsePrefix(prefixText())],
          mtu: [0, 1400, 70_000][below(3)]!,
          gateway: [address()],
        };
      case 3:
        return {
          type: 'routes',
          revision: below(9),
          snapshot: below(3) === 0,
          add: routes(),
          withdraw: routes(),
          more: below(4) === 0,
        };
      default:
        return { type: 'refusal', code: 'ERR_X', message: 'x', prefixes: [] };
    }
  };
  for (let i = 0; i < CASES; i++) {
    const bytes =
      below(10) === 0
        ? Uint8Array.from({ length: below(60) }, () => random.u32())
        : Uint8Array.from(encodeControl(message()));
    if (below(3) > 0) for (let k = below(4); k > 0 && bytes.length > 0; k--) bytes[below(bytes.length)] = random.u32();
    const cut = below(6) === 0 ? bytes.subarray(0, below(bytes.length + 1)) : bytes;
    const node = nodes[below(3)]!;
    if (below(2) === 0) node.session?.handleControl(i, cut);
    else node.control.handleControl(i, cut);
    if (below(100) === 0) world.run();
    if (below(1000) === 0) {
      node.down();
      world.run();
      acme.control.handleTimeout(world.now());
      node.up();
    }
    if (acme.control.routes.length > 30 || node.control.routes.length > 65_536) t.fail('a limit was passed');
    for (const n of nodes) if (n.refused.length > 100) n.refused.length = 0;
  }
  world.run();
  const c = acme.control.counters;
  t.true(c.malformed > 1000 && c.unexpected > 1000 && c.refusedRoutes > 1000, JSON.stringify(c));
  t.true(nodes[0]!.control.counters.malformed > 1000);
  // And after all of it an honest conversation works.
  for (const node of nodes) node.down();
  world.run();
  acme.control.handleTimeout(world.now());
  for (const node of nodes) {
    node.up();
    node.control.setAdvertise([]);
  }
  world.run();
  t.deepEqual(acme.control.routes, []);
  t.true(nodes[0]!.ping(parseAddress(nodes[1]!.addresses[0]!)).ok);
});

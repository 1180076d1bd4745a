// Bounds of every layer can be given where a cloud or a node is made, and one that is none is refused there, by its name.

import test from 'ava';
import { KubeBusCloud, KubeBusNode } from '../../lib/index.js';
import { memoryTransport } from '../../transports/memory.js';

test('a bound that is none is refused, whoever it is given to', async (t) => {
  const transport = memoryTransport();
  const cloud = (more: object) =>
    KubeBusCloud.start({ transports: [transport], tenants: { acme: { pools: ['10.80.0.0/16'] } }, ...more });
  const node = (more: object) =>
    KubeBusNode.join({ cloud: ['memory'], transport, tenant: 'acme', node: 'e1', ...more });
  for (const [where, name] of [
    ['limits', 'connections'],
    ['controlLimits', 'routesPerNode'],
    ['routerLimits', 'icmpPerSecond'],
    ['link', 'stallTimeout'],
  ] as const) {
    for (const value of [Number.NaN, -1, Number.POSITIVE_INFINITY]) {
      const wrong = { code: 'ERR_INVALID_ARGUMENT', message: new RegExp(`${name} must be a number (above|from) 0`) };
      await t.throwsAsync(cloud({ [where]: { [name]: value } }), wrong, `cloud, ${where}`);
      if (where !== 'limits') await t.throwsAsync(node({ [where]: { [name]: value } }), wrong, `node, ${where}`);
    }
  }
});

test('the limit of ICMP errors that is given holds', async (t) => {
  const transport = memoryTransport();
  const started = { transports: [transport], tenants: { acme: { pools: ['10.80.0.0/16'] } } };
  const cloud = await KubeBusCloud.start({ ...started, routerLimits: { icmpPerSecond: 0.001, icmpBurst: 2 } });
  t.teardown(() => cloud.stop());
  const node = await KubeBusNode.join({ cloud: cloud.addresses, transport, tenant: 'acme', node: 'e1' });
  t.teardown(() => node.stop());
  const told = [];
  for (let i = 0; i < 4; i++) {
    // Nobody has this address: the cloud says so, twice.
    const { results } = await node.ping('10.80.77.7', { count: 1, timeoutMs: 300 });
    const [result] = results;
    told.push(result?.ok === false ? result.failure.reason : 'answered');
  }
  t.deepEqual(told, ['unreachable', 'unreachable', 'timeout', 'timeout']);
});

// The compliance file on our sockets: two nodes, a hub between them.

import type * as net from 'node:net';
import test from 'ava';
import { netBehaviours } from '../compliance/net.js';
import { makeWorld } from '../support/l4-pair.js';

const { nodes, close } = makeWorld(2);
const [a, b] = nodes as [(typeof nodes)[0], (typeof nodes)[0]];

const world = {
  client: a.l4.net as unknown as typeof net,
  server: b.l4.net as unknown as typeof net,
  host: b.v4,
  clientHost: a.v4,
  host6: b.v6,
  nobody: '192.0.2.1',
};

for (const [name, behaviour] of netBehaviours) {
  test.serial(name, async (t) => {
    t.timeout(10_000);
    await behaviour(t, world);
  });
}

test.after.always(close);

// The compliance file on node:net: what we imitate is what Node does.

import * as net from 'node:net';
import test from 'ava';
import { netBehaviours } from '../compliance/net.js';

const world = {
  client: net,
  server: net,
  host: '127.0.0.1',
  clientHost: '127.0.0.1',
  host6: '::1',
  nobody: '192.0.2.1',
};

for (const [name, behaviour] of netBehaviours) {
  test.serial(name, async (t) => {
    t.timeout(10_000);
    await behaviour(t, world);
  });
}

// The compliance file of dgram on node:dgram, and on ours.

import * as dgram from 'node:dgram';
import test from 'ava';
import { dgramBehaviours } from '../compliance/dgram.js';
import { makeWorld } from '../support/l4-pair.js';

const { nodes, close } = makeWorld(2);
const [a, b] = nodes as [(typeof nodes)[0], (typeof nodes)[0]];

const nobody = '192.0.2.1';
const worlds = {
  'node:dgram': { a: dgram, b: dgram, host: '127.0.0.1', clientHost: '127.0.0.1', host6: '::1', nobody },
  overlay: {
    a: a.l4.dgram as unknown as typeof dgram,
    b: b.l4.dgram as unknown as typeof dgram,
    host: b.v4,
    clientHost: a.v4,
    host6: b.v6,
    nobody,
  },
};

for (const [world, it] of Object.entries(worlds)) {
  for (const [name, behaviour] of dgramBehaviours) {
    test.serial(`${world}: ${name}`, async (t) => {
      t.timeout(10_000);
      await behaviour(t, it);
    });
  }
}

test.after.always(close);

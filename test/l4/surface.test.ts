// Every public name that node:net and node:dgram have, ours has too, as the same kind of thing; found by reflection in the Node
// that runs the tests, so a new version of it shows what is new. What is left out is listed here, with its reason in the guide.

import * as dgram from 'node:dgram';
import { EventEmitter } from 'node:events';
import { readFileSync } from 'node:fs';
import * as net from 'node:net';
import { Duplex } from 'node:stream';
import test, { type ExecutionContext } from 'ava';
import { makeWorld } from '../support/l4-pair.js';

const { nodes, close } = makeWorld(1);
const { l4 } = nodes[0]!;
test.after.always(close);

const guide = readFileSync(new URL('../../docs/guides/sockets.md', import.meta.url), 'utf8');

/** Names that Node has and we do not; each stands in the guide. */
const LEFT_OUT = new Set(['getTypeOfService', 'setTypeOfService', 'BoundSocket', 'bindSync', 'connectSync']);

/** Node keeps these public by name only; the underscore says so. */
const isPublic = (name: string) => !name.startsWith('_') && name !== 'constructor' && name !== 'default';

type Kind = 'method' | 'accessor' | 'value';
const kindOf = (d: PropertyDescriptor): Kind =>
  typeof d.value === 'function' ? 'method' : d.get !== undefined ? 'accessor' : 'value';

function members(start: object, end: object): Map<string, Kind> {
  const found = new Map<string, Kind>();
  for (let o: object | null = start; o !== null && o !== end && o !== Object.prototype; o = Object.getPrototypeOf(o)) {
    for (const [name, d] of Object.entries(Object.getOwnPropertyDescriptors(o))) {
      if (isPublic(name) && !found.has(name)) found.set(name, kindOf(d));
    }
  }
  return found;
}

function compare(t: ExecutionContext, what: string, theirs: [object, object], ours: [object, object]): void {
  const mine = members(...ours);
  let compared = 0;
  for (const [name, kind] of members(...theirs)) {
    if (LEFT_OUT.has(name)) {
      t.true(guide.includes(name), `${name} is not in the guide`);
      continue;
    }
    compared++;
    const got = mine.get(name);
    t.true(got !== undefined, `${what}.${name} is missing`);
    // A getter of Node's may be a field of ours, and the reverse: both are read the same.
    t.is(got === 'method', kind === 'method', `${what}.${name}`);
  }
  t.true(compared > 1, what);
}

test('the functions of the modules', (t) => {
  for (const [what, theirs, ours] of [
    ['net', net, l4.net],
    ['dgram', dgram, l4.dgram],
  ] as const) {
    compare(t, what, [{ ...theirs }, Object.prototype], [{ ...ours }, Object.prototype]);
  }
});

test('net.Socket: properties and methods', (t) => {
  const theirs = new net.Socket();
  const ours = new l4.net.Socket();
  compare(t, 'Socket', [theirs, Duplex.prototype], [ours, Duplex.prototype]);
  t.true(ours instanceof Duplex);
  theirs.destroy();
  ours.destroy();
});

test('net.Server: properties and methods', (t) => {
  compare(t, 'Server', [net.createServer(), EventEmitter.prototype], [l4.net.createServer(), EventEmitter.prototype]);
  t.true(Symbol.asyncDispose in l4.net.createServer());
});

test('dgram.Socket: properties and methods', (t) => {
  const theirs = dgram.createSocket('udp4');
  const ours = l4.dgram.createSocket('udp4');
  compare(t, 'dgram.Socket', [theirs, EventEmitter.prototype], [ours, EventEmitter.prototype]);
  t.true(Symbol.asyncDispose in ours);
  theirs.close();
  ours.close();
});

test('what makes no sense on an overlay says so at once', (t) => {
  const { Socket, Server } = l4.net;
  const code = (fn: () => unknown, wanted: string) => t.throws(fn, { code: wanted });
  code(() => new Socket({ fd: 3 } as never), 'ERR_INVALID_ARG_VALUE');
  code(() => new Socket({ handle: {} } as never), 'ERR_INVALID_ARG_VALUE');
  code(() => l4.net.connect('/run/x.sock'), 'ERR_INVALID_ARG_VALUE');
  code(() => l4.net.connect({ path: '/run/x.sock' }), 'ERR_INVALID_ARG_VALUE');
  code(() => new Server().listen('/run/x.sock' as never), 'ERR_INVALID_ARG_VALUE');
  code(() => new Server().listen({ path: '/run/x.sock' } as never), 'ERR_INVALID_ARG_VALUE');
  code(() => new Server().listen({ fd: 3 } as never), 'ERR_INVALID_ARG_VALUE');
});

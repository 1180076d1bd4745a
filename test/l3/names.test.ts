import test from 'ava';
import fc from 'fast-check';
import { parseAddress } from '../../lib/l3/address.js';
import { type ControlMessage, decodeControl, encodeControl, type NamesUpdate } from '../../lib/l3/control-codec.js';
import { NameBook } from '../../lib/l3/name-book.js';
import { NameView } from '../../lib/l3/name-view.js';
import { Router } from '../../lib/l3/router.js';
import { SimCloud, World } from './support/net.js';

const LIMITS = { bytes: 1 << 20, entries: 10_000 };
const address = (n: number) => [parseAddress(`10.80.${n >> 8}.${n & 255}`)];

/** Brings a view up to date as the cloud does; how many messages that took. */
function tell(book: NameBook, view: NameView): number {
  let at = book.cursor(view.known.count, view.known.digest);
  let messages = 0;
  for (let part = book.next(at); part !== null; part = book.next(at)) {
    view.handle(decodeControl(part.message) as NamesUpdate & ControlMessage);
    at = part.to;
    messages++;
  }
  return messages;
}

const texts = (view: NameView) =>
  Object.fromEntries(view.entries().map((e) => [e.node, e.addresses.map((a) => a.join('.')).join()]));

test('whatever is named, renamed and forgotten, whoever is told when: every view is what the book says', (t) => {
  const op = fc.oneof(
    { weight: 6, arbitrary: fc.record({ do: fc.constant('set' as const), node: fc.nat(40), to: fc.nat(2_000) }) },
    { weight: 2, arbitrary: fc.record({ do: fc.constant('forget' as const), node: fc.nat(40) }) },
    { weight: 3, arbitrary: fc.record({ do: fc.constant('tell' as const), view: fc.nat(2) }) },
    { weight: 1, arbitrary: fc.record({ do: fc.constant('restart' as const) }) },
  );
  fc.assert(
    fc.property(fc.array(op, { maxLength: 120 }), (ops) => {
      const model = new Map<string, Uint8Array[]>();
      let book = new NameBook();
      const views = Array.from({ length: 3 }, () => new NameView(LIMITS));
      for (const o of ops) {
        if (o.do === 'set') {
          // An address has one owner at a time: the pool sees to that.
          const taken = [...model].some(
            ([node, [a]]) => node !== `n${o.node}` && a!.join() === address(o.to)[0]!.join(),
          );
          if (taken) continue;
          model.delete(`n${o.node}`);
          model.set(`n${o.node}`, address(o.to));
          book.set(`n${o.node}`, address(o.to));
        } else if (o.do === 'forget') {
          model.delete(`n${o.node}`);
          book.set(`n${o.node}`, []);
        } else if (o.do === 'tell') tell(book, views[o.view]!);
        else book = new NameBook(model);
      }
      const expected = Object.fromEntries([...model].map(([node, [a]]) => [node, a!.join('.')]));
      for (const view of views) {
        tell(book, view);
        t.deepEqual(texts(view), expected);
        for (const [node, [a]] of model) t.is(view.nodeOf(a!), node);
        t.is(tell(book, view), 0);
      }
    }),
    { numRuns: 200 },
  );
});

test('who has the list is told nothing more, also by a book made anew of the same record; who has another gets all of it', (t) => {
  const record = Array.from({ length: 3_000 }, (_, i) => [`node-${i}`, address(i + 2)] as const);
  const book = new NameBook(record);
  const view = new NameView(LIMITS);
  t.true(tell(book, view) > 2, 'in parts');
  t.is(view.entries().length, 3_000);
  const again = new NameBook(record);
  t.is(tell(again, view), 0);
  again.set('late', address(4_000));
  t.is(tell(again, view), 1);
  t.deepEqual(view.addressesOf('late'), address(4_000));
  const other = new NameBook(record.slice(1));
  t.is(other.cursor(view.known.count, view.known.digest), 0);
  t.is(other.cursor(2_999, view.known.digest), 0);
  tell(other, view);
  t.is(view.entries().length, 2_999);
});

test('a list full of what was superseded is written anew, and stays about as long as there are names', (t) => {
  const book = new NameBook();
  const view = new NameView(LIMITS);
  for (let i = 0; i < 10_000; i++) book.set('moves', address(i));
  t.true(book.count < 2_000);
  t.true(book.generation > 0);
  tell(book, view);
  t.deepEqual(texts(view), { moves: address(9_999)[0]!.join('.') });
});

test('a list that begins anew takes the place of the old one when it is complete; what does not go on is left', (t) => {
  const record = Array.from({ length: 2_000 }, (_, i) => [`node-${i}`, address(i + 2)] as const);
  const view = new NameView(LIMITS);
  tell(new NameBook([['old', address(1)]]), view);
  const book = new NameBook(record);
  const first = book.next(0)!;
  const update = (bytes: Uint8Array) => decodeControl(bytes) as NamesUpdate & ControlMessage;
  t.is(view.handle(update(first.message)), 'taken');
  t.deepEqual(Object.keys(texts(view)), ['old']);
  view.linkDown();
  t.is(view.handle(update(book.next(first.to)!.message)), 'gap');
  t.deepEqual(Object.keys(texts(view)), ['old']);
  tell(book, view);
  t.is(view.entries().length, 2_000);
});

test('bounds: bytes and entries that a node keeps; a list that is none is counted when it is looked at', (t) => {
  const book = new NameBook(Array.from({ length: 3_000 }, (_, i) => [`node-${i}`, address(i + 2)] as const));
  const bytes = new NameView({ bytes: 30_000, entries: 10_000 });
  tell(book, bytes);
  t.true(bytes.entries().length > 0 && bytes.entries().length < 3_000);
  const entries = new NameView({ bytes: 1 << 20, entries: 10 });
  const part = decodeControl(book.next(0)!.message) as NamesUpdate & ControlMessage;
  t.is(entries.handle(part), 'beyond-limit');
  t.deepEqual(entries.entries(), []);
  const bad = new NameView(LIMITS);
  t.is(bad.handle({ from: 0, to: 1, digest: Uint8Array.of(1), list: Uint8Array.of(0xff), more: false }), 'taken');
  t.deepEqual(bad.addressesOf('x'), []);
  t.is(bad.malformed, 1);
});

test('names of many that come together go out in turns of bounded size, and reach everybody', (t) => {
  const world = new World();
  const nameBytesPerTurn = 20_000;
  // A millisecond from one turn to the next.
  const defer = (fn: () => void) => void world.at(world.now() + 1_000, fn);
  const cloud = new SimCloud(world, new Router({ defer: world.defer }), 'acme', ['10.80.0.0/16'], {
    defer,
    limits: { nameBytesPerTurn },
  });
  let bytes = 0;
  const told = Array.from({ length: 100 }, () => 0);
  for (const i of told.keys()) {
    const port = cloud.vrf.addPort({ name: `n${i}`, kind: 'link', mtu: 1400, sink: { send() {} } });
    const send = (message: Uint8Array) => {
      const decoded = decodeControl(message)!;
      if (decoded.type !== 'names') return;
      t.is(decoded.from, told[i]!);
      told[i] = decoded.to;
      bytes += message.length;
    };
    const session = cloud.control.nodeUp(0, { node: `n${i}`, port, allowed: [], send });
    session.handleControl(0, encodeControl({ type: 'register', addresses: [] }));
  }
  let turns = 0;
  for (; told.some((to) => to < 100); turns++) {
    t.true(bytes < nameBytesPerTurn + 2_000, 'but for the message that goes beyond');
    bytes = 0;
    world.run(1_000);
  }
  t.true(turns > 3);
});

test('a tenant that comes back to a cloud that was killed: addresses and routes for each, and not one name', (t) => {
  const world = new World();
  const first = new SimCloud(world, new Router({ defer: world.defer }), 'acme', ['10.80.0.0/16']);
  const nodes = Array.from({ length: 50 }, (_, i) => first.node(`node-${i}`).up());
  world.run();
  const record = JSON.parse(JSON.stringify(first.pool.snapshot()));
  const second = new SimCloud(
    world,
    new Router({ defer: world.defer }),
    'acme',
    ['10.80.0.0/16'],
    { holdMs: 0 },
    record,
  );
  const got: ControlMessage[] = [];
  for (const node of nodes) {
    const port = second.vrf.addPort({ name: node.name, kind: 'link', mtu: 1400, sink: { send() {} } });
    const send = (m: Uint8Array) => void got.push(decodeControl(m)!);
    const session = second.control.nodeUp(world.now(), { node: node.name, port, allowed: [], send });
    node.control.linkDown();
    node.control.linkUp((message) => session.handleControl(world.now(), message));
  }
  world.run();
  t.deepEqual([...new Set(got.map((m) => m.type))].sort(), ['assign', 'routes']);
  t.is(got.length, 100);
  // One more is one message for each.
  got.length = 0;
  const port = second.vrf.addPort({ name: 'new', kind: 'link', mtu: 1400, sink: { send() {} } });
  const late = second.control.nodeUp(world.now(), { node: 'new', port, allowed: [], send() {} });
  late.handleControl(world.now(), encodeControl({ type: 'register', addresses: [] }));
  world.run();
  t.deepEqual(
    got.map((m) => m.type),
    Array(50).fill('names'),
  );
});

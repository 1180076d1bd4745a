import test from 'ava';
import fc from 'fast-check';
import { formatAddress, parseAddress, parsePrefix, prefixHas } from '../../lib/l3/address.js';
import { AddressPool } from '../../lib/l3/address-pool.js';

const pool = (pools: string[], more: object = {}) => new AddressPool({ pools: pools.map(parsePrefix), ...more });
const text = (addresses: readonly Uint8Array[]) => addresses.map(formatAddress);

test('the gateway takes the first host address; network, broadcast and anycast addresses go to nobody', (t) => {
  const p = pool(['10.9.0.0/29', 'fd80::/64']);
  t.deepEqual(text(p.gateway), ['10.9.0.1', 'fd80::1']);
  const given = ['a', 'b', 'c', 'd', 'e'].map((n) => text(p.assign(n))[0]);
  t.deepEqual(given, ['10.9.0.2', '10.9.0.3', '10.9.0.4', '10.9.0.5', '10.9.0.6']);
  const error = t.throws(() => p.assign('f'), { code: 'ERR_POOL_EXHAUSTED' });
  t.is(error?.message, 'no free address for f in 10.9.0.0/29');
  t.is(p.size, 5);
});

test('the second pool of a family is used when the first is full; a forgotten address comes back last', (t) => {
  const p = pool(['10.9.0.0/30', '10.9.1.0/30']);
  t.deepEqual(text(p.assign('a')), ['10.9.0.2']);
  t.deepEqual(text(p.assign('b')), ['10.9.1.1']);
  t.deepEqual(text(p.assign('c')), ['10.9.1.2']);
  t.true(p.forget('a'));
  t.false(p.forget('a'));
  t.deepEqual(text(p.assign('d')), ['10.9.0.2']);
  t.is(p.ownerOf(parseAddress('10.9.0.2')), 'd');
  t.is(p.ownerOf(parseAddress('10.9.0.1')), undefined, 'the gateway belongs to no node');
});

test('an assignment is for ever: the same node gets the same addresses whatever it wants', (t) => {
  const p = pool(['10.9.0.0/24']);
  const first = text(p.assign('a'));
  const { revision } = p;
  t.deepEqual(text(p.assign('a', [parseAddress('10.9.0.77')])), first);
  t.is(p.revision, revision, 'nothing to save');
});

test('a wish is granted when nothing is known of the node and the address is free and in a pool', (t) => {
  const p = pool(['10.9.0.0/24']);
  t.deepEqual(text(p.assign('a', [parseAddress('10.9.0.77')])), ['10.9.0.77']);
  for (const [node, wish] of Object.entries({
    b: '10.9.0.77',
    c: '10.9.0.1',
    d: '10.9.0.0',
    e: '10.9.0.255',
    f: '192.168.0.1',
  })) {
    t.not(text(p.assign(node, [parseAddress(wish)]))[0], wish, wish);
  }
});

test('reservations: for that node alone, from the first assignment on; impossible ones are refused', (t) => {
  const reservations = { vip: [parseAddress('10.9.0.2')] };
  const p = pool(['10.9.0.0/24'], { reservations });
  t.deepEqual(text(p.assign('a', [parseAddress('10.9.0.2')])), ['10.9.0.3']);
  t.deepEqual(text(p.assign('vip')), ['10.9.0.2']);
  p.forget('vip');
  t.deepEqual(text(p.assign('b')), ['10.9.0.4']);
  const refuse = (r: Record<string, string>, message: RegExp) => {
    const list = Object.fromEntries(Object.entries(r).map(([n, a]) => [n, [parseAddress(a)]]));
    t.throws(() => pool(['10.9.0.0/24'], { reservations: list }), { code: 'ERR_INVALID_ARGUMENT', message });
  };
  refuse({ x: '10.8.0.2' }, /10\.8\.0\.2, reserved for x, is no host address/);
  refuse({ x: '10.9.0.255' }, /no host address/);
  refuse({ x: '10.9.0.2', y: '10.9.0.2' }, /reserved for y and for x/);
  refuse({ x: '10.9.0.1' }, /for x and for the cloud/);
});

test('a record survives as JSON; what the configuration no longer allows is left out and named', (t) => {
  const p = pool(['10.9.0.0/24', 'fd80::/64']);
  for (const n of ['a', 'b', 'c']) p.assign(n);
  const record = JSON.parse(JSON.stringify(p.snapshot()));
  const again = pool(['10.9.0.0/24', 'fd80::/64']);
  t.deepEqual(again.restore(record), []);
  t.deepEqual(again.snapshot(), p.snapshot());
  t.deepEqual(text(again.assign('d')), ['10.9.0.5', 'fd80::5']);

  const changed = pool(['10.9.0.0/24'], { reservations: { new: [parseAddress('10.9.0.2')] } });
  t.deepEqual(changed.restore(record), ['a', 'b', 'c']);
  t.deepEqual(text(changed.addressesOf('a')), []);
  t.deepEqual(text(changed.addressesOf('b')), ['10.9.0.3']);
  for (const bad of [null, 7, [], { a: '10.9.0.2' }, { a: ['10.9.0.2', 5] }, { a: ['nonsense'] }]) {
    t.throws(() => pool(['10.9.0.0/24']).restore(bad), { code: 'ERR_STATE' });
  }
});

test('whatever happens, no address is given twice and each lies in a pool', (t) => {
  const step = fc.record({ node: fc.constantFrom(...'abcdefghijkl'), forget: fc.boolean(), wish: fc.nat(40) });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 100, size: 'max' }), (steps) => {
      const p = pool(['10.9.0.0/29', '10.9.0.32/30']);
      for (const { node, forget, wish } of steps) {
        if (forget) p.forget(node);
        else {
          try {
            p.assign(node, [Uint8Array.of(10, 9, 0, wish)]);
          } catch (error) {
            if ((error as { code: string }).code !== 'ERR_POOL_EXHAUSTED' || p.size < 7) return false;
          }
        }
        const all = Object.values(p.snapshot()).flat();
        if (new Set(all).size !== all.length || all.includes('10.9.0.1')) return false;
        if (!all.every((a) => p.prefixes.some((x) => prefixHas(x, parseAddress(a))))) return false;
      }
      return true;
    }),
    { numRuns: 200 },
  );
  t.pass();
});

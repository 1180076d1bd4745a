import test from 'ava';
import fc from 'fast-check';
import { getU32, seededRandom } from '../../lib/core/index.js';
import { makePrefix, type Prefix, parseAddress, parsePrefix, prefixHas } from '../../lib/l3/address.js';
import { Lpm4 } from '../../lib/l3/lpm4.js';
import { Lpm6, type Words6 } from '../../lib/l3/lpm6.js';
import type { RouteEntry } from '../../lib/l3/route.js';
import { PrefixSet, RouteTable } from '../../lib/l3/route-table.js';

const route = (prefix: string, port: number, more: Partial<RouteEntry> = {}): RouteEntry => ({
  prefix: parsePrefix(prefix),
  port,
  kind: 'edge',
  metric: 100,
  node: `n${port}`,
  origin: 'advertised',
  ...more,
});

/** The obviously right table: every prefix in a map, the longest that has the address wins. */
class LinearTable {
  readonly routes = new Map<string, { prefix: Prefix; value: number }>();
  set(prefix: Prefix, value: number): void {
    this.routes.set(`${prefix.address}/${prefix.length}`, { prefix, value });
  }
  remove(prefix: Prefix): boolean {
    return this.routes.delete(`${prefix.address}/${prefix.length}`);
  }
  lookup(address: Uint8Array): number {
    let best = { length: -1, value: 0 };
    for (const { prefix, value } of this.routes.values()) {
      if (prefix.length > best.length && prefixHas(prefix, address)) best = { length: prefix.length, value };
    }
    return best.value;
  }
}

const words = (b: Uint8Array): Words6 => [getU32(b, 0), getU32(b, 4), getU32(b, 8), getU32(b, 12)];

function both(bytes: 4 | 16) {
  const v4 = new Lpm4();
  const v6 = new Lpm6();
  return bytes === 4
    ? {
        set: (p: Prefix, v: number) => v4.set(getU32(p.address, 0), p.length, v),
        get: (p: Prefix) => v4.get(getU32(p.address, 0), p.length),
        remove: (p: Prefix) => v4.remove(getU32(p.address, 0), p.length),
        lookup: (a: Uint8Array) => v4.lookup(getU32(a, 0)),
        size: () => v4.size,
        bytes: () => v4.bytes,
      }
    : {
        set: (p: Prefix, v: number) => v6.set(words(p.address), p.length, v),
        get: (p: Prefix) => v6.get(words(p.address), p.length),
        remove: (p: Prefix) => v6.remove(words(p.address), p.length),
        lookup: (a: Uint8Array) => v6.lookup(...words(a)),
        size: () => v6.size,
        bytes: () => v6.bytes,
      };
}

for (const bytes of [4, 16] as const) {
  test(`lookup agrees with a linear scan through adds, changes and removals (${bytes * 8} bits)`, (t) => {
    // Few distinct values per byte, so that prefixes nest, collide and share long leading parts; lengths cluster too.
    const address = fc.array(fc.constantFrom(0, 1, 2, 128, 255), { minLength: bytes, maxLength: bytes });
    const length = fc.oneof(
      fc.integer({ min: 0, max: bytes * 8 }),
      fc.constantFrom(8, bytes * 8, bytes * 8 - 1, bytes * 4),
    );
    const step = fc.record({
      address,
      length,
      value: fc.integer({ min: 1, max: 1000 }),
      remove: fc.boolean(),
      again: fc.nat(),
    });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 400, size: 'max' }), (steps) => {
        const table = both(bytes);
        const model = new LinearTable();
        const used: Prefix[] = [];
        for (const s of steps) {
          const prefix =
            s.remove && used.length > 0
              ? used[s.again % used.length]!
              : makePrefix(Uint8Array.from(s.address), s.length);
          if (s.remove) {
            if (table.remove(prefix) !== model.remove(prefix)) return false;
          } else {
            used.push(prefix);
            table.set(prefix, s.value);
            model.set(prefix, s.value);
            if (table.get(prefix) !== s.value) return false;
          }
          if (table.size() !== model.routes.size) return false;
          if (table.lookup(Uint8Array.from(s.address)) !== model.lookup(Uint8Array.from(s.address))) return false;
        }
        for (const { prefix } of model.routes.values()) {
          const last = Uint8Array.from(
            prefix.address,
            (b, i) => b | (0xff >> Math.min(8, Math.max(0, prefix.length - i * 8))),
          );
          if (table.lookup(prefix.address) !== model.lookup(prefix.address)) return false;
          if (table.lookup(last) !== model.lookup(last)) return false;
        }
        // And down to nothing again.
        for (const { prefix } of [...model.routes.values()]) table.remove(prefix);
        return table.size() === 0 && table.lookup(new Uint8Array(bytes)) === 0;
      }),
      { numRuns: 150 },
    );
    t.pass();
  });

  test(`thousands of prefixes: agrees with a linear scan, and gives its memory back to itself (${bytes * 8} bits)`, (t) => {
    const random = seededRandom(7 + bytes);
    const model = new LinearTable();
    const table = both(bytes);
    const make = () => {
      const address = new Uint8Array(bytes);
      random.fill(address);
      address[0] = 10;
      address[1]! &= 3;
      if (bytes === 16) address.fill(0, 4, 13);
      return makePrefix(address, 8 + (random.u32() % (bytes * 8 - 7)));
    };
    for (let round = 0; round < 3; round++) {
      for (let i = 0; i < 3000; i++) {
        const prefix = make();
        table.set(prefix, (i % 50) + 1);
        model.set(prefix, (i % 50) + 1);
      }
      const probe = new Uint8Array(bytes);
      for (let i = 0; i < 300; i++) {
        probe.set(make().address);
        if (table.lookup(probe) !== model.lookup(probe)) t.fail(`lookup of ${probe}`);
      }
      for (const { prefix } of [...model.routes.values()]) {
        t.true(table.remove(prefix) && model.remove(prefix)) || t.log(prefix);
      }
    }
    t.is(table.size(), 0);
    const before = table.bytes();
    for (let i = 0; i < 3000; i++) table.set(make(), 1);
    t.true(table.bytes() <= before * 1.6, `${before} -> ${table.bytes()} bytes`);
  });
}

test('a table that is large enough to keep results still agrees with one that is not, through every change', (t) => {
  const random = seededRandom(99);
  const large = new Lpm4();
  const model = new LinearTable();
  // 11.0.0.0/8 is where things change; the rest only makes the table large.
  for (let i = 0; i < 70_000; i++) large.set((0x14000000 + i * 256) >>> 0, 24, 7);
  const address = () => Uint8Array.of(11, random.u32() & 3, random.u32() & 3, random.u32() & 255);
  const used: Prefix[] = [];
  const step = () => {
    const length = [0, 3, 8, 10, 15, 16, 23, 24, 25, 30, 32][random.u32() % 11]!;
    const prefix =
      random.u32() % 3 === 0 && used.length > 0 ? used[random.u32() % used.length]! : makePrefix(address(), length);
    if (random.u32() % 2 === 0) {
      large.remove(getU32(prefix.address, 0), prefix.length);
      model.remove(prefix);
    } else {
      large.set(getU32(prefix.address, 0), prefix.length, 1 + (random.u32() % 50));
      model.set(prefix, large.get(getU32(prefix.address, 0), prefix.length));
      used.push(prefix);
    }
  };
  for (let i = 0; i < 3_000; i++) {
    step();
    for (let k = 0; k < 8; k++) {
      const probe = address();
      // Twice: the second answer may be a kept one.
      if (large.lookup(getU32(probe, 0)) !== model.lookup(probe)) t.fail(`${probe}`);
      if (large.lookup(getU32(probe, 0)) !== model.lookup(probe)) t.fail(`${probe}, kept`);
    }
  }
  for (let i = 0; i < 60_000; i++) large.remove((0x14000000 + i * 256) >>> 0, 24);
  for (let k = 0; k < 500; k++) {
    const probe = address();
    t.is(large.lookup(getU32(probe, 0)), model.lookup(probe));
  }
});

test('a tenant with five routes costs less than 1 KiB of trie, one with 200 edges of a /16 and a /64 less than 32 KiB', (t) => {
  const table = new RouteTable();
  t.true(table.bytes < 512);
  for (let i = 0; i < 5; i++) table.add(route(`10.${i}.0.0/16`, i + 1));
  t.true(table.bytes < 1024, `${table.bytes}`);
  for (let i = 1; i <= 200; i++) {
    table.add(route(`10.80.0.${i}`, i));
    table.add(route(`fd80::${i.toString(16)}`, i));
  }
  t.true(table.bytes < 32 * 1024, `${table.bytes}`);
  t.is(table.lookup(parseAddress('fd80::c8')), 200);
  t.is(table.lookup(parseAddress('10.80.0.200')), 200);
});

test('the best candidate by metric is used, the next one after it goes, and the same route replaces itself', (t) => {
  const table = new RouteTable();
  const at = parseAddress('10.2.3.4');
  table.add(route('10.2.0.0/16', 1));
  table.add(route('10.2.0.0/16', 2, { metric: 50 }));
  table.add(route('10.2.0.0/16', 3, { metric: 50 }));
  t.is(table.lookup(at), 2, 'of equals the older one');
  t.is(table.size, 1);
  table.add(route('10.2.0.0/16', 2, { metric: 200 }));
  t.deepEqual(
    table.get(parsePrefix('10.2.0.0/16')).map((r) => r.port),
    [3, 1, 2],
  );
  t.is(table.lookup(at), 3);
  t.true(table.remove(route('10.2.0.0/16', 3)));
  t.false(table.remove(route('10.2.0.0/16', 3)));
  t.is(table.lookup(at), 1);
  t.is(table.removePort(1), 1);
  t.is(table.lookup(at), 2);
  t.is(table.removePort(2), 1);
  t.is(table.lookup(at), 0);
  t.is(table.size, 0);
});

test('removePort takes all routes of the port and leaves the others', (t) => {
  const table = new RouteTable();
  for (let i = 0; i < 100; i++) {
    table.add(route(`10.9.${i}.0/24`, 1));
    table.add(route(`10.9.${i}.0/24`, 2, { metric: 200 }));
    table.add(route(`fd00:${i}::/32`, 1));
  }
  t.is(table.removePort(1), 200);
  t.is(table.lookup(parseAddress('10.9.7.1')), 2);
  t.is(table.lookup(parseAddress('fd00:7::1')), 0);
  t.is(table.all().length, 100);
});

test('generation changes exactly when a lookup may have changed', (t) => {
  const table = new RouteTable();
  table.add(route('10.0.0.0/8', 1));
  const before = table.generation;
  table.add(route('10.0.0.0/8', 2, { metric: 500 }));
  t.is(table.generation, before);
  table.add(route('10.0.0.0/8', 3, { metric: 5 }));
  t.not(table.generation, before);
});

test('PrefixSet: members of either family, nothing else', (t) => {
  const set = new PrefixSet([parsePrefix('10.80.0.7'), parsePrefix('10.2.0.0/16'), parsePrefix('fd80::7')]);
  t.true(set.has4(getU32(parseAddress('10.80.0.7'), 0)));
  t.true(set.has4(getU32(parseAddress('10.2.255.1'), 0)));
  t.false(set.has4(getU32(parseAddress('10.80.0.8'), 0)));
  t.true(set.has6(parseAddress('fd80::7'), 0));
  t.false(set.has6(parseAddress('fd80::8'), 0));
  t.false(new PrefixSet([]).has6(parseAddress('::'), 0));
});

// Longest-prefix match with 1,000, 100,000 and 1,000,000 routes. Lengths as in the Internet's table (most are /24 or
// /48); destinations are random over all addresses (IPv4) or over the routes (IPv6: random ones would all miss), a
// million of them, so that the processor's caches are of as little help as they are to a busy hub.

import { seededRandom } from '../../lib/core/index.js';
import { Lpm4 } from '../../lib/l3/lpm4.js';
import { Lpm6 } from '../../lib/l3/lpm6.js';
import type { MicroBench, MicroCase } from './shape.js';

const QUERIES = 1 << 20;
const sizes = (smoke: boolean) => (smoke ? [1_000] : [1_000, 100_000, 1_000_000]);

function v4(routes: number, queries: number): MicroCase {
  const random = seededRandom(1);
  const table = new Lpm4();
  while (table.size < routes) {
    const length = random.float() < 0.6 ? 24 : 16 + (random.u32() % 9);
    table.set((random.u32() & (-1 << (32 - length))) >>> 0, length, 1 + (random.u32() % 1_000));
  }
  const destinations = Uint32Array.from({ length: queries }, () => random.u32());
  let found = 0;
  return {
    name: `IPv4, ${routes.toLocaleString('en')} routes`,
    unit: 'lookup',
    ops: queries,
    fn() {
      for (let i = 0; i < destinations.length; i++) found = (found + table.lookup(destinations[i]!)) | 0;
    },
  };
}

function v6(routes: number, queries: number): MicroCase {
  const random = seededRandom(2);
  const table = new Lpm6();
  const known: [number, number][] = [];
  while (table.size < routes) {
    const length = random.float() < 0.5 ? 48 : 32 + (random.u32() % 33);
    const high = (0x20000000 | (random.u32() >>> 4)) >>> 0;
    const low = length === 32 ? 0 : (random.u32() & (-1 << (64 - length))) >>> 0;
    table.set([high, low, 0, 0], length, 1 + (random.u32() % 1_000));
    known.push([high, low]);
  }
  const destinations = new Uint32Array(queries * 2);
  for (let i = 0; i < queries; i++) destinations.set(known[random.u32() % known.length]!, i * 2);
  let found = 0;
  return {
    name: `IPv6, ${routes.toLocaleString('en')} routes`,
    unit: 'lookup',
    ops: queries,
    fn() {
      for (let i = 0; i < queries * 2; i += 2) {
        found = (found + table.lookup(destinations[i]!, destinations[i + 1]!, i, found)) | 0;
      }
    },
  };
}

export default {
  name: 'l3-lookup',
  setup: (smoke) => {
    const queries = smoke ? 1_000 : QUERIES;
    return [...sizes(smoke).map((n) => v4(n, queries)), ...sizes(smoke).map((n) => v6(n, queries))];
  },
} satisfies MicroBench;

// The routes of one tenant: several candidates per prefix, the best one programmed into the lookup tries.

import { getU32 } from '../core/index.js';
import { comparePrefix, type Prefix, prefixKey } from './address.js';
import { Lpm4 } from './lpm4.js';
import { Lpm6, type Words6 } from './lpm6.js';
import type { RouteEntry } from './route.js';

/** No route; port ids start at 1. */
export const NO_PORT = 0;

/** Routes to prefixes, best first by metric (then the older). Lookups give the id of the port to leave through. */
export class RouteTable {
  private readonly v4 = new Lpm4();
  private readonly v6 = new Lpm6();
  /** Candidates of each prefix, best first. */
  private readonly candidates = new Map<string, RouteEntry[]>();
  private readonly byPort = new Map<number, Set<RouteEntry>>();
  /** Changes with every change of the table: lets callers cache lookups. */
  generation = 0;

  /** Adds a route, or replaces the one with the same prefix, port, origin and node. */
  add(route: RouteEntry): void {
    this.remove(route);
    const key = prefixKey(route.prefix);
    let list = this.candidates.get(key);
    if (list === undefined) this.candidates.set(key, (list = []));
    let i = list.length;
    while (i > 0 && list[i - 1]!.metric > route.metric) i--;
    list.splice(i, 0, route);
    let ports = this.byPort.get(route.port);
    if (ports === undefined) this.byPort.set(route.port, (ports = new Set()));
    ports.add(route);
    if (i === 0) this.program(route.prefix, route.port);
  }

  /** Removes the route with this prefix, port, origin and node; false if there is none. */
  remove(route: Pick<RouteEntry, 'prefix' | 'port' | 'origin' | 'node'>): boolean {
    const found = this.candidates
      .get(prefixKey(route.prefix))
      ?.find((r) => r.port === route.port && r.origin === route.origin && r.node === route.node);
    if (found === undefined) return false;
    this.drop(found);
    return true;
  }

  /** Removes all routes through a port; returns how many there were. */
  removePort(port: number): number {
    const routes = this.byPort.get(port);
    if (routes === undefined) return 0;
    const count = routes.size;
    for (const route of [...routes]) this.drop(route);
    return count;
  }

  /** Port for an IPv4 destination given as a 32-bit integer; NO_PORT if there is no route. */
  lookup4(destination: number): number {
    return this.v4.lookup(destination);
  }

  /** Port for the IPv6 destination at buf[off, off + 16). */
  lookup6(buf: Uint8Array, off: number): number {
    return this.v6.lookup(getU32(buf, off), getU32(buf, off + 4), getU32(buf, off + 8), getU32(buf, off + 12));
  }

  /** Port for an address of 4 or 16 bytes. */
  lookup(address: Uint8Array): number {
    return address.length === 4 ? this.lookup4(getU32(address, 0)) : this.lookup6(address, 0);
  }

  /** Candidates of exactly this prefix, best first. */
  get(prefix: Prefix): readonly RouteEntry[] {
    return this.candidates.get(prefixKey(prefix)) ?? [];
  }

  /** Prefixes in the table. */
  get size(): number {
    return this.candidates.size;
  }

  /** Bytes of the lookup tries. */
  get bytes(): number {
    return this.v4.bytes + this.v6.bytes;
  }

  /** All candidates, ordered by prefix, best first. For the API. */
  all(): RouteEntry[] {
    const lists = [...this.candidates.values()].sort((a, b) => comparePrefix(a[0]!.prefix, b[0]!.prefix));
    return lists.flat();
  }

  private drop(route: RouteEntry): void {
    const key = prefixKey(route.prefix);
    const list = this.candidates.get(key)!;
    const i = list.indexOf(route);
    list.splice(i, 1);
    const ports = this.byPort.get(route.port)!;
    ports.delete(route);
    if (ports.size === 0) this.byPort.delete(route.port);
    if (list.length === 0) this.candidates.delete(key);
    if (i === 0) this.program(route.prefix, list[0]?.port ?? NO_PORT);
  }

  private program(prefix: Prefix, port: number): void {
    this.generation++;
    if (prefix.address.length === 4) {
      const bits = getU32(prefix.address, 0);
      if (port === NO_PORT) this.v4.remove(bits, prefix.length);
      else this.v4.set(bits, prefix.length, port);
    } else {
      const key = words6(prefix.address);
      if (port === NO_PORT) this.v6.remove(key, prefix.length);
      else this.v6.set(key, prefix.length, port);
    }
  }
}

/** A set of prefixes to test membership in: the sources that a port may use. */
export class PrefixSet {
  private v4: Lpm4 | null = null;
  private v6: Lpm6 | null = null;
  readonly prefixes: readonly Prefix[];

  constructor(prefixes: readonly Prefix[]) {
    this.prefixes = [...new Map(prefixes.map((p) => [prefixKey(p), p])).values()];
    for (const { address, length } of this.prefixes) {
      if (address.length === 4) (this.v4 ??= new Lpm4()).set(getU32(address, 0), length, 1);
      else (this.v6 ??= new Lpm6()).set(words6(address), length, 1);
    }
  }

  has4(address: number): boolean {
    return this.v4 !== null && this.v4.lookup(address) !== 0;
  }

  has6(buf: Uint8Array, off: number): boolean {
    if (this.v6 === null) return false;
    return this.v6.lookup(getU32(buf, off), getU32(buf, off + 4), getU32(buf, off + 8), getU32(buf, off + 12)) !== 0;
  }
}

function words6(address: Uint8Array): Words6 {
  return [getU32(address, 0), getU32(address, 4), getU32(address, 8), getU32(address, 12)];
}

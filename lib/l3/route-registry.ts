// The advertised routes of one tenant at the cloud: who originates what, and which of it may stand beside which.

import {
  comparePrefix,
  formatPrefix,
  makePrefix,
  type Prefix,
  parsePrefix,
  prefixContains,
  prefixesOverlap,
  prefixKey,
} from './address.js';
import type { Route } from './route.js';

interface Entry {
  readonly prefix: Prefix;
  /** By node. The same prefix from several nodes is redundancy; the metric chooses. */
  readonly routes: Map<string, Route>;
}

/** Never forwarded by the router, so never a route or a pool (RFC 1122 §3.2.1.3, RFC 3927, RFC 4291). */
const IMPOSSIBLE = ['0.0.0.0/8', '127.0.0.0/8', '169.254.0.0/16', '224.0.0.0/3', '::/127', 'fe80::/10', 'ff00::/8'].map(
  parsePrefix,
);

export class RouteRegistry {
  /** Sorted by prefix, so that all prefixes inside another follow it. */
  private readonly sorted: Entry[] = [];
  private readonly byKey = new Map<string, Entry>();
  /** How many entries there are of each (bytes, length): the lengths at which a covering prefix can be. */
  private readonly lengths = new Map<number, number>();
  private readonly byNode = new Map<string, Map<string, Route>>();
  /** Routes in all. */
  size = 0;

  get routes(): Route[] {
    return this.sorted.flatMap((entry) => [...entry.routes.values()]);
  }

  /** Somebody originates exactly this prefix. */
  has(prefix: Prefix): boolean {
    return this.byKey.has(prefixKey(prefix));
  }

  /** A copy of the node's routes, by prefixKey. */
  routesOf(node: string): Map<string, Route> {
    return new Map(this.byNode.get(node));
  }

  add(route: Route): void {
    const key = prefixKey(route.prefix);
    let entry = this.byKey.get(key);
    if (entry === undefined) {
      entry = { prefix: route.prefix, routes: new Map() };
      this.byKey.set(key, entry);
      this.sorted.splice(this.position(route.prefix), 0, entry);
      this.countLength(route.prefix, 1);
    }
    if (!entry.routes.has(route.node)) this.size++;
    entry.routes.set(route.node, route);
    let own = this.byNode.get(route.node);
    if (own === undefined) this.byNode.set(route.node, (own = new Map()));
    own.set(key, route);
  }

  remove(prefix: Prefix, node: string): boolean {
    const entry = this.byKey.get(prefixKey(prefix));
    if (entry === undefined || !entry.routes.delete(node)) return false;
    this.size--;
    const own = this.byNode.get(node)!;
    own.delete(prefixKey(prefix));
    if (own.size === 0) this.byNode.delete(node);
    if (entry.routes.size === 0) {
      this.byKey.delete(prefixKey(prefix));
      this.sorted.splice(this.position(prefix), 1);
      this.countLength(prefix, -1);
    }
    return true;
  }

  /**
   * Why `node` may not originate `prefix`, or null. Exactly the prefix of another node is redundancy and allowed (both
   * must have it in their certificates), with all that either nests in it. Otherwise one inside or around another node's
   * would quietly take traffic away from it.
   */
  conflict(node: string, prefix: Prefix): string | null {
    if (IMPOSSIBLE.some((p) => prefixContains(p, prefix))) return `${formatPrefix(prefix)} is not unicast`;
    const bytes = prefix.address.length;
    for (const [code] of this.lengths) {
      const length = code & 0xff;
      if (code >>> 8 !== bytes || length >= prefix.length) continue;
      const outer = this.byKey.get(prefixKey(makePrefix(prefix.address, length)));
      if (outer !== undefined && !outer.routes.has(node)) {
        const [other] = outer.routes.keys();
        if (other !== undefined) return `${formatPrefix(prefix)} is inside ${formatPrefix(outer.prefix)} of ${other}`;
      }
    }
    const same = this.byKey.get(prefixKey(prefix));
    for (let i = this.position(prefix); i < this.sorted.length; i++) {
      const inner = this.sorted[i]!;
      if (!prefixContains(prefix, inner.prefix)) break;
      if (inner.prefix.length === prefix.length) continue;
      const other = [...inner.routes.keys()].find((name) => name !== node && !same?.routes.has(name));
      if (other !== undefined) return `${formatPrefix(prefix)} contains ${formatPrefix(inner.prefix)} of ${other}`;
    }
    return null;
  }

  /** Index of the first entry not before `prefix`. */
  private position(prefix: Prefix): number {
    let low = 0;
    let high = this.sorted.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (comparePrefix(this.sorted[middle]!.prefix, prefix) < 0) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  private countLength(prefix: Prefix, by: number): void {
    const code = (prefix.address.length << 8) | prefix.length;
    const count = (this.lengths.get(code) ?? 0) + by;
    if (count === 0) this.lengths.delete(code);
    else this.lengths.set(code, count);
  }
}

/** The part of `prefix` that no host can have as its address, or undefined. */
export function notUnicast(prefix: Prefix): Prefix | undefined {
  return overlapping(IMPOSSIBLE, prefix);
}

/** The first of `prefixes` that has an address in common with `prefix`. */
export function overlapping(prefixes: readonly Prefix[], prefix: Prefix): Prefix | undefined {
  return prefixes.find((p) => prefixesOverlap(p, prefix));
}

// Edge: the upstreams of a process, by where they lead; bounded.

import type { Upstream } from './upstream.js';

const MAX_UPSTREAMS = 1024;

/** Upstreams by address, bounded: the one unused for longest goes. */
export class UpstreamTable {
  private readonly table = new Map<string, Upstream>();

  constructor(private readonly max = MAX_UPSTREAMS) {}

  get(key: string, make: () => Upstream): Upstream {
    const known = this.table.get(key);
    if (known !== undefined) {
      // In the order of their last use.
      this.table.delete(key);
      this.table.set(key, known);
      return known;
    }
    const upstream = make();
    if (this.table.size >= this.max) {
      for (const [old, idle] of this.table) {
        if (idle.active > 0) continue;
        idle.close();
        this.table.delete(old);
        break;
      }
    }
    this.table.set(key, upstream);
    return upstream;
  }

  close(): void {
    for (const upstream of this.table.values()) upstream.close();
    this.table.clear();
  }
}

// What ICMP has said about the MTU of paths, for datagrams: RFC 1191 §6.3, RFC 8201 §5.2. (TCP keeps its own, per
// connection, in lib/l4/tcp/mtu.ts; a new connection starts with what is known here.)

import { type Micros, SECOND } from '../core/index.js';
import { addressKey } from '../l3/index.js';

/** RFC 8201 §5.2 forbids trying a larger MTU within 5 minutes and recommends 10. */
const LIFETIME = 600 * SECOND;
const MAX_ENTRIES = 1_024;

export class PathMtu {
  private readonly entries = new Map<string, { mtu: number; until: Micros }>();

  learn(now: Micros, destination: Uint8Array, mtu: number): void {
    // RFC 1191 §3 and RFC 8201 §4: never below the least that the protocol demands, whatever a message says.
    const floor = destination.length === 4 ? 576 : 1280;
    const key = addressKey(destination);
    if (this.entries.size >= MAX_ENTRIES && !this.entries.has(key)) {
      const oldest = this.entries.keys().next();
      if (oldest.done !== true) this.entries.delete(oldest.value);
    }
    this.entries.set(key, { mtu: Math.max(mtu, floor), until: now + LIFETIME });
  }

  /** `known` (of the first hop), or less if the path has said so. */
  towards(now: Micros, destination: Uint8Array, known: number): number {
    if (this.entries.size === 0) return known;
    const entry = this.entries.get(addressKey(destination));
    if (entry === undefined) return known;
    if (entry.until > now) return Math.min(known, entry.mtu);
    this.entries.delete(addressKey(destination));
    return known;
  }
}

// The four-tuple table: finds the flow of a segment by its bytes in the packet, without building a key.
//
// Buckets of intrusive lists; the hash is seeded, so that nobody can choose tuples that share a bucket. A flow is a live
// connection or what TIME-WAIT has left of it.

import type { Micros, Random } from '../core/index.js';
import { KubeBusError, NEVER } from '../core/index.js';
import type { TcpSurface } from './tcp/surface.js';
import type { TimeWait } from './tcp/time-wait.js';
import type { TcpConfig } from './tcp/types.js';

/** What happens to a flow, for whoever owns it. */
export interface FlowHandler {
  /** Bits of TcpEvent. Called by the stack's `deliver`, never from inside a command. */
  onTcpEvents(flow: TcpFlow, events: number): void;
  /** The stack stops: the connection is about to be aborted. */
  onStop(): void;
}

/** What a flow knows of the listener that made it. */
export interface FlowListener {
  halfOpen: number;
  /** A connection is up. Called by the stack's `deliver`; sets the flow's handler. */
  onConnection(flow: TcpFlow): void;
}

export class TcpFlow {
  hash = 0;
  next: TcpFlow | null = null;
  /** What the stack drives; null once nothing is left to do but TIME-WAIT. */
  connection: TcpSurface | null = null;
  /** The same for the owner to come: a connection may be over before anybody has seen it, and still have bytes to read. */
  untaken: TcpSurface | null = null;
  timeWait: TimeWait | null = null;
  handler: FlowHandler | null = null;
  /** Events that wait for `deliver`, and whether the flow is in the list of those to poll. */
  events = 0;
  dirty = false;
  delivering = false;
  /** The listener that made it and has not been told yet: it counts as half open there. */
  halfOpen: FlowListener | null = null;
  /** Place in the heap of deadlines, -1 when not in it; and the time it is filed under. */
  heapIndex = -1;
  heapAt: Micros = NEVER;

  constructor(
    readonly config: TcpConfig,
    connection: TcpSurface,
  ) {
    this.connection = this.untaken = connection;
  }

  /** For the owner, once. */
  take(): TcpSurface {
    const connection = this.untaken;
    if (connection === null) throw new KubeBusError('ERR_INTERNAL', 'a connection has one owner');
    this.untaken = null;
    return connection;
  }
}

export class FlowTable {
  private buckets: (TcpFlow | null)[] = new Array(256).fill(null);
  private readonly seed: number;
  size = 0;

  constructor(random: Random) {
    this.seed = random.u32() | 1;
  }

  /** The flow of a segment that came in: `src` and `dst` are offsets of its addresses in `buf`, `length` is 4 or 16. */
  find(
    buf: Uint8Array,
    src: number,
    dst: number,
    length: number,
    remotePort: number,
    localPort: number,
  ): TcpFlow | null {
    const hash = this.hash(buf, dst, buf, src, length, localPort, remotePort);
    let flow = this.buckets[hash & (this.buckets.length - 1)] ?? null;
    for (; flow !== null; flow = flow.next) {
      if (flow.hash !== hash) continue;
      const { config } = flow;
      if (config.localPort !== localPort || config.remotePort !== remotePort) continue;
      if (config.localAddress.length !== length) continue;
      if (same(config.remoteAddress, buf, src, length) && same(config.localAddress, buf, dst, length)) return flow;
    }
    return null;
  }

  get(local: Uint8Array, localPort: number, remote: Uint8Array, remotePort: number): TcpFlow | null {
    const hash = this.hash(local, 0, remote, 0, local.length, localPort, remotePort);
    let flow = this.buckets[hash & (this.buckets.length - 1)] ?? null;
    for (; flow !== null; flow = flow.next) {
      const { config } = flow;
      if (flow.hash !== hash || config.localPort !== localPort || config.remotePort !== remotePort) continue;
      if (config.localAddress.length !== local.length) continue;
      if (same(config.remoteAddress, remote, 0, local.length) && same(config.localAddress, local, 0, local.length))
        return flow;
    }
    return null;
  }

  add(flow: TcpFlow): void {
    const { localAddress: l, remoteAddress: r, localPort, remotePort } = flow.config;
    flow.hash = this.hash(l, 0, r, 0, l.length, localPort, remotePort);
    if (this.size >= this.buckets.length) this.grow();
    const i = flow.hash & (this.buckets.length - 1);
    flow.next = this.buckets[i] ?? null;
    this.buckets[i] = flow;
    this.size++;
  }

  remove(flow: TcpFlow): void {
    const i = flow.hash & (this.buckets.length - 1);
    let at = this.buckets[i] ?? null;
    if (at === flow) this.buckets[i] = flow.next;
    else {
      while (at !== null && at.next !== flow) at = at.next;
      if (at === null) return;
      at.next = flow.next;
    }
    flow.next = null;
    this.size--;
  }

  /** Calls `fn` for every flow; `fn` may remove the flow it is given. */
  forEach(fn: (flow: TcpFlow) => void): void {
    for (let head of this.buckets) {
      while (head !== null) {
        const next: TcpFlow | null = head.next;
        fn(head);
        head = next;
      }
    }
  }

  private grow(): void {
    const old = this.buckets;
    this.buckets = new Array(old.length * 2).fill(null);
    const mask = this.buckets.length - 1;
    for (let flow of old) {
      while (flow !== null) {
        const next: TcpFlow | null = flow.next;
        flow.next = this.buckets[flow.hash & mask] ?? null;
        this.buckets[flow.hash & mask] = flow;
        flow = next;
      }
    }
  }

  /** murmur3's mixing of ports and addresses, seeded. */
  private hash(
    local: Uint8Array,
    l: number,
    remote: Uint8Array,
    r: number,
    length: number,
    localPort: number,
    remotePort: number,
  ): number {
    let h = mix(this.seed, (localPort << 16) | remotePort);
    for (let i = 0; i < length; i += 4) {
      h = mix(h, (local[l + i]! << 24) | (local[l + i + 1]! << 16) | (local[l + i + 2]! << 8) | local[l + i + 3]!);
      h = mix(h, (remote[r + i]! << 24) | (remote[r + i + 1]! << 16) | (remote[r + i + 2]! << 8) | remote[r + i + 3]!);
    }
    h = Math.imul(h ^ (h >>> 16), 0x85ebca6b);
    return h ^ (h >>> 13);
  }
}

function mix(h: number, word: number): number {
  let k = Math.imul(word, 0xcc9e2d51);
  k = Math.imul((k << 15) | (k >>> 17), 0x1b873593);
  h ^= k;
  return (Math.imul((h << 13) | (h >>> 19), 5) + 0xe6546b64) | 0;
}

function same(a: Uint8Array, buf: Uint8Array, off: number, length: number): boolean {
  for (let i = 0; i < length; i++) if (a[i] !== buf[off + i]) return false;
  return true;
}

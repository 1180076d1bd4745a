// Nodes in one process: each its own router, joined by a hub's, as in production but for L2. Frames cross in batches, one turn of
// the event loop later.

import { HEADER, lengthAt, Slab, systemClock } from '../../lib/core/index.js';
import type { Vrf } from '../../lib/l3/index.js';
import { makePrefix, parseAddress, Router } from '../../lib/l3/index.js';
import { createNet, type Net, type NetOptions } from '../../lib/l4/index.js';

export interface WorldOptions extends NetOptions {
  /** **Default:** 1400. */
  readonly mtu?: number;
  /** Super-packets cross whole. **Default:** false. */
  readonly offload?: boolean;
  /** The hub has addresses, and so says what it cannot deliver. **Default:** false: it is silent. */
  readonly gateway?: boolean;
  /** Frames for which it returns true are lost. */
  readonly lose?: (bytes: Uint8Array, off: number) => boolean;
}

export interface TestNode {
  readonly name: string;
  readonly v4: string;
  readonly v6: string;
  readonly vrf: Vrf;
  readonly l4: Net;
}

/** Copies what is sent and hands it over at the next turn. */
class Wire {
  private waiting: Buffer[] = [];
  private scheduled = false;
  to: (slab: Slab, start: number, end: number) => void = () => {};
  up = true;

  constructor(private readonly lose: WorldOptions['lose']) {}

  send(slab: Slab, start: number, end: number): void {
    if (!this.up) return;
    for (let off = start; off < end; ) {
      const next = off + HEADER + lengthAt(slab.bytes, off);
      if (this.lose?.(slab.bytes, off) !== true) this.waiting.push(Buffer.from(slab.bytes.subarray(off, next)));
      off = next;
    }
    if (this.scheduled) return;
    this.scheduled = true;
    setImmediate(() => {
      this.scheduled = false;
      const batch = this.waiting;
      this.waiting = [];
      const bytes = Buffer.concat(batch);
      if (bytes.length > 0) this.to(Slab.of(bytes), 0, bytes.length);
    });
  }
}

export interface World {
  readonly nodes: readonly TestNode[];
  /** Cuts a node off, or joins it again. */
  setUp(index: number, up: boolean): void;
  close(): void;
}

/** `count` nodes with 10.80.0.1, fd80::1 and so on, around a hub. */
export function makeWorld(count: number, options: WorldOptions = {}): World {
  const { mtu = 1400, offload = false, gateway = false, lose, ...net } = options;
  const hub = new Router({ defer: setImmediate }).addVrf('test');
  if (gateway) hub.setAddresses([parseAddress('10.80.0.254'), parseAddress('fd80::fe')]);
  const wires: Wire[][] = [];
  const ports: { update(change: { up?: boolean }): void }[][] = [];
  const names = new Map<string, string[]>();
  const byAddress = new Map<string, string>();
  const nodes: TestNode[] = [];
  for (let i = 0; i < count; i++) {
    const name = `edge-${i + 1}`;
    const v4 = `10.80.0.${i + 1}`;
    const v6 = `fd80::${i + 1}`;
    names.set(name, [v4, v6]);
    names.set(`${name}.acme.kubebus`, [v4, v6]);
    byAddress.set(v4, name).set(v6, name);
    const up = new Wire(lose);
    const down = new Wire(lose);
    wires.push([up, down]);
    const vrf = new Router({ defer: setImmediate }).addVrf('test');
    vrf.setAddresses([parseAddress(v4), parseAddress(v6)]);
    const own = vrf.addPort({ name: 'hub', kind: 'link', sink: up, mtu, offload, sources: null });
    vrf.addStaticRoute(makePrefix(new Uint8Array(4), 0), own);
    vrf.addStaticRoute(makePrefix(new Uint8Array(16), 0), own);
    const far = hub.addPort({ name, kind: 'link', sink: down, mtu, offload, sources: null });
    hub.addStaticRoute(makePrefix(parseAddress(v4), 32), far);
    hub.addStaticRoute(makePrefix(parseAddress(v6), 128), far);
    up.to = (slab, start, end) => far.handlePackets(systemClock.now(), slab, start, end);
    down.to = (slab, start, end) => own.handlePackets(systemClock.now(), slab, start, end);
    ports.push([own, far]);
    const l4 = createNet(vrf.endpoint, {
      resolver: (host) => names.get(host) ?? [],
      peerOf: (address) => {
        const node = byAddress.get(address);
        return node === undefined ? undefined : { tenant: 'acme', node };
      },
      ...net,
    });
    nodes.push({ name, v4, v6, vrf, l4 });
  }
  return {
    nodes,
    setUp(index, up) {
      for (const wire of wires[index]!) wire.up = up;
      for (const port of ports[index]!) port.update({ up });
    },
    close() {
      for (const node of nodes) node.l4.close();
    },
  };
}

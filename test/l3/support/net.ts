// A whole L3 network in one process on a virtual clock: the production cores of cloud, edges and virtual routers over
// links of memory with a delay. Nothing runs unless `run` is called.

import { type Clock, HEADER, lengthAt, type Micros, MS, Slab, seededRandom } from '../../../lib/core/index.js';
import { formatAddress, parsePrefix } from '../../../lib/l3/address.js';
import { AddressPool } from '../../../lib/l3/address-pool.js';
import { CloudControl, type CloudControlOptions } from '../../../lib/l3/cloud-control.js';
import type { NodeSession } from '../../../lib/l3/control.js';
import { NodeControl } from '../../../lib/l3/node-control.js';
import { Pinger, type PingResult } from '../../../lib/l3/pinger.js';
import type { Port } from '../../../lib/l3/port.js';
import type { Route } from '../../../lib/l3/route.js';
import { Router } from '../../../lib/l3/router.js';
import type { Vrf } from '../../../lib/l3/vrf.js';

export class World implements Clock {
  private time: Micros = 0;
  private tasks: { at: Micros; fn: () => void }[] = [];

  now(): Micros {
    return this.time;
  }

  at(at: Micros, fn: () => void) {
    const task = { at, fn };
    // Behind all that is due at the same time; nearly always the end of the list.
    let i = this.tasks.length;
    while (i > 0 && this.tasks[i - 1]!.at > at) i--;
    this.tasks.splice(i, 0, task);
    return {
      cancel: () => {
        const at = this.tasks.indexOf(task);
        if (at >= 0) this.tasks.splice(at, 1);
      },
    };
  }

  readonly defer = (fn: () => void): void => {
    this.at(this.time, fn);
  };

  /** Runs everything that is due within `micros`, in order. */
  run(micros: Micros = 1_000 * MS): void {
    const until = this.time + micros;
    for (;;) {
      const due = this.tasks[0];
      if (due === undefined || due.at > until) break;
      this.tasks.shift();
      this.time = Math.max(this.time, due.at);
      due.fn();
    }
    this.time = until;
  }
}

export interface NodeOptions {
  readonly allowed?: readonly string[];
  readonly advertise?: readonly string[];
  /** Puts a machine behind the node (a VM on the subnet it routes for), with this address. */
  readonly vm?: string;
  readonly offload?: boolean;
  readonly mtu?: number;
}

export const routeOf = (prefix: string, more: Partial<Route> = {}): Route => ({
  prefix: parsePrefix(prefix),
  kind: 'vm',
  metric: 100,
  node: '',
  ...more,
});

export class SimNode {
  readonly vrf: Vrf;
  readonly link: Port;
  readonly control: NodeControl;
  readonly pinger: Pinger;
  readonly refused: string[] = [];
  readonly kernelPrefixes = new Set<string>();
  /** The machine behind the node. */
  vm: { vrf: Vrf; pinger: Pinger } | null = null;
  session: NodeSession | null = null;
  private cloudPort: Port | null = null;
  /** Bytes that went to the cloud. */
  sent = 0;

  constructor(
    readonly world: World,
    readonly cloud: SimCloud,
    readonly name: string,
    readonly options: NodeOptions,
    seed: number,
  ) {
    this.vrf = new Router({ defer: world.defer }).addVrf(cloud.tenant);
    this.pinger = new Pinger({ random: seededRandom(seed) });
    this.vrf.listenIcmp(this.pinger);
    const wire = this.wire((slab) => this.cloudPort?.handlePackets(world.now(), slab, 0, slab.bytes.length));
    const { mtu = 1400, offload = false } = options;
    this.link = this.vrf.addPort({ name: 'cloud', kind: 'link', sink: wire, mtu, offload, up: false, sources: null });
    const host = options.vm === undefined ? undefined : this.addVm(options.vm, seed);
    this.control = new NodeControl({
      node: name,
      vrf: this.vrf,
      link: this.link,
      ...(host === undefined ? {} : { host }),
      advertise: (options.advertise ?? []).map((p) => routeOf(p)),
      events: {
        onRefused: (reason, prefixes) => this.refused.push(`${reason.code} ${reason.message} [${prefixes.length}]`),
        onPrefixes: ({ added, removed }) => {
          for (const p of removed) this.kernelPrefixes.delete(`${formatAddress(p.address)}/${p.length}`);
          for (const p of added) this.kernelPrefixes.add(`${formatAddress(p.address)}/${p.length}`);
        },
      },
    });
  }

  get addresses(): string[] {
    return this.control.addresses.map(formatAddress);
  }

  /** Addresses of the other nodes, as this one knows them. */
  get peers(): string[] {
    const edges = this.control.routes.filter((r) => r.kind === 'edge');
    return edges.map((r) => `${formatAddress(r.prefix.address)} ${r.node}`).sort();
  }

  get routes(): string[] {
    const subnets = this.control.routes.filter((r) => r.kind !== 'edge');
    return subnets.map((r) => `${formatAddress(r.prefix.address)}/${r.prefix.length} ${r.node}`).sort();
  }

  up(): this {
    const { world, cloud } = this;
    const wire = this.wire((slab) => this.link.handlePackets(world.now(), slab, 0, slab.bytes.length));
    const { mtu = 1400, offload = false, allowed = [] } = this.options;
    const port = cloud.vrf.addPort({ name: this.name, kind: 'link', sink: wire, mtu, offload });
    this.cloudPort = port;
    this.session = cloud.control.nodeUp(world.now(), {
      node: this.name,
      port,
      allowed: allowed.map(parsePrefix),
      send: (message) => later(world, () => this.session && this.control.handleControl(world.now(), message)),
    });
    this.link.update({ up: true });
    this.control.linkUp((message) => later(world, () => this.session?.handleControl(world.now(), message)));
    return this;
  }

  down(): void {
    this.session?.down(this.world.now());
    if (this.cloudPort !== null) this.cloud.vrf.removePort(this.cloudPort);
    this.session = null;
    this.cloudPort = null;
    this.link.update({ up: false });
    this.control.linkDown();
  }

  /** One echo request from this node (or from `as`), run to its end. */
  ping(
    destination: Uint8Array,
    more: { size?: number; ttl?: number; as?: { vrf: Vrf; pinger: Pinger } } = {},
  ): PingResult {
    const { vrf, pinger } = more.as ?? this;
    const source = vrf.addresses.find((a) => a.length === destination.length);
    if (source === undefined) throw new Error('no source address');
    const request = { source, destination, timeout: 500 * MS, size: more.size ?? 56, ttl: more.ttl ?? 64 };
    const slab = Slab.of(Buffer.alloc(Pinger.frameBytes(request)));
    let result: PingResult | undefined;
    const end = pinger.request(this.world.now(), slab.bytes, 0, request, (r) => {
      result = r;
    });
    vrf.handleLocal(this.world.now(), slab, 0, end);
    this.world.run(400 * MS);
    if (result === undefined) {
      this.world.run(200 * MS);
      pinger.handleTimeout(this.world.now());
    }
    return result!;
  }

  private addVm(address: string, seed: number): Port {
    const vrf = new Router({ defer: this.world.defer }).addVrf('vm');
    const pinger = new Pinger({ random: seededRandom(seed + 1000) });
    vrf.listenIcmp(pinger);
    vrf.setAddresses([parsePrefix(address).address]);
    const world = this.world;
    const host = this.vrf.addPort({
      name: 'tun',
      kind: 'host',
      mtu: 0xffff,
      offload: true,
      sink: this.wire((slab) => uplink.handlePackets(world.now(), slab, 0, slab.bytes.length)),
    });
    const sink = this.wire((slab) => host.handlePackets(world.now(), slab, 0, slab.bytes.length));
    const uplink = vrf.addPort({ name: 'eth0', kind: 'link', mtu: 0xffff, offload: true, sink, sources: null });
    for (const all of ['0.0.0.0/0', '::/0']) vrf.addStaticRoute(parsePrefix(all), uplink);
    this.vm = { vrf, pinger };
    return host;
  }

  private wire(arrive: (slab: Slab) => void) {
    return {
      send: (slab: Slab, start: number, end: number) => {
        this.sent += end - start;
        const copy = Slab.of(Buffer.from(slab.bytes.subarray(start, end)));
        later(this.world, () => arrive(copy));
      },
    };
  }
}

export class SimCloud {
  readonly vrf: Vrf;
  readonly pool: AddressPool;
  readonly control: CloudControl;
  private seed = 1;

  constructor(
    readonly world: World,
    readonly router: Router,
    readonly tenant: string,
    pools: readonly string[] = ['10.80.0.0/16', 'fd80::/64'],
    more: Partial<CloudControlOptions> = {},
    record?: unknown,
  ) {
    this.vrf = router.addVrf(tenant);
    this.pool = new AddressPool({ pools: pools.map(parsePrefix) });
    if (record !== undefined) this.pool.restore(record);
    this.control = new CloudControl({ tenant, vrf: this.vrf, pool: this.pool, defer: world.defer, ...more });
  }

  node(name: string, options: NodeOptions = {}): SimNode {
    return new SimNode(this.world, this, name, options, this.seed++);
  }
}

/** Frames as [type-independent] packets, copied. */
export function packetsIn(slab: Slab, start: number, end: number): Buffer[] {
  const packets: Buffer[] = [];
  for (let off = start; off < end; off += HEADER + lengthAt(slab.bytes, off)) {
    packets.push(Buffer.from(slab.bytes.subarray(off + HEADER, off + HEADER + lengthAt(slab.bytes, off))));
  }
  return packets;
}

function later(world: World, fn: () => void): void {
  world.at(world.now() + 5 * MS, fn);
}

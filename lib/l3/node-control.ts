// Core: a node's end of the control protocol. Asks for addresses, says what it originates, keeps its view of the tenant's
// routes, programs the node's VRF, and tells the driver what the host's kernel should know.

import { checkBounds, type ErrorCode, KubeBusError, type Micros } from '../core/index.js';
import { addressKey, hostPrefix, type Prefix, prefixHas, prefixKey } from './address.js';
import { type ControlLimits, DEFAULT_CONTROL_LIMITS, type NodeControlEvents } from './control.js';
import { type Assignment, chunkRoutes, decodeControl, encodeControl, type NamesUpdate } from './control-codec.js';
import { TokenBucket } from './icmp.js';
import { NameView } from './name-view.js';
import type { Port } from './port.js';
import type { Route } from './route.js';
import type { Vrf } from './vrf.js';

export interface NodeControlOptions {
  /** Our own name: our own routes come back from the cloud and are skipped. */
  readonly node: string;
  readonly vrf: Vrf;
  /** Port of the link to the cloud. */
  readonly link: Port;
  /** Port of the TUN device: what we originate lies behind it. */
  readonly host?: Port;
  /** What we originate besides our addresses. `node` is set here. */
  readonly advertise?: readonly Route[];
  /** Addresses from an earlier run: used at once, and asked for. */
  readonly remembered?: readonly Uint8Array[];
  readonly limits?: Partial<ControlLimits>;
  readonly events?: Partial<NodeControlEvents>;
}

/** Metric of what lies behind our own host: always better than the same prefix elsewhere. */
const OWN_METRIC = 0;

export class NodeControl {
  readonly counters = {
    messages: 0,
    malformed: 0,
    unexpected: 0,
    unknown: 0,
    tooLong: 0,
    rateLimited: 0,
    routesBeyondLimit: 0,
    namesBeyondLimit: 0,
    refusals: 0,
  };
  private readonly node: string;
  private readonly vrf: Vrf;
  private readonly link: Port;
  private readonly host: Port | null;
  private readonly limits: ControlLimits;
  private readonly events: Partial<NodeControlEvents>;
  private readonly bucket: TokenBucket;
  private send: ((message: Uint8Array) => void) | null = null;
  private advertised: readonly Route[] = [];
  private revision = 0;
  private own: readonly Uint8Array[] = [];
  private poolPrefixes: readonly Prefix[] = [];
  private gatewayAddresses: readonly Uint8Array[] = [];
  private mtuValue = 0;
  private accepted = false;
  private readonly names: NameView;
  /** What lies behind others, by node and prefix. */
  private readonly view = new Map<string, Route>();
  /** Messages of a change that is not complete yet. */
  private staged: { snapshot: boolean; add: Route[]; withdraw: Route[] } | null = null;
  /** What the kernel was told to route to us: prefix by key. */
  private readonly kernel = new Map<string, Prefix>();

  constructor(options: NodeControlOptions) {
    this.node = options.node;
    this.vrf = options.vrf;
    this.link = options.link;
    this.host = options.host ?? null;
    this.limits = { ...DEFAULT_CONTROL_LIMITS, ...options.limits };
    checkBounds({ ...this.limits }, 'controlLimits.', 'none');
    this.events = options.events ?? {};
    // The cloud sends one increment a turn, and a snapshot in many messages: it is not held to a node's rate, but to some.
    this.names = new NameView({ bytes: this.limits.nameBytes, entries: this.limits.nodesPerTenant * 4 });
    this.bucket = new TokenBucket(this.limits.messagesPerSecond * 40, this.limits.messageBurst * 40);
    if (options.remembered !== undefined && options.remembered.length > 0) this.useAddresses(options.remembered);
    this.setAdvertised(options.advertise ?? []);
  }

  /** True from the first assignment of this session on. */
  get assigned(): boolean {
    return this.accepted;
  }

  get addresses(): readonly Uint8Array[] {
    return this.own;
  }

  /** The tenant's edge pools. */
  get pools(): readonly Prefix[] {
    return this.poolPrefixes;
  }

  /** The cloud's addresses in the tenant: they answer ping. */
  get gateway(): readonly Uint8Array[] {
    return this.gatewayAddresses;
  }

  /** MTU of the tenant as the cloud says; 0 before the first assignment. */
  get mtu(): number {
    return this.mtuValue;
  }

  /** Routes of the other nodes: their addresses (kind 'edge') and what lies behind them. */
  get routes(): readonly Route[] {
    const edges = this.names.entries().flatMap(({ node, addresses }) => {
      if (node === this.node) return [];
      return addresses.map((a): Route => ({ prefix: hostPrefix(a), kind: 'edge', metric: 0, node }));
    });
    return [...edges, ...this.view.values()];
  }

  /** Addresses of a node of the tenant, connected or not; none: not known. */
  addressesOf(node: string): readonly Uint8Array[] {
    return this.names.addressesOf(node);
  }

  /** The node that has the address, or that routes to it. */
  nodeOf(address: Uint8Array): string | undefined {
    const named = this.names.nodeOf(address);
    if (named !== undefined) return named;
    let best: Route | undefined;
    for (const route of this.view.values()) {
      if (prefixHas(route.prefix, address) && route.prefix.length > (best?.prefix.length ?? -1)) best = route;
    }
    return best?.node;
  }

  /** The link is up (again): registers and advertises. What is known stays in use until the cloud says otherwise. */
  linkUp(send: (message: Uint8Array) => void): void {
    this.send = send;
    this.staged = null;
    this.accepted = false;
    const { known } = this.names;
    send(encodeControl({ type: 'register', addresses: this.own, ...(known.count === 0 ? {} : { names: known }) }));
    this.sendAdvertise();
  }

  linkDown(): void {
    this.send = null;
    this.staged = null;
    this.names.linkDown();
    this.accepted = false;
  }

  /** Replaces the set of prefixes that we originate, now and after every reconnection. */
  setAdvertise(routes: readonly Route[]): void {
    this.setAdvertised(routes);
    this.sendAdvertise();
  }

  /** Never throws: bytes that are no message are counted. */
  handleControl(now: Micros, bytes: Uint8Array): void {
    this.counters.messages++;
    if (bytes.length > this.limits.messageBytes) {
      this.counters.tooLong++;
      return;
    }
    if (!this.bucket.take(now)) {
      this.counters.rateLimited++;
      return;
    }
    const message = decodeControl(bytes);
    if (message === null) this.counters.malformed++;
    else if (message.type === 'assign') this.assign(message);
    else if (message.type === 'routes') this.stage(message.snapshot, message.add, message.withdraw, message.more);
    else if (message.type === 'names') this.learn(message);
    else if (message.type === 'refusal') {
      this.counters.refusals++;
      const reason = new KubeBusError(message.code as ErrorCode, message.message, { side: 'remote' });
      this.events.onRefused?.(reason, message.prefixes);
    } else if (message.type === 'unknown') this.counters.unknown++;
    else this.counters.unexpected++;
  }

  private assign(message: Assignment): void {
    if (message.addresses.length === 0 || message.mtu < 576 || message.mtu > 0xffff) {
      this.counters.malformed++;
      return;
    }
    const first = !this.accepted;
    this.accepted = true;
    const { origin, port, node } = { origin: 'assigned' as const, port: this.link.id, node: '' };
    for (const prefix of this.overlayPrefixes()) this.vrf.routes.remove({ prefix, port, origin, node });
    this.poolPrefixes = message.pools;
    this.gatewayAddresses = message.gateway;
    for (const prefix of this.overlayPrefixes()) {
      this.vrf.routes.add({ prefix, port, origin, node, kind: 'edge', metric: 0 });
    }
    this.vrf.setGateway(message.gateway);
    this.useAddresses(message.addresses);
    if (this.mtuValue !== message.mtu) {
      this.mtuValue = message.mtu;
      this.events.onMtu?.(message.mtu);
    }
    this.tellKernel();
    if (first) this.events.onAssigned?.();
  }

  private learn(update: NamesUpdate): void {
    const outcome = this.names.handle(update);
    if (outcome === 'gap') this.counters.unexpected++;
    else if (outcome === 'beyond-limit') this.counters.namesBeyondLimit += update.to - update.from;
    if (outcome === 'taken') this.events.onNames?.();
  }

  /** Pools, and gateway addresses that lie outside of them. */
  private overlayPrefixes(): Prefix[] {
    const outside = this.gatewayAddresses.filter((a) => !this.poolPrefixes.some((p) => prefixHas(p, a)));
    return [...this.poolPrefixes, ...outside.map(hostPrefix)];
  }

  private useAddresses(addresses: readonly Uint8Array[]): void {
    const before = new Set(this.own.map(addressKey));
    const after = new Set(addresses.map(addressKey));
    const added = addresses.filter((a) => !before.has(addressKey(a)));
    const removed = this.own.filter((a) => !after.has(addressKey(a)));
    if (added.length === 0 && removed.length === 0) return;
    this.own = addresses;
    this.vrf.setAddresses(addresses);
    this.setHostSources();
    this.events.onAddresses?.({ added, removed, all: addresses });
  }

  private stage(snapshot: boolean, add: readonly Route[], withdraw: readonly Route[], more: boolean): void {
    if (snapshot || this.staged === null) this.staged = { snapshot, add: [], withdraw: [] };
    const { staged } = this;
    const room = this.limits.routesPerTenant * 2 - staged.add.length - staged.withdraw.length;
    if (add.length + withdraw.length > room) {
      // A cloud that never says "complete" must not fill our memory.
      this.counters.routesBeyondLimit += add.length + withdraw.length;
    } else {
      staged.add.push(...add);
      staged.withdraw.push(...withdraw);
    }
    if (more) return;
    this.staged = null;
    this.applyRoutes(staged.snapshot, staged.add, staged.withdraw);
  }

  private applyRoutes(snapshot: boolean, add: readonly Route[], withdraw: readonly Route[]): void {
    const added: Route[] = [];
    const removed: Route[] = [];
    const drop = (key: string) => {
      const route = this.view.get(key);
      if (route === undefined) return;
      this.view.delete(key);
      this.vrf.routes.remove({ prefix: route.prefix, port: this.link.id, origin: 'advertised', node: route.node });
      removed.push(route);
    };
    if (snapshot) {
      const stay = new Set(add.map(viewKey));
      for (const key of [...this.view.keys()]) if (!stay.has(key)) drop(key);
    }
    for (const route of withdraw) drop(viewKey(route));
    for (const route of add) {
      // Addresses come as names.
      if (route.node === this.node || route.kind === 'edge') continue;
      const key = viewKey(route);
      const old = this.view.get(key);
      if (old !== undefined && old.metric === route.metric && old.kind === route.kind) continue;
      if (old === undefined && this.view.size >= this.limits.routesPerTenant * 2) {
        this.counters.routesBeyondLimit++;
        continue;
      }
      if (old !== undefined) drop(key);
      this.view.set(key, route);
      this.vrf.routes.add({ ...route, port: this.link.id, origin: 'advertised' });
      added.push(route);
    }
    if (added.length === 0 && removed.length === 0) return;
    this.events.onRoutes?.({ added, removed });
    this.vrf.changed();
    this.tellKernel();
  }

  private setAdvertised(routes: readonly Route[]): void {
    if (this.host !== null) {
      for (const route of this.advertised) this.vrf.removeStaticRoute(route.prefix, this.host);
      for (const { prefix, kind } of routes) this.vrf.addStaticRoute(prefix, this.host, { kind, metric: OWN_METRIC });
    }
    this.advertised = routes.map((route) => ({ ...route, node: this.node }));
    this.setHostSources();
    this.tellKernel();
  }

  /** Our kernel speaks for our addresses and for what lies behind us; the cloud would drop all else. */
  private setHostSources(): void {
    this.host?.setSources([...this.own.map(hostPrefix), ...this.advertised.map((r) => r.prefix)]);
  }

  private sendAdvertise(): void {
    if (this.send === null) return;
    const revision = ++this.revision;
    const parts = chunkRoutes(this.advertised);
    for (const [i, routes] of parts.entries()) {
      this.send(encodeControl({ type: 'advertise', revision, routes, more: i < parts.length - 1 }));
    }
  }

  /** Prefixes behind other nodes. */
  private subnets(): Prefix[] {
    return [...this.view.values()].map((r) => r.prefix);
  }

  private tellKernel(): void {
    const own = new Set(this.advertised.map((r) => prefixKey(r.prefix)));
    const wanted = new Map<string, Prefix>();
    for (const prefix of [...this.overlayPrefixes(), ...this.subnets()]) {
      if (!own.has(prefixKey(prefix))) wanted.set(prefixKey(prefix), prefix);
    }
    const added = [...wanted].filter(([key]) => !this.kernel.has(key));
    const removed = [...this.kernel].filter(([key]) => !wanted.has(key));
    if (added.length === 0 && removed.length === 0) return;
    for (const [key] of removed) this.kernel.delete(key);
    for (const [key, prefix] of added) this.kernel.set(key, prefix);
    this.events.onPrefixes?.({ added: added.map(([, p]) => p), removed: removed.map(([, p]) => p) });
  }
}

function viewKey(route: Route): string {
  return `${prefixKey(route.prefix)} ${route.node}`;
}

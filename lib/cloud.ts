// Composition: KubeBus@Cloud. Accepts links (L2), keeps one VRF per tenant with its addresses and routes (L3), and may
// put its own host on a tenant's overlay.

import { join } from 'node:path';
import {
  type Clock,
  Hold,
  KubeBusError,
  type Logger,
  type Micros,
  MS,
  type Random,
  silentLogger,
  systemClock,
  systemRandom,
  type Timer,
} from './core/index.js';
import {
  CloudHttp,
  type CloudHttpOptions,
  type CloudPublishOptions,
  type CloudTenantHost,
  type GatewayOptions,
  type Target,
} from './http-proxy/index.js';
import type { CloudAuthority } from './join/index.js';
import {
  type AcceptLimits,
  acceptLinks,
  isName,
  type Link,
  type LinkAcceptor,
  type LinkOptions,
  limitLink,
  type PeerIdentity,
  type RateLimit,
  RateMeter,
  type Transport,
} from './l2/index.js';
import {
  AddressPool,
  attachLink,
  CloudControl,
  type ControlLimits,
  DeadlineTimer,
  formatAddress,
  formatPrefix,
  HostNetwork,
  type NodeSession,
  openTun,
  type Prefix,
  parseAddress,
  parsePrefix,
  prefixHas,
  Router,
  StateFile,
  type TunDevice,
  type TunOptions,
  type Vrf,
} from './l3/index.js';
import { createNet, type Net, type NetLike } from './l4/index.js';
import { checkMtu, type RouteInfo } from './node.js';
import { type Usage, UsageBook } from './usage.js';

export interface TenantOptions {
  /** Edge pools, IPv4 and IPv6: '10.80.0.0/16', 'fd80::/64'. */
  readonly pools: readonly string[];
  /** What is known of nodes beforehand. */
  readonly nodes?: Readonly<Record<string, TenantNodeOptions>>;
  /** Puts the cloud's host on this tenant's overlay, as the gateway address; needs CAP_NET_ADMIN. **Default:** false. */
  readonly tun?: boolean | TunOptions;
  /** Bytes per second of all its nodes together. **Default:** no limit. */
  readonly rate?: RateLimit;
  /** Bytes per second of each of its nodes. **Default:** no limit. */
  readonly nodeRate?: RateLimit;
}

export interface TenantNodeOptions {
  /** Bytes per second of this node, instead of its tenant's `nodeRate`. */
  readonly rate?: RateLimit;
  /** Reserved for this node. */
  readonly address?: readonly string[];
  /** Prefixes that it may originate, besides those in its certificate. */
  readonly prefixes?: readonly string[];
}

export interface CloudOptions {
  /** Each listens where its own options say. */
  readonly transports: readonly Transport[];
  readonly tenants: Readonly<Record<string, TenantOptions>>;
  /** How the cloud calls itself. **Default:** 'cloud'. */
  readonly name?: string;
  /** Folder for the address book. **Default:** none: addresses are new after a restart unless the nodes remember them. */
  readonly stateDir?: string;
  /** Largest IP packet of the overlays. **Default:** 1400. */
  readonly mtu?: number;
  /** How long the routes of a node whose link went down stay announced. Milliseconds. **Default:** 15000. */
  readonly holdMs?: number;
  /** On plain (insecure) transports nodes may originate any prefix. **Default:** true. */
  readonly openPrefixesWhenInsecure?: boolean;
  /** Who signs the nodes' certificates (openJoinAuthority of kubebus/join): revoked nodes stay out. **Default:** any node with a good certificate comes in. */
  readonly authority?: CloudAuthority;
  /** How often it is looked whether certificates of live links have ended. Milliseconds. **Default:** 60000. */
  readonly expiryCheckMs?: number;
  /** Milliseconds since the epoch. **Default:** Date.now. */
  readonly date?: () => number;
  readonly logger?: Logger;
  readonly clock?: Clock;
  readonly random?: Random;
  readonly limits?: Partial<AcceptLimits>;
  readonly controlLimits?: Partial<ControlLimits>;
  readonly link?: LinkOptions;
  /** Where HTTP services are reached from outside the overlay. **Default:** nowhere. */
  readonly gateways?: readonly GatewayOptions[];
  /** Of the HTTP layer. */
  readonly http?: CloudHttpOptions;
}

export interface NodeInfo {
  readonly tenant: string;
  readonly node: string;
  readonly addresses: readonly string[];
  readonly routes: readonly RouteInfo[];
  /** Milliseconds; NaN before the first keepalive. */
  readonly rttMs: number;
  /** Seconds since the link came up. */
  readonly upSeconds: number;
  /** Bytes carried over all its links so far, also before a restart of the cloud where it has a state folder. */
  readonly usage: Usage;
  readonly stats: Readonly<Record<string, number>>;
}

interface Member {
  readonly link: Link;
  /** Of its bytes, what is in the usage book already. */
  accounted: Usage;
  readonly session: NodeSession;
  readonly since: number;
}

export class KubeBusCloud {
  private readonly router = new Router();
  private readonly tenants = new Map<string, Tenant>();
  private acceptor!: LinkAcceptor;
  private stopped = false;
  /** The address book as it was found: tenants that are not served now keep their part of it. */
  private readonly record: Record<string, unknown>;
  private readonly hold = new Hold();
  private sweep: Timer | null = null;
  private readonly usage = new UsageBook();
  private unsubscribe = () => {};

  /** Throws ERR_INVALID_ARGUMENT, ERR_ADDRESS, ERR_STATE, ERR_CONNECT (cannot listen) or ERR_TUN_*. */
  static async start(options: CloudOptions): Promise<KubeBusCloud> {
    const { clock = systemClock, logger = silentLogger, stateDir } = options;
    checkMtu(options.mtu);
    if (options.transports.length === 0)
      throw new KubeBusError('ERR_INVALID_ARGUMENT', 'transports must name at least one');
    const state =
      stateDir === undefined ? null : await StateFile.open({ path: join(stateDir, 'addresses.json'), clock, logger });
    const services =
      stateDir === undefined
        ? null
        : await StateFile.open({ path: join(stateDir, 'services.json'), clock, logger, damaged: 'setAside' });
    const usage =
      stateDir === undefined
        ? null
        : await StateFile.open({
            path: join(stateDir, 'usage.json'),
            delayMs: 5_000,
            clock,
            logger,
            damaged: 'setAside',
          });
    const cloud = new KubeBusCloud(options, state, services, usage);
    try {
      await cloud.listen();
    } catch (error) {
      await cloud.stop();
      throw error;
    }
    return cloud;
  }

  private constructor(
    private readonly options: CloudOptions,
    private readonly state: StateFile | null,
    private readonly servicesState: StateFile | null,
    private readonly usageState: StateFile | null,
  ) {
    this.usage.restore(usageState?.initial ?? null);
    const record = state?.initial ?? {};
    if (typeof record !== 'object' || Array.isArray(record))
      throw new KubeBusError('ERR_STATE', `damaged (restore it, or move it away to start anew): ${state?.path}`);
    this.record = record as Record<string, unknown>;
    for (const [name, tenant] of Object.entries(options.tenants)) {
      if (!isName(name))
        throw new KubeBusError('ERR_INVALID_ARGUMENT', `the name of a tenant is a DNS label, not ${name}`);
      const onOnline = (node: string, online: boolean) => this.services.handleNode(name, node, online);
      this.tenants.set(
        name,
        new Tenant(name, tenant, options, this.router, this.record[name], () => this.save(), onOnline, this.usage),
      );
    }
    const { clock = systemClock, random = systemRandom, logger = silentLogger } = options;
    this.services = new CloudHttp(
      {
        name: options.name ?? 'cloud',
        tenants: [...this.tenants.values()].map((tenant) => tenant.httpHost(random)),
        clock,
        random,
        logger,
        record: servicesState?.initial ?? null,
        onRecord: () => servicesState?.save(() => this.services.registry.snapshot() as Record<string, unknown>),
      },
      options.http,
    );
    this.hold.ref();
  }

  /** Services by name, of all tenants: list, call, publish, gateways. */
  readonly services: CloudHttp;
  private readonly gatewaysOpen: { readonly address: string; readonly port: number }[] = [];

  /** Where the gateways of the options listen. */
  get gateways(): readonly { readonly address: string; readonly port: number }[] {
    return this.gatewaysOpen;
  }

  /** Offers a service of the cloud to nodes, as `kubebus://<tenant>/<name of the cloud>/<name>/`. */
  publish(name: string, target: Target | readonly string[], options?: CloudPublishOptions): { close(): void } {
    return this.services.publish(name, target, options);
  }

  /** fetch as a management service of the plane: the services of all tenants. */
  fetch(url: string | URL, init?: RequestInit): Promise<Response> {
    return this.services.fetch(url, init);
  }

  /** What nodes are to dial. */
  get addresses(): readonly string[] {
    return this.acceptor.addresses;
  }

  nodes(): NodeInfo[] {
    return [...this.tenants.values()].flatMap((tenant) => tenant.nodes());
  }

  stats(): Record<string, unknown> {
    const tenants = Object.fromEntries([...this.tenants].map(([name, tenant]) => [name, tenant.stats()]));
    return {
      addresses: this.addresses,
      accept: this.acceptor.stats(),
      ...(this.state === null ? {} : { state: { path: this.state.path, failures: this.state.failures } }),
      tenants,
      nodes: this.nodes(),
      http: this.services.stats(),
    };
  }

  /** Device of the tenant's TUN, or null. */
  device(tenant: string): string | null {
    return this.tenants.get(tenant)?.tun?.name ?? null;
  }

  /** Forgets a node that is gone for good: its addresses become free. False while it is connected, or where it is not known. */
  forget(tenant: string, node: string): boolean {
    const had = this.tenants.get(tenant)?.forget(node) ?? false;
    if (had) this.services.registry.forget(tenant, node);
    if (had) this.usage.forget(tenant, node);
    return had;
  }

  /**
   * Says goodbye to every node, saves the address book, removes devices. `retryAfterMs`: when nodes are to come back; `addresses`: where
   * to, before the addresses that they have (another cloud with the same CA).
   */
  async stop(message = 'the cloud stops', retryAfterMs = 0, addresses: readonly string[] = []): Promise<void> {
    if (this.stopped) return;
    this.stopped = true;
    this.sweep?.cancel();
    this.unsubscribe();
    try {
      await this.services.close();
      await this.acceptor?.close(new KubeBusError('ERR_PEER_GOODBYE', message), { retryAfterMs, addresses });
      this.saveUsage();
      for (const tenant of this.tenants.values()) tenant.stop();
      await this.state?.flush();
      await this.servicesState?.flush();
      await this.usageState?.flush();
    } finally {
      this.hold.unref();
    }
  }

  private async listen(): Promise<void> {
    const {
      transports,
      name = 'cloud',
      mtu = 1400,
      clock = systemClock,
      random = systemRandom,
      logger = silentLogger,
      limits = {},
    } = this.options;
    for (const tenant of this.tenants.values()) await tenant.configure();
    for (const gateway of this.options.gateways ?? []) {
      this.gatewaysOpen.push((await this.services.listen(gateway)).address);
    }
    this.acceptor = await acceptLinks({
      ...this.options.link,
      transports,
      node: name,
      mtu,
      clock,
      random,
      logger,
      limits,
      authorize: (peer) => this.authorize(peer),
      onLink: (link) => this.tenants.get(link.peer.tenant)!.join(link),
    });
    const { authority } = this.options;
    if (authority !== undefined) {
      this.unsubscribe = authority.onOutcast(({ tenant, node }) => {
        for (const link of this.tenants.get(tenant)?.links() ?? []) {
          const reason = link.peer.node === node && link.peer.authenticated ? authority.judge(link.peer) : null;
          if (reason !== null) link.close(reason);
        }
      });
    }
    this.closeExpired();
  }

  private saveUsage(): void {
    for (const tenant of this.tenants.values()) tenant.account();
    this.usageState?.save(() => this.usage.snapshot());
  }

  /** A certificate that ended while its link lived on, and was not renewed, ends the link. */
  private closeExpired(): void {
    const { clock = systemClock, date = Date.now, authority, expiryCheckMs = 60_000 } = this.options;
    for (const tenant of this.tenants.values()) {
      for (const link of tenant.links()) {
        const { peer } = link;
        const until = Math.max(peer.expires, authority?.certifiedUntil(peer.tenant, peer.node) ?? 0);
        if (date() >= until) link.close(new KubeBusError('ERR_CERTIFICATE', 'the certificate has ended: renew it'));
      }
    }
    this.saveUsage();
    this.sweep = clock.at(clock.now() + expiryCheckMs * MS, () => this.closeExpired());
  }

  private authorize(peer: PeerIdentity): KubeBusError | null {
    if (this.tenants.has(peer.tenant)) {
      return peer.authenticated ? (this.options.authority?.judge(peer) ?? null) : null;
    }
    return new KubeBusError('ERR_TENANT_UNKNOWN', `this cloud does not serve the tenant ${peer.tenant}`);
  }

  private save(): void {
    this.state?.save(() => ({
      ...this.record,
      ...Object.fromEntries([...this.tenants].map(([name, tenant]) => [name, tenant.pool.snapshot()])),
    }));
  }
}

/** Between two increments of a tenant's routes: at least the first, and the second for each node that is told. */
const SPACING: Micros = 50 * MS;
const SPACING_PER_NODE: Micros = 0.25 * MS;

class Tenant {
  readonly pool: AddressPool;
  tun: TunDevice | null = null;
  private net: Net | null = null;
  /** The living session of each node. */
  private readonly sessions = new Map<string, NodeSession>();
  private readonly addressTexts = new WeakMap<readonly Uint8Array[], readonly string[]>();
  private readonly vrf: Vrf;
  private network: HostNetwork | null = null;
  private readonly control: CloudControl;
  private readonly deadline: DeadlineTimer;
  private readonly members = new Map<Link, Member>();
  private readonly clock: Clock;
  private readonly logger: Logger;
  private meter: RateMeter | null = null;
  private lastSoon: Micros = Number.NEGATIVE_INFINITY;

  constructor(
    readonly name: string,
    private readonly options: TenantOptions,
    private readonly cloud: CloudOptions,
    router: Router,
    record: unknown,
    onRecord: () => void,
    private readonly onOnline: (node: string, online: boolean) => void,
    private readonly usage: UsageBook,
  ) {
    const { clock = systemClock, logger = silentLogger, mtu = 1400 } = cloud;
    this.clock = clock;
    this.logger = logger;
    const nodes = Object.entries(options.nodes ?? {});
    const reservations = Object.fromEntries(nodes.map(([node, o]) => [node, (o.address ?? []).map(parseAddress)]));
    const maxNodes = cloud.controlLimits?.nodesPerTenant;
    this.pool = new AddressPool({
      pools: options.pools.map(parsePrefix),
      reservations,
      ...(maxNodes === undefined ? {} : { maxNodes }),
    });
    if (record !== undefined) {
      const changed = this.pool.restore(record);
      if (changed.length > 0)
        logger.warn({ tenant: name, nodes: changed }, 'addresses that no longer fit the pools are given anew');
    }
    this.vrf = router.addVrf(name);
    this.vrf.endpoint.useClock(() => clock.now());
    this.control = new CloudControl({
      tenant: name,
      vrf: this.vrf,
      pool: this.pool,
      mtu,
      onRecord,
      defer: (fn) => this.soon(fn),
      ...(options.tun ? { onPrefixes: ({ added, removed }) => this.network?.routes(added, removed) } : {}),
      logger,
      ...(cloud.holdMs === undefined ? {} : { holdMs: cloud.holdMs }),
      ...(cloud.controlLimits === undefined ? {} : { limits: cloud.controlLimits }),
    });
    this.deadline = new DeadlineTimer(clock, this.control);
  }

  /** Opens and configures the tenant's TUN device, if there is to be one. */
  async configure(): Promise<void> {
    if (!this.options.tun) return;
    const { mtu = 1400 } = this.cloud;
    const tun = openTun({ logger: this.logger, ...(this.options.tun === true ? {} : this.options.tun) });
    this.tun = tun;
    const host = this.vrf.addPort({
      name: tun.name,
      kind: 'host',
      sink: tun,
      mtu,
      offload: tun.takesOffload,
      sources: this.pool.gateway.map((address) => ({ address, length: address.length * 8 })),
    });
    this.network = new HostNetwork(tun.name, mtu, (error) =>
      this.logger.error({ tenant: this.name, code: error.code }, error.message),
    );
    this.network.addresses(this.pool.gateway, [], this.pool.gateway);
    this.network.routes(this.pool.prefixes, []);
    await this.network.settled();
    // A slow node must not stop the others, so the device is never paused: each link's own queue drops.
    tun.open({
      onPackets: (slab, start, end) => host.handlePackets(this.clock.now(), slab, start, end),
      onPlain: () => host.update({ offload: false }),
      onClose: () => host.update({ up: false }),
    });
  }

  join(bare: Link): void {
    const { node } = bare.peer;
    const now = this.clock.now();
    const link = this.limited(bare);
    let session: NodeSession | null = null;
    const port = attachLink({
      vrf: this.vrf,
      link,
      clock: this.clock,
      onControl: (message) => session?.handleControl(this.clock.now(), message),
      onState: (state, reason) => {
        if (state !== 'closed') return;
        this.account();
        this.members.delete(link);
        if (session !== null && this.sessions.get(node) === session) {
          this.sessions.delete(node);
          this.onOnline(node, false);
        }
        session?.down(this.clock.now());
        this.vrf.removePort(port);
        this.deadline.update();
        this.logger.info({ tenant: this.name, node, code: reason?.code }, `node left: ${reason?.message}`);
      },
    });
    session = this.control.nodeUp(now, {
      node,
      port,
      allowed: this.allowedPrefixes(link.peer),
      send: (message) => link.sendControl(message),
    });
    this.members.set(link, { link, session, since: now, accounted: { bytesIn: 0, bytesOut: 0 } });
    this.sessions.set(node, session);
    this.onOnline(node, true);
    this.deadline.update();
    this.logger.info({ tenant: this.name, node }, 'node joined');
  }

  /** Under the limits of its node and tenant, if there are any. */
  private limited(link: Link): Link {
    const now = this.clock.now();
    const own = this.options.nodes?.[link.peer.node]?.rate ?? this.options.nodeRate;
    this.meter ??= this.options.rate === undefined ? null : new RateMeter(now, this.options.rate);
    const meters = [
      ...(own === undefined ? [] : [new RateMeter(now, own)]),
      ...(this.meter === null ? [] : [this.meter]),
    ];
    return meters.length === 0 ? link : limitLink(link, meters, this.clock);
  }

  /** Brings the usage book up to this moment. */
  account(): void {
    for (const member of this.members.values()) {
      const { bytesIn = 0, bytesOut = 0 } = member.link.stats();
      const { accounted } = member;
      member.accounted = { bytesIn, bytesOut };
      const more = { bytesIn: bytesIn - accounted.bytesIn, bytesOut: bytesOut - accounted.bytesOut };
      this.usage.add(this.name, member.session.node, more);
    }
  }

  links(): Link[] {
    return [...this.members.keys()];
  }

  nodes(): NodeInfo[] {
    const now = this.clock.now();
    this.account();
    return [...this.members.values()].map(({ link, session, since }) => ({
      tenant: this.name,
      node: session.node,
      addresses: session.addresses.map(formatAddress),
      routes: session.routes.map((r) => ({
        prefix: formatPrefix(r.prefix),
        kind: r.kind,
        metric: r.metric,
        node: r.node,
      })),
      rttMs: link.rtt / 1000,
      upSeconds: (now - since) / 1_000_000,
      usage: this.usage.of(this.name, session.node),
      stats: link.stats(),
    }));
  }

  stats(): Record<string, unknown> {
    this.account();
    return {
      usage: {
        ...this.usage.total(this.name),
        nodes: Object.fromEntries(this.usage.nodes(this.name).map((node) => [node, this.usage.of(this.name, node)])),
      },
      gateway: this.pool.gateway.map(formatAddress),
      router: this.vrf.stats(),
      control: { ...this.control.counters },
      routes: this.control.routes.map((r) => ({
        prefix: formatPrefix(r.prefix),
        kind: r.kind,
        metric: r.metric,
        node: r.node,
      })),
      ...(this.tun === null ? {} : { device: this.tun.name, tun: this.tun.stats() }),
    };
  }

  /**
   * At once, but not more often than every SPACING: when many nodes join together, one increment tells of many. Each increment goes to
   * every node, so the more there are the rarer it is: what a storm of joins costs grows with the nodes, not with their square.
   */
  private soon(fn: () => void): void {
    const run = () => {
      this.lastSoon = this.clock.now();
      fn();
    };
    const at = this.lastSoon + Math.max(SPACING, this.members.size * SPACING_PER_NODE);
    if (at <= this.clock.now()) queueMicrotask(run);
    else this.clock.at(at, run);
  }

  forget(node: string): boolean {
    const had = this.control.forget(node);
    this.deadline.update();
    return had;
  }

  /** The tenant's overlay for the HTTP layer. */
  httpHost(random: Random): CloudTenantHost {
    this.net = createNet(this.vrf.endpoint, { clock: this.clock, random });
    const gateway = this.pool.gateway.map(formatAddress);
    const nodeOf = (address: string) => {
      for (const { session } of this.members.values()) {
        if (session.addresses.some((a) => formatAddress(a) === address)) return session.node;
      }
      return undefined;
    };
    return {
      tenant: this.name,
      net: this.net.net as unknown as NetLike,
      gateway: () => gateway,
      addressesOf: (node) => {
        const session = this.sessions.get(node);
        if (session === undefined) return [];
        let texts = this.addressTexts.get(session.addresses);
        if (texts === undefined) {
          texts = session.addresses.map(formatAddress);
          this.addressTexts.set(session.addresses, texts);
        }
        return texts;
      },
      nodeOf,
      peerOf: (address) => nodeOf(address) ?? this.routerOf(address),
    };
  }

  /** The node that routes to an address behind it. */
  private routerOf(address: string): string | undefined {
    const bytes = parseAddress(address);
    let best: { readonly length: number; readonly node: string } | undefined;
    for (const { prefix, node } of this.control.routes) {
      if (prefixHas(prefix, bytes) && prefix.length > (best?.length ?? -1)) best = { length: prefix.length, node };
    }
    return best?.node;
  }

  stop(): void {
    this.net?.close();
    this.deadline.close();
    this.network?.close();
    this.tun?.close();
  }

  private allowedPrefixes(peer: PeerIdentity): Prefix[] {
    const configured = this.options.nodes?.[peer.node]?.prefixes ?? [];
    const open = !peer.authenticated && (this.cloud.openPrefixesWhenInsecure ?? true) ? ['0.0.0.0/0', '::/0'] : [];
    return [...peer.prefixes, ...configured, ...open].flatMap((text) => {
      try {
        return [parsePrefix(text)];
      } catch {
        this.logger.warn({ tenant: this.name, node: peer.node }, `the certificate has a prefix that is none: ${text}`);
        return [];
      }
    });
  }
}

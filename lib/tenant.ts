// Composition: one tenant of a cloud. Its addresses and routes (L3) over the links of its nodes (L2), its limits, its part of the usage
// book, and the cloud's own place on its overlay: sockets for the HTTP layer, and a TUN device where one is asked for.

import type { CloudOptions, NodeInfo, TenantOptions } from './cloud-options.js';
import {
  type Clock,
  type Logger,
  type Micros,
  MS,
  type Random,
  Spaced,
  silentLogger,
  systemClock,
} from './core/index.js';
import type { CloudTenantHost } from './http-proxy/index.js';
import { type Link, limitLink, type PeerIdentity, RateMeter } from './l2/index.js';
import {
  AddressPool,
  attachLink,
  CloudControl,
  DeadlineTimer,
  formatAddress,
  formatPrefix,
  HostNetwork,
  isAddress,
  type NodeSession,
  openTun,
  type Prefix,
  parseAddress,
  parsePrefix,
  prefixHas,
  type Router,
  type TunDevice,
  type Vrf,
} from './l3/index.js';
import { createNet, type Net, type NetLike } from './l4/index.js';
import type { Usage, UsageBook } from './usage.js';

interface Member {
  readonly link: Link;
  /** Of its bytes, what is in the usage book already. */
  accounted: Usage;
  readonly session: NodeSession;
  readonly since: number;
}

/** Between two increments of a tenant's routes: at least the first, and the second for each node that is told. */
const SPACING: Micros = 50 * MS;
const SPACING_PER_NODE: Micros = 0.25 * MS;
/**
 * And of its names, in which a storm of first joins shows. To tell a node costs the hub under 0.1 ms and the node somewhat more, so that telling
 * takes a few per cent of the time. Not later than this, though: who is called by a new node waits a second for its name.
 */
const NAMES_PER_NODE: Micros = 2 * MS;
const NAMES_MOST: Micros = 750 * MS;

export class Tenant {
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
    const routes = new Spaced(clock, () => Math.max(SPACING, this.members.size * SPACING_PER_NODE));
    const names = new Spaced(clock, () => Math.min(NAMES_MOST, Math.max(SPACING, this.members.size * NAMES_PER_NODE)));
    this.control = new CloudControl({
      tenant: name,
      vrf: this.vrf,
      pool: this.pool,
      mtu,
      onRecord,
      // Each increment goes to every node, so the more there are the rarer it is: what a storm of joins costs grows with the nodes, not
      // with their square.
      defer: (fn) =>
        routes.soon(() => {
          fn();
          this.deadline.update();
        }),
      deferNames: (fn) => names.soon(fn),
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
      onControl: (message) => {
        session?.handleControl(this.clock.now(), message);
        this.deadline.update();
      },
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

  get carried(): { readonly packets: number; readonly bytes: number } {
    return this.vrf.carried;
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
      const owner = isAddress(address) ? this.pool.ownerOf(parseAddress(address)) : undefined;
      // Reserved or remembered is not assigned: only who is connected speaks from its address.
      return owner !== undefined && this.sessions.has(owner) ? owner : undefined;
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

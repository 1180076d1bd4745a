// Composition: KubeBus@Cloud. Accepts links (L2), keeps one VRF per tenant with its addresses and routes (tenant.ts), and may
// put its own host on a tenant's overlay.

import { join } from 'node:path';
import type { CloudOptions, NodeInfo } from './cloud-options.js';
import { Hold, KubeBusError, MS, silentLogger, systemClock, systemRandom, type Timer } from './core/index.js';
import { CloudHttp, type CloudPublishOptions, type Target } from './http-proxy/index.js';
import { acceptLinks, isName, type LinkAcceptor, type PeerIdentity } from './l2/index.js';
import { Router, StateFile } from './l3/index.js';
import { checkMtu } from './node-options.js';
import { Tenant } from './tenant.js';
import { UsageBook } from './usage.js';

export class KubeBusCloud {
  private readonly router: Router;
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
    this.router = new Router({ limits: options.routerLimits ?? {} });
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

  /** Packets and bytes taken from the links and devices of all tenants so far. */
  get carried(): { readonly packets: number; readonly bytes: number } {
    const sum = { packets: 0, bytes: 0 };
    for (const { carried } of this.tenants.values()) {
      sum.packets += carried.packets;
      sum.bytes += carried.bytes;
    }
    return sum;
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

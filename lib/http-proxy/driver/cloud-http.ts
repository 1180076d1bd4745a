// Edge: the HTTP layer of the cloud: the registry of all tenants, the gateways towards the Internet and the plane, the proxy that nodes reach on
// the gateway addresses, and services of the cloud itself.

import { randomUUID } from 'node:crypto';
import type { Duplex } from 'node:stream';
import type { Agent, Dispatcher } from 'undici';
import { type Clock, KubeBusError, type Logger, type Random, SECOND, type Timer } from '../../core/index.js';
import type { NetLike, ServerLike, SocketLike } from '../../l4/index.js';
import { type Caller, formatCaller, INTERNET, mayCall, PLANE } from '../access.js';
import { ANY_NODE, type ServiceAddress } from '../address.js';
import { HttpFailure } from '../failure.js';
import { Metrics, observe, type Traffic } from '../metrics.js';
import { DEFAULT_REGISTRY_LIMITS, Registry, type RegistryLimits } from '../registry.js';
import type { ServiceInfo } from '../service.js';
import type { AccessLog } from './access-log.js';
import {
  ClientProxy,
  type ClientProxyOptions,
  type DirectWay,
  type ListenAddress,
  type Route,
} from './client-proxy.js';
import { DIRECT_IDLE_MS, directUpstream } from './direct.js';
import { readForward } from './forward-target.js';
import { LocalService, type PublishOptions, type Target } from './local-service.js';
import { type ListedService, listed, offline, PROXY_PORT } from './node-http.js';
import { memoryPair, OVERLAY_DOMAIN, overlayAgent, overlayFetch } from './overlay-fetch.js';
import { RegistryServer } from './registry-channel.js';
import { ServerProxy } from './server-proxy.js';
import { once } from './target.js';
import { connectTunnel, forwardPort, type OverlayConnect, socksListener, type TunnelListener } from './tunnels.js';
import { DEFAULT_UPSTREAM_LIMITS, Upstream, type UpstreamLimits } from './upstream.js';
import { UpstreamTable } from './upstream-table.js';

/** A tenant's overlay, as the cloud is on it. */
export interface CloudTenantHost {
  readonly tenant: string;
  readonly net: NetLike;
  /** The cloud's own addresses in the tenant. */
  gateway(): readonly string[];
  addressesOf(node: string): readonly string[];
  /** Whose own address it is. */
  nodeOf(address: string): string | undefined;
  /** Whose address it is, or who routes to it (a VM behind a router). */
  peerOf(address: string): string | undefined;
}

export interface CloudHttpHost {
  /** How the cloud calls itself: its place in the node slot of an address. */
  readonly name: string;
  readonly tenants: readonly CloudTenantHost[];
  readonly clock: Clock;
  readonly random: Random;
  readonly logger: Logger;
  /** The registry as it was kept on disk. */
  readonly record: unknown;
  /** The registry has changed and should be kept. */
  onRecord(): void;
}

export interface GatewayOptions
  extends ListenAddress,
    Pick<
      ClientProxyOptions,
      'tls' | 'domains' | 'trustForwarded' | 'clientRate' | 'tenantRate' | 'limits' | 'accessLog' | 'redirectToHttps'
    > {
  /** `internet`: public services only. `plane`: everything, for management; keep it on a closed address. **Default:** 'internet'. */
  readonly callers?: 'internet' | 'plane';
}

export interface CloudPublishOptions extends PublishOptions {
  /** Tenants in which it is to be found under the cloud's name. **Default:** all. */
  readonly tenants?: readonly string[];
}

export interface CloudHttpOptions {
  readonly accessLog?: AccessLog;
  readonly upstream?: Partial<UpstreamLimits>;
  readonly registryLimits?: Partial<RegistryLimits>;
  /** When the gateways speak to a service past its node's proxy: `busy`: while it is called often. **Default:** 'busy'. */
  readonly direct?: 'busy' | 'always' | 'never';
}

/** How often nodes are told what went past their proxies. */
const TELL = 1 * SECOND;

interface OwnService {
  readonly service: LocalService;
  readonly tenants: readonly string[];
}

interface TenantPart {
  readonly host: CloudTenantHost;
  readonly registry: RegistryServer;
  readonly proxy: ClientProxy;
  readonly listener: ServerLike;
  /** The cloud's own services in this tenant. */
  readonly services: Map<string, LocalService>;
  readonly server: ServerProxy;
  /** What went past the nodes' proxies and they have not been told yet. */
  readonly passed: Metrics;
}

export class CloudHttp {
  readonly registry: Registry;
  readonly metrics = new Metrics();
  private readonly tenants = new Map<string, TenantPart>();
  private readonly own = new Map<string, OwnService>();
  private readonly upstreams = new UpstreamTable();
  private readonly inner: ClientProxy;
  private readonly closers = new Set<() => Promise<void>>();
  private dispatcherValue: Agent | null = null;
  private turn = 0;
  private tellTimer: Timer | null = null;

  constructor(
    private readonly host: CloudHttpHost,
    private readonly options: CloudHttpOptions = {},
  ) {
    const epoch = `${host.random.u32().toString(16)}${host.random.u32().toString(16)}`;
    const names = host.tenants.map((t) => t.tenant);
    this.registry = new Registry(epoch, names, { ...DEFAULT_REGISTRY_LIMITS, ...options.registryLimits });
    this.registry.restore(host.record);
    this.registry.watch(() => host.onRecord());
    this.inner = new ClientProxy({ ...this.routing(() => PLANE), domains: [OVERLAY_DOMAIN] });
    for (const tenant of host.tenants) this.tenants.set(tenant.tenant, this.open(tenant));
  }

  /** A node's link came up or went down. */
  handleNode(tenant: string, node: string, online: boolean): void {
    this.registry.setOnline(tenant, node, online);
  }

  /** Opens a gateway. Rejects with ERR_CONNECT, ERR_INVALID_ARGUMENT. */
  async listen(options: GatewayOptions): Promise<TunnelListener & { readonly reloadCertificate: () => boolean }> {
    const { host, port, callers = 'internet', ...more } = options;
    const caller: Caller = callers === 'plane' ? PLANE : INTERNET;
    const proxy = new ClientProxy({
      ...this.routing(() => caller),
      ...more,
      ...(callers === 'plane'
        ? { domains: [OVERLAY_DOMAIN, ...(more.domains ?? [])], onConnect: connectTunnel(this.connect, randomUUID) }
        : {}),
    });
    const address = await proxy.listen({ port, ...(host === undefined ? {} : { host }) });
    const listener = this.hold({ address, close: () => proxy.close() });
    return { ...listener, reloadCertificate: () => proxy.reloadCertificate() };
  }

  /** Offers a service of the cloud to nodes, as `kubebus://<tenant>/<cloud>/<name>/`. */
  publish(name: string, target: Target | readonly string[], options: CloudPublishOptions = {}): { close(): void } {
    const { tenants = [...this.tenants.keys()], ...more } = options;
    const stranger = tenants.find((t) => !this.tenants.has(t));
    if (stranger !== undefined) throw new KubeBusError('ERR_INVALID_ARGUMENT', `no tenant ${stranger}`);
    const tell = () => {
      if (this.own.get(name)?.service !== service) return;
      for (const tenant of tenants) this.registry.put(tenant, this.host.name, service.info());
    };
    const service: LocalService = new LocalService(name, target, more, tell);
    if (service.kind !== 'http') {
      service.close();
      throw new KubeBusError('ERR_SERVICE_TARGET', 'the cloud publishes HTTP services only');
    }
    this.unpublish(name);
    this.own.set(name, { service, tenants });
    for (const tenant of tenants) {
      this.tenants.get(tenant)!.services.set(name, service);
      this.registry.setOnline(tenant, this.host.name, true);
    }
    tell();
    return {
      close: () => {
        if (this.own.get(name)?.service === service) this.unpublish(name);
      },
    };
  }

  unpublish(name: string): boolean {
    const entry = this.own.get(name);
    if (entry === undefined) return false;
    this.own.delete(name);
    entry.service.close();
    for (const tenant of entry.tenants) {
      this.tenants.get(tenant)!.services.delete(name);
      this.registry.remove(tenant, this.host.name, name);
    }
    return true;
  }

  list(): ListedService[] {
    return listed(
      this.registry.list(),
      new Map(this.metrics.list().map((t) => [`${t.tenant}/${t.node}/${t.service}`, t])),
    );
  }

  /** For undici and fetch, as a management service: every tenant's services. */
  get dispatcher(): Dispatcher {
    this.dispatcherValue ??= overlayAgent((socket) => this.inner.accept(socket));
    return this.dispatcherValue;
  }

  fetch(url: string | URL, init: RequestInit = {}): Promise<Response> {
    return overlayFetch(this.dispatcher, url, init);
  }

  /** A port of this host that leads to `tenant/node:port` or `tenant/node/service` (tcp). */
  async forward(at: ListenAddress, target: string): Promise<TunnelListener> {
    const to = readForward(target, '');
    if (!this.tenants.has(to.tenant)) throw new KubeBusError('ERR_INVALID_ARGUMENT', `no tenant in ${target}`);
    return this.hold(
      await forwardPort(at, (callback) => this.connectTo(to.tenant, to.node, to.service, to.port, callback)),
    );
  }

  /** A SOCKS5 listener on this host; names are `<node>.<tenant>.kubebus`. Everybody who reaches it reaches every tenant. */
  async socks(at: ListenAddress): Promise<TunnelListener> {
    return this.hold(await socksListener(at, this.connect));
  }

  stats(): Record<string, unknown> {
    return { services: this.list(), traffic: this.metrics.list(), refused: Object.fromEntries(this.metrics.refused) };
  }

  async close(): Promise<void> {
    this.tellTimer?.cancel();
    const all = [...this.closers].map((close) => close());
    for (const part of this.tenants.values()) {
      part.registry.close();
      part.listener.close();
      all.push(part.proxy.close(0), part.server.close(0));
    }
    for (const { service } of this.own.values()) service.close();
    all.push(this.inner.close(0));
    this.dispatcherValue?.destroy().catch(() => {});
    this.upstreams.close();
    await Promise.all(all);
  }

  private hold(listener: TunnelListener): TunnelListener {
    const close = async () => {
      this.closers.delete(close);
      await listener.close();
    };
    this.closers.add(close);
    return { address: listener.address, close };
  }

  private open(host: CloudTenantHost): TenantPart {
    const { tenant, net } = host;
    const { clock, logger } = this.host;
    const services = new Map<string, LocalService>();
    const registry = new RegistryServer({
      tenant,
      net,
      registry: this.registry,
      nodeOf: (address) => host.nodeOf(address),
      clock,
      logger,
    });
    const server = new ServerProxy({
      tenant,
      node: this.host.name,
      services,
      metrics: this.metrics,
      // Only this process connects to it; who calls stands in the request that our own proxy wrote.
      identify: () => ({ caller: PLANE, speaksForOthers: true }),
    });
    const proxy = new ClientProxy({
      ...this.routing((socket) => this.identify(host, (socket as SocketLike).remoteAddress ?? '')),
      domains: [OVERLAY_DOMAIN],
      takesAddress: true,
    });
    const listener = net.createServer({ allowHalfOpen: true }, (socket) => proxy.accept(socket));
    listener.on('error', (err) => logger.error({ err, tenant }, 'the proxy cannot listen on the overlay'));
    listener.listen({ port: PROXY_PORT });
    listener.unref();
    return { host, registry, proxy, listener, services, server, passed: new Metrics() };
  }

  private identify(host: CloudTenantHost, address: string): Caller | null {
    // The host of a cloud with a TUN device has the gateway's addresses.
    if (host.gateway().includes(address)) return PLANE;
    const node = host.peerOf(address);
    return node === undefined ? null : { kind: 'tenant', tenant: host.tenant, node };
  }

  private routing(
    identify: (socket: Duplex) => Caller | null,
  ): Pick<ClientProxyOptions, 'route' | 'identify' | 'metrics'> & { accessLog?: AccessLog } {
    return {
      route: (address, caller, failed) => this.route(address, caller, failed),
      identify,
      metrics: this.metrics,
      ...(this.options.accessLog === undefined ? {} : { accessLog: this.options.accessLog }),
    };
  }

  private route(asked: ServiceAddress, caller: Caller, failed: ReadonlySet<string>): Route | HttpFailure {
    const { tenant, service: name } = asked;
    const part = this.tenants.get(tenant);
    if (part === undefined) return new HttpFailure('ERR_HTTP_TENANT_UNKNOWN', `no tenant ${tenant}`);
    let address = asked;
    if (asked.node === ANY_NODE && this.registry.get(tenant, ANY_NODE) === undefined) {
      const nodes = this.registry.having(tenant, name);
      const open = nodes.filter((n) => mayCall(caller, tenant, this.registry.find(tenant, n, name)!.service!));
      const left = open.filter((n) => !failed.has(n));
      if (left.length === 0) {
        if (failed.size > 0) return offline(asked);
        return nodes.length > 0
          ? forbidden(asked)
          : new HttpFailure('ERR_HTTP_SERVICE_UNKNOWN', `no node of ${tenant} that is online has ${name}`);
      }
      address = { ...asked, node: left[this.turn++ % left.length]! };
    }
    const found = this.registry.find(tenant, address.node, name);
    if (found === undefined) return new HttpFailure('ERR_HTTP_NODE_UNKNOWN', `${tenant} has no node ${address.node}`);
    const { online, service } = found;
    if (service === undefined) {
      if (!online) return offline(address);
      return new HttpFailure('ERR_HTTP_SERVICE_UNKNOWN', `${tenant}/${address.node} has no service ${name}`);
    }
    if (!mayCall(caller, tenant, service)) return forbidden(address);
    if (service.kind !== 'http') return new HttpFailure('ERR_HTTP_SERVICE_UNKNOWN', `${name} is not an HTTP service`);
    if (address.node === this.host.name && part.services.has(name)) {
      return { address, upstream: this.local(part), tellCaller: true };
    }
    const ip = part.host.addressesOf(address.node)[0];
    if (!online || ip === undefined || failed.has(address.node)) return offline(address);
    const direct = this.direct(part, ip, address, caller, service);
    const upstream = this.upstream(part, ip);
    return direct === null ? { address, upstream, tellCaller: true } : { address, upstream, tellCaller: true, direct };
  }

  private direct(
    part: TenantPart,
    ip: string,
    address: ServiceAddress,
    caller: Caller,
    { direct: access }: ServiceInfo,
  ): DirectWay | null {
    const { direct: when = 'busy', upstream: limits } = this.options;
    if (access === undefined || when === 'never') return null;
    const { tenant, net } = part.host;
    const key = `${tenant} ${ip} ${address.service} ${formatCaller(caller)} ${access.authority}${access.base}`;
    const upstream = this.upstreams.get(key, () =>
      directUpstream({ net, ip, port: PROXY_PORT, address, caller, access }, { ...DEFAULT_UPSTREAM_LIMITS, ...limits }),
    );
    const now = performance.now();
    const busy = now - upstream.lastUsed < DIRECT_IDLE_MS;
    upstream.lastUsed = now;
    if (!busy && when !== 'always') return null;
    return {
      upstream,
      access,
      observe: (seconds, { status, bytesIn, bytesOut }) => {
        observe(part.passed.of(address), seconds, status, bytesIn, bytesOut);
        this.tellTimer ??= this.host.clock.at(this.host.clock.now() + TELL, () => this.tell());
      },
    };
  }

  /** Nodes count what passed their proxy; the rest they are told. */
  private tell(): void {
    this.tellTimer = null;
    for (const part of this.tenants.values()) {
      const byNode = new Map<string, Traffic[]>();
      for (const traffic of part.passed.take()) {
        const list = byNode.get(traffic.node);
        if (list === undefined) byNode.set(traffic.node, [traffic]);
        else list.push(traffic);
      }
      for (const [node, passed] of byNode) part.registry.tell(node, passed);
    }
  }

  private upstream({ host }: TenantPart, ip: string): Upstream {
    return this.upstreams.get(`${host.tenant} ${ip}`, () => {
      const make = () => host.net.connect({ host: ip, port: PROXY_PORT, allowHalfOpen: false }).setNoDelay(true);
      return new Upstream(ip, once(make, 'connect'), { ...DEFAULT_UPSTREAM_LIMITS, ...this.options.upstream });
    });
  }

  private local(part: TenantPart): Upstream {
    return this.upstreams.get(`${part.host.tenant} `, () => {
      return new Upstream('the cloud', (callback) => {
        const [near, far] = memoryPair();
        part.server.accept(far);
        // Not within the call: undici does not look again at what a connector does at once.
        queueMicrotask(() => callback(null, near));
      });
    });
  }

  /** `<node>.<tenant>.kubebus`, `<service>.<node>.<tenant>.kubebus` (tcp). */
  private readonly connect: OverlayConnect = (host, port, callback) => {
    const labels = host.toLowerCase().replace(/\.$/, '').split('.');
    if (labels.pop() !== OVERLAY_DOMAIN || labels.length < 2 || labels.length > 3) {
      callback(Object.assign(new Error(`not <node>.<tenant>.${OVERLAY_DOMAIN}: ${host}`), { code: 'ENOTFOUND' }), null);
      return;
    }
    const [tenant, node, service] = labels.reverse();
    this.connectTo(tenant!, node!, service, port, callback);
  };

  private connectTo(
    tenant: string,
    node: string,
    service: string | undefined,
    port: number,
    callback: (error: NodeJS.ErrnoException | null, socket: Duplex | null) => void,
  ): void {
    const fail = (code: string, text: string) => callback(Object.assign(new Error(text), { code }), null);
    const part = this.tenants.get(tenant);
    const known = part === undefined ? undefined : this.registry.get(tenant, node);
    if (part === undefined || known === undefined) return fail('ENOTFOUND', `no node ${tenant}/${node}`);
    const ip = part.host.addressesOf(node)[0];
    if (!known.online || ip === undefined) return fail('EHOSTUNREACH', `${tenant}/${node} has no link now`);
    const to = service === undefined ? port : known.services.find((s) => s.name === service)?.port;
    if (to === undefined) return fail('ECONNREFUSED', `${tenant}/${node} has no tcp service ${service}`);
    const socket = part.host.net.connect({ host: ip, port: to, allowHalfOpen: true });
    const failed = (error: NodeJS.ErrnoException) => callback(error, null);
    socket.once('error', failed);
    socket.once('connect', () => {
      socket.removeListener('error', failed);
      callback(null, socket);
    });
  }
}

function forbidden(address: ServiceAddress): HttpFailure {
  return new HttpFailure(
    'ERR_HTTP_FORBIDDEN',
    `${address.tenant}/${address.node}/${address.service} is not open to this caller`,
  );
}

// Edge: the HTTP layer of a node: its published services, the server proxy in front of them, the registry, and its ways to call others.

import { randomUUID } from 'node:crypto';
import type { Duplex } from 'node:stream';
import type { Agent, Dispatcher } from 'undici';
import { KubeBusError, type Logger } from '../../core/index.js';
import type { NetLike, ServerLike, SocketLike } from '../../l4/index.js';
import { type Caller, PLANE } from '../access.js';
import { ANY_NODE, formatServiceAddress, parseServiceAddress, type ServiceAddress } from '../address.js';
import { HttpFailure } from '../failure.js';
import { Metrics, type Traffic } from '../metrics.js';
import { type NodeServices, type ServiceInfo, withoutDirect } from '../service.js';
import type { AccessLog } from './access-log.js';
import { ClientProxy, type ClientProxyOptions, type ListenAddress, type Route } from './client-proxy.js';
import { dial, type ForwardTarget, readForward } from './forward-target.js';
import { LocalService, type PublishOptions, type Target } from './local-service.js';
import { memoryPair, OVERLAY_DOMAIN, overlayAgent, overlayFetch } from './overlay-fetch.js';
import { RegistryClient } from './registry-channel.js';
import { identified, type PeerOfConnection, ServerProxy } from './server-proxy.js';
import { tunnel } from './slow-exchange.js';
import { once } from './target.js';
import { connectTunnel, forwardPort, type OverlayConnect, socksListener, type TunnelListener } from './tunnels.js';
import { DEFAULT_UPSTREAM_LIMITS, Upstream, type UpstreamLimits } from './upstream.js';
import { UpstreamTable } from './upstream-table.js';

/** Overlay port of the server proxy of each node, and of the cloud's proxy on its gateway addresses. */
export const PROXY_PORT = 7480;
const TUNNEL_IDLE_MS = 3_600_000;

/** What the HTTP layer needs of the node below. */
export interface NodeHost {
  readonly tenant: string;
  readonly node: string;
  readonly net: NetLike;
  /** The cloud's own addresses. */
  gateway(): readonly string[];
  /** Addresses of a node of the own tenant; empty: not known. */
  resolve(node: string): readonly string[];
  /** Whose address it is. */
  peerOf(address: string): { readonly tenant: string; readonly node: string } | undefined;
  linkUp(): boolean;
  readonly logger: Logger;
}

export interface NodeHttpOptions {
  readonly accessLog?: AccessLog;
  /** Towards other nodes. */
  readonly upstream?: Partial<UpstreamLimits>;
  readonly clientProxy?: ClientProxyOptions['limits'];
}

/** A service as `services()` lists it. */
export interface ListedService extends ServiceInfo {
  readonly tenant: string;
  readonly node: string;
  readonly online: boolean;
  /** What went through this process. */
  readonly traffic?: Traffic;
}

export interface PublishedService {
  readonly name: string;
  readonly address: string;
  /** Takes the service away. */
  close(): void;
}

export type ListenOptions = ListenAddress &
  Pick<ClientProxyOptions, 'tls' | 'domains' | 'trustForwarded' | 'limits' | 'accessLog'>;

export class NodeHttp {
  readonly metrics = new Metrics();
  private readonly services = new Map<string, LocalService>();
  private readonly tcpServers = new Map<string, ServerLike>();
  private readonly server: ServerProxy;
  private readonly registry: RegistryClient;
  private readonly upstreams = new UpstreamTable();
  private readonly inner: ClientProxy;
  private readonly closers = new Set<() => Promise<void>>();
  private listener: ServerLike | null = null;
  private dispatcherValue: Agent | null = null;
  private turn = 0;
  private closed = false;
  /** Called when the list of services has changed. */
  onServices: (() => void) | null = null;

  constructor(
    private readonly host: NodeHost,
    private readonly options: NodeHttpOptions = {},
  ) {
    const { accessLog } = options;
    this.server = new ServerProxy({
      tenant: host.tenant,
      node: host.node,
      services: this.services,
      metrics: this.metrics,
      identify: (socket) => this.identify(socket as SocketLike),
      ...(accessLog === undefined ? {} : { accessLog }),
    });
    this.registry = new RegistryClient({
      net: host.net,
      gateway: () => host.gateway(),
      own: () => [...this.services.values()].map((s) => s.info()),
      onChange: () => this.onServices?.(),
      onTraffic: (passed) => {
        for (const one of passed) {
          if (this.services.has(one.service))
            this.metrics.add({ tenant: host.tenant, node: host.node, service: one.service }, one);
        }
      },
      logger: host.logger,
    });
    this.inner = new ClientProxy({ ...this.routing(), domains: [OVERLAY_DOMAIN] });
    this.start();
  }

  /** Offers a service of this node. **Throws** ERR_SERVICE_NAME, ERR_SERVICE_TARGET, ERR_SERVICE_LIMIT. A name is used once: it replaces. */
  publish(name: string, target: Target | readonly string[], options: PublishOptions = {}): PublishedService {
    this.check();
    // An access log of this node wants every request.
    const settings = this.options.accessLog === undefined ? options : { ...options, direct: false };
    const service: LocalService = new LocalService(name, target, settings, () => {
      if (this.services.get(name) === service) this.registry.put(service.info());
    });
    this.unpublish(name);
    this.services.set(name, service);
    if (service.kind === 'tcp') this.tcpServers.set(name, this.listenTcp(service));
    this.registry.put(service.info());
    const { tenant, node } = this.host;
    return {
      name,
      address: `kubebus://${tenant}/${node}/${name}/`,
      close: () => {
        if (this.services.get(name) === service) this.unpublish(name);
      },
    };
  }

  unpublish(name: string): boolean {
    const service = this.services.get(name);
    if (service === undefined) return false;
    this.services.delete(name);
    this.tcpServers.get(name)?.close();
    this.tcpServers.delete(name);
    service.close();
    this.registry.remove(name);
    return true;
  }

  /** What is registered in the tenant, and what other tenants have granted to it, as far as the cloud has told. */
  list(): ListedService[] {
    const traffic = new Map(this.metrics.list().map((t) => [`${t.tenant}/${t.node}/${t.service}`, t]));
    return listed(this.registry.mirror.list(), traffic);
  }

  /** Resolves when the registry has told its list; at once if it has. */
  ready(): Promise<void> {
    return this.registry.ready();
  }

  get synced(): boolean {
    return this.registry.synced;
  }

  /** For undici and fetch: `http://<service>.<node>.<tenant>.kubebus/` and `http://kubebus/<tenant>/<node>/<service>/`. */
  get dispatcher(): Dispatcher {
    this.dispatcherValue ??= overlayAgent((socket) => this.inner.accept(socket));
    return this.dispatcherValue;
  }

  /** fetch on the overlay: `kubebus://tenant/node/service/path`. Errors of the way are answers with a code in the body. */
  fetch(url: string | URL, init: RequestInit = {}): Promise<Response> {
    return overlayFetch(this.dispatcher, url, init);
  }

  /** The client proxy on a port of this host: path form, host form under `kubebus`, and CONNECT. Every program that reaches the port calls as this node. */
  async listen(at: ListenOptions): Promise<TunnelListener> {
    this.check();
    const { host, port, domains = [], ...more } = at;
    const proxy = new ClientProxy({
      ...this.routing(),
      ...more,
      domains: [OVERLAY_DOMAIN, ...domains],
      onConnect: connectTunnel(this.connect, randomUUID),
    });
    const address = await proxy.listen({ port, ...(host === undefined ? {} : { host }) });
    return this.own({ address, close: () => proxy.close() });
  }

  /** A port of this host that leads to `tenant/node:port` or `tenant/node/service` (tcp). */
  async forward(at: ListenAddress, target: string): Promise<TunnelListener> {
    this.check();
    const to = readForward(target, this.host.tenant);
    return this.own(await forwardPort(at, (callback) => this.connectTo(to, callback)));
  }

  /** A SOCKS5 listener on this host. */
  async socks(at: ListenAddress): Promise<TunnelListener> {
    this.check();
    return this.own(await socksListener(at, this.connect));
  }

  stats(): Record<string, unknown> {
    const services = Object.fromEntries(
      [...this.services].map(([name, s]) => [name, { ...s.info(), targets: s.targets() }]),
    );
    return {
      registry: this.registry.synced,
      published: services,
      services: this.list(),
      traffic: this.metrics.list(),
      refused: Object.fromEntries(this.metrics.refused),
    };
  }

  /** The link came up, or went down. */
  handleLink(up: boolean): void {
    if (this.closed) return;
    if (up) this.registry.open();
    else this.registry.suspend();
  }

  async close(): Promise<void> {
    if (this.closed) return;
    this.closed = true;
    this.registry.close();
    this.listener?.close();
    for (const name of [...this.services.keys()]) this.unpublish(name);
    const all = [...this.closers].map((close) => close());
    all.push(this.server.close(0), this.inner.close(0));
    this.dispatcherValue?.destroy().catch(() => {});
    this.upstreams.close();
    await Promise.all(all);
  }

  private check(): void {
    if (this.closed) throw new KubeBusError('ERR_CLOSED', 'the node has stopped');
  }

  private own(listener: TunnelListener): TunnelListener {
    const close = async () => {
      this.closers.delete(close);
      await listener.close();
    };
    this.closers.add(close);
    return { address: listener.address, close };
  }

  private start(): void {
    const { net, logger } = this.host;
    this.listener = net.createServer({ allowHalfOpen: true }, (socket) => this.server.accept(socket));
    this.listener.on('error', (err) => logger.error({ err }, 'the server proxy cannot listen'));
    this.listener.listen({ port: PROXY_PORT });
    this.listener.unref();
    if (this.host.linkUp()) this.registry.open();
  }

  private listenTcp(service: LocalService): ServerLike {
    const server = this.host.net.createServer({ allowHalfOpen: true }, (socket) => {
      socket.on('error', () => {});
      socket.pause();
      identified(
        socket,
        (s) => this.identify(s),
        () => {
          service.connect((error, local) => {
            if (local === null || error !== null) socket.resetAndDestroy();
            else if (socket.destroyed) local.destroy();
            else tunnel(socket, local, TUNNEL_IDLE_MS, () => {});
          });
        },
      );
    });
    server.on('error', (err) =>
      this.host.logger.error({ err, service: service.name }, 'the service cannot listen on the overlay'),
    );
    server.listen({ port: service.port! });
    server.unref();
    return server;
  }

  private identify(socket: Duplex): PeerOfConnection | null {
    if (LOCAL in socket) return { caller: this.self, speaksForOthers: true };
    const address = (socket as SocketLike).remoteAddress ?? '';
    // Only the cloud has its addresses: a packet with a source that is not its sender's is dropped there.
    if (this.host.gateway().includes(address)) return { caller: PLANE, speaksForOthers: true };
    const peer = this.host.peerOf(address);
    return peer === undefined ? null : { caller: { kind: 'tenant', ...peer }, speaksForOthers: false };
  }

  private get self(): Caller {
    return { kind: 'tenant', tenant: this.host.tenant, node: this.host.node };
  }

  private routing(): Pick<ClientProxyOptions, 'route' | 'identify' | 'metrics'> & { accessLog?: AccessLog } {
    return {
      route: (address, _caller, failed) => this.route(address, failed),
      // Whoever reaches a port of this host, or this process, calls as this node.
      identify: () => this.self,
      metrics: this.metrics,
      ...(this.options.accessLog === undefined ? {} : { accessLog: this.options.accessLog }),
    };
  }

  private route(asked: ServiceAddress, failed: ReadonlySet<string>): Route | HttpFailure {
    const { tenant, node: self } = this.host;
    if (asked.tenant !== tenant) {
      // Only the cloud leads to other tenants, and it decides.
      const gateway = this.host.gateway()[0];
      if (gateway === undefined || failed.has(asked.node)) return offline(asked);
      return { address: asked, upstream: this.upstream(gateway), tellCaller: false };
    }
    let address = asked;
    if (asked.node === ANY_NODE && this.host.resolve(ANY_NODE).length === 0) {
      const nodes = this.registry.mirror.having(tenant, asked.service).filter((n) => !failed.has(n));
      if (this.services.has(asked.service) && !nodes.includes(self) && !failed.has(self)) nodes.push(self);
      if (nodes.length === 0) {
        if (failed.size > 0) return offline(asked);
        return new HttpFailure('ERR_HTTP_SERVICE_UNKNOWN', `no node of ${tenant} that is online has ${asked.service}`);
      }
      address = { ...asked, node: nodes[this.turn++ % nodes.length]! };
    }
    if (failed.has(address.node)) return offline(address);
    if (address.node === self) return { address, upstream: this.local(), tellCaller: true };
    const known = this.registry.mirror.get(tenant, address.node);
    const ip = this.host.resolve(address.node)[0];
    if (known?.online === false) return offline(address);
    if (ip === undefined) {
      if (known !== undefined || !this.host.linkUp()) return offline(address);
      return new HttpFailure('ERR_HTTP_NODE_UNKNOWN', `${tenant} has no node ${address.node}`);
    }
    return { address, upstream: this.upstream(ip), tellCaller: false };
  }

  private upstream(ip: string): Upstream {
    return this.upstreams.get(ip, () => {
      const make = () => this.host.net.connect({ host: ip, port: PROXY_PORT, allowHalfOpen: false }).setNoDelay(true);
      return new Upstream(ip, once(make, 'connect'), { ...DEFAULT_UPSTREAM_LIMITS, ...this.options.upstream });
    });
  }

  /** To our own server proxy, within the process. */
  private local(): Upstream {
    return this.upstreams.get('', () => {
      return new Upstream('this node', (callback) => {
        const [near, far] = memoryPair();
        this.server.accept(Object.assign(far, { [LOCAL]: true }));
        // Not within the call: undici does not look again at what a connector does at once.
        queueMicrotask(() => callback(null, near));
      });
    });
  }

  private readonly connect: OverlayConnect = (host, port, callback) => {
    const suffix = `.${OVERLAY_DOMAIN}`;
    const name = host.toLowerCase().replace(/\.$/, '');
    const labels = name.endsWith(suffix) ? name.slice(0, -suffix.length).split('.') : null;
    if (labels !== null && labels.length === 3) {
      const address = parseServiceAddress(`${labels[2]}/${labels[1]}/${labels[0]}`);
      if (address !== null) {
        this.connectTo({ ...address, port: 0 }, callback);
        return;
      }
    }
    dial(this.host.net, host, port, callback);
  };

  private connectTo(
    to: ForwardTarget,
    callback: (error: NodeJS.ErrnoException | null, socket: Duplex | null) => void,
  ): void {
    const ip = to.node === this.host.node ? 'localhost' : (this.host.resolve(to.node)[0] ?? to.node);
    if (to.tenant !== this.host.tenant) {
      callback(Object.assign(new Error('TCP does not cross tenants'), { code: 'EHOSTUNREACH' }), null);
      return;
    }
    let { port } = to;
    if (to.service !== undefined) {
      const service =
        to.node === this.host.node
          ? this.services.get(to.service)?.info()
          : this.registry.mirror.get(to.tenant, to.node)?.services.find((s) => s.name === to.service);
      if (service?.port === undefined) {
        callback(Object.assign(new Error(`no tcp service ${to.service}`), { code: 'ECONNREFUSED' }), null);
        return;
      }
      port = service.port;
    }
    dial(this.host.net, ip, port, callback);
  }
}

const LOCAL = Symbol('kubebus.local');

export function offline(address: ServiceAddress): HttpFailure {
  return new HttpFailure('ERR_HTTP_NODE_OFFLINE', `${address.tenant}/${address.node} has no link now`, 5);
}

export function listed(nodes: readonly NodeServices[], traffic: ReadonlyMap<string, Traffic>): ListedService[] {
  return nodes.flatMap(({ tenant, node, online, services }) =>
    services.map(withoutDirect).map((service) => {
      const through = traffic.get(formatServiceAddress({ tenant, node, service: service.name }));
      return { tenant, node, online, ...service, ...(through === undefined ? {} : { traffic: through }) };
    }),
  );
}

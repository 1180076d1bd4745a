// Composition: a node of the overlay. Link (L2) -> VRF with its control client (L3) -> this process, and the host's
// kernel where a TUN device is asked for.

import { EventEmitter } from 'node:events';
import { isIP } from 'node:net';
import { join } from 'node:path';
import {
  type Clock,
  Hold,
  KubeBusError,
  type Logger,
  MS,
  type Random,
  silentLogger,
  systemClock,
  systemRandom,
} from './core/index.js';
import {
  NodeHttp,
  type NodeHttpOptions,
  type PublishedService,
  type PublishOptions,
  type Target,
} from './http-proxy/index.js';
import { loadDefaultTransport, NodeIdentity } from './join/index.js';
import { dialLink, isName, type Link } from './l2/index.js';
import {
  attachLink,
  DEFAULT_METRIC,
  formatAddress,
  formatPrefix,
  HostNetwork,
  hostPorts,
  isAddress,
  NodeControl,
  openTun,
  PingDriver,
  type PingOptions,
  type PingReport,
  type Port,
  parseAddress,
  parsePrefix,
  type Route,
  Router,
  StateFile,
  type TunDevice,
  type Vrf,
} from './l3/index.js';
import {
  type ConnectOptions,
  createNet,
  type Net,
  type NetLike,
  type Socket,
  type StackOptions,
  type UndiciAgentClass,
} from './l4/index.js';
import {
  type Advertisement,
  checkOptions,
  type JoinOptions,
  type NodeEvents,
  type NodeOptions,
  type RouteInfo,
} from './node-options.js';

/** Reasons that a human has to look at; the node still tries again. */
const REFUSALS = new Set([
  'ERR_CERTIFICATE',
  'ERR_REVOKED',
  'ERR_TENANT_UNKNOWN',
  'ERR_DUPLICATE_NODE',
  'ERR_IDENTITY_MISMATCH',
  'ERR_VERSION',
  'ERR_TOO_MANY_CONNECTIONS',
]);

/** How long a name that nobody has is waited for: the cloud tells new names in steps, of which each takes less than this. */
const NAME_WAIT = 1_000 * MS;
/** Refusals kept until join() has returned. */
const EARLY = 16;

export class KubeBusNode extends EventEmitter<NodeEvents> {
  readonly tenant: string;
  readonly node: string;
  readonly link: Link;
  private readonly clock: Clock;
  private readonly logger: Logger;
  private readonly router: Router;
  private readonly vrf: Vrf;
  private readonly linkPort: Port;
  private readonly control: NodeControl;
  private readonly pinger: PingDriver;
  private readonly tun: TunDevice | null;
  private readonly network: HostNetwork | null;
  private readonly random: Random;
  private readonly socketOptions: StackOptions;
  private readonly httpOptions: NodeHttpOptions;
  private netValue: Net | null = null;
  private servicesValue: NodeHttp | null = null;
  /** The link is up; and the cloud has said on it which addresses are ours. */
  private linked = false;
  private usable = false;
  private stopped = false;
  /** Why the link was down when it was last said. */
  private lastReason = '';
  /** Until `stop`, also while the link is down and waits for its next try. */
  private readonly hold = new Hold();

  /**
   * Joins the overlay; resolves when the cloud has assigned addresses. Rejects with ERR_ABORTED through `signal`, with ERR_TUN_* when the
   * TUN device cannot be had, and with the cloud's reason when it says that trying again is of no use.
   */
  static join(options: JoinOptions): Promise<KubeBusNode>;
  static join(options: NodeOptions): Promise<KubeBusNode>;
  static join(options: NodeOptions | JoinOptions): Promise<KubeBusNode> {
    return options.cloud === undefined ? KubeBusNode.joinByToken(options) : KubeBusNode.joinAs(options, null);
  }

  private static async joinByToken(options: JoinOptions): Promise<KubeBusNode> {
    const { token, node, transport, dialService, date, ...rest } = options;
    const standard = await loadDefaultTransport();
    const identity = await NodeIdentity.open({
      ...options,
      dial: dialService ?? standard.defaultServiceDialer,
    });
    try {
      const full = {
        ...rest,
        cloud: identity.addresses,
        tenant: identity.tenant,
        node: identity.node,
        transport: (transport ?? standard.defaultTransport)(identity.tls),
      };
      return await KubeBusNode.joinAs(full, identity);
    } catch (error) {
      identity.stop();
      throw error;
    }
  }

  private static async joinAs(options: NodeOptions, identity: NodeIdentity | null): Promise<KubeBusNode> {
    const { clock = systemClock, logger = silentLogger, stateDir, signal } = options;
    checkOptions(options);
    const path = stateDir === undefined ? null : join(stateDir, `node-${options.tenant}-${options.node}.json`);
    const state = path === null ? null : await StateFile.open({ path, clock, logger, damaged: 'setAside' });
    const node = new KubeBusNode(options, state, identity);
    try {
      // A device that cannot be configured is told at once, not when the cloud answers.
      await Promise.all([node.ready(signal), node.network?.settled()]);
      await node.network?.settled();
    } catch (error) {
      await node.stop();
      throw error;
    }
    setImmediate(() => node.handedOver());
    return node;
  }

  private constructor(
    options: NodeOptions,
    state: StateFile | null,
    /** The certificate and its renewal, where they are ours to keep. */
    private readonly identity: NodeIdentity | null,
  ) {
    super();
    const { clock = systemClock, random = systemRandom, logger = silentLogger, mtu = 1400 } = options;
    this.clock = clock;
    this.logger = logger;
    this.random = random;
    this.socketOptions = options.sockets ?? {};
    this.httpOptions = options.http ?? {};
    this.tenant = options.tenant;
    this.node = options.node;
    this.router = new Router({ limits: options.routerLimits ?? {} });
    this.vrf = this.router.addVrf(options.tenant);
    this.vrf.endpoint.useClock(() => clock.now());
    const tunOptions = options.tun === true ? {} : options.tun || null;
    const tun = tunOptions === null ? null : openTun({ logger, ...tunOptions });
    const advertise: Route[] = (options.advertise ?? []).map((a) => ({
      prefix: parsePrefix(a.prefix),
      kind: a.kind,
      metric: a.metric ?? DEFAULT_METRIC,
      node: '',
    }));
    this.link = dialLink({
      ...options.link,
      transport: options.transport,
      addresses: options.cloud,
      tenant: options.tenant,
      node: options.node,
      connections: options.connections ?? 1,
      mtu,
      clock,
      random,
      logger,
    });
    this.linkPort = attachLink({
      vrf: this.vrf,
      link: this.link,
      // The cloud has checked the sources of what it sends.
      sources: null,
      clock,
      onControl: (message) => this.control.handleControl(clock.now(), message),
      onState: (linkState, reason) => this.onLinkState(linkState, reason),
      onWritable: () => tun?.resume(),
    });
    this.tun = tun;
    this.network = tun === null ? null : new HostNetwork(tun.name, mtu, (error) => this.fail(error));
    const host = tun === null ? null : this.openHost(tun, mtu);
    this.control = new NodeControl({
      node: options.node,
      vrf: this.vrf,
      link: this.linkPort,
      ...(host === null ? {} : { host }),
      advertise,
      remembered: rememberedAddresses(state),
      ...(options.controlLimits === undefined ? {} : { limits: options.controlLimits }),
      events: {
        onAddresses: ({ added, removed, all }) => {
          const texts = all.map(formatAddress);
          state?.save(() => ({ addresses: texts }));
          this.network?.addresses(added, removed, all);
          this.emit('addresses', texts);
        },
        onPrefixes: ({ added, removed }) => this.network?.routes(added, removed),
        onAssigned: () => this.onUsable(),
        onRoutes: () => this.tellRoutes(),
        onNames: () => this.tellRoutes(),
        onMtu: (tenantMtu) => this.network?.mtu(Math.min(tenantMtu, this.link.mtu)),
        onRefused: (reason, prefixes) => {
          logger.error({ code: reason.code, prefixes: prefixes.map(formatPrefix) }, `refused: ${reason.message}`);
          // Before join() has returned nobody can listen.
          if (this.early === null) this.emit('refused', reason);
          else if (this.early.length < EARLY) this.early.push(reason);
        },
      },
    });
    this.pinger = new PingDriver(this.vrf, clock, random);
    this.flushState = async () => {
      await state?.flush().catch((err: unknown) => logger.error({ err }, 'state not saved'));
    };
    this.hold.ref();
  }

  /** Called when more may be known of who has which address. */
  private readonly peerWaiters = new Set<() => void>();
  private readonly flushState: () => Promise<void>;

  /** This node's addresses as text. */
  get addresses(): readonly string[] {
    return this.control.addresses.map(formatAddress);
  }

  /** The cloud's own addresses in the tenant; they answer ping. */
  get gateway(): readonly string[] {
    return this.control.gateway.map(formatAddress);
  }

  /** IP for this process: what L4 stands on. */
  get endpoint() {
    return this.vrf.endpoint;
  }

  /**
   * Sockets of this process on the overlay (L4): node:net, node:dgram, promise forms and HTTP agents. Made on first use; never
   * falls back to the plain Internet. Names: `<node>` and `<node>.<tenant>.kubebus` of the own tenant, and the cloud's.
   */
  get sockets(): Net {
    this.netValue ??= createNet(this.vrf.endpoint, {
      clock: this.clock,
      random: this.random,
      resolver: (name) => this.resolveSoon(name),
      peerOf: (address) => this.peerOf(address),
      onPeers: (fn) => {
        this.peerWaiters.add(fn);
        return () => this.peerWaiters.delete(fn);
      },
      ...(this.network === null ? {} : { hostPorts: hostPorts(() => this.vrf.endpoint.addresses) }),
      ...this.socketOptions,
    });
    return this.netValue;
  }

  /** The API of node:net on the overlay. */
  get net(): Net['net'] {
    return this.sockets.net;
  }

  /** The API of node:dgram on the overlay. */
  get dgram(): Net['dgram'] {
    return this.sockets.dgram;
  }

  /** `http.createServer` whose server listens on the overlay. */
  get http(): Net['http'] {
    return this.sockets.http;
  }

  /** An agent for `http.request` and whatever takes one. */
  httpAgent(...args: Parameters<Net['httpAgent']>): ReturnType<Net['httpAgent']> {
    return this.sockets.httpAgent(...args);
  }

  /** The same for `https.request`: TLS inside the overlay. */
  httpsAgent(...args: Parameters<Net['httpsAgent']>): ReturnType<Net['httpsAgent']> {
    return this.sockets.httpsAgent(...args);
  }

  /**
   * An undici dispatcher, for `fetch(url, { dispatcher })`. Without its class `Agent` as argument the application needs the
   * package `undici` installed.
   */
  dispatcher<T extends object>(Agent?: UndiciAgentClass<T>): T {
    return this.sockets.dispatcher(Agent);
  }

  /** A server as a promise: `accept()`, and an async iterable of sockets. */
  listen(...args: Parameters<Net['listen']>): ReturnType<Net['listen']> {
    return this.sockets.listen(...args);
  }

  /** A connection as a promise: resolves once it is up, rejects with the error of the socket. */
  connect(options: ConnectOptions): Promise<Socket>;
  connect(port: number, host?: string): Promise<Socket>;
  connect(first: ConnectOptions | number, host?: string): Promise<Socket> {
    return typeof first === 'number' ? this.sockets.connect(first, host) : this.sockets.connect(first);
  }

  /** An orderly end as a promise: what was written is delivered; resolves once both sides have ended. */
  disconnect(...args: Parameters<Net['disconnect']>): Promise<void> {
    return this.sockets.disconnect(...args);
  }

  /** Services by name: publish, list, call, and listeners on this host. Made on first use. */
  get services(): NodeHttp {
    this.servicesValue ??= new NodeHttp(
      {
        tenant: this.tenant,
        node: this.node,
        net: this.net as unknown as NetLike,
        gateway: () => this.gateway,
        resolve: (name) => this.resolve(name),
        peerOf: (address) => this.peerOf(address),
        linkUp: () => this.link.state === 'up' && this.control.assigned,
        logger: this.logger,
      },
      this.httpOptions,
    );
    return this.servicesValue;
  }

  /** Offers a service of this node as `kubebus://<tenant>/<node>/<name>/`: a URL, several, a request handler or an http.Server. */
  publish(name: string, target: Target | readonly string[], options?: PublishOptions): PublishedService {
    return this.services.publish(name, target, options);
  }

  /** fetch on the overlay: `kubebus://tenant/node/service/path`. */
  fetch(url: string | URL, init?: RequestInit): Promise<Response> {
    return this.services.fetch(url, init);
  }

  /** Name of the TUN device, or null. */
  get device(): string | null {
    return this.tun?.name ?? null;
  }

  routes(): readonly RouteInfo[] {
    return this.control.routes.map((r) => ({
      prefix: formatPrefix(r.prefix),
      kind: r.kind,
      metric: r.metric,
      node: r.node,
    }));
  }

  /** Replaces what this node advertises, at once and for all reconnections. */
  advertise(list: readonly Advertisement[]): void {
    this.control.setAdvertise(
      list.map((a) => ({ prefix: parsePrefix(a.prefix), kind: a.kind, metric: a.metric ?? DEFAULT_METRIC, node: '' })),
    );
  }

  /** ICMP echo from this process to an address, or to a name as `net.connect` takes them (its first address). */
  async ping(host: string, options: PingOptions = {}): Promise<PingReport> {
    const address = isIP(host) !== 0 ? host : (await this.resolveSoon(host.toLowerCase()))[0];
    if (address === undefined) {
      throw new KubeBusError(
        'ERR_INVALID_ARGUMENT',
        `${host} is no address, and tenant ${this.tenant} has no node of that name`,
      );
    }
    return this.pinger.ping(address, options);
  }

  /** Packets and bytes taken from the link, the device and the sockets so far. */
  get carried(): { readonly packets: number; readonly bytes: number } {
    return this.vrf.carried;
  }

  stats(): Record<string, unknown> {
    return {
      tenant: this.tenant,
      node: this.node,
      state: this.link.state,
      addresses: this.addresses,
      rttMs: this.link.rtt / 1000,
      link: this.link.stats(),
      router: this.vrf.stats(),
      ...(this.netValue === null ? {} : { sockets: this.netValue.stats() }),
      control: { ...this.control.counters },
      ...(this.identity === null ? {} : { certificateExpires: new Date(this.identity.expires).toISOString() }),
      ...(this.tun === null ? {} : { device: this.tun.name, tun: this.tun.stats() }),
      routes: this.routes(),
      ...(this.servicesValue === null ? {} : { http: this.servicesValue.stats() }),
    };
  }

  /** Says goodbye, removes the device, saves the state. */
  async stop(message = 'the node stops'): Promise<void> {
    if (this.stopped) return;
    this.stopped = true;
    await this.servicesValue?.close();
    this.identity?.stop();
    this.netValue?.close();
    this.pinger.close();
    this.link.close(new KubeBusError('ERR_PEER_GOODBYE', message));
    this.network?.close();
    this.tun?.close();
    await this.flushState();
    this.hold.unref();
  }

  private tellRoutes(): void {
    for (const fn of this.peerWaiters) fn();
    if (this.listenerCount('routes') > 0) this.emit('routes', this.routes());
  }

  /** Addresses of a node of the own tenant, by its name. */
  private resolve(name: string): string[] {
    const node = this.nodeName(name);
    if (node === this.node) return [...this.addresses];
    if (node === this.link.peer.node) return [...this.gateway];
    return this.control.addressesOf(node).map(formatAddress);
  }

  private nodeName(name: string): string {
    const suffix = `.${this.tenant}.kubebus`;
    return name.endsWith(suffix) ? name.slice(0, -suffix.length) : name;
  }

  /** As `resolve`; a name that may be that of a node which joins just now is waited for. */
  private resolveSoon(name: string): string[] | Promise<string[]> {
    const found = this.resolve(name);
    if (found.length > 0 || !isName(this.nodeName(name))) return found;
    return new Promise((resolve) => {
      const finish = () => {
        timer.cancel();
        this.peerWaiters.delete(look);
        resolve(this.resolve(name));
      };
      const look = () => {
        if (this.resolve(name).length > 0) finish();
      };
      this.peerWaiters.add(look);
      const timer = this.clock.at(this.clock.now() + NAME_WAIT, finish);
    });
  }

  private peerOf(address: string): { tenant: string; node: string } | undefined {
    const node = this.control.nodeOf(parseAddress(address));
    return node === undefined ? undefined : { tenant: this.tenant, node };
  }

  private openHost(tun: TunDevice, mtu: number): Port {
    const host = this.vrf.addPort({
      name: tun.name,
      kind: 'host',
      sink: tun,
      mtu,
      offload: tun.takesOffload,
      sources: [],
    });
    tun.open({
      onPackets: (slab, start, end) => {
        host.handlePackets(this.clock.now(), slab, start, end);
        // The kernel can wait, and then its own senders slow down: better than to read and drop.
        if (!this.link.writable && this.link.state === 'up') tun.pause();
      },
      onPlain: () => host.update({ offload: false }),
      onClose: (error) => {
        host.update({ up: false });
        if (error !== undefined) this.fail(error);
      },
    });
    return host;
  }

  private onLinkState(state: string, reason?: KubeBusError): void {
    if (state === 'up') {
      // Another connection of a link that is up already changes nothing here.
      if (this.linked) return;
      this.linked = true;
      this.lastReason = '';
      this.logger.info({ cloud: this.link.peer.node, mtu: this.link.mtu }, 'link up');
      this.control.linkUp((message) => this.link.sendControl(message));
      return;
    }
    if (this.linked) {
      this.linked = false;
      this.control.linkDown();
    }
    if (this.usable) {
      this.usable = false;
      this.servicesValue?.handleLink(false);
      this.emit('down', reason);
    }
    if (state === 'closed') {
      this.hold.unref();
      this.waiting?.(reason ?? new KubeBusError('ERR_ABORTED', 'the node was stopped'));
    }
    if (reason === undefined || this.stopped) return;
    const refused = REFUSALS.has(reason.code);
    // A cloud that is away for a night is one line, not one for every attempt.
    if (this.lastReason !== reason.message) {
      this.lastReason = reason.message;
      const text = `${refused ? 'refused' : 'link down'}: ${reason.message}${state === 'closed' ? '' : ' (will go on trying)'}`;
      this.logger[refused ? 'error' : 'warn']({ code: reason.code, side: reason.side }, text);
    }
    if (refused) this.emit('refused', reason);
    if (reason.code === 'ERR_CERTIFICATE') this.identity?.certificateRefused();
  }

  /** The cloud has answered on a link that is up: what join() waits for, after every loss anew. */
  private onUsable(): void {
    this.usable = true;
    this.waiting?.();
    this.servicesValue?.handleLink(true);
    this.emit('up');
  }

  /** Resolves once the node is usable; rejects when the link will not be dialled again. */
  private ready(signal?: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      const aborted = () => this.waiting?.(new KubeBusError('ERR_ABORTED', 'join aborted', { cause: signal?.reason }));
      this.waiting = (error) => {
        this.waiting = null;
        signal?.removeEventListener('abort', aborted);
        if (error === undefined) resolve();
        else reject(error);
      };
      if (signal?.aborted) aborted();
      else signal?.addEventListener('abort', aborted, { once: true });
    });
  }

  /** join() has returned, and who called it has had the time to listen. */
  private handedOver(): void {
    const { early } = this;
    this.early = null;
    for (const reason of early ?? []) this.emit('refused', reason);
  }

  /** Refused routes of which nobody could have heard; null once somebody can. */
  private early: KubeBusError[] | null = [];

  /** Set while join() waits. */
  private waiting: ((error?: KubeBusError) => void) | null = null;

  private fail(error: KubeBusError): void {
    this.logger.error({ code: error.code }, error.message);
    if (this.listenerCount('error') > 0) this.emit('error', error);
  }
}

/** A wish only: the cloud's record decides. So what cannot be read is left out. */
function rememberedAddresses(state: StateFile | null): Uint8Array[] {
  const addresses = (state?.initial as { addresses?: unknown } | null)?.addresses;
  if (!Array.isArray(addresses)) return [];
  return addresses.filter((a): a is string => typeof a === 'string' && isAddress(a)).map(parseAddress);
}

// Edge: one published service: its instances (local URLs) with their health, or a request handler in this process.

import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import type { Duplex } from 'node:stream';
import { KubeBusError } from '../../core/index.js';
import type { Visibility } from '../access.js';
import { isServiceName } from '../address.js';
import { Balancer } from '../balance.js';
import { HttpFailure } from '../failure.js';
import { field, trailerFields } from '../headers.js';
import { Health } from '../health.js';
import { type Mend, mendResponse, ownNames } from '../mend.js';
import type { DirectAccess, ServiceInfo } from '../service.js';
import { answerRaw } from './answer.js';
import { exchange, type Plan, type Result } from './exchange.js';
import { checkHealth, type HealthCheck } from './health-check.js';
import { slowExchange, upgrade } from './slow-exchange.js';
import { Splice } from './splice.js';
import { readTarget, type TargetTls, wrongTarget } from './target.js';
import { type Connect, DEFAULT_UPSTREAM_LIMITS, Upstream, type UpstreamLimits } from './upstream.js';

// biome-ignore lint/suspicious/noConfusingVoidType: what a handler returns is nobody's concern
export type RequestHandler = (req: IncomingMessage, res: ServerResponse) => unknown | void;

/** `http://`, `https://` or `tcp://` URL, `unix:/path[:/base]`, a request handler (plain, express, fastify.routing), or an http.Server. */
export type Target = string | RequestHandler | Server;

export interface PublishOptions {
  /** Open to the Internet through the gateway. **Default:** false. */
  readonly public?: boolean;
  /** Tenants, besides the own, that may call. **Default:** none. */
  readonly grant?: readonly string[];
  /** false: none. */
  readonly health?: HealthCheck | false;
  /** `caller`: the service sees the Host that the caller asked for. `target`: that of its own URL. **Default:** 'caller'. */
  readonly host?: 'caller' | 'target';
  /** For https targets. */
  readonly tls?: TargetTls;
  /** Overlay port of a tcp service. **Default:** that of the URL. */
  readonly port?: number;
  readonly limits?: Partial<UpstreamLimits>;
  /**
   * The cloud's proxy, which has read the request already, may speak to the service itself, and the node only joins the connections.
   * For one URL without `limits` of its own. false: every request is read on the node as well. **Default:** true.
   */
  readonly direct?: boolean;
}

interface Instance {
  readonly upstream: Upstream;
  readonly connect: Connect;
  readonly url: string;
  /** Path under which the service lives, without its last slash. */
  readonly base: string;
  readonly authority: string;
  readonly health: Health;
  readonly healthy: boolean;
  readonly active: number;
}

/** What the proxy in front has found out about a request. */
export interface LocalRequest {
  readonly requestId: string;
  /** Path and query in the service's world. */
  readonly target: string;
  /** Ready, including Host as the caller asked for it. */
  readonly headers: string[];
  /** What the caller sees in front; '' if the proxy in front of us mends. */
  readonly prefix: string;
  /** Authority that the caller asked for. */
  readonly host: string;
  readonly bodyLimit: number;
  done(result: Result): void;
}

export class LocalService implements Visibility {
  readonly public: boolean;
  readonly grants: readonly string[];
  readonly kind: 'http' | 'tcp';
  private readonly instances: Instance[];
  private readonly handler: RequestHandler | Server | null;
  private readonly balancer = new Balancer();
  private readonly timers = new Set<ReturnType<typeof setTimeout>>();
  private readonly spliced = new Set<Duplex>();
  private closed = false;

  /** **Throws** ERR_SERVICE_NAME, ERR_SERVICE_TARGET. `onHealth`: the verdict on the whole service changed. */
  constructor(
    readonly name: string,
    target: Target | readonly string[],
    private readonly options: PublishOptions,
    private readonly onHealth: () => void,
  ) {
    if (!isServiceName(name)) throw new KubeBusError('ERR_SERVICE_NAME', `not the name of a service: ${name}`);
    this.public = options.public ?? false;
    this.grants = [...(options.grant ?? [])];
    for (const tenant of this.grants) {
      if (!isServiceName(tenant)) throw new KubeBusError('ERR_SERVICE_NAME', `not the name of a tenant: ${tenant}`);
    }
    const urls = typeof target === 'string' ? [target] : Array.isArray(target) ? (target as readonly string[]) : null;
    this.handler = urls === null ? (target as RequestHandler | Server) : null;
    if (urls === null && typeof target !== 'function' && typeof (target as Server)?.emit !== 'function')
      throw wrongTarget(String(target));
    if (urls?.length === 0) throw wrongTarget('an empty list');
    this.instances = (urls ?? []).map((url) => this.instance(url));
    this.kind = urls?.[0]?.startsWith('tcp:') ? 'tcp' : 'http';
    if (urls?.some((url) => url.startsWith('tcp:') !== (this.kind === 'tcp')))
      throw wrongTarget('tcp mixed with others');
    if (options.health !== false) for (const instance of this.instances) this.schedule(instance, 0);
  }

  get healthy(): boolean {
    return this.handler !== null || this.instances.some((i) => i.healthy);
  }

  /** Overlay port of a tcp service. */
  get port(): number | undefined {
    if (this.kind !== 'tcp') return undefined;
    return this.options.port ?? Number(new URL(this.instances[0]!.url).port);
  }

  info(): ServiceInfo {
    const { port } = this;
    return {
      name: this.name,
      kind: this.kind,
      public: this.public,
      grants: this.grants,
      healthy: this.healthy,
      instances: Math.max(1, this.instances.length),
      ...(port === undefined ? {} : { port }),
      ...(this.direct === undefined ? {} : { direct: this.direct }),
    };
  }

  /** Whether and how the cloud's proxy may speak to the service itself. */
  get direct(): DirectAccess | undefined {
    const { direct = true, limits, host } = this.options;
    if (!direct || limits !== undefined || this.kind !== 'http' || this.instances.length !== 1) return undefined;
    const { base, authority } = this.instances[0]!;
    return { base, authority, ownHost: host === 'target' };
  }

  /** Joins a connection of the cloud's proxy to the service; `head` came behind the request for it. A refusal is an HTTP answer. */
  join(socket: Duplex, head: Buffer, requestId: string): void {
    const instance = this.instances[0]!;
    this.spliced.add(socket);
    socket.once('close', () => this.spliced.delete(socket));
    socket.on('error', () => {});
    const splice = new Splice(socket);
    instance.upstream.openSocket((error, local) => {
      this.verdict(instance, error === null);
      if (local === null) answerRaw(socket, down(this.name, error), requestId);
      else if (socket.destroyed) local.destroy();
      else {
        if (head.length > 0) local.write(head);
        splice.join(local, instance.upstream.limits.idleTimeoutMs);
      }
    }, splice.onread);
  }

  targets(): { url: string; healthy: boolean; active: number; connections: number }[] {
    if (this.handler !== null) return [{ url: 'handler', healthy: true, active: 0, connections: 0 }];
    return this.instances.map(({ url, healthy, active, upstream }) => ({
      url,
      healthy,
      active,
      connections: upstream.connections,
    }));
  }

  handle(req: IncomingMessage, res: ServerResponse, local: LocalRequest, expects: boolean): void {
    if (this.handler !== null) {
      this.prepare(req, local);
      this.observe(res, local);
      if (typeof this.handler === 'function') this.handler(req, res);
      else
        this.handler.emit(
          expects && this.handler.listenerCount('checkContinue') > 0 ? 'checkContinue' : 'request',
          req,
          res,
        );
      if (expects && typeof this.handler === 'function') res.writeContinue();
      return;
    }
    const plan = this.plan(req, local);
    if (expects || field(req.rawHeaders, 'trailer') !== undefined) slowExchange(req, res, plan, expects);
    else exchange(req, res, plan);
  }

  upgrade(req: IncomingMessage, socket: Duplex, head: Buffer, local: LocalRequest): boolean {
    if (this.handler === null) {
      upgrade(req, socket, head, this.plan(req, local));
      return true;
    }
    if (typeof this.handler === 'function' || this.handler.listenerCount('upgrade') === 0) return false;
    this.prepare(req, local);
    socket.once('close', () => local.done({ status: 101, bytesIn: 0, bytesOut: 0 }));
    this.handler.emit('upgrade', req, socket, head);
    return true;
  }

  /** A connection to an instance of a tcp service. */
  connect(callback: (error: Error | null, socket: Duplex | null) => void): void {
    const tried = new Set<Instance>();
    const next = (before: Error | null) => {
      const instance = this.balancer.pick(this.instances, tried);
      if (instance === null) {
        callback(before ?? new Error('no instance'), null);
        return;
      }
      tried.add(instance);
      instance.upstream.openSocket((error, socket) => {
        this.verdict(instance, error === null);
        if (error !== null) next(error);
        else callback(null, socket);
      });
    };
    next(null);
  }

  close(): void {
    this.closed = true;
    for (const timer of this.timers) clearTimeout(timer);
    for (const { upstream } of this.instances) upstream.close();
    for (const socket of this.spliced) socket.destroy();
  }

  private plan(req: IncomingMessage, local: LocalRequest): Plan {
    const tried = new Set<Instance>();
    let current: Instance = this.instances[0]!;
    let cause: NodeJS.ErrnoException | null = null;
    const { headers } = local;
    const plan = {
      method: req.method!,
      path: local.target,
      headers,
      requestId: local.requestId,
      bodyLimit: local.bodyLimit,
      pick: (): Upstream | HttpFailure => {
        const instance = this.balancer.pick(this.instances, tried);
        if (instance === null) return down(this.name, cause);
        current = instance;
        tried.add(instance);
        plan.path = instance.base + local.target;
        if (this.options.host === 'target') setHost(headers, instance.authority);
        return instance.upstream;
      },
      mend: (raw: readonly string[]): string[] => {
        const mend: Mend = {
          hosts: ownNames(local.host.toLowerCase(), current.authority.toLowerCase()),
          base: current.base,
          prefix: local.prefix,
          path: local.target,
          cookieHost: null,
        };
        return mendResponse(raw, mend);
      },
      unreachable: (error: NodeJS.ErrnoException) => down(this.name, error),
      tried: (error: NodeJS.ErrnoException | null) => {
        cause = error;
        this.verdict(current, error === null);
      },
      done: local.done,
    };
    return plan;
  }

  /** The request as the handler in this process is to see it. */
  private prepare(req: IncomingMessage, local: LocalRequest): void {
    req.url = local.target;
    const { headers } = req;
    const kept = new Set<string>();
    for (let i = 0; i < local.headers.length; i += 2) {
      const name = local.headers[i]!.toLowerCase();
      if (!kept.has(name)) {
        kept.add(name);
        // Node's own joining of repeated fields is kept where it is there.
        if (headers[name] === undefined || OURS_FIRST.test(name)) headers[name] = local.headers[i + 1]!;
      }
    }
    for (const name of Object.keys(headers)) {
      if (!kept.has(name) && name !== 'transfer-encoding' && name !== 'connection' && name !== 'upgrade')
        delete headers[name];
    }
    req.rawHeaders = local.headers;
    let trailers: string[] = [];
    // They come when the handler has read the body.
    Object.defineProperty(req, 'rawTrailers', {
      get: () => trailers,
      set: (raw: string[]) => {
        trailers = trailerFields(raw);
      },
    });
  }

  private observe(res: ServerResponse, local: LocalRequest): void {
    let bytesOut = 0;
    const { write, end } = res;
    const count = (chunk: unknown) => {
      if (typeof chunk === 'string') bytesOut += Buffer.byteLength(chunk);
      else if (chunk instanceof Uint8Array) bytesOut += chunk.length;
    };
    // The handler's own writes are the only place where its bytes can be counted.
    res.write = ((...args: Parameters<typeof write>) => {
      count(args[0]);
      return write.apply(res, args);
    }) as typeof write;
    res.end = ((...args: Parameters<typeof end>) => {
      count(args[0]);
      return end.apply(res, args);
    }) as typeof end;
    res.on('close', () => {
      const whole = res.writableFinished;
      local.done({
        status: res.headersSent ? res.statusCode : 0,
        bytesIn: 0,
        bytesOut,
        ...(whole ? {} : { error: 'ERR_ABORTED' }),
      });
    });
  }

  private instance(url: string): Instance {
    const { connect, base, authority } = readTarget(url, this.options.tls);
    const upstream = new Upstream(url, connect, {
      ...DEFAULT_UPSTREAM_LIMITS,
      keepAliveMs: 4_000,
      ...this.options.limits,
    });
    const health = new Health();
    return {
      upstream,
      connect,
      url,
      base,
      authority,
      health,
      get healthy() {
        return health.healthy;
      },
      get active() {
        return upstream.active;
      },
    };
  }

  private verdict(instance: Instance, ok: boolean): void {
    const before = this.healthy;
    instance.health.handle(ok);
    if (this.healthy !== before && !this.closed) this.onHealth();
  }

  private schedule(instance: Instance, delay: number): void {
    if (this.closed) return;
    const check = this.options.health === false ? {} : (this.options.health ?? {});
    const timer = setTimeout(() => {
      this.timers.delete(timer);
      checkHealth(instance, check, (ok) => {
        if (this.closed) return;
        this.verdict(instance, ok);
        const { intervalMs = 5_000 } = check;
        this.schedule(instance, instance.healthy && ok ? intervalMs : Math.min(intervalMs, 1_000));
      });
    }, delay);
    timer.unref();
    this.timers.add(timer);
  }
}

const OURS_FIRST = /^(?:x-kubebus-|x-forwarded-|forwarded$|via$|x-request-id$|te$|cookie$)/;

function setHost(headers: string[], authority: string): void {
  for (let i = 0; i < headers.length; i += 2) if (headers[i]!.toLowerCase() === 'host') headers[i + 1] = authority;
}

function down(name: string, error: NodeJS.ErrnoException | null): HttpFailure {
  return new HttpFailure(
    'ERR_HTTP_SERVICE_DOWN',
    `the service ${name} does not answer on its node${error?.code ? ` (${error.code})` : ''}`,
  );
}

// Edge: the client proxy. Takes HTTP from callers (a host port, TLS, or the overlay), finds the service that is meant, and forwards the
// request to the server proxy of its node.

import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Duplex } from 'node:stream';
import { KubeBusError } from '../../core/index.js';
import type { Caller } from '../access.js';
import {
  type Addressed,
  formatServiceAddress,
  parseAddress,
  parseServiceAddress,
  type ServiceAddress,
} from '../address.js';
import { HttpFailure } from '../failure.js';
import { field, hopFields, identityFields, MAX_HOPS, requestFields } from '../headers.js';
import { mendResponse, ownNames } from '../mend.js';
import { Metrics } from '../metrics.js';
import { clientKey, type Rate, RateLimiter } from '../rate-limit.js';
import type { DirectAccess } from '../service.js';
import { type AccessLog, logAccess, type Seen, track } from './access-log.js';
import { answerFailure, answerRaw, isHttp2, writeHead } from './answer.js';
import { DIRECT_PROTOCOL } from './direct.js';
import { exchange, type Plan, type Result } from './exchange.js';
import { createFront, DEFAULT_FRONT_LIMITS, type Front, type FrontLimits } from './front.js';
import { RequestIds } from './request-id.js';
import { slowExchange, upgrade } from './slow-exchange.js';
import { TlsFront, type TlsOptions } from './tls.js';
import type { Upstream } from './upstream.js';

/** Where a request goes. */
export interface Route {
  /** With the node that was chosen, where any would do. */
  readonly address: ServiceAddress;
  readonly upstream: Upstream;
  /** The next hop believes us when we say who calls. */
  readonly tellCaller: boolean;
  /** The way past the node's own proxy, where that is worth a connection now. */
  readonly direct?: DirectWay;
}

export interface DirectWay {
  readonly upstream: Upstream;
  readonly access: DirectAccess;
  /** What went that way, which the node does not see. */
  observe(seconds: number, result: Result): void;
}

export interface ClientProxyOptions {
  /** `failed`: nodes that this request has tried in vain. */
  route(address: ServiceAddress, caller: Caller, failed: ReadonlySet<string>): Route | HttpFailure;
  /** Who is at the other end of a connection. */
  identify(socket: Duplex): Caller | null;
  /** Domains of the host form. **Default:** none: path form only. */
  readonly domains?: readonly string[];
  readonly tls?: TlsOptions;
  /** Only answers with a redirect to https, on this port. **Default:** none. */
  readonly redirectToHttps?: number;
  /** A proxy in front is trusted: its Forwarded and X-Forwarded-* are kept and extended. **Default:** false: they are dropped. */
  readonly trustForwarded?: boolean;
  /** Requests per client address (per network of 64 bits with IPv6). **Default:** no limit. */
  readonly clientRate?: Rate;
  /** Requests per tenant whose service is called. **Default:** no limit. */
  readonly tenantRate?: Rate;
  /** A previous hop of ours may say in X-KubeBus-Address what is meant. **Default:** false. */
  readonly takesAddress?: boolean;
  /** For CONNECT to an address of the overlay. **Default:** 405. */
  onConnect?(req: IncomingMessage, socket: Duplex, head: Buffer): void;
  readonly limits?: Partial<FrontLimits>;
  readonly accessLog?: AccessLog;
  readonly metrics?: Metrics;
}

export interface ListenAddress {
  readonly host?: string;
  readonly port: number;
}

export class ClientProxy {
  readonly metrics: Metrics;
  private readonly front: Front;
  private readonly limits: FrontLimits;
  private readonly ids = new RequestIds();
  private readonly clients: RateLimiter | null;
  private readonly tenants: RateLimiter | null;
  private readonly domains: readonly string[];
  private readonly tls: TlsFront | null;
  private readonly log: AccessLog | null;

  constructor(private readonly options: ClientProxyOptions) {
    this.metrics = options.metrics ?? new Metrics();
    this.limits = { ...DEFAULT_FRONT_LIMITS, ...options.limits };
    this.clients = options.clientRate === undefined ? null : new RateLimiter(options.clientRate);
    this.tenants = options.tenantRate === undefined ? null : new RateLimiter(options.tenantRate);
    this.domains = (options.domains ?? []).map((d) => d.toLowerCase().replace(/^\.|\.$/g, ''));
    this.tls = options.tls === undefined ? null : new TlsFront(options.tls);
    this.log = options.accessLog ?? null;
    const { onConnect } = options;
    this.front = createFront(
      {
        request: (req, res, expects) => this.onRequest(req, res, expects),
        upgrade: (req, socket, head) => this.onUpgrade(req, socket, head),
        newRequestId: () => this.ids.next(),
        ...(onConnect === undefined ? {} : { connect: (req, socket, head) => onConnect(req, socket, head) }),
      },
      this.limits,
      this.tls,
    );
  }

  /** Resolves with the address. Rejects with ERR_CONNECT. */
  listen(at: ListenAddress): Promise<{ address: string; port: number }> {
    const { server } = this.front;
    return new Promise((resolve, reject) => {
      const failed = (error: Error) =>
        reject(new KubeBusError('ERR_CONNECT', `cannot listen: ${error.message}`, { cause: error }));
      server.once('error', failed);
      server.listen(at, () => {
        server.removeListener('error', failed);
        resolve(server.address() as { address: string; port: number });
      });
    });
  }

  /** Takes a connection from elsewhere, such as the overlay. */
  accept(socket: Duplex): void {
    this.front.accept(socket);
  }

  /** Reads the certificate again now. */
  reloadCertificate(): boolean {
    return this.tls?.reload() ?? false;
  }

  close(graceMs?: number): Promise<void> {
    return this.front.close(graceMs);
  }

  private onRequest(req: IncomingMessage, res: ServerResponse, expects: boolean): void {
    if (this.options.redirectToHttps !== undefined) {
      redirect(req, res, this.options.redirectToHttps);
      return;
    }
    const found = this.find(req, req.socket);
    if (found.failure !== undefined) {
      answerFailure(req, res, found.failure, found.id);
      return;
    }
    const { route, addressed } = found;
    if (addressed.bare && (req.method === 'GET' || req.method === 'HEAD')) {
      writeHead(req, res, 308, '', ['location', `${addressed.prefix}${addressed.target}`, 'content-length', '0']);
      res.end();
      found.done({ status: 308, bytesIn: 0, bytesOut: 0 });
      return;
    }
    const slow = expects || field(req.rawHeaders, 'trailer') !== undefined;
    const plan = this.plan(found, req, route, !slow);
    if (plan instanceof HttpFailure) {
      answerFailure(req, res, plan, found.id);
      found.done({ status: plan.status, bytesIn: 0, bytesOut: 0, error: plan.code });
      return;
    }
    if (slow) slowExchange(req, res, plan, expects);
    else exchange(req, res, plan);
  }

  private onUpgrade(req: IncomingMessage, socket: Duplex, head: Buffer): void {
    const found = this.find(req, socket);
    const refuse = (failure: HttpFailure) => answerRaw(socket, failure, found.id, req.headers.accept);
    if (found.failure !== undefined) {
      refuse(found.failure);
      return;
    }
    const { route } = found;
    // Between us and a node only: behind it a caller would say itself who it is.
    if (req.headers.upgrade?.trim().toLowerCase() === DIRECT_PROTOCOL) {
      const failure = new HttpFailure('ERR_HTTP_BAD_REQUEST', `${DIRECT_PROTOCOL} is not for callers`);
      refuse(failure);
      found.done({ status: failure.status, bytesIn: 0, bytesOut: 0, error: failure.code });
      return;
    }
    const fail = (failure: HttpFailure) => {
      refuse(failure);
      found.done({ status: failure.status, bytesIn: 0, bytesOut: 0, error: failure.code });
    };
    const plan = this.plan(found, req, route, false);
    if (plan instanceof HttpFailure) fail(plan);
    else upgrade(req, socket, head, plan);
  }

  /** What the request means, who calls, and whether it may go on. */
  private find(req: IncomingMessage, socket: Duplex & { remoteAddress?: string | undefined }): Found {
    const id = this.ids.of(req);
    const started = performance.now();
    const caller = this.options.identify(socket);
    const client = (socket.remoteAddress ?? '').replace(/^::ffff:(?=\d+\.)/, '');
    const seen: Omit<Seen, 'address'> = {
      req,
      requestId: id,
      caller: caller ?? { kind: 'internet' },
      client,
      started,
      url: req.url!,
    };
    const refuse = (failure: HttpFailure): Found => {
      this.metrics.refuse(failure.code);
      const result = { status: failure.status, bytesIn: 0, bytesOut: 0, error: failure.code };
      if (this.log !== null) logAccess(this.log, { ...seen, address: null }, result, performance.now() - started);
      return { id, failure };
    };
    if (caller === null) return refuse(new HttpFailure('ERR_HTTP_FORBIDDEN', 'nobody knows who is at the other end'));
    if (this.clients !== null) {
      const wait = this.clients.take(started * 1000, clientKey(client));
      if (wait > 0)
        return refuse(new HttpFailure('ERR_HTTP_RATE_LIMITED', 'too many requests from this address', Math.ceil(wait)));
    }
    const host = isHttp2(req)
      ? ((req.headers[':authority'] as string | undefined) ?? req.headers.host)
      : (authorityOf(req.url!) ?? req.headers.host);
    const addressed = this.addressed(req, host);
    if ('failure' in addressed) {
      const code = addressed.failure === 'bad' ? 'ERR_HTTP_BAD_REQUEST' : 'ERR_HTTP_ADDRESS';
      return refuse(new HttpFailure(code, addressed.reason));
    }
    const failed = new Set<string>();
    const route = this.options.route(addressed, caller, failed);
    if (route instanceof HttpFailure) return refuse(route);
    if (this.tenants !== null) {
      const wait = this.tenants.take(started * 1000, addressed.tenant);
      if (wait > 0)
        return refuse(
          new HttpFailure('ERR_HTTP_RATE_LIMITED', `the tenant ${addressed.tenant} is over its rate`, Math.ceil(wait)),
        );
    }
    const whole: Seen = { ...seen, address: route.address };
    return { id, addressed, route, seen: whole, host: host ?? '', failed, done: track(this.metrics, this.log, whole) };
  }

  private addressed(req: IncomingMessage, host: string | undefined): ReturnType<typeof parseAddress> {
    if (this.options.takesAddress === true) {
      const named = field(req.rawHeaders, 'x-kubebus-address');
      const address = named === undefined ? null : parseServiceAddress(named);
      if (address !== null) return { ...address, form: 'host', prefix: '', target: req.url!, bare: false };
    }
    return parseAddress(req.url!, host, this.domains);
  }

  private fields(
    { addressed, seen, host, id }: Known,
    req: IncomingMessage,
    { address, tellCaller, direct }: Route,
  ): string[] | HttpFailure {
    // Between our own proxies the first one has told all there is to tell.
    const inner = this.options.takesAddress === true && addressed.form === 'host';
    const secure = this.tls !== null;
    const { headers, hops } = requestFields(req.rawHeaders, {
      trustClaims: this.options.trustForwarded === true || inner,
      origin: { proto: secure ? 'https' : 'http', host, address: seen.client, prefix: addressed.prefix },
      host: direct?.access.ownHost === true ? direct.access.authority : host === '' ? null : host,
      extra:
        direct === undefined
          ? hopFields(formatServiceAddress(address), tellCaller ? seen.caller : null)
          : identityFields(seen.caller),
      requestId: id,
    });
    return hops > MAX_HOPS ? new HttpFailure('ERR_HTTP_LOOP', 'the request goes in circles') : headers;
  }

  private plan(found: Known, req: IncomingMessage, first: Route, mayBeDirect: boolean): Plan | HttpFailure {
    const { addressed, seen, host, id, failed } = found;
    let current = first;
    /** Whether the next pick has its fields already. */
    let ready = true;
    const plan: Plan & Aim = {
      method: req.method!,
      path: '',
      headers: [],
      requestId: id,
      bodyLimit: this.limits.bodyBytes,
      pick: () => {
        if (!ready) {
          // Another node, where any would do; the same one never twice.
          failed.add(current.address.node);
          const route = this.options.route(addressed, seen.caller, failed);
          if (route instanceof HttpFailure) return route;
          if (failed.has(route.address.node)) return this.offline(current.address);
          const failure = aim(route);
          if (failure !== null) return failure;
        }
        ready = false;
        return current.direct?.upstream ?? current.upstream;
      },
      mend: (raw) => mendFor(current, raw, host.toLowerCase(), addressed),
      unreachable: () => this.offline(current.address),
      done: (result) => {
        current.direct?.observe((performance.now() - seen.started) / 1000, result);
        found.done(result);
      },
    };
    const aim = (route: Route): HttpFailure | null => {
      current = mayBeDirect || route.direct === undefined ? route : withoutDirect(route);
      const headers = this.fields(found, req, current);
      if (headers instanceof HttpFailure) return headers;
      plan.headers = headers;
      plan.path = (current.direct?.access.base ?? '') + addressed.target;
      return null;
    };
    return aim(first) ?? plan;
  }

  private offline({ tenant, node }: ServiceAddress): HttpFailure {
    return new HttpFailure('ERR_HTTP_NODE_OFFLINE', `${tenant}/${node} cannot be reached now`, 5);
  }
}

interface Known {
  readonly id: string;
  readonly failure?: undefined;
  readonly addressed: Addressed;
  readonly route: Route;
  readonly seen: Seen;
  readonly host: string;
  readonly failed: Set<string>;
  done(result: Result): void;
}

type Found = Known | { readonly id: string; readonly failure: HttpFailure };

/** What depends on where the request goes. */
interface Aim {
  path: string;
  headers: string[];
}

/** RFC 9112 §3.2.2: the host of an absolute target counts, and what Host says is not passed on. */
function authorityOf(target: string): string | undefined {
  if (target.charCodeAt(0) === 0x2f) return undefined;
  return /^https?:\/\/([\w\-.:[\]]+)(?=[/?]|$)/i.exec(target)?.[1];
}

function withoutDirect({ direct: _direct, ...route }: Route): Route {
  return route;
}

function mendFor({ direct }: Route, raw: readonly string[], host: string, { prefix, target }: Addressed): string[] {
  const outer = { base: '', prefix, path: target, cookieHost: host.replace(/:\d+$/, '') };
  if (direct === undefined) return mendResponse(raw, { ...outer, hosts: [host] });
  const { base, authority } = direct.access;
  const hosts = ownNames(host, authority);
  if (base === '') return mendResponse(raw, { ...outer, hosts });
  // First what the node's proxy would have done, then ours.
  const inner = mendResponse(raw, { hosts, base, prefix: '', path: target, cookieHost: null });
  return mendResponse(inner, { ...outer, hosts: [host] });
}

function redirect(req: IncomingMessage, res: ServerResponse, port: number): void {
  const host = (req.headers.host ?? '').replace(/:\d*$/, '');
  // The Host field is the caller's own: it redirects nobody but itself.
  const location = `https://${host}${port === 443 ? '' : `:${port}`}${req.url!.startsWith('/') ? req.url : '/'}`;
  res.writeHead(308, { location, 'content-length': '0' }).end();
}

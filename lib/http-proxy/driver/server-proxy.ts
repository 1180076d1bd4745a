// Edge: the server proxy. Listens on the overlay (L4), finds out who calls, and forwards to the node's own services.

import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Duplex } from 'node:stream';
import { type Caller, mayCall, PLANE, parseCaller } from '../access.js';
import { isServiceName, parseAddress, parseServiceAddress, type ServiceAddress } from '../address.js';
import { HttpFailure } from '../failure.js';
import { field, identityFields, MAX_HOPS, requestFields } from '../headers.js';
import { Metrics } from '../metrics.js';
import { type AccessLog, track } from './access-log.js';
import { answerFailure, answerRaw } from './answer.js';
import { DIRECT_BASE, DIRECT_PROTOCOL } from './direct.js';
import { createFront, DEFAULT_FRONT_LIMITS, type Front, type FrontLimits } from './front.js';
import type { LocalRequest, LocalService } from './local-service.js';
import { RequestIds } from './request-id.js';

/** The other end of a connection: who it is, and whether it speaks for others (the cloud does). */
export interface PeerOfConnection {
  readonly caller: Caller;
  readonly speaksForOthers: boolean;
}

export interface ServerProxyOptions {
  readonly tenant: string;
  readonly node: string;
  readonly services: ReadonlyMap<string, LocalService>;
  /** From the connection, never from what it says. null: a stranger, who is refused. */
  identify(socket: Duplex): PeerOfConnection | null;
  readonly limits?: Partial<FrontLimits>;
  readonly accessLog?: AccessLog;
  readonly metrics?: Metrics;
}

const IDENTITY = Symbol('kubebus.peer');
type Identified = Duplex & { [IDENTITY]?: PeerOfConnection; remoteAddress?: string };

/** A connection may overtake the news of whose address it comes from. */
const NEWS_MS = [5, 20, 75, 200, 700];

/** Calls back with the peer, at once or when it is known; a stranger's connection is closed. */
export function identified<T>(
  socket: Duplex,
  identify: (socket: Duplex) => T | null,
  callback: (peer: T) => void,
): void {
  const ignore = () => {};
  let tries = 0;
  const look = () => {
    const peer = identify(socket);
    if (peer !== null) {
      socket.removeListener('error', ignore);
      callback(peer);
    } else if (tries < NEWS_MS.length && !socket.destroyed) setTimeout(look, NEWS_MS[tries++]);
    else socket.destroy();
  };
  socket.on('error', ignore);
  look();
}

export class ServerProxy {
  readonly metrics: Metrics;
  private readonly front: Front;
  private readonly limits: FrontLimits;
  private readonly ids = new RequestIds();

  constructor(private readonly options: ServerProxyOptions) {
    this.metrics = options.metrics ?? new Metrics();
    this.limits = { ...DEFAULT_FRONT_LIMITS, headerBytes: 32 * 1024, ...options.limits };
    this.front = createFront(
      {
        request: (req, res, expects) => this.onRequest(req, res, expects),
        upgrade: (req, socket, head) => this.onUpgrade(req, socket, head),
        newRequestId: () => this.ids.next(),
      },
      this.limits,
      null,
    );
  }

  /** Takes a connection of the overlay. */
  accept(socket: Duplex): void {
    identified(socket, this.options.identify, (peer) => {
      (socket as Identified)[IDENTITY] = peer;
      this.front.accept(socket);
    });
  }

  close(graceMs?: number): Promise<void> {
    return this.front.close(graceMs);
  }

  private onRequest(req: IncomingMessage, res: ServerResponse, expects: boolean): void {
    const found = this.find(req, req.socket as unknown as Identified);
    if (found.failure !== undefined) {
      answerFailure(req, res, found.failure, found.id);
      return;
    }
    found.service.handle(req, res, found.local, expects);
  }

  private onUpgrade(req: IncomingMessage, socket: Duplex, head: Buffer): void {
    if (req.headers.upgrade === DIRECT_PROTOCOL) {
      this.onDirect(req, socket as Identified, head);
      return;
    }
    const found = this.find(req, socket as Identified);
    if (found.failure !== undefined) {
      answerRaw(socket, found.failure, found.id, req.headers.accept);
      return;
    }
    if (!found.service.upgrade(req, socket, head, found.local)) {
      const failure = new HttpFailure('ERR_HTTP_BAD_REQUEST', 'the service does not change the protocol');
      answerRaw(socket, failure, found.id, req.headers.accept);
      found.local.done({ status: 400, bytesIn: 0, bytesOut: 0, error: failure.code });
    }
  }

  /** The cloud's proxy asks for the service itself, for one caller; all that follows on the connection is between those two. */
  private onDirect(req: IncomingMessage, socket: Identified, head: Buffer): void {
    const id = this.ids.of(req);
    const asked = this.locate(req, socket);
    let failure = asked instanceof HttpFailure ? asked : null;
    if (!(asked instanceof HttpFailure)) {
      const { direct } = asked.service;
      if (!socket[IDENTITY]!.speaksForOthers) failure = new HttpFailure('ERR_HTTP_FORBIDDEN', 'only for the cloud');
      else if (direct === undefined || direct.base !== req.headers[DIRECT_BASE])
        failure = new HttpFailure('ERR_HTTP_SERVICE_DOWN', 'the service has just changed');
      else {
        asked.service.join(socket, head, id);
        return;
      }
    }
    this.metrics.refuse(failure!.code);
    answerRaw(socket, failure!, id);
  }

  /** Which service is meant, and who calls; a failure: there is none, or it is not for that caller. */
  private locate(req: IncomingMessage, socket: Identified): Located | HttpFailure {
    const { tenant, node, services } = this.options;
    const peer = socket[IDENTITY]!;
    const named = field(req.rawHeaders, 'x-kubebus-address');
    const host = req.headers.host ?? '';
    let prefix = '';
    let target = req.url!;
    let address = named === undefined ? null : parseServiceAddress(named);
    if (address === null) {
      const parsed = parseAddress(target, host, []);
      if ('failure' in parsed) {
        return new HttpFailure(parsed.failure === 'bad' ? 'ERR_HTTP_BAD_REQUEST' : 'ERR_HTTP_ADDRESS', parsed.reason);
      }
      ({ prefix, target } = parsed);
      address = parsed;
    }
    if (address.tenant !== tenant || address.node !== node) {
      return new HttpFailure('ERR_HTTP_NODE_UNKNOWN', `this is ${tenant}/${node}`);
    }
    // Only the cloud may say on whose behalf it calls; what it does not say is its own call.
    const caller = peer.speaksForOthers
      ? (parseCaller(field(req.rawHeaders, 'x-kubebus-caller')) ?? PLANE)
      : peer.caller;
    const service = services.get(address.service);
    if (service === undefined || service.kind !== 'http' || !isServiceName(address.service)) {
      return new HttpFailure('ERR_HTTP_SERVICE_UNKNOWN', `${tenant}/${node} has no HTTP service ${address.service}`);
    }
    if (!mayCall(caller, tenant, service)) {
      return new HttpFailure('ERR_HTTP_FORBIDDEN', `${address.service} is not open to this caller`);
    }
    return { service, address, caller, prefix, target, host };
  }

  private find(req: IncomingMessage, socket: Identified): Found {
    const peer = socket[IDENTITY]!;
    const id = this.ids.of(req);
    const refuse = (failure: HttpFailure): Found => {
      this.metrics.refuse(failure.code);
      return { id, failure };
    };
    const located = this.locate(req, socket);
    if (located instanceof HttpFailure) return refuse(located);
    const { service, address, caller, prefix, target, host } = located;
    const client = socket.remoteAddress ?? '';
    const fields = requestFields(req.rawHeaders, {
      trustClaims: true,
      origin: peer.speaksForOthers ? null : { proto: 'http', host, address: client, prefix },
      host: null,
      extra: identityFields(caller),
      requestId: id,
    });
    if (fields.hops > MAX_HOPS) return refuse(new HttpFailure('ERR_HTTP_LOOP', 'the request goes in circles'));
    const seen = { req, requestId: id, caller, client, address, started: performance.now(), url: req.url! };
    const done = track(this.metrics, this.options.accessLog ?? null, seen);
    return {
      id,
      service,
      local: { requestId: id, target, headers: fields.headers, prefix, host, bodyLimit: this.limits.bodyBytes, done },
    };
  }
}

interface Located {
  readonly service: LocalService;
  readonly address: ServiceAddress;
  readonly caller: Caller;
  readonly prefix: string;
  readonly target: string;
  readonly host: string;
}

type Found =
  | { readonly id: string; readonly failure: HttpFailure; readonly service?: never; readonly local?: never }
  | { readonly id: string; readonly failure?: undefined; readonly service: LocalService; readonly local: LocalRequest };

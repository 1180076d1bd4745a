// Edge: connections to one place (a node's server proxy, or an instance of a local service): undici speaks HTTP/1.1 on each, we keep them.
// One request at a time on a connection, the connection used last is used next, so that the others fall idle and close.

import { type ClientRequest, request as httpRequest, type RequestOptions } from 'node:http';
import type { Duplex } from 'node:stream';
import type { Client, Dispatcher } from 'undici';
import { KubeBusError } from '../../core/index.js';
import { undici } from './undici.js';

export type ConnectCallback = (error: Error | null, socket: Duplex | null) => void;

/** `net.Socket`'s option of that name: bytes are read to where the caller says. */
export interface OnRead {
  readonly buffer: Uint8Array;
  callback(bytes: number, buffer: Uint8Array): boolean;
}

/** Opens a connection; calls back once. `onread` is used where the socket is one of Node's without TLS; elsewhere data comes as events. */
export type Connect = (callback: ConnectCallback, onread?: OnRead) => void;

export interface UpstreamLimits {
  /** Connections for requests. Upgraded ones are not counted here. **Default:** 256. */
  readonly connections: number;
  /** Requests that wait for a connection; more are answered 503. **Default:** 1,024. */
  readonly waiting: number;
  /** **Default:** 10 s. */
  readonly connectTimeoutMs: number;
  /** How long an answer may take to begin after the last sign of progress. **Default:** 60 s. */
  readonly headersTimeoutMs: number;
  /** How long a body or a tunnel may be silent. **Default:** 5 min. */
  readonly idleTimeoutMs: number;
  /** How long a connection stays open without a request; must be below the server's. **Default:** 55 s. */
  readonly keepAliveMs: number;
  /** Header fields of an answer, bytes. **Default:** 32 KiB. */
  readonly headerBytes: number;
}

export const DEFAULT_UPSTREAM_LIMITS: UpstreamLimits = {
  connections: 256,
  waiting: 1024,
  connectTimeoutMs: 10_000,
  headersTimeoutMs: 60_000,
  idleTimeoutMs: 300_000,
  keepAliveMs: 55_000,
  headerBytes: 32 * 1024,
};

/** A connection that was lent for one request. */
export interface Lease {
  readonly client: Client;
  gone: boolean;
}

export type LeaseCallback = (lease: Lease | null) => void;

// undici wants an origin; where the bytes go is decided by `connect`.
const ORIGIN = 'http://service.invalid';

export class Upstream {
  /** Requests and tunnels in progress. */
  active = 0;
  /** Of whoever keeps it: when it was last asked for. */
  lastUsed = Number.NEGATIVE_INFINITY;
  private readonly idle: Lease[] = [];
  private readonly leases = new Set<Lease>();
  private readonly queue: LeaseCallback[] = [];
  private closed = false;

  constructor(
    readonly name: string,
    private readonly connect: Connect,
    readonly limits: UpstreamLimits = DEFAULT_UPSTREAM_LIMITS,
  ) {}

  get connections(): number {
    return this.leases.size;
  }

  /**
   * Lends a connection: at once, or when one is free. Returns how to give up waiting; `callback(null)`: too many wait, or closed.
   */
  acquire(callback: LeaseCallback): () => void {
    const lease = this.idle.pop() ?? (this.leases.size < this.limits.connections && !this.closed ? this.open() : null);
    if (lease !== null) {
      callback(lease);
      return nothing;
    }
    if (this.closed || this.queue.length >= this.limits.waiting) {
      callback(null);
      return nothing;
    }
    this.queue.push(callback);
    return () => {
      const at = this.queue.indexOf(callback);
      if (at >= 0) this.queue.splice(at, 1);
    };
  }

  release(lease: Lease): void {
    if (lease.gone || this.closed) this.drop(lease);
    const next = this.queue.shift();
    if (next !== undefined) {
      if (!lease.gone) next(lease);
      else this.acquire(next);
      return;
    }
    if (!lease.gone) this.idle.push(lease);
  }

  dispatch(
    lease: Lease,
    options: Omit<Dispatcher.DispatchOptions, 'origin'>,
    handler: Dispatcher.DispatchHandler,
  ): void {
    lease.client.dispatch(options as Dispatcher.DispatchOptions, handler);
  }

  /** A request by node:http on a connection of its own: for what undici does not do (Expect, upgrades, trailers of requests). */
  request(options: { method: string; path: string; headers: readonly string[] }): ClientRequest {
    return httpRequest({
      method: options.method,
      path: options.path,
      headers: options.headers,
      maxHeaderSize: this.limits.headerBytes,
      // Without an agent: an agent would not ask for our connection.
      createConnection: (_options: unknown, done: (error: Error | null, socket: Duplex) => void) => {
        this.openSocket((error, socket) => done(error, socket as Duplex));
        return undefined as unknown as Duplex;
      },
    } as unknown as RequestOptions);
  }

  /** A connection, or an error within the time allowed. */
  openSocket(callback: ConnectCallback, onread?: OnRead): void {
    let done = false;
    const finish = (error: Error | null, socket: Duplex | null) => {
      if (done) {
        socket?.destroy();
        return;
      }
      done = true;
      clearTimeout(timer);
      callback(error, socket);
    };
    const ms = this.limits.connectTimeoutMs;
    const timer = setTimeout(() => finish(timeout(`no connection to ${this.name} within ${ms} ms`), null), ms);
    this.connect(finish, onread);
  }

  close(): void {
    this.closed = true;
    for (const lease of [...this.leases]) this.drop(lease);
    this.idle.length = 0;
    for (const callback of this.queue.splice(0)) callback(null);
  }

  private open(): Lease {
    const { limits } = this;
    const client = new (undici().Client)(ORIGIN, {
      connect: ((_options: unknown, callback: ConnectCallback) =>
        this.openSocket((error, socket) => {
          socket?.prependListener('error', unlikeAnEnd);
          callback(error, socket);
        })) as never,
      pipelining: 1,
      keepAliveTimeout: limits.keepAliveMs,
      keepAliveMaxTimeout: limits.keepAliveMs,
      headersTimeout: limits.headersTimeoutMs,
      bodyTimeout: limits.idleTimeoutMs,
      maxHeaderSize: limits.headerBytes,
    });
    const lease: Lease = { client, gone: false };
    const lost = () => {
      lease.gone = true;
      const at = this.idle.indexOf(lease);
      if (at < 0) return;
      this.idle.splice(at, 1);
      this.drop(lease);
    };
    client.on('disconnect', lost);
    client.on('connectionError', lost);
    this.leases.add(lease);
    return lease;
  }

  private drop(lease: Lease): void {
    lease.gone = true;
    if (!this.leases.delete(lease)) return;
    lease.client.destroy(null, nothing);
  }
}

const nothing = () => {};

/** undici takes a reset for the end of an answer without a length; a broken answer must not look whole (RFC 9112 §8). */
function unlikeAnEnd(error: NodeJS.ErrnoException): void {
  if (error.code === 'ECONNRESET') error.code = 'ECONNABORTED';
}

function timeout(message: string): Error {
  return new KubeBusError('ERR_HTTP_TIMEOUT', message, { side: 'remote' });
}

// Edge: one entry per request, and its counters.

import type { IncomingMessage } from 'node:http';
import type { Caller } from '../access.js';
import type { ServiceAddress } from '../address.js';
import { type Metrics, observe } from '../metrics.js';
import type { Result } from './exchange.js';

/** One line of the access log. */
export interface AccessEntry {
  readonly time: string;
  readonly requestId: string;
  readonly caller: Caller['kind'];
  readonly callerTenant?: string;
  readonly callerNode?: string;
  readonly client: string;
  readonly method: string;
  /** As it came, without the query: that may hold secrets. */
  readonly path: string;
  readonly host: string;
  readonly protocol: string;
  readonly tenant?: string;
  readonly node?: string;
  readonly service?: string;
  /** 0: the caller went away before an answer. */
  readonly status: number;
  readonly error?: string;
  readonly bytesIn: number;
  readonly bytesOut: number;
  readonly ms: number;
  readonly userAgent?: string;
}

export type AccessLog = (entry: AccessEntry) => void;

export interface Seen {
  readonly req: IncomingMessage;
  readonly requestId: string;
  readonly caller: Caller;
  readonly client: string;
  readonly address: ServiceAddress | null;
  readonly started: number;
  /** As it came, before it was rewritten for a handler. */
  readonly url: string;
}

export function logAccess(log: AccessLog, seen: Seen, result: Result, ms: number): void {
  const { req, caller, address } = seen;
  const query = seen.url.indexOf('?');
  const agent = req.headers['user-agent'];
  log({
    time: new Date().toISOString(),
    requestId: seen.requestId,
    caller: caller.kind,
    ...(caller.kind === 'tenant' ? { callerTenant: caller.tenant, callerNode: caller.node } : {}),
    client: seen.client,
    method: req.method ?? '',
    path: query < 0 ? seen.url : seen.url.slice(0, query),
    host: (req.headers[':authority'] as string | undefined) ?? req.headers.host ?? '',
    protocol: `HTTP/${req.httpVersion}`,
    ...(address === null ? {} : { tenant: address.tenant, node: address.node, service: address.service }),
    status: result.status,
    ...(result.error === undefined ? {} : { error: result.error }),
    bytesIn: result.bytesIn,
    bytesOut: result.bytesOut,
    ms: Math.round(ms * 1000) / 1000,
    ...(agent === undefined ? {} : { userAgent: agent }),
  });
}

/** Counts a request from now on; the function it returns is called once, with the outcome. */
export function track(metrics: Metrics, log: AccessLog | null, seen: Seen): (result: Result) => void {
  const traffic = seen.address === null ? null : metrics.of(seen.address);
  if (traffic !== null) traffic.active++;
  return (result) => {
    const ms = performance.now() - seen.started;
    if (traffic !== null) {
      traffic.active--;
      observe(traffic, ms / 1000, result.status, result.bytesIn, result.bytesOut);
    }
    if (log !== null) logAccess(log, seen, result, ms);
  };
}

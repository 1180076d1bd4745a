// Edge: one check of an instance: a connection, or a GET.

import { request as httpRequest } from 'node:http';
import type { Duplex } from 'node:stream';
import type { Connect } from './upstream.js';

export interface HealthCheck {
  /** Asked with GET; any status below 500 is healthy. **Default:** none: a connection is healthy. */
  readonly path?: string;
  /** **Default:** 5,000; 1,000 while unhealthy. */
  readonly intervalMs?: number;
  /** **Default:** 2,000. */
  readonly timeoutMs?: number;
}

interface Place {
  readonly connect: Connect;
  readonly base: string;
  readonly authority: string;
}

/** Calls back once. */
export function checkHealth(
  instance: Place,
  { path, timeoutMs = 2_000 }: HealthCheck,
  done: (ok: boolean) => void,
): void {
  let settled = false;
  const settle = (ok: boolean) => {
    if (settled) return;
    settled = true;
    clearTimeout(timer);
    done(ok);
  };
  const timer = setTimeout(() => settle(false), timeoutMs);
  timer.unref();
  if (path === undefined) {
    instance.connect((error, socket) => {
      socket?.on('error', () => {});
      socket?.destroy();
      settle(error === null);
    });
    return;
  }
  const request = httpRequest({
    path: instance.base + path,
    headers: { host: instance.authority, 'user-agent': 'kubebus-health' },
    createConnection: ((_o: unknown, callback: (e: Error | null, s: Duplex | null) => void) =>
      instance.connect(callback)) as never,
  });
  request.on('response', (response) => {
    response.resume();
    settle((response.statusCode ?? 500) < 500);
    request.destroy();
  });
  request.on('error', () => settle(false));
  request.end();
}

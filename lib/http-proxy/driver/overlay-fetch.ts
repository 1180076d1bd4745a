// Edge: connections within the process, and undici's fetch on them: a caller in the process goes the same way as one from outside.

import type { Duplex } from 'node:stream';
import * as streams from 'node:stream';
import type { Agent, Dispatcher } from 'undici';
import { KubeBusError } from '../../core/index.js';
import { undici } from './undici.js';

/** Domain of the host form inside the overlay: `<service>.<node>.<tenant>.kubebus`. */
export const OVERLAY_DOMAIN = 'kubebus';

/** Two ends of a connection within the process. */
export function memoryPair(): [Duplex, Duplex] {
  const { duplexPair } = streams as unknown as { duplexPair(options?: object): [Duplex, Duplex] };
  return duplexPair({ highWaterMark: 256 * 1024 });
}

/** An undici agent whose connections all end in a proxy of this process. */
export function overlayAgent(accept: (socket: Duplex) => void): Agent {
  return new (undici().Agent)({
    connect: ((_options: unknown, callback: (error: Error | null, socket: Duplex) => void) => {
      const [near, far] = memoryPair();
      accept(far);
      queueMicrotask(() => callback(null, near));
    }) as never,
    // The proxy behind it has the time limits.
    headersTimeout: 0,
    bodyTimeout: 0,
  });
}

export function overlayFetch(dispatcher: Dispatcher, url: string | URL, init: RequestInit): Promise<Response> {
  const text = String(url);
  const match = /^kubebus:\/\/([^/?#]+)\/([^/?#]+)\/([^/?#]+)([/?#].*)?$/i.exec(text);
  if (match === null) {
    return Promise.reject(new KubeBusError('ERR_INVALID_ARGUMENT', `not kubebus://tenant/node/service/path: ${text}`));
  }
  const [, tenant, node, service, rest = '/'] = match;
  const target = `http://${service}.${node}.${tenant}.${OVERLAY_DOMAIN}${rest.startsWith('/') ? rest : `/${rest}`}`;
  const body = init.body === undefined || init.body === null ? {} : { duplex: 'half' as const };
  return undici().fetch(target, { ...body, ...(init as object), dispatcher }) as unknown as Promise<Response>;
}

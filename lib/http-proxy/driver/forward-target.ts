// Edge: what a forwarded port leads to, and the connection there.

import type { Duplex } from 'node:stream';
import { KubeBusError } from '../../core/index.js';
import type { NetLike } from '../../l4/index.js';
import { parseServiceAddress } from '../address.js';

export interface ForwardTarget {
  readonly tenant: string;
  readonly node: string;
  readonly service?: string;
  readonly port: number;
}

/** `tenant/node:port`, `node:port` of the own tenant, or `tenant/node/service`. **Throws** ERR_INVALID_ARGUMENT. */
export function readForward(text: string, ownTenant: string): ForwardTarget {
  const service = parseServiceAddress(text);
  if (service !== null) return { ...service, port: 0 };
  const match = /^(?:([a-z0-9-]{1,63})\/)?([a-z0-9-]{1,63}):(\d{1,5})$/.exec(text);
  const port = Number(match?.[3]);
  if (match === null || port < 1 || port > 65_535) {
    throw new KubeBusError('ERR_INVALID_ARGUMENT', `not tenant/node:port or tenant/node/service: ${text}`);
  }
  return { tenant: match[1] ?? ownTenant, node: match[2]!, port };
}

export function dial(
  net: NetLike,
  host: string,
  port: number,
  callback: (error: NodeJS.ErrnoException | null, socket: Duplex | null) => void,
): void {
  const socket = net.connect({ host, port, allowHalfOpen: true });
  const failed = (error: NodeJS.ErrnoException) => callback(error, null);
  socket.once('error', failed);
  socket.once('connect', () => {
    socket.removeListener('error', failed);
    callback(null, socket);
  });
}

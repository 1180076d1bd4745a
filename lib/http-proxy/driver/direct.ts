// Edge: the way from the cloud's proxy to a service past the node's own proxy. A connection of the overlay begins with one request that asks the
// node for it; the node checks it as it checks every request, and from then on joins the connection to the service (docs/spec/services.md).

import type { NetLike } from '../../l4/index.js';
import { type Caller, formatCaller } from '../access.js';
import { formatServiceAddress, type ServiceAddress } from '../address.js';
import type { DirectAccess } from '../service.js';
import { once } from './target.js';
import { Upstream, type UpstreamLimits } from './upstream.js';

/** In Upgrade. */
export const DIRECT_PROTOCOL = 'kubebus-direct';
/** The path that the asker puts in front; the node refuses if the service has another by now. */
export const DIRECT_BASE = 'x-kubebus-base';

/**
 * Connections that have been idle for longer are not used again, and the way itself is taken only while calls come more often than this:
 * a service may close an idle connection at any time, and the news takes a moment to get here.
 */
export const DIRECT_IDLE_MS = 1_000;

export interface DirectPlace {
  readonly net: NetLike;
  readonly ip: string;
  readonly port: number;
  readonly address: ServiceAddress;
  readonly caller: Caller;
  readonly access: DirectAccess;
}

export function directUpstream(
  { net, ip, port, address, caller, access }: DirectPlace,
  limits: UpstreamLimits,
): Upstream {
  const name = formatServiceAddress(address);
  const lines = [
    'GET / HTTP/1.1',
    'host: kubebus',
    'connection: upgrade',
    `upgrade: ${DIRECT_PROTOCOL}`,
    `x-kubebus-address: ${name}`,
    `x-kubebus-caller: ${formatCaller(caller)}`,
    `${DIRECT_BASE}: ${access.base}`,
  ];
  const opening = Buffer.from(`${lines.join('\r\n')}\r\n\r\n`, 'latin1');
  const connect = once(() => net.connect({ host: ip, port, allowHalfOpen: false }).setNoDelay(true), 'connect');
  return new Upstream(
    name,
    (callback) =>
      connect((error, socket) => {
        // Nothing is waited for: a refusal comes as the answer to what follows.
        socket?.write(opening);
        callback(error, socket);
      }),
    { ...limits, keepAliveMs: DIRECT_IDLE_MS },
  );
}

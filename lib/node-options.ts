// Composition: what a node is told, and what it tells.

import { type Clock, KubeBusError, type Logger, type Random } from './core/index.js';
import type { NodeHttpOptions } from './http-proxy/index.js';
import type { ServiceDialer } from './join/index.js';
import { type DialOptions, isName, type LinkOptions, type TlsSource, type Transport } from './l2/index.js';
import type { ControlLimits, RouteKind, TunOptions, VrfLimits } from './l3/index.js';
import type { StackOptions } from './l4/index.js';

/** A prefix behind this node: its VMs or containers. */
export interface Advertisement {
  readonly prefix: string;
  readonly kind: Exclude<RouteKind, 'edge'>;
  /** Smaller is better. **Default:** 100. */
  readonly metric?: number;
}

export interface NodeOptions {
  /** Addresses of the cloud, `kubebus://host:port`, tried in turn. */
  readonly cloud: readonly string[];
  readonly transport: Transport;
  readonly tenant: string;
  readonly node: string;
  /** Connections of the link; flows are spread over them. **Default:** 1. */
  readonly connections?: number;
  readonly advertise?: readonly Advertisement[];
  /** Puts the whole host on the overlay; needs CAP_NET_ADMIN. **Default:** false. */
  readonly tun?: boolean | TunOptions;
  /** Folder where the node remembers its addresses. **Default:** none. */
  readonly stateDir?: string;
  /** Largest IP packet. **Default:** 1400. */
  readonly mtu?: number;
  readonly logger?: Logger;
  readonly clock?: Clock;
  readonly random?: Random;
  /** How join() waits for the first assignment; abort it to give up. **Default:** for ever, over retries. */
  readonly signal?: AbortSignal;
  readonly link?: LinkOptions & Pick<DialOptions, 'addressDelay' | 'betterAfter' | 'connectTimeout' | 'backoff'>;
  /** Of the HTTP layer. */
  readonly http?: NodeHttpOptions;
  /** What is taken from the cloud. */
  readonly controlLimits?: Partial<ControlLimits>;
  readonly routerLimits?: Partial<VrfLimits>;
  /** TCP options and bounds of this process' sockets (`net`, `dgram`); docs/guides/sockets.md. */
  readonly sockets?: StackOptions;
}

/** A node that has its certificate from a token, or from an earlier start. */
export interface JoinOptions extends Omit<NodeOptions, 'cloud' | 'transport' | 'tenant' | 'node' | 'stateDir'> {
  /** What `kubebus token create` printed. Needed the first time only. */
  readonly token?: string | undefined;
  /** Folder where the node keeps its key, its certificate and its addresses. */
  readonly stateDir: string;
  /** Name to ask for, where the token leaves it open. **Default:** the host's. */
  readonly node?: string;
  /** **Default:** TCP with TLS. */
  readonly transport?: (tls: TlsSource) => Transport;
  /** How the cloud is reached for certificates. **Default:** TCP with TLS, without proxy. */
  readonly dialService?: ServiceDialer;
  /** Milliseconds since the epoch. **Default:** Date.now. */
  readonly date?: () => number;
  readonly cloud?: undefined;
  readonly tenant?: undefined;
}

export interface RouteInfo {
  readonly prefix: string;
  readonly kind: RouteKind;
  readonly metric: number;
  readonly node: string;
}

export interface NodeEvents {
  /** The node can be used: the link is up, and the cloud has assigned the addresses (again). */
  up: [];
  /** It was up and the link is down; it is dialled again. */
  down: [reason: KubeBusError | undefined];
  /** The cloud refused this node, or a route of it, with the reason. */
  refused: [reason: KubeBusError];
  routes: [routes: readonly RouteInfo[]];
  addresses: [addresses: readonly string[]];
  /** The TUN device, or the kernel's configuration, failed. */
  error: [error: KubeBusError];
}

/** Throws ERR_INVALID_ARGUMENT, before anything is opened. */
export function checkOptions({ tenant, node, mtu, cloud, connections = 1 }: NodeOptions): void {
  const wrong = (what: string) => new KubeBusError('ERR_INVALID_ARGUMENT', what);
  for (const [option, value] of Object.entries({ tenant, node })) {
    if (!isName(value))
      throw wrong(`${option} must be a DNS label (lower-case letters, digits and '-'), not '${value}'`);
  }
  if (!Array.isArray(cloud)) throw wrong('cloud must be an array of addresses');
  if (cloud.length === 0) throw wrong('cloud must name at least one address');
  if (!Number.isInteger(connections) || connections < 1 || connections > 64)
    throw wrong(`connections must be 1 to 64, not ${connections}`);
  checkMtu(mtu);
}

/** RFC 8200 §5 is the lower bound: the overlay carries IPv6. */
export function checkMtu(mtu = 1400): void {
  if (!Number.isInteger(mtu) || mtu < 1280 || mtu > 65_535)
    throw new KubeBusError('ERR_INVALID_ARGUMENT', `mtu must be 1280 to 65535, not ${mtu}`);
}

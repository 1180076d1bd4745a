// Composition: what a cloud is told, and what it tells of its nodes.

import type { Clock, Logger, Random } from './core/index.js';
import type { CloudHttpOptions, GatewayOptions } from './http-proxy/index.js';
import type { CloudAuthority } from './join/index.js';
import type { AcceptLimits, LinkOptions, RateLimit, Transport } from './l2/index.js';
import type { ControlLimits, TunOptions, VrfLimits } from './l3/index.js';
import type { RouteInfo } from './node-options.js';
import type { Usage } from './usage.js';

export interface TenantOptions {
  /** Edge pools, IPv4 and IPv6: '10.80.0.0/16', 'fd80::/64'. */
  readonly pools: readonly string[];
  /** What is known of nodes beforehand. */
  readonly nodes?: Readonly<Record<string, TenantNodeOptions>>;
  /** Puts the cloud's host on this tenant's overlay, as the gateway address; needs CAP_NET_ADMIN. **Default:** false. */
  readonly tun?: boolean | TunOptions;
  /** Bytes per second of all its nodes together. **Default:** no limit. */
  readonly rate?: RateLimit;
  /** Bytes per second of each of its nodes. **Default:** no limit. */
  readonly nodeRate?: RateLimit;
}

export interface TenantNodeOptions {
  /** Bytes per second of this node, instead of its tenant's `nodeRate`. */
  readonly rate?: RateLimit;
  /** Reserved for this node. */
  readonly address?: readonly string[];
  /** Prefixes that it may originate, besides those in its certificate. */
  readonly prefixes?: readonly string[];
}

export interface CloudOptions {
  /** Each listens where its own options say. */
  readonly transports: readonly Transport[];
  readonly tenants: Readonly<Record<string, TenantOptions>>;
  /** How the cloud calls itself. **Default:** 'cloud'. */
  readonly name?: string;
  /** Folder for the address book. **Default:** none: addresses are new after a restart unless the nodes remember them. */
  readonly stateDir?: string;
  /** Largest IP packet of the overlays. **Default:** 1400. */
  readonly mtu?: number;
  /** How long the routes of a node whose link went down stay announced. Milliseconds. **Default:** 15000. */
  readonly holdMs?: number;
  /** On plain (insecure) transports nodes may originate any prefix. **Default:** true. */
  readonly openPrefixesWhenInsecure?: boolean;
  /** Who signs the nodes' certificates (openJoinAuthority of kubebus/join): revoked nodes stay out. **Default:** any node with a good certificate comes in. */
  readonly authority?: CloudAuthority;
  /** How often it is looked whether certificates of live links have ended. Milliseconds. **Default:** 60000. */
  readonly expiryCheckMs?: number;
  /** Milliseconds since the epoch. **Default:** Date.now. */
  readonly date?: () => number;
  readonly logger?: Logger;
  readonly clock?: Clock;
  readonly random?: Random;
  readonly limits?: Partial<AcceptLimits>;
  readonly controlLimits?: Partial<ControlLimits>;
  readonly routerLimits?: Partial<VrfLimits>;
  readonly link?: LinkOptions;
  /** Where HTTP services are reached from outside the overlay. **Default:** nowhere. */
  readonly gateways?: readonly GatewayOptions[];
  /** Of the HTTP layer. */
  readonly http?: CloudHttpOptions;
}

export interface NodeInfo {
  readonly tenant: string;
  readonly node: string;
  readonly addresses: readonly string[];
  readonly routes: readonly RouteInfo[];
  /** Milliseconds; NaN before the first keepalive. */
  readonly rttMs: number;
  /** Seconds since the link came up. */
  readonly upSeconds: number;
  /** Bytes carried over all its links so far, also before a restart of the cloud where it has a state folder. */
  readonly usage: Usage;
  readonly stats: Readonly<Record<string, number>>;
}

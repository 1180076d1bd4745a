// The shapes of the control protocol's two ends (docs/spec/control.md): cloud-control.ts and node-control.ts.

import type { KubeBusError, Micros } from '../core/index.js';
import type { Prefix } from './address.js';
import type { Port } from './port.js';
import type { Route } from './route.js';

/** Bounds of the control protocol. Each has a code or counter; see docs/spec/control.md. */
export interface ControlLimits {
  /** Nodes of a tenant whose addresses are remembered, connected or not. Beyond: ERR_NODE_LIMIT. **Default:** 65536. */
  readonly nodesPerTenant: number;
  /** Routes that one node may advertise. Beyond: ERR_ROUTE_LIMIT for the rest. **Default:** 1024. */
  readonly routesPerNode: number;
  /** Advertised routes of a tenant in all. Beyond: ERR_ROUTE_LIMIT. **Default:** 65536. */
  readonly routesPerTenant: number;
  /** Bytes of the list of names that a node keeps of its tenant; beyond: counted, and those names stay unknown. **Default:** 16 MiB. */
  readonly nameBytes: number;
  /**
   * Bytes of names that the cloud sends to a tenant's nodes in one turn; the rest waits for the next. **Default:** 16 MiB. What many that
   * come together are to learn of each other is so bounded in memory, and late instead of in the way of their addresses.
   */
  readonly nameBytesPerTurn: number;
  /** Bytes of one control message, either way. **Default:** 65536, the most L2 carries. */
  readonly messageBytes: number;
  /**
   * Control messages taken from one peer per second on average, and at once; beyond: counted and ignored. A repeated Register counts as a
   * quarter of a burst; sets of routes are held to the same rate, 16 routes as one message, but wait instead, and the last one counts. **Default:** 50 and 200.
   */
  readonly messagesPerSecond: number;
  readonly messageBurst: number;
}

export const DEFAULT_CONTROL_LIMITS: ControlLimits = {
  nodesPerTenant: 65_536,
  routesPerNode: 1024,
  routesPerTenant: 65_536,
  nameBytes: 16 << 20,
  nameBytesPerTurn: 16 << 20,
  messageBytes: 65_536,
  messagesPerSecond: 50,
  messageBurst: 200,
};

/** What the cloud knows of a node when its link comes up. */
export interface NodeUp {
  readonly node: string;
  /** The link's port in the tenant's VRF. */
  readonly port: Port;
  /** Prefixes that certificate and configuration allow the node to originate. */
  readonly allowed: readonly Prefix[];
  /** Sends one control message (Link.sendControl). */
  readonly send: (message: Uint8Array) => void;
}

/** One node's session with the cloud, from link up to link down. */
export interface NodeSession {
  readonly node: string;
  readonly addresses: readonly Uint8Array[];
  /** Accepted routes, addresses not included. */
  readonly routes: readonly Route[];
  /** Never throws: bytes that are no message are counted. */
  handleControl(now: Micros, message: Uint8Array): void;
  /** The link went down: after `holdTime` without a new session its routes are withdrawn. */
  down(now: Micros): void;
}

/** What a node's control client tells the driver, which programs router and kernel. Called one at a time. */
export interface NodeControlEvents {
  /** The cloud has assigned addresses for the first time since the link came up; what changed with it was told before. */
  onAssigned(): void;
  /** The set of addresses changed (also the first time). */
  onAddresses(change: {
    added: readonly Uint8Array[];
    removed: readonly Uint8Array[];
    all: readonly Uint8Array[];
  }): void;
  /** Prefixes that are now (not any more) reached through the overlay: pools and all routes not our own. For the kernel's table. */
  onPrefixes(change: { added: readonly Prefix[]; removed: readonly Prefix[] }): void;
  /** The routes of the tenant as seen by this node changed; of the nodes' addresses see onNames. */
  onRoutes(change: { added: readonly Route[]; removed: readonly Route[] }): void;
  /** There is news of whose addresses are whose. */
  onNames(): void;
  /** The cloud's MTU for this tenant. */
  onMtu(mtu: number): void;
  /** The cloud refused something that we asked for; side 'remote'. */
  onRefused(reason: KubeBusError, prefixes: readonly Prefix[]): void;
}

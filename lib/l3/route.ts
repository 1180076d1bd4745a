// What a route is, for the table, the control protocol and the API.

import type { Prefix } from './address.js';

/** What stands behind the prefix. */
export type RouteKind = 'edge' | 'vm' | 'container';

/** How the route came: configured here, with an address assignment, or advertised by a node. */
export type RouteOrigin = 'static' | 'assigned' | 'advertised';

export interface Route {
  readonly prefix: Prefix;
  readonly kind: RouteKind;
  /** Smaller is better. */
  readonly metric: number;
  /** Node that originates it; '' where no node does. */
  readonly node: string;
}

/** Metric of a route that does not say. */
export const DEFAULT_METRIC = 100;

/** A route as a table holds it: through which port it leaves. */
export interface RouteEntry extends Route {
  readonly origin: RouteOrigin;
  /** Port.id of the egress. */
  readonly port: number;
}

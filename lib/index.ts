// KubeBus: the overlay network of an edge computing system. The composed parts, and every layer below them.

export { type CloudOptions, KubeBusCloud, type NodeInfo, type TenantNodeOptions, type TenantOptions } from './cloud.js';
export * from './core/index.js';
export type {
  AccessEntry,
  CloudPublishOptions,
  GatewayOptions,
  ListedService,
  NodeHttpOptions,
  PublishedService,
  PublishOptions,
  Target,
} from './http-proxy/index.js';
export {
  type Advertisement,
  type JoinOptions,
  KubeBusNode,
  type NodeEvents,
  type NodeOptions,
  type RouteInfo,
} from './node.js';
export type { Usage } from './usage.js';

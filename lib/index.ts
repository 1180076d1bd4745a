// KubeBus: the overlay network of an edge computing system. The composed parts, and every layer below them.

export { KubeBusCloud } from './cloud.js';
export type { CloudOptions, NodeInfo, TenantNodeOptions, TenantOptions } from './cloud-options.js';
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
export { KubeBusNode } from './node.js';
export type { Advertisement, JoinOptions, NodeEvents, NodeOptions, RouteInfo } from './node-options.js';
export type { Usage } from './usage.js';

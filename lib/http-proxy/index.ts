// The HTTP layer: services by name over anything that looks like node:net. `ServerProxy` and `ClientProxy` are usable alone;
// `NodeHttp` and `CloudHttp` are the whole layer of a node and of the cloud, which lib/node.ts and lib/cloud.ts compose.

export type { Caller, Visibility } from './access.js';
export type { ServiceAddress } from './address.js';
export { parseAddress } from './address.js';
export type { AccessEntry, AccessLog } from './driver/access-log.js';
export { ClientProxy, type ClientProxyOptions, type ListenAddress, type Route } from './driver/client-proxy.js';
export {
  CloudHttp,
  type CloudHttpOptions,
  type CloudPublishOptions,
  type CloudTenantHost,
  type GatewayOptions,
} from './driver/cloud-http.js';
export { readForward } from './driver/forward-target.js';
export { DEFAULT_FRONT_LIMITS, type FrontLimits } from './driver/front.js';
export type { HealthCheck } from './driver/health-check.js';
export {
  LocalService,
  type PublishOptions,
  type RequestHandler,
  type Target,
} from './driver/local-service.js';
export {
  type ListedService,
  type ListenOptions,
  NodeHttp,
  type NodeHttpOptions,
  PROXY_PORT,
  type PublishedService,
} from './driver/node-http.js';
export { REGISTRY_PORT } from './driver/registry-channel.js';
export { type PeerOfConnection, ServerProxy, type ServerProxyOptions } from './driver/server-proxy.js';
export type { TlsOptions } from './driver/tls.js';
export type { TunnelListener } from './driver/tunnels.js';
export { DEFAULT_UPSTREAM_LIMITS, Upstream, type UpstreamLimits } from './driver/upstream.js';
export { HttpFailure } from './failure.js';
export { Metrics, prometheusText, type Traffic } from './metrics.js';
export type { Rate } from './rate-limit.js';
export { Registry, type RegistryLimits } from './registry.js';
export type { NodeServices, ServiceInfo } from './service.js';

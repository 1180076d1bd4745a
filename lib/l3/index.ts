// L3: IP packets between links. For users and for the layers above; everything else in this folder is internal.
//
//   Router > Vrf (one per tenant) > Port (link, host, or this process)      router.ts, vrf.ts, port.ts
//   RouteTable                                                               route-table.ts
//   IpEndpoint: IP for this process (L4 stands on it)                        endpoint.ts
//   CloudControl, NodeControl: addresses and routes between cloud and nodes  cloud-control.ts, node-control.ts
//   TunDevice, netconfig: the host's kernel                                  tun.ts, netconfig.ts

export * from './address.js';
export * from './address-pool.js';
export { CloudControl, type CloudControlOptions } from './cloud-control.js';
export * from './control.js';
export type { CounterName, Counters } from './counters.js';
export {
  attachLink,
  DeadlineTimer,
  type LinkPortOptions,
  PingDriver,
  type PingOptions,
  type PingReport,
} from './driver.js';
export type * from './endpoint.js';
export { type HostPorts, hostPorts } from './host-ports.js';
export {
  changeDevice,
  configureDevice,
  type DeviceChange,
  type DeviceConfig,
  HostNetwork,
  systemEnvironment,
} from './netconfig.js';
export { NodeControl, type NodeControlOptions } from './node-control.js';
export {
  completeChecksum,
  MAX_UDP_SEGMENTS,
  MIN_TCP_SEGMENT,
  offloadHeaders,
  Segmenter,
  wireLength,
} from './offload.js';
export { Pinger, type PingerOptions, type PingFailure, type PingRequest, type PingResult } from './pinger.js';
export type * from './port.js';
export * from './route.js';
export { notUnicast } from './route-registry.js';
export * from './route-table.js';
export * from './router.js';
export { StateFile, type StateFileOptions } from './state-file.js';
export { openTun, TunDevice, type TunHandler, type TunOptions, withNetAdmin } from './tun.js';
export type { IcmpListener, Vrf, VrfLimits } from './vrf.js';
export { DEFAULT_VRF_LIMITS } from './vrf.js';
export { packetLine } from './wire/pretty.js';

// L2: framed links over pluggable transports. For users and for the layers above; the rest of this folder is internal.
//
//   dialLink      a link that dials and keeps dialling             driver/dial.ts
//   acceptLinks   a listener that groups connections into links    driver/accept.ts
//   memoryLinks   two links joined in memory                       memory-links.ts

export { type BackoffOptions, DEFAULT_BACKOFF } from './backoff.js';
export { FEATURE_CHECKSUMS, FEATURE_OFFLOAD, isName, PROTOCOL_VERSION } from './connection-machine.js';
export {
  type AcceptLimits,
  type AcceptOptions,
  acceptLinks,
  DEFAULT_ACCEPT_LIMITS,
  type LinkAcceptor,
} from './driver/accept.js';
export { type DialOptions, dialLink } from './driver/dial.js';
export { DEFAULT_KEEPALIVE, DEFAULT_MTU, type LinkOptions } from './driver/options.js';
export { DEFAULT_EGRESS, type EgressOptions, EgressQueue } from './egress-queue.js';
export { flowHash } from './flow-hash.js';
export { Framer, type FrameSink } from './framer.js';
export type { KeepaliveOptions } from './keepalive.js';
export type * from './link.js';
export { MemoryLink, type MemoryLinkOptions, memoryLinks } from './memory-links.js';
export { limitLink, type RateLimit, RateMeter } from './middleware/rate-limit.js';
export type * from './transport.js';
export { STREAM_HIGH_WATER } from './transport.js';
export { CRITICAL, controlFrame, FrameType, MAX_CONTROL, MAX_HELLO } from './wire/frame.js';

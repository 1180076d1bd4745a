// Joining: how a node gets its certificate with a token and keeps it fresh, and how a cloud makes tokens and signs nodes.
//
//   NodeIdentity         a node's key and certificate on disk         driver/identity.ts
//   openJoinAuthority    a cloud's CA, tokens and nodes               driver/authority.ts
//   parseToken ...       the string that an operator hands over       token.ts

import type { JoinAuthority, JoinAuthorityOptions } from './driver/authority.js';

export { type AttemptLimits, DEFAULT_ATTEMPTS } from './attempts.js';
export type { CloudAuthority, Outcast } from './authority.js';
export type { CreatedToken, JoinAuthority, JoinAuthorityOptions } from './driver/authority.js';
export { JoinRefused, type ServiceDialer, type ServiceSocket } from './driver/client.js';
export { type IdentityOptions, NodeIdentity } from './driver/identity.js';
export {
  DEFAULT_LEDGER,
  type LedgerLimits,
  type NodeRecord,
  type TokenRecord,
  type TokenScope,
  type TokenState,
  tokenState,
} from './ledger.js';
export { JOIN_PROTOCOL, JOIN_VERSION } from './messages.js';
export { formatToken, parseToken, type Token } from './token.js';

/** The certificate library is large: only clouds that sign nodes load it. Throws ERR_STATE. */
export function openJoinAuthority(options: JoinAuthorityOptions): Promise<JoinAuthority> {
  return import('./driver/authority.js').then((module) => module.JoinAuthority.open(options));
}

/** The transport of who brings none. */
export function loadDefaultTransport() {
  return import('./driver/default-transport.js');
}

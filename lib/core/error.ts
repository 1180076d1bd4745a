// The one error family (DESIGN: failures are data) and THE table of codes; docs/errors.md is generated from it.

/** Every code with the sentence that tells a user what it means and what to do. */
export const ERROR_CODES = {
  ERR_INTERNAL: 'A bug in KubeBus: please report it with the stack.',
  ERR_CLOSED: 'The object was closed before or during the call.',
  ERR_INVALID_ARGUMENT: 'An argument or option has a value that is not allowed; the message names it.',
  ERR_ABORTED: 'The caller aborted the operation through its AbortSignal.',
} as const satisfies Record<string, string>;

export type ErrorCode = keyof typeof ERROR_CODES | L2ErrorCode | L3ErrorCode | JoinErrorCode | HttpErrorCode;

/** Codes of links; also the `code` of a goodbye, so both sides show the same reason. */
export const L2_ERROR_CODES = {
  ERR_FRAME_TOO_LONG: 'The peer announced a frame longer than allowed.',
  ERR_FRAME_UNKNOWN_CRITICAL: 'The peer sent a critical frame type that this version does not know: upgrade one side.',
  ERR_FRAME_MALFORMED: 'The peer sent bytes that are not a frame of this protocol.',
  ERR_HELLO_TIMEOUT: 'The peer did not finish the handshake in time.',
  ERR_HELLO_MALFORMED: 'The hello of the peer cannot be decoded or lacks a required field.',
  ERR_VERSION: 'The peers have no protocol version in common: upgrade one side.',
  ERR_IDENTITY_MISMATCH: 'The hello names another tenant or node than the certificate.',
  ERR_TENANT_UNKNOWN: 'The cloud does not serve this tenant.',
  ERR_DUPLICATE_NODE: 'A node with the same tenant and name is connected and alive.',
  ERR_CERTIFICATE: 'The certificate of the peer is missing, expired, not yet valid, or not signed by the expected CA.',
  ERR_TOO_MANY_CONNECTIONS: 'The limit of connections (per peer or in all) or of handshakes in progress is reached.',
  ERR_PEER_DEAD: 'Nothing was heard from the peer for the dead-peer time.',
  ERR_PEER_STALLED: 'The peer stopped reading, or stopped in the middle of a frame, for longer than allowed.',
  ERR_PEER_GOODBYE: 'The peer closed the link in order (it stops or restarts).',
  ERR_CONNECT: 'The transport could not connect; `cause` has the error of the system.',
  ERR_TRANSPORT_UNAVAILABLE: 'The transport needs an optional package that is not installed; the message names it.',
  ERR_TRANSPORT: 'The transport broke; `cause` has the error of the system.',
} as const satisfies Record<string, string>;
export type L2ErrorCode = keyof typeof L2_ERROR_CODES;

/** Codes of routing, addresses and devices. */
export const L3_ERROR_CODES = {
  ERR_ADDRESS: 'Not an IP address or prefix.',
  ERR_POOL_EXHAUSTED: "The tenant's edge pool has no free address left: enlarge the pool.",
  ERR_NODE_LIMIT:
    'The limit of nodes of the tenant is reached: forget nodes that are gone for good, or raise the limit.',
  ERR_ROUTE_OVERLAP: 'The prefix overlaps one that another node of the tenant originates.',
  ERR_ROUTE_NOT_ALLOWED: "The prefix is not among those that the node's certificate or configuration allows.",
  ERR_ROUTE_LIMIT: 'The limit of routes per node or tenant is reached.',
  ERR_TUN_UNAVAILABLE: 'The TUN addon is not there: no prebuilt binary fits and it could not be compiled at install.',
  ERR_TUN_PERMISSION: 'CAP_NET_ADMIN or access to /dev/net/tun is missing.',
  ERR_TUN_LOST: 'The TUN device is gone: somebody deleted it, or the kernel closed it.',
  ERR_TUN: 'The TUN device failed; `cause` has the error of the system.',
  ERR_STATE: 'The state on disk cannot be read or written.',
} as const satisfies Record<string, string>;
export type L3ErrorCode = keyof typeof L3_ERROR_CODES;

/** Codes of joining: tokens, certificates and who may come in. */
export const JOIN_ERROR_CODES = {
  ERR_JOIN_DISABLED: 'The cloud takes no tokens here: it has no CA of its own, or the address is not its TLS port.',
  ERR_JOIN_MALFORMED: 'A message of the join protocol cannot be decoded or has a field out of range.',
  ERR_JOIN_TIMEOUT: 'The other side of a join did not answer in time.',
  ERR_TOKEN_MALFORMED: 'The text is no token, or not all of it was copied.',
  ERR_TOKEN_UNKNOWN:
    'The cloud does not know the token: it is from another cloud, its record is gone, or its secret is wrong.',
  ERR_TOKEN_EXPIRED: "The token's time is over: make a new one with `kubebus token create`.",
  ERR_TOKEN_USED: 'The token was used by another device as often as it may be: make a new one.',
  ERR_TOKEN_REVOKED: 'The token was revoked.',
  ERR_CA_MISMATCH:
    'The CA of the cloud is not the one whose hash is in the token: wrong address, or somebody in between.',
  ERR_NAME_TAKEN: 'Another device has this name: choose another, or make a token for exactly this name to replace it.',
  ERR_REVOKED:
    'The operator revoked this node: it stays out until it is allowed again or joins with a token for its name.',
  ERR_RATE_LIMITED: 'Too many attempts: try again after the time given.',
  ERR_NOT_JOINED: 'There is no identity in the state folder yet: give a token.',
} as const satisfies Record<string, string>;
export type JoinErrorCode = keyof typeof JOIN_ERROR_CODES;

/** Codes of the HTTP layer; also in the body of its answers, whose status is in lib/http-proxy/failure.ts. */
export const HTTP_ERROR_CODES = {
  ERR_HTTP_BAD_REQUEST: 'The request is not valid HTTP, or its target leaves the service; the message says what.',
  ERR_HTTP_ADDRESS: 'The request names no service: /<tenant>/<node>/<service>/ or <service>.<node>.<tenant>.<domain>.',
  ERR_HTTP_TENANT_UNKNOWN: 'There is no tenant of that name.',
  ERR_HTTP_NODE_UNKNOWN: 'The tenant has no node of that name.',
  ERR_HTTP_SERVICE_UNKNOWN: 'The node has published no service of that name.',
  ERR_HTTP_FORBIDDEN:
    'The service is not open to this caller: publish it as public, or grant it to the tenant of the caller.',
  ERR_HTTP_NODE_OFFLINE: 'The node is known, but has no link now: try again later.',
  ERR_HTTP_SERVICE_DOWN: 'The node cannot reach the local service, or the service broke off: look at the service.',
  ERR_HTTP_TIMEOUT: 'The service made no progress for the time allowed.',
  ERR_HTTP_BODY_TOO_LARGE: 'The body is larger than the limit.',
  ERR_HTTP_HEADERS_TOO_LARGE: 'The header fields are larger than the limit.',
  ERR_HTTP_RATE_LIMITED: 'The caller, or the tenant, is over its rate: slow down.',
  ERR_HTTP_OVERLOADED: 'The limit of requests in progress is reached: try again later.',
  ERR_HTTP_METHOD: 'The proxy does not pass on this method.',
  ERR_HTTP_EXPECTATION: 'The proxy knows no expectation but 100-continue.',
  ERR_HTTP_LOOP: 'The request came through too many proxies of KubeBus: a service calls itself.',
  ERR_HTTP_STALLED: 'The caller stopped sending in the middle of a request.',
  ERR_SERVICE_NAME: 'The name of a service is a DNS label: lower-case letters, digits and hyphens.',
  ERR_SERVICE_TARGET: 'A service is an http, https or tcp URL, unix:/path, a request handler, or an http.Server.',
  ERR_SERVICE_LIMIT: 'The limit of services per node or of nodes per tenant is reached.',
  ERR_REGISTRY_MALFORMED: 'The other end of the registry channel sent something that is no message of it.',
} as const satisfies Record<string, string>;
export type HttpErrorCode = keyof typeof HTTP_ERROR_CODES;

/** A code that came from a peer is one of ours. */
export function isErrorCode(code: string): code is ErrorCode {
  return [ERROR_CODES, L2_ERROR_CODES, L3_ERROR_CODES, JOIN_ERROR_CODES, HTTP_ERROR_CODES].some((table) =>
    Object.hasOwn(table, code),
  );
}

/** Who caused it: this process, or the other end. */
export type ErrorSide = 'local' | 'remote';

export class KubeBusError extends Error {
  override readonly name = 'KubeBusError';
  readonly side: ErrorSide;

  constructor(
    readonly code: ErrorCode,
    message: string,
    options: { side?: ErrorSide; cause?: unknown } = {},
  ) {
    super(message, 'cause' in options ? { cause: options.cause } : undefined);
    this.side = options.side ?? 'local';
  }
}

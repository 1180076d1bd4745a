// Edge: the options of sockets and the arguments of connect(), checked as Node checks them.

import type { BlockList } from 'node:net';
import type { DuplexOptions } from 'node:stream';
import type { TcpOptions } from '../tcp/types.js';
import { type BlockListLike, type ConnectRequest, type LookupFunction, validateLocal } from './connect.js';
import { argType, nodeError, validateFunction, validatePort } from './errors.js';

export interface OnReadOptions {
  readonly buffer: Uint8Array | (() => Uint8Array);
  /** False: stop reading. */
  readonly callback: (bytes: number, buffer: Uint8Array) => boolean;
}

export interface SocketOptions extends DuplexOptions {
  allowHalfOpen?: boolean;
  noDelay?: boolean;
  keepAlive?: boolean;
  keepAliveInitialDelay?: number;
  signal?: AbortSignal;
  onread?: OnReadOptions;
  pauseOnCreate?: boolean;
  manualStart?: boolean;
  blockList?: BlockList;
  /** Options of the connection itself; see docs/guides/sockets.md. */
  tcp?: Partial<TcpOptions>;
}

export interface ConnectOptions extends SocketOptions {
  port?: number | string;
  host?: string;
  path?: string;
  localAddress?: string;
  localPort?: number;
  family?: 0 | 4 | 6 | 'IPv4' | 'IPv6';
  hints?: number;
  lookup?: LookupFunction;
  timeout?: number;
  autoSelectFamily?: boolean;
  autoSelectFamilyAttemptTimeout?: number;
}

export interface AddressInfo {
  address: string;
  family: string;
  port: number;
}

export type ConnectListener = () => void;

/** connect(options[, cb]), connect(port[, host][, cb]): what both functions and the method take. */
export function normalizeConnect(args: readonly unknown[]): [ConnectOptions, ConnectListener | null] {
  const [first, second] = args;
  let options: ConnectOptions = {};
  if (typeof first === 'object' && first !== null) options = first as ConnectOptions;
  else if (isPipeName(first)) options.path = first as string;
  else {
    options.port = first as number | string;
    if (args.length > 1 && typeof second === 'string') options.host = second;
  }
  const last = args[args.length - 1];
  return [options, typeof last === 'function' ? (last as ConnectListener) : null];
}

function isPipeName(value: unknown): boolean {
  return typeof value === 'string' && !(Number(value) >= 0);
}

/** What `options` of connect() ask for. Throws what Node throws. */
export function connectRequest(options: ConnectOptions, tcp: Readonly<TcpOptions>): ConnectRequest {
  const { port, host, lookup, localAddress, localPort, family } = options;
  validateLocal(localAddress, localPort);
  if (port === undefined) {
    throw nodeError('ERR_MISSING_ARGS', 'The "options" or "port" or "path" argument must be specified', TypeError);
  }
  if (typeof port !== 'number' && typeof port !== 'string') {
    throw argType('options.port', 'one of type number or string', port);
  }
  if (lookup !== undefined) validateFunction(lookup, 'options.lookup');
  const auto = options.autoSelectFamily;
  if (auto !== undefined && typeof auto !== 'boolean') {
    throw argType('options.autoSelectFamily', 'of type boolean', auto);
  }
  const kind = family === 'IPv6' ? 6 : family === 'IPv4' ? 4 : (family ?? 0);
  return {
    host: host === undefined || host === null || host === '' ? 'localhost' : String(host),
    port: validatePort(port),
    family: kind === 4 || kind === 6 ? kind : 0,
    localAddress: localAddress || undefined,
    localPort: localPort ?? 0,
    lookup,
    autoSelectFamily: (auto ?? true) && kind !== 4 && kind !== 6,
    attemptTimeout: Math.max(10, options.autoSelectFamilyAttemptTimeout ?? 250),
    blockList: options.blockList as BlockListLike | undefined,
    tcp,
  };
}

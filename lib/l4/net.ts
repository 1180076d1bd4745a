// Edge: createNet, the way in: node:net, node:dgram, ping and HTTP agents for one IpEndpoint.

import {
  BlockList,
  getDefaultAutoSelectFamily,
  getDefaultAutoSelectFamilyAttemptTimeout,
  isIP,
  isIPv4,
  isIPv6,
  SocketAddress,
  setDefaultAutoSelectFamily,
  setDefaultAutoSelectFamilyAttemptTimeout,
} from 'node:net';
import { type Clock, type Random, systemClock, systemRandom } from '../core/index.js';
import type { HostPorts, IpEndpoint } from '../l3/index.js';
import { createDgram, type DgramModule } from './dgram.js';
import type { Peer, Resolver, SocketContext } from './driver/context.js';
import { type HttpAgents, httpAgents } from './driver/http-agent.js';
import { type HttpModule, httpModule } from './driver/http-server.js';
import { type PingOptions, type PingResult, ping } from './driver/ping.js';
import { connectPromise, disconnectPromise, type ListenPromise, listenPromise } from './driver/promises.js';
import {
  type ConnectListener,
  type ConnectOptions,
  normalizeConnect,
  type SocketOptions,
} from './driver/socket-options.js';
import { Driver } from './driver.js';
import { type ConnectionListener, Server, type ServerOptions } from './server.js';
import { Socket, type SocketInternals } from './socket.js';
import type { StackOptions } from './stack.js';

export interface NetOptions extends StackOptions {
  /** **Default:** the system's. */
  readonly clock?: Clock;
  readonly random?: Random;
  /** Addresses of names. **Default:** knows none but `localhost`, which is this node. */
  readonly resolver?: Resolver;
  /** Who has an address. **Default:** nobody knows. */
  readonly peerOf?: (address: string) => Peer | undefined;
  /** Calls `fn` whenever `peerOf` may know more; returns what ends that. **Default:** it never does. */
  readonly onPeers?: (fn: () => void) => () => void;
  /** Ports that the host's kernel uses on the same addresses (a node with a TUN device). **Default:** none. */
  readonly hostPorts?: HostPorts;
}

/** What `node:net` exports, on the overlay. */
export interface NetModule {
  readonly Socket: SocketClass;
  readonly Stream: SocketClass;
  readonly Server: ServerClass;
  readonly BlockList: typeof BlockList;
  readonly SocketAddress: typeof SocketAddress;
  createServer(options?: ServerOptions | ConnectionListener, listener?: ConnectionListener): Server;
  connect(options: ConnectOptions, listener?: ConnectListener): Socket;
  connect(port: number | string, host?: string | ConnectListener, listener?: ConnectListener): Socket;
  createConnection(options: ConnectOptions, listener?: ConnectListener): Socket;
  createConnection(port: number | string, host?: string | ConnectListener, listener?: ConnectListener): Socket;
  isIP(input: string): number;
  isIPv4(input: string): boolean;
  isIPv6(input: string): boolean;
  getDefaultAutoSelectFamily(): boolean;
  setDefaultAutoSelectFamily(value: boolean): void;
  getDefaultAutoSelectFamilyAttemptTimeout(): number;
  setDefaultAutoSelectFamilyAttemptTimeout(value: number): void;
}

export interface SocketClass {
  new (options?: SocketOptions): Socket;
  readonly prototype: Socket;
}

export interface ServerClass {
  new (options?: ServerOptions | ConnectionListener, listener?: ConnectionListener): Server;
  readonly prototype: Server;
}

export interface Net extends HttpAgents {
  readonly net: NetModule;
  readonly dgram: DgramModule;
  readonly http: HttpModule;
  /** Echo requests to an address or a name; see PingOptions. */
  ping(host: string, options?: PingOptions): Promise<PingResult>;
  /** Promise form of a server: `accept()`, and an async iterable of sockets. */
  listen(port?: number, options?: { host?: string; backlog?: number } & ServerOptions): Promise<ListenPromise>;
  /** Promise form of a connection: resolves once it is up, rejects with the error of 'error'. */
  connect(options: ConnectOptions): Promise<Socket>;
  connect(port: number, host?: string): Promise<Socket>;
  /** Promise form of an orderly end: resolves once both sides have ended, or rejects with the connection's error. */
  disconnect(socket: Socket, options?: { signal?: AbortSignal }): Promise<void>;
  /** Counters and sizes of the stack. */
  stats(): Record<string, number>;
  /** Resets what is open and stops. The endpoint can be attached again. */
  close(): void;
}

/** Sockets on an IpEndpoint. */
export function createNet(endpoint: IpEndpoint, options: NetOptions = {}): Net {
  const { clock = systemClock, random = systemRandom, resolver = () => [], peerOf = () => undefined } = options;
  const { hostPorts, onPeers } = options;
  const driver = new Driver(endpoint, clock, random, {
    ...(hostPorts === undefined ? {} : { ports: hostPorts.ephemeral }),
    ...options,
  });
  const context: SocketContext = {
    driver,
    resolver,
    peerOf,
    hostPorts: hostPorts ?? null,
    ...(onPeers && { onPeers }),
  };

  // Sockets of servers are made without the class below: one prototype less to walk, and `instanceof` holds for both.
  class NodeSocket extends Socket {
    constructor(settings?: SocketOptions, internals: SocketInternals = { context }) {
      super(settings, internals);
    }
  }
  const makeSocket = (settings: SocketOptions, internals: SocketInternals): Socket =>
    new NodeSocket(settings, internals);
  class NodeServer extends Server {
    constructor(settings?: unknown, listener?: unknown) {
      super(settings, listener, { context, makeSocket });
    }
  }

  const connect = (...args: unknown[]): Socket => {
    const [settings, listener] = normalizeConnect(args);
    const socket = new NodeSocket(settings);
    if (settings.timeout) socket.setTimeout(settings.timeout);
    return listener === null ? socket.connect(settings) : socket.connect(settings, listener);
  };
  const net: NetModule = {
    Socket: NodeSocket,
    Stream: NodeSocket,
    Server: NodeServer,
    BlockList,
    SocketAddress,
    createServer: (settings, listener) => new NodeServer(settings, listener),
    connect,
    createConnection: connect,
    isIP,
    isIPv4,
    isIPv6,
    getDefaultAutoSelectFamily,
    setDefaultAutoSelectFamily,
    getDefaultAutoSelectFamilyAttemptTimeout,
    setDefaultAutoSelectFamilyAttemptTimeout,
  };

  return {
    net,
    dgram: createDgram(context),
    http: httpModule((settings) => new NodeServer(settings)),
    ...httpAgents(connect),
    ping: (host, settings) => ping(context, host, settings),
    listen: (port, settings) => listenPromise(net, port ?? 0, settings ?? {}),
    connect: (first: ConnectOptions | number, host?: string) =>
      connectPromise(net, typeof first === 'number' ? { port: first, ...(host === undefined ? {} : { host }) } : first),
    disconnect: disconnectPromise,
    stats: () => driver.stack.stats(),
    close: () => driver.close(),
  };
}

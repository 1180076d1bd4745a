// L4: Node's sockets on the overlay. `createNet` gives node:net, node:dgram, ping and HTTP agents over an IpEndpoint of L3;
// `Stack` is the same without sockets, timers and promises; lib/l4/tcp and lib/l4/wire are one TCP connection and its bytes.

export type { DgramModule, DgramSocket } from './dgram.js';
export type { Peer, Resolver } from './driver/context.js';
export type { DgramOptions, RemoteInfo } from './driver/dgram-options.js';
export type { HttpAgents, UndiciAgentClass, UndiciConnector } from './driver/http-agent.js';
export type { PingOptions, PingResult } from './driver/ping.js';
export type { ListenPromise } from './driver/promises.js';
export type { AddressInfo, ConnectOptions, SocketOptions } from './driver/socket-options.js';
export { createNet, type Net, type NetModule, type NetOptions } from './net.js';
export type * from './net-like.js';
export type { DropArgument, ListenOptions, Server, ServerOptions } from './server.js';
export type { Socket } from './socket.js';
export { Stack, type StackOptions } from './stack.js';
export { TcpConnection } from './tcp/connection.js';
export { giveBack } from './tcp/receive-queue.js';
export { DEFAULT_TCP_OPTIONS, type TcpOptions, type TcpStats } from './tcp/types.js';
export { DEFAULT_TCP_LIMITS, type TcpLimits } from './tcp-stack.js';

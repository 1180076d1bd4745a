// Edge: net.Server over the stack's listeners. What differs from node:net, and why, is in docs/guides/sockets.md.

import { EventEmitter } from 'node:events';
import { type BlockList, isIP } from 'node:net';
import { Duplex } from 'node:stream';
import { formatAddress } from '../l3/index.js';
import { bindAddress, familyOf, resolve, type SocketContext } from './driver/context.js';
import {
  argType,
  argValue,
  listenException,
  nodeError,
  notFound,
  validateAbortSignal,
  validateFunction,
  validatePort,
} from './driver/errors.js';
import type { AddressInfo, SocketOptions } from './driver/socket-options.js';
import { TcpHandle } from './driver/tcp-handle.js';
import type { TcpFlow } from './flow-table.js';
import type { Socket, SocketInternals } from './socket.js';
import type { TcpListener } from './tcp-stack.js';

export interface ServerOptions
  extends Pick<
    SocketOptions,
    'allowHalfOpen' | 'noDelay' | 'keepAlive' | 'keepAliveInitialDelay' | 'highWaterMark' | 'tcp'
  > {
  blockList?: BlockList;
  pauseOnConnect?: boolean;
}

export interface ListenOptions {
  port?: number | string;
  host?: string;
  backlog?: number;
  path?: string;
  ipv6Only?: boolean;
  exclusive?: boolean;
  reusePort?: boolean;
  readableAll?: boolean;
  writableAll?: boolean;
  signal?: AbortSignal;
}

export type ConnectionListener = (socket: Socket) => void;

/** What 'drop' tells of a connection that was not taken. */
export interface DropArgument {
  localAddress?: string;
  localPort?: number;
  localFamily?: string;
  remoteAddress?: string;
  remotePort?: number;
  remoteFamily?: string;
}

export interface ServerInternals {
  readonly context: SocketContext;
  readonly makeSocket: (options: SocketOptions, internals: SocketInternals) => Socket;
}

export class Server extends EventEmitter {
  allowHalfOpen: boolean;
  pauseOnConnect: boolean;
  noDelay: boolean;
  keepAlive: boolean;
  keepAliveInitialDelay: number;
  highWaterMark: number | undefined;
  /** Connections above it are closed at once, with the event 'drop'. */
  maxConnections: number | undefined;
  dropMaxConnection = true;
  /** Truthy while listening. */
  _handle: TcpListener | null = null;
  _connections = 0;
  private readonly context: SocketContext;
  private readonly makeSocket: ServerInternals['makeSocket'];
  private readonly blockList: BlockList | undefined;
  private readonly tcp: SocketOptions['tcp'];
  /** A name is being resolved. */
  private opening = false;
  private unreferenced = false;
  private referenced = false;

  constructor(options: unknown, listener: unknown, internals: ServerInternals) {
    super();
    let settings: ServerOptions = {};
    if (typeof options === 'function') listener = options;
    else if (options === null || options === undefined || typeof options === 'object') settings = options ?? {};
    else throw argType('options', 'of type object', options);
    if (listener !== undefined && listener !== null) {
      validateFunction(listener, 'connectionListener');
      this.on('connection', listener as ConnectionListener);
    }
    this.context = internals.context;
    this.makeSocket = internals.makeSocket;
    this.allowHalfOpen = settings.allowHalfOpen ?? false;
    this.pauseOnConnect = Boolean(settings.pauseOnConnect);
    this.noDelay = Boolean(settings.noDelay);
    this.keepAlive = Boolean(settings.keepAlive);
    this.keepAliveInitialDelay = Math.floor((settings.keepAliveInitialDelay ?? 0) / 1_000);
    this.highWaterMark = settings.highWaterMark;
    this.blockList = settings.blockList;
    this.tcp = settings.tcp;
  }

  get listening(): boolean {
    return this._handle !== null;
  }

  address(): AddressInfo | null {
    const handle = this._handle;
    if (handle === null) return null;
    if (handle.address !== null) {
      return { address: formatAddress(handle.address), family: familyOf(handle.address), port: handle.port };
    }
    return handle.family === 4
      ? { address: '0.0.0.0', family: 'IPv4', port: handle.port }
      : { address: '::', family: 'IPv6', port: handle.port };
  }

  listen(...args: unknown[]): this {
    const last = args[args.length - 1];
    const callback = typeof last === 'function' ? (last as () => void) : null;
    const options = normalizeListen(args);
    if (this._handle !== null || this.opening) {
      throw nodeError('ERR_SERVER_ALREADY_LISTEN', 'Listen method has been called more than once without closing.');
    }
    if (callback !== null) this.once('listening', callback);
    if (options.path !== undefined) {
      throw argValue('options', 'must have the property "port": there are no pipes on an overlay network', options);
    }
    if (!('port' in options)) {
      throw argValue('options', 'must have the property "port" or "path"', options);
    }
    const { port } = options;
    if (port !== undefined && port !== null && typeof port !== 'number' && typeof port !== 'string') {
      throw argValue('options', 'must have the property "port" or "path"', options);
    }
    if (options.signal !== undefined) this.watchSignal(options.signal);
    const number = port === undefined || port === null ? 0 : validatePort(port, 'options.port');
    const { host } = options;
    if (host === undefined || host === null || host === '') this.listenAt('::', number, 0);
    else if (isIP(host) !== 0) this.listenAt(host, number, host === '::' && !options.ipv6Only ? 0 : isIP(host));
    else this.listenAtName(host, number);
    return this;
  }

  close(callback?: (error?: Error) => void): this {
    if (typeof callback === 'function') {
      if (this._handle === null) {
        this.once('close', () => callback(nodeError('ERR_SERVER_NOT_RUNNING', 'Server is not running.')));
      } else this.once('close', callback);
    }
    const handle = this._handle;
    if (handle !== null) {
      this._handle = null;
      this.context.driver.owners.delete(this);
      this.context.driver.stack.tcp.unlisten(handle);
      this.context.driver.schedule();
    }
    this.opening = false;
    this.updateRef();
    this._emitCloseIfDrained();
    return this;
  }

  getConnections(callback: (error: Error | null, count: number) => void): this {
    process.nextTick(callback, null, this._connections);
    return this;
  }

  ref(): this {
    this.unreferenced = false;
    this.updateRef();
    return this;
  }

  unref(): this {
    this.unreferenced = true;
    this.updateRef();
    return this;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this._handle === null) return;
    await new Promise<void>((resolve, reject) => {
      this.close((error) => (error === undefined ? resolve() : reject(error)));
    });
  }

  /** With `captureRejections`: a connection listener that rejects costs its connection, not the server. */
  [Symbol.for('nodejs.rejection')](error: Error, event: string, ...args: unknown[]): void {
    const [socket] = args;
    if (event === 'connection' && socket instanceof Duplex) socket.destroy(error);
    else this.emit('error', error);
  }

  handleDriverClosed(): void {
    this.close();
  }

  /** Of a socket of ours: it is gone. */
  handleSocketClosed(_socket: Socket): void {
    this._connections--;
    this._emitCloseIfDrained();
  }

  _emitCloseIfDrained(): void {
    if (this._handle !== null || this._connections > 0) return;
    process.nextTick(() => {
      if (this._handle === null && this._connections === 0) this.emit('close');
    });
  }

  // ---- inside

  private listenAtName(host: string, port: number): void {
    this.opening = true;
    const fail = (error: Error) => {
      this.opening = false;
      this.emit('error', error);
    };
    resolve(this.context, host, 0).then(
      (found) => {
        if (!this.opening) return;
        const address = found.find((a) => isIP(a) !== 0);
        if (address === undefined) process.nextTick(fail, notFound(host));
        else {
          this.opening = false;
          this.listenAt(address, port, isIP(address));
        }
      },
      (error: unknown) => process.nextTick(fail, error instanceof Error ? error : notFound(host)),
    );
  }

  private listenAt(text: string, port: number, kind: number): void {
    const code = this.bindTo(text, port, kind === 4 || kind === 6 ? kind : 0);
    const listener = this._handle;
    process.nextTick(() => {
      if (code !== null) this.emit('error', listenException(code, 'listen', text, port));
      else if (this._handle === listener) this.emit('listening');
    });
  }

  private bindTo(text: string, port: number, family: 0 | 4 | 6): string | null {
    const { driver } = this.context;
    const { tcp } = driver.stack;
    if (driver.closed) return 'ENETDOWN';
    const address = bindAddress(this.context, text);
    if (address === 'missing') return 'EADDRNOTAVAIL';
    if (port !== 0 && tcp.inUse(address, family, port)) return 'EADDRINUSE';
    if (port !== 0 && this.context.hostPorts?.inUse('tcp', address, port)) return 'EADDRINUSE';
    if (port === 0) port = tcp.freePort(address, family);
    if (port === 0) return 'EADDRINUSE';
    const listener: TcpListener = {
      address,
      family: address === null ? family : address.length === 4 ? 4 : 6,
      port,
      halfOpen: 0,
      onConnection: (flow) => this.handleConnection(flow),
    };
    tcp.listen(listener);
    driver.owners.add(this);
    this._handle = listener;
    this.updateRef();
    return null;
  }

  private handleConnection(flow: TcpFlow): void {
    const handle = new TcpHandle(this.context.driver, flow, false);
    const { localAddress, localPort, remoteAddress, remotePort } = flow.config;
    const remote = formatAddress(remoteAddress);
    const full = this.maxConnections !== undefined && this._connections >= this.maxConnections;
    if (full || this.blockList?.check(remote, remoteAddress.length === 4 ? 'ipv4' : 'ipv6')) {
      handle.close();
      const drop: DropArgument = {
        localAddress: formatAddress(localAddress),
        localPort,
        localFamily: familyOf(localAddress),
        remoteAddress: remote,
        remotePort,
        remoteFamily: familyOf(remoteAddress),
      };
      this.emit('drop', drop);
      return;
    }
    const options: SocketOptions = {
      allowHalfOpen: this.allowHalfOpen,
      pauseOnCreate: this.pauseOnConnect,
      noDelay: this.noDelay,
      keepAlive: this.keepAlive,
      keepAliveInitialDelay: this.keepAliveInitialDelay * 1_000,
    };
    if (this.highWaterMark !== undefined) options.highWaterMark = this.highWaterMark;
    if (this.tcp !== undefined) {
      for (const [name, value] of Object.entries(this.tcp))
        handle.setOption(name as keyof typeof this.tcp, value as never);
    }
    const socket = this.makeSocket(options, { context: this.context, handle, server: this });
    this._connections++;
    this.emit('connection', socket);
  }

  private updateRef(): void {
    const want = this._handle !== null && !this.unreferenced;
    if (want === this.referenced) return;
    this.referenced = want;
    if (want) this.context.driver.ref();
    else this.context.driver.unref();
  }

  private watchSignal(signal: AbortSignal): void {
    validateAbortSignal(signal, 'options.signal');
    const abort = () => this.close();
    if (signal.aborted) process.nextTick(abort);
    else {
      signal.addEventListener('abort', abort, { once: true });
      this.once('close', () => signal.removeEventListener('abort', abort));
    }
  }
}

/** listen(options[, cb]), listen([port[, host[, backlog]]][, cb]). */
function normalizeListen(args: readonly unknown[]): ListenOptions {
  const [first, second] = args;
  if (args.length === 0 || typeof first === 'function' || first === undefined || first === null) {
    const options: ListenOptions = { port: 0 };
    if (typeof second === 'string') options.host = second;
    return options;
  }
  if (typeof first === 'object') return first as ListenOptions;
  if (typeof first === 'string' && !(Number(first) >= 0)) return { path: first };
  if (typeof first !== 'number' && typeof first !== 'string') {
    throw argValue('options', 'must have the property "port" or "path"', first);
  }
  const options: ListenOptions = { port: first };
  if (typeof second === 'string') options.host = second;
  return options;
}

// Edge: net.Socket over a TcpHandle, the same split as Node's own lib/net.js: the stream here, the connection there.
// What differs from node:net, and why, is in docs/guides/sockets.md.

import { Duplex } from 'node:stream';
import { MS } from '../core/index.js';
import { formatAddress } from '../l3/index.js';
import { type BlockListLike, Connector, type ConnectRequest } from './driver/connect.js';
import { familyOf, type Peer, type SocketContext } from './driver/context.js';
import {
  abortError,
  errnoException,
  hostPortException,
  nodeError,
  socketClosed,
  validateAbortSignal,
  validateFunction,
  validateTimeout,
} from './driver/errors.js';
import { identify } from './driver/identify.js';
import { IdleTimer } from './driver/idle-timer.js';
import {
  type AddressInfo,
  type ConnectOptions,
  connectRequest,
  normalizeConnect,
  type OnReadOptions,
  type SocketOptions,
} from './driver/socket-options.js';
import type { HandleOwner, TcpHandle } from './driver/tcp-handle.js';
import type { Server } from './server.js';

/** Node keeps what a server gives its sockets out of the public options; so do we. */
export interface SocketInternals {
  readonly context: SocketContext;
  readonly handle?: TcpHandle;
  readonly server?: Server;
}

// Listeners that a socket of ours attaches once and that need no closure per socket: most sockets of a server are idle.
function onReadableEnd(this: Socket): void {
  // The other side has ended; without allowHalfOpen the stream ends ours, and a late write is an error.
  if (!this.allowHalfOpen) this.write = writeAfterEnd;
}

function writeAfterEnd(this: Socket, chunk: unknown, encoding?: unknown, callback?: unknown): boolean {
  if (!this.writableEnded) return Reflect.apply(Duplex.prototype.write, this, [chunk, encoding, callback]);
  const done = typeof encoding === 'function' ? encoding : callback;
  const error = Object.assign(new Error('This socket has been ended by the other party'), { code: 'EPIPE' });
  if (typeof done === 'function') process.nextTick(done as (e: Error) => void, error);
  this.destroy(error);
  return false;
}

type Settings = Readonly<Pick<SocketOptions, 'noDelay' | 'keepAlive' | 'keepAliveInitialDelay' | 'tcp' | 'blockList'>>;

/** Of most sockets: one object for all of them. */
const NO_SETTINGS: Settings = {};
const NO_DELAY: Settings = { noDelay: true };

export class Socket extends Duplex implements HandleOwner {
  connecting = false;
  /** Milliseconds of `setTimeout`; undefined as long as none was set. */
  timeout: number | undefined;
  /** The server that accepted this socket. */
  server: Server | null;
  /** The same; `server` is overwritten by node:http with its own. */
  private readonly _server: Server | null;
  /** Addresses that connect() has tried, when there were several. */
  autoSelectFamilyAttemptedAddresses: string[] | undefined;
  /** Truthy while there is a connection: libraries look at it. */
  _handle: TcpHandle | null = null;
  private readonly context: SocketContext;
  private connector: Connector | null = null;
  private peerName: AddressInfo | null = null;
  private sockName: AddressInfo | null = null;
  private resetting = false;
  private wantsRef = true;
  private settings: Settings = NO_SETTINGS;
  private onread: OnReadOptions | null = null;
  private readBuffer: Uint8Array | null = null;
  private readDone = 0;
  private dispatched = 0;
  private pendingBytes = 0;
  private idle: IdleTimer | null = null;

  constructor(options: SocketOptions | undefined, internals: SocketInternals) {
    const { onread, signal, tcp, ...stream } = options ?? {};
    for (const foreign of ['fd', 'handle'] as const) {
      const value = (stream as Record<string, unknown>)[foreign];
      if (value !== undefined && value !== null) {
        throw nodeError(
          'ERR_INVALID_ARG_VALUE',
          `options.${foreign}: descriptors are the host's, not the overlay's`,
          TypeError,
        );
      }
    }
    super({
      ...stream,
      allowHalfOpen: Boolean(stream.allowHalfOpen),
      emitClose: false,
      autoDestroy: true,
      decodeStrings: false,
    });
    this.context = internals.context;
    this.server = internals.server ?? null;
    this._server = this.server;
    if (stream.noDelay !== undefined) this.adjust({ noDelay: Boolean(stream.noDelay) });
    if (stream.keepAlive !== undefined) this.adjust({ keepAlive: Boolean(stream.keepAlive) });
    if (stream.keepAliveInitialDelay !== undefined) {
      this.adjust({ keepAliveInitialDelay: stream.keepAliveInitialDelay });
    }
    if (tcp !== undefined) this.adjust({ tcp });
    if (stream.blockList !== undefined) this.adjust({ blockList: stream.blockList });
    if (onread !== null && typeof onread === 'object') {
      const buffer = typeof onread.buffer === 'function' ? onread.buffer() : onread.buffer;
      if (buffer instanceof Uint8Array && typeof onread.callback === 'function') {
        this.onread = onread;
        this.readBuffer = buffer;
      }
    }
    this.on('end', onReadableEnd);
    if (signal !== undefined) this.watchSignal(signal);
    if (internals.handle !== undefined) {
      this.takeHandle(internals.handle);
      if (stream.pauseOnCreate) super.pause();
      else if (!stream.manualStart) this.read(0);
    }
  }

  // ---- getters

  /** Who the other end is, as its certificate says; undefined before the connection is up, or where that is not known. */
  get peer(): Peer | undefined {
    const { address } = this._getpeername();
    return address === undefined ? undefined : this.context.peerOf(address);
  }

  /**
   * The same as a promise, for right after a node has joined: its first packets can be here before its name. Resolves with
   * undefined when the name is not there after `timeoutMs`.
   */
  identify({ timeoutMs = 1_000 }: { timeoutMs?: number } = {}): Promise<Peer | undefined> {
    const { address } = this._getpeername();
    return address === undefined ? Promise.resolve(undefined) : identify(this.context, address, timeoutMs);
  }

  get _connecting(): boolean {
    return this.connecting;
  }

  get pending(): boolean {
    return this._handle === null || this.connecting;
  }

  get readyState(): 'opening' | 'open' | 'readOnly' | 'writeOnly' | 'closed' {
    if (this.connecting) return 'opening';
    if (this.readable && this.writable) return 'open';
    if (this.readable && !this.writable) return 'readOnly';
    if (!this.readable && this.writable) return 'writeOnly';
    return 'closed';
  }

  /** @deprecated as in Node: use writableLength. */
  get bufferSize(): number | undefined {
    return this._handle === null ? undefined : this.writableLength;
  }

  get bytesRead(): number {
    return this._handle === null ? this.readDone : this._handle.bytesRead;
  }

  get bytesWritten(): number {
    return this._bytesDispatched + this.pendingBytes + this.queuedBytes;
  }

  get _bytesDispatched(): number {
    return this._handle === null ? this.dispatched : this._handle.bytesWritten;
  }

  get remoteAddress(): string | undefined {
    return this._getpeername().address;
  }

  get remoteFamily(): string | undefined {
    return this._getpeername().family;
  }

  get remotePort(): number | undefined {
    return this._getpeername().port;
  }

  get localAddress(): string | undefined {
    return this._getsockname().address;
  }

  get localPort(): number | undefined {
    return this._getsockname().port;
  }

  get localFamily(): string | undefined {
    return this._getsockname().family;
  }

  address(): AddressInfo | Record<string, never> {
    return this._getsockname() as AddressInfo | Record<string, never>;
  }

  _getpeername(): Partial<AddressInfo> {
    if (this._handle !== null && !this.connecting && this.peerName === null) {
      const { remoteAddress, remotePort } = this._handle.flow.config;
      this.peerName = {
        address: formatAddress(remoteAddress),
        family: familyOf(remoteAddress),
        port: remotePort,
      };
    }
    return this.peerName ?? {};
  }

  _getsockname(): Partial<AddressInfo> {
    if (this._handle !== null && this.sockName === null) {
      const { localAddress, localPort } = this._handle.flow.config;
      this.sockName = { address: formatAddress(localAddress), family: familyOf(localAddress), port: localPort };
    }
    return this.sockName ?? {};
  }

  // ---- commands

  connect(...args: unknown[]): this {
    const [options, listener] = normalizeConnect(args);
    if (options.path !== undefined) {
      throw nodeError('ERR_INVALID_ARG_VALUE', 'There are no pipes on an overlay network: give a port', TypeError);
    }
    if (this.write === writeAfterEnd) this.write = Duplex.prototype.write;
    if (this.destroyed) this.revive();
    if (listener !== null) this.once('connect', listener);
    const request = this.makeRequest(options);
    if (this.connecting || this._handle !== null) return this.connectAgain(request);
    this.idle?.touch();
    this.connecting = true;
    this.connector = new Connector(this.context, request, {
      onLookup: (error, address, family, host) => this.emit('lookup', error, address, family || undefined, host),
      onAttempt: (handle, address, port, family, several) => {
        this._handle = handle;
        if (!this.wantsRef) handle.unref();
        this.emit('connectionAttempt', address, port, family);
        if (several) {
          this.autoSelectFamilyAttemptedAddresses ??= [];
          this.autoSelectFamilyAttemptedAddresses.push(`${address}:${port}`);
        }
      },
      onAttemptFailed: (address, port, family, error) => {
        this.emit('connectionAttemptFailed', address, port, family, error);
      },
      onAttemptTimeout: (address, port, family) => this.emit('connectionAttemptTimeout', address, port, family),
      onConnected: (handle) => this.handleConnected(handle),
      onFailed: (error) => this.destroy(error),
    });
    this.connector.start();
    return this;
  }

  /** There is a connection, or one to come: what the kernel says then. */
  private connectAgain({ host, port }: ConnectRequest): this {
    process.nextTick(() => {
      if (this._handle !== null && !this.connecting && this._server === null) {
        // The first connect() after one that has succeeded succeeds too, on Linux.
        this.emit('connect');
        this.emit('ready');
        return;
      }
      const { address, port: localPort } = this._getsockname();
      const local = address === undefined ? undefined : `${address}:${localPort}`;
      this.destroy(hostPortException(this.connecting ? 'EALREADY' : 'EISCONN', 'connect', host, port, local));
    });
    return this;
  }

  override end(...args: unknown[]): this {
    return Reflect.apply(super.end, this, args) as this;
  }

  override pause(): this {
    // With `onread` data goes to the caller's buffer at once: nothing may come while paused.
    if (this.onread !== null && !this.connecting && this._handle !== null) this._handle.readStop();
    return super.pause();
  }

  override resume(): this {
    if (this.onread !== null && !this.connecting && this._handle !== null) this._handle.readStart();
    return super.resume();
  }

  override read(size?: number): unknown {
    if (this.onread !== null && !this.connecting && this._handle !== null) this._handle.readStart();
    return super.read(size);
  }

  /** See SocketLike. */
  tryWrite(bytes: Uint8Array): number {
    if (this.connecting || this._handle === null || !this.writable || this.writableLength > 0) return 0;
    this.idle?.touch();
    return this._handle.tryWrite(bytes);
  }

  /** Destroys once what was written has been handed over. */
  destroySoon(): void {
    if (this.writable) this.end();
    if (this.writableFinished) this.destroy();
    else this.once('finish', this.destroy);
  }

  /** Closes with RST. */
  resetAndDestroy(): this {
    if (this._handle !== null || this.connector !== null) {
      if (this.connecting) this.once('connect', () => this.resetNow());
      else this.resetNow();
    } else this.destroy(socketClosed());
    return this;
  }

  setTimeout(ms: number, callback?: () => void): this {
    if (this.destroyed) return this;
    const value = validateTimeout(ms, 'msecs');
    this.timeout = value;
    this.idle?.stop();
    this.idle = null;
    if (value === 0) {
      if (callback !== undefined) {
        validateFunction(callback, 'callback');
        this.removeListener('timeout', callback);
      }
      return this;
    }
    this.idle = new IdleTimer(this.context.driver.clock, value * MS, () => this.emit('timeout'));
    if (callback !== undefined) {
      validateFunction(callback, 'callback');
      this.once('timeout', callback);
    }
    return this;
  }

  setNoDelay(enable = true): this {
    const value = Boolean(enable);
    if (this.settings === NO_SETTINGS && value) this.settings = NO_DELAY;
    else this.adjust({ noDelay: value });
    if (!this.connecting) this._handle?.setOption('noDelay', value);
    return this;
  }

  /** `initialDelay` in milliseconds; 0 leaves the time that was set before. */
  setKeepAlive(enable = false, initialDelay = 0): this {
    this.adjust({ keepAlive: Boolean(enable) });
    if (initialDelay > 0) this.adjust({ keepAliveInitialDelay: initialDelay });
    if (!this.connecting && this._handle !== null) this.applyKeepAlive(this._handle);
    return this;
  }

  ref(): this {
    this.wantsRef = true;
    this._handle?.ref();
    return this;
  }

  unref(): this {
    this.wantsRef = false;
    this._handle?.unref();
    return this;
  }

  // ---- the stream

  override _read(): void {
    if (this.connecting || this._handle === null) this.once('connect', () => this._read());
    else this._handle.readStart();
  }

  override _write(chunk: unknown, encoding: BufferEncoding, callback: (error?: Error | null) => void): void {
    this.send([bytesOf(chunk, encoding)], callback);
  }

  override _writev(
    chunks: { chunk: unknown; encoding: BufferEncoding }[],
    callback: (error?: Error | null) => void,
  ): void {
    this.send(
      chunks.map((c) => bytesOf(c.chunk, c.encoding)),
      callback,
    );
  }

  override _final(callback: (error?: Error | null) => void): void {
    if (this.connecting) {
      this.once('connect', () => this._final(callback));
      return;
    }
    if (this._handle === null) {
      callback();
      return;
    }
    const code = this._handle.shutdown();
    // The shutdown of a libuv handle completes in a later turn of the loop.
    setImmediate(() => {
      if (code === null || code === 'ENOTCONN' || this.destroyed) callback();
      else callback(errnoException(code, 'shutdown'));
    });
  }

  override _destroy(error: Error | null, callback: (error: Error | null) => void): void {
    this.connecting = false;
    this.idle?.stop();
    this.idle = null;
    const connector = this.connector;
    this.connector = null;
    connector?.stop();
    const handle = this._handle;
    const hadError = error !== null && error !== undefined;
    if (handle !== null) {
      this.readDone = handle.bytesRead;
      this.dispatched = handle.bytesWritten;
      this._handle = null;
      if (this.resetting) handle.reset();
      else handle.close();
      this.resetting = false;
      callback(error);
      setImmediate(() => this.emit('close', hadError));
    } else {
      callback(error);
      process.nextTick(() => this.emit('close', hadError));
    }
    this._server?.handleSocketClosed(this);
  }

  // ---- from the handle

  onConnect(): void {}

  onData(chunk: Buffer): void {
    this.idle?.touch();
    if (!this.push(chunk)) this._handle?.readStop();
  }

  onBuffer(length: number): void {
    this.idle?.touch();
    const { onread } = this;
    if (onread === null || this.readBuffer === null) return;
    const more = onread.callback(length, this.readBuffer);
    if (typeof onread.buffer === 'function') {
      this.readBuffer = onread.buffer();
      this._handle?.useBuffer(this.readBuffer);
    }
    if (more === false) this._handle?.readStop();
  }

  onEnd(): void {
    this.push(null);
    this.read(0);
  }

  onReadError(code: string): void {
    this.destroy(errnoException(code, 'read'));
  }

  /** Whoever stopped the node did so on purpose: no error, for which a program at its end may have no listener. */
  onStop(): void {
    if (!this.connecting) this.resetNow();
  }

  // ---- inside

  /** Sockets are many and their options few: all that were not changed share one object. */
  private adjust(change: Settings): void {
    this.settings = { ...this.settings, ...change };
  }

  private makeRequest(options: ConnectOptions): ConnectRequest {
    const request = connectRequest(options, this.context.driver.stack.tcpOptions);
    const { noDelay, keepAlive, keepAliveInitialDelay, tcp } = options;
    if (noDelay !== undefined) this.adjust({ noDelay: Boolean(noDelay) });
    if (keepAlive !== undefined) this.adjust({ keepAlive: Boolean(keepAlive) });
    if (keepAliveInitialDelay !== undefined) this.adjust({ keepAliveInitialDelay });
    if (tcp !== undefined) this.adjust({ tcp });
    const { settings } = this;
    return {
      ...request,
      blockList: request.blockList ?? (settings.blockList as BlockListLike | undefined),
      tcp: settings.tcp === undefined ? request.tcp : { ...request.tcp, ...settings.tcp },
    };
  }

  private takeHandle(handle: TcpHandle): void {
    this._handle = handle;
    handle.attach(this);
    if (this.readBuffer !== null) handle.useBuffer(this.readBuffer);
    if (!this.wantsRef) handle.unref();
    if (this.settings.noDelay) handle.setOption('noDelay', true);
    if (this.settings.keepAlive) this.applyKeepAlive(handle);
  }

  private applyKeepAlive(handle: TcpHandle): void {
    const { keepAlive = false, keepAliveInitialDelay = 0 } = this.settings;
    if (keepAliveInitialDelay > 0) {
      handle.setOption('keepAliveIdle', Math.floor(keepAliveInitialDelay / 1_000) * 1_000 * MS || 1_000 * MS);
      // As Node sets them since version 18 (libuv): a probe a second, ten of them.
      handle.setOption('keepAliveInterval', 1_000 * MS);
      handle.setOption('keepAliveCount', 10);
    }
    handle.setOption('keepAlive', keepAlive);
  }

  private handleConnected(handle: TcpHandle): void {
    this.connector = null;
    if (this.destroyed) return;
    this.connecting = false;
    this.sockName = null;
    this.peerName = null;
    this.takeHandle(handle);
    this.idle?.touch();
    this.emit('connect');
    this.emit('ready');
    if (this.readable && !this.isPaused()) this.read(0);
  }

  private send(chunks: Uint8Array[], callback: (error?: Error | null) => void): void {
    if (this.connecting) {
      let bytes = 0;
      for (const chunk of chunks) bytes += chunk.length;
      this.pendingBytes = bytes;
      const onClose = () => {
        // A socket that is destroyed may connect again: these bytes were for another connection.
        this.removeListener('connect', onConnect);
        callback(
          nodeError('ERR_SOCKET_CLOSED_BEFORE_CONNECTION', 'Socket closed before the connection was established'),
        );
      };
      const onConnect = () => {
        this.removeListener('close', onClose);
        this.send(chunks, callback);
      };
      this.once('connect', onConnect);
      this.once('close', onClose);
      return;
    }
    this.pendingBytes = 0;
    if (this._handle === null) {
      callback(socketClosed());
      return;
    }
    this.idle?.touch();
    this._handle.write(chunks, (code) => {
      // As Node's onWriteComplete: a socket that is gone has reported already.
      if (code === null) {
        this.idle?.touch();
        callback();
      } else if (this.destroyed)
        callback(nodeError('ERR_STREAM_DESTROYED', 'Cannot call write after a stream was destroyed'));
      else callback(errnoException(code, 'write'));
    });
  }

  private get queuedBytes(): number {
    // What waits in the stream, without what has been handed to the handle already.
    return Math.max(0, this.writableLength - this.inFlight);
  }

  /** Bytes that the handle counts and the stream has not forgotten yet. */
  private get inFlight(): number {
    return this.pendingBytes > 0 ? this.pendingBytes : (this._handle?.waiting ?? 0);
  }

  private resetNow(): void {
    this.resetting = true;
    this.destroy();
  }

  /** A destroyed socket can connect again, as Node's. */
  private revive(): void {
    this.peerName = null;
    this.sockName = null;
    this.readDone = 0;
    this.dispatched = 0;
    const stream = this as unknown as { _undestroy(): void };
    stream._undestroy();
  }

  private watchSignal(signal: AbortSignal): void {
    validateAbortSignal(signal, 'options.signal');
    const abort = () => this.destroy(abortError(signal.reason));
    if (signal.aborted) process.nextTick(abort);
    else {
      signal.addEventListener('abort', abort, { once: true });
      this.once('close', () => signal.removeEventListener('abort', abort));
    }
  }
}

function bytesOf(chunk: unknown, encoding: BufferEncoding): Uint8Array {
  return typeof chunk === 'string' ? Buffer.from(chunk, encoding) : (chunk as Uint8Array);
}

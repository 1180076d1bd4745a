// Edge: dgram.Socket over the stack's UDP. What differs from node:dgram, and why, is in docs/guides/sockets.md.

import { EventEmitter } from 'node:events';
import { formatAddress } from '../l3/index.js';
import { bindAddress, destination, familyOf, type SocketContext } from './driver/context.js';
import { Binding } from './driver/dgram-binding.js';
import { DgramInbox, type InboxOwner } from './driver/dgram-inbox.js';
import { type Found, findAddress } from './driver/dgram-lookup.js';
import {
  type BindOptions,
  type Bytes,
  type DgramOptions,
  type RemoteInfo,
  type SendCallback,
  type SocketType,
  sendArguments,
  validateBufferSize,
} from './driver/dgram-options.js';
import {
  errnoException,
  hostPortException,
  nodeError,
  validateAbortSignal,
  validateFunction,
  validateNumber,
  validatePort,
  validateString,
} from './driver/errors.js';
import type { AddressInfo } from './driver/socket-options.js';
import { MAX_UDP_PAYLOAD_4, MAX_UDP_PAYLOAD_6 } from './udp.js';

export interface DgramModule {
  readonly Socket: typeof DgramSocket;
  createSocket(options: SocketType | DgramOptions, listener?: (message: Buffer, info: RemoteInfo) => void): DgramSocket;
}

const DEFAULT_BUFFER = 212_992;

export function createDgram(context: SocketContext): DgramModule {
  return {
    Socket: DgramSocket,
    createSocket: (options, listener) => new DgramSocket(options, listener, context),
  };
}

type State = 'unbound' | 'binding' | 'bound' | 'closed';

export class DgramSocket extends EventEmitter {
  readonly type: SocketType;
  private readonly context: SocketContext;
  private readonly options: Partial<DgramOptions>;
  private state: State = 'unbound';
  private connectState: 'no' | 'pending' | 'yes' = 'no';
  private binding: Binding | null = null;
  private readonly queued: (() => void)[] = [];
  private readonly inbox: DgramInbox;
  private sendBuffer: number;
  private wantsRef = true;
  private referenced = false;

  constructor(
    options: SocketType | DgramOptions,
    listener: ((message: Buffer, info: RemoteInfo) => void) | undefined,
    context: SocketContext,
  ) {
    super();
    this.context = context;
    const type = typeof options === 'string' ? options : options?.type;
    if (type !== 'udp4' && type !== 'udp6') {
      throw nodeError('ERR_SOCKET_BAD_TYPE', 'Bad socket type specified. Valid types are: udp4, udp6', TypeError);
    }
    this.type = type;
    this.options = typeof options === 'object' ? options : {};
    const { lookup, signal, recvBufferSize, sendBufferSize } = this.options;
    if (lookup !== undefined) validateFunction(lookup, 'lookup');
    this.inbox = new DgramInbox(this.inboxOwner, recvBufferSize ? validateBufferSize(recvBufferSize) : DEFAULT_BUFFER);
    this.sendBuffer = sendBufferSize ? validateBufferSize(sendBufferSize) : DEFAULT_BUFFER;
    if (typeof listener === 'function') this.on('message', listener);
    if (signal !== undefined) {
      validateAbortSignal(signal, 'options.signal');
      const abort = () => {
        if (this.state !== 'closed') this.close();
      };
      if (signal.aborted) process.nextTick(abort);
      else {
        signal.addEventListener('abort', abort, { once: true });
        this.once('close', () => signal.removeEventListener('abort', abort));
      }
    }
  }

  // ---- commands

  bind(...args: unknown[]): this {
    this.checkOpen();
    if (this.state !== 'unbound') throw nodeError('ERR_SOCKET_ALREADY_BOUND', 'Socket is already bound');
    const [first, second] = args;
    const callback = args[args.length - 1];
    let port: unknown = first;
    let address: unknown = second;
    if (first !== null && typeof first === 'object') {
      ({ port, address } = first as BindOptions);
    }
    if (typeof port === 'function') port = 0;
    const number = port === undefined || port === null ? 0 : validatePort(port, 'Port');
    const text = typeof address === 'string' && address !== '' ? address : this.type === 'udp4' ? '0.0.0.0' : '::';
    this.state = 'binding';
    if (typeof callback === 'function') {
      const done = callback as () => void;
      const onListening = () => {
        this.removeListener('error', onError);
        done.call(this);
      };
      const onError = () => this.removeListener('listening', onListening);
      this.once('listening', onListening);
      this.once('error', onError);
    }
    this.find(text, (error, found) => {
      if (this.state !== 'binding') return;
      if (error !== null) {
        this.state = 'unbound';
        this.emit('error', error);
        return;
      }
      this.bindTo(found, number);
    });
    return this;
  }

  connect(port: unknown, address?: unknown, callback?: unknown): void {
    const number = validatePort(port, 'Port', false);
    if (typeof address === 'function') {
      callback = address;
      address = undefined;
    }
    if (address !== undefined && address !== null && address !== '') validateString(address, 'address');
    if (this.connectState !== 'no') throw nodeError('ERR_SOCKET_DGRAM_IS_CONNECTED', 'Already connected');
    this.checkOpen();
    this.connectState = 'pending';
    const done = typeof callback === 'function' ? (callback as (e?: Error) => void) : null;
    if (done !== null) this.once('connect', done);
    const fail = (error: Error) => {
      this.connectState = 'no';
      if (done === null) process.nextTick(() => this.emit('error', error));
      else {
        this.removeListener('connect', done);
        process.nextTick(() => done(error));
      }
    };
    this.whenBound(() => {
      this.find(this.targetText(address), (error, found) => {
        if (this.binding === null || this.state === 'closed') return;
        if (error !== null) return fail(error);
        const remote = destination(this.context, found);
        if (remote === null || this.localTo(remote) === null) {
          return fail(hostPortException('ENETUNREACH', 'connect', found, number));
        }
        this.binding.peer = { address: remote, port: number };
        this.connectState = 'yes';
        process.nextTick(() => this.emit('connect'));
      });
    });
  }

  disconnect(): void {
    if (this.connectState !== 'yes' || this.binding === null) throw notConnected();
    this.binding.peer = null;
    this.connectState = 'no';
  }

  /** send(message[, offset, length][, port][, address][, callback]), as in Node. */
  send(message: Bytes | readonly Bytes[], ...args: unknown[]): void {
    this.checkOpen();
    const connected = this.connectState !== 'no';
    const { parts, port: number, address, done } = sendArguments(connected, message, args);
    this.whenBound(() => {
      if (connected) {
        const peer = this.binding?.peer;
        if (peer) this.sendTo(parts, peer.address, formatAddress(peer.address), peer.port, done);
        return;
      }
      this.find(this.targetText(address), (error, found) => {
        if (this.state === 'closed') return;
        if (error !== null) {
          if (done !== null) process.nextTick(done, error);
          else process.nextTick(() => this.emit('error', error));
          return;
        }
        const remote = destination(this.context, found);
        if (remote === null) fail(done, hostPortException('ENETUNREACH', 'send', found, number));
        else this.sendTo(parts, remote, found, number, done);
      });
    });
  }

  /** @deprecated as in Node. */
  sendto(message: Bytes, offset: number, length: number, port: number, address: string, callback?: SendCallback): void {
    validateNumber(offset, 'offset');
    validateNumber(length, 'length');
    validateNumber(port, 'port');
    validateString(address, 'address');
    this.send(message, offset, length, port, address, callback);
  }

  close(callback?: () => void): this {
    if (typeof callback === 'function') this.on('close', callback);
    // As Node: behind what waits for the address.
    if (this.state === 'binding' && this.queued.length > 0) {
      this.queued.push(() => this.close());
      return this;
    }
    this.checkOpen();
    this.state = 'closed';
    if (this.binding !== null) this.context.driver.stack.udp.unbind(this.binding);
    this.context.driver.owners.delete(this);
    this.binding = null;
    this.inbox.clear();
    this.updateRef();
    process.nextTick(() => this.emit('close'));
    return this;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.state === 'closed') return;
    await new Promise<void>((done) => {
      this.close(() => done());
    });
  }

  address(): AddressInfo {
    this.checkOpen();
    const { binding } = this;
    if (binding === null) throw errnoException('EBADF', 'getsockname');
    const { peer } = binding;
    const address = binding.address ?? (peer === null ? null : this.localTo(peer.address));
    const any = this.type === 'udp4' ? '0.0.0.0' : '::';
    return {
      address: address === null ? any : formatAddress(address),
      family: this.type === 'udp4' ? 'IPv4' : 'IPv6',
      port: binding.port,
    };
  }

  remoteAddress(): AddressInfo {
    this.checkOpen();
    const peer = this.connectState === 'yes' ? this.binding?.peer : undefined;
    if (!peer) throw notConnected();
    return { address: formatAddress(peer.address), family: familyOf(peer.address), port: peer.port };
  }

  ref(): this {
    this.wantsRef = true;
    this.updateRef();
    return this;
  }

  unref(): this {
    this.wantsRef = false;
    this.updateRef();
    return this;
  }

  // ---- options

  setTTL(ttl: number): number {
    validateNumber(ttl, 'ttl');
    this.checkOpen();
    if (this.binding === null) throw errnoException('EBADF', 'setTTL');
    if (ttl < 1 || ttl > 255) throw errnoException('EINVAL', 'setTTL');
    this.binding.ttl = ttl;
    return ttl;
  }

  /** There is no broadcast on an overlay: taken, without effect. */
  setBroadcast(_flag: boolean): void {
    this.checkOpen();
    if (this.binding === null) throw errnoException('EBADF', 'setBroadcast');
  }

  setMulticastTTL(ttl: number): number {
    validateNumber(ttl, 'ttl');
    this.checkOpen();
    if (ttl < 0 || ttl > 255) throw errnoException('EINVAL', 'setMulticastTTL');
    return ttl;
  }

  setMulticastLoopback(flag: boolean): boolean {
    this.checkOpen();
    return flag;
  }

  setMulticastInterface(address: string): void {
    this.checkOpen();
    validateString(address, 'interfaceAddress');
  }

  /** The overlay carries no multicast; each of these throws ENODEV, as Node does where no interface can do it. */
  addMembership(address: string, _interface?: string): void {
    this.refuseMulticast('addMembership', address);
  }

  dropMembership(address: string, _interface?: string): void {
    this.refuseMulticast('dropMembership', address);
  }

  addSourceSpecificMembership(source: string, group: string, _interface?: string): void {
    validateString(source, 'sourceAddress');
    this.refuseMulticast('addSourceSpecificMembership', group);
  }

  dropSourceSpecificMembership(source: string, group: string, _interface?: string): void {
    validateString(source, 'sourceAddress');
    this.refuseMulticast('dropSourceSpecificMembership', group);
  }

  setRecvBufferSize(size: number): void {
    this.checkBuffer('uv_recv_buffer_size');
    this.inbox.limit = validateBufferSize(size);
  }

  setSendBufferSize(size: number): void {
    this.checkBuffer('uv_send_buffer_size');
    this.sendBuffer = validateBufferSize(size);
  }

  getRecvBufferSize(): number {
    this.checkBuffer('uv_recv_buffer_size');
    return this.inbox.limit;
  }

  getSendBufferSize(): number {
    this.checkBuffer('uv_send_buffer_size');
    return this.sendBuffer;
  }

  /** Nothing waits here: a datagram goes to the link's queue at once. */
  getSendQueueSize(): number {
    return 0;
  }

  getSendQueueCount(): number {
    return 0;
  }

  // ---- inside

  handleDriverClosed(): void {
    this.close();
  }

  private checkOpen(): void {
    if (this.state === 'closed') throw nodeError('ERR_SOCKET_DGRAM_NOT_RUNNING', 'Not running');
  }

  private checkBuffer(syscall: string): void {
    this.checkOpen();
    if (this.binding !== null) return;
    const text = `Could not get or set buffer size: ${syscall} returned EBADF (bad file descriptor)`;
    throw Object.assign(nodeError('ERR_SOCKET_BUFFER_SIZE', text), { syscall });
  }

  private refuseMulticast(syscall: string, address: string): never {
    this.checkOpen();
    if (address === undefined)
      throw nodeError('ERR_MISSING_ARGS', 'The "multicastAddress" argument must be specified', TypeError);
    throw errnoException('ENODEV', syscall);
  }

  private targetText(address: unknown): string {
    if (typeof address === 'string' && address !== '') return address;
    return this.type === 'udp4' ? '127.0.0.1' : '::1';
  }

  private find(text: string, done: Found): void {
    findAddress(this.context, text, this.type === 'udp4' ? 4 : 6, this.options.lookup, done);
  }

  private bindTo(text: string, port: number): void {
    const { stack } = this.context.driver;
    const address = bindAddress(this.context, text);
    const dual = this.type === 'udp6' && address === null && this.options.ipv6Only !== true;
    const family = dual ? 0 : this.type === 'udp4' ? 4 : 6;
    const reuse = this.options.reuseAddr === true || this.options.reusePort === true;
    let code: string | null = null;
    if (this.context.driver.closed) code = 'ENETDOWN';
    else if (address === 'missing' || (address !== null && (address.length === 4) !== (this.type === 'udp4'))) {
      code = 'EADDRNOTAVAIL';
    } else if (port !== 0 && stack.udp.inUse(address, family, port, reuse)) code = 'EADDRINUSE';
    else if (port !== 0 && this.context.hostPorts?.inUse('udp', address, port)) code = 'EADDRINUSE';
    else {
      const chosen = port === 0 ? stack.udp.freePort(address, family) : port;
      if (chosen === 0) code = 'EADDRINUSE';
      else this.binding = new Binding(this.receiver, address, family, chosen, reuse);
    }
    if (code !== null) {
      this.state = 'unbound';
      this.queued.length = 0;
      this.emit('error', hostPortException(code, 'bind', text, port));
      return;
    }
    stack.udp.bind(this.binding!);
    this.context.driver.owners.add(this);
    this.state = 'bound';
    this.updateRef();
    this.emit('listening');
    for (const fn of this.queued.splice(0)) fn();
  }

  private whenBound(fn: () => void): void {
    if (this.state === 'bound') fn();
    else {
      this.queued.push(fn);
      if (this.state === 'unbound') this.bind(0);
    }
  }

  private localTo(remote: Uint8Array): Uint8Array | null {
    const bound = this.binding?.address ?? null;
    const local = bound ?? this.context.driver.stack.localFor(remote);
    return local !== null && local.length === remote.length ? local : null;
  }

  private sendTo(
    parts: readonly Uint8Array[],
    remote: Uint8Array,
    text: string,
    port: number,
    done: SendCallback | null,
  ): void {
    const { binding, context } = this;
    if (binding === null) return;
    let length = 0;
    for (const part of parts) length += part.length;
    const blocked = this.options.sendBlockList?.check(text, remote.length === 4 ? 'ipv4' : 'ipv6');
    const local = this.localTo(remote);
    let code: string | null = null;
    if (local === null) code = 'ENETUNREACH';
    else if (length > (remote.length === 4 ? MAX_UDP_PAYLOAD_4 : MAX_UDP_PAYLOAD_6)) code = 'EMSGSIZE';
    if (blocked) {
      fail(done, nodeError('ERR_IP_BLOCKED', `IP(${text}) is blocked by net.BlockList`));
    } else if (code !== null || local === null) {
      fail(done, hostPortException(code ?? 'ENETUNREACH', 'send', text, port));
    } else {
      // An error that ICMP has brought is told by the next call, as the kernel does.
      const error = binding.takeError();
      if (error !== null) {
        fail(done, hostPortException(error, 'send', text, port));
        return;
      }
      const { driver } = context;
      driver.stack.udp.send(driver.now(), binding, local, remote, port, parts, length);
      driver.schedule();
      if (done !== null) process.nextTick(done, null, length);
    }
  }

  private readonly receiver = {
    onDatagram: (message: Buffer, info: RemoteInfo): void => {
      if (this.options.receiveBlockList?.check(info.address, info.family === 'IPv4' ? 'ipv4' : 'ipv6')) return;
      this.inbox.add(message, info);
    },
    onError: (): void => this.inbox.deliverSoon(),
  };

  private readonly inboxOwner: InboxOwner = {
    isOpen: () => this.state !== 'closed',
    deliver: (message, info) => {
      this.emit('message', message, info);
    },
    delivered: () => {
      const code = this.binding?.takeError() ?? null;
      if (code !== null) this.emit('error', errnoException(code, 'recvmsg'));
    },
  };

  private updateRef(): void {
    const want = this.state === 'bound' && this.wantsRef;
    if (want === this.referenced) return;
    this.referenced = want;
    if (want) this.context.driver.ref();
    else this.context.driver.unref();
  }
}

/** Without a callback nobody is told: so it is in Node, where only a lookup that fails is an event. */
function fail(done: SendCallback | null, error: Error): void {
  if (done !== null) process.nextTick(done, error);
}

const notConnected = () => nodeError('ERR_SOCKET_DGRAM_NOT_CONNECTED', 'Not connected');

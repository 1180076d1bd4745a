// Edge: the options of datagram sockets and the messages that send() takes, checked as Node checks them.

import type { BlockList } from 'node:net';
import type { LookupFunction } from './connect.js';
import { argType, nodeError, validatePort } from './errors.js';
import type { AddressInfo } from './socket-options.js';

export type SocketType = 'udp4' | 'udp6';

export interface DgramOptions {
  type: SocketType;
  reuseAddr?: boolean;
  reusePort?: boolean;
  ipv6Only?: boolean;
  /** Bytes of datagrams that wait for the application; what comes above is dropped. **Default:** 212,992, as Linux. */
  recvBufferSize?: number;
  sendBufferSize?: number;
  lookup?: LookupFunction;
  signal?: AbortSignal;
  receiveBlockList?: BlockList;
  sendBlockList?: BlockList;
}

export interface BindOptions {
  port?: number;
  address?: string;
  exclusive?: boolean;
}

export interface RemoteInfo extends AddressInfo {
  size: number;
}

export type SendCallback = (error: Error | null, bytes?: number) => void;
export type Bytes = string | NodeJS.ArrayBufferView;

export function validateBufferSize(size: unknown): number {
  if (typeof size !== 'number' || size >>> 0 !== size || size === 0) {
    throw nodeError('ERR_SOCKET_BAD_BUFFER_SIZE', 'Buffer size must be a positive integer', TypeError);
  }
  return size;
}

function viewOf(value: unknown, name: string): Uint8Array {
  if (typeof value === 'string') return Buffer.from(value);
  if (ArrayBuffer.isView(value)) return new Uint8Array(value.buffer, value.byteOffset, value.byteLength);
  throw argType(name, 'of type string or an instance of Buffer, TypedArray, or DataView', value);
}

/** The parts of a message. */
function listOf(message: unknown): Uint8Array[] {
  if (!Array.isArray(message)) return [viewOf(message, 'buffer')];
  return message.map((part) => {
    if (typeof part !== 'string' && !ArrayBuffer.isView(part)) {
      throw argType('buffer list arguments', 'an instance of Buffer, TypedArray, DataView or string', message);
    }
    return viewOf(part, 'buffer');
  });
}

function sliceOf(message: Bytes, offset: number, length: number): Uint8Array {
  const view = viewOf(message, 'buffer');
  if (offset > view.length) {
    throw nodeError('ERR_BUFFER_OUT_OF_BOUNDS', '"offset" is outside of buffer bounds', RangeError);
  }
  if (offset + length > view.length) {
    throw nodeError('ERR_BUFFER_OUT_OF_BOUNDS', '"length" is outside of buffer bounds', RangeError);
  }
  return view.subarray(offset, offset + length);
}

export interface SendArguments {
  readonly parts: Uint8Array[];
  /** 0 on a connected socket. */
  readonly port: number;
  readonly address: unknown;
  readonly done: SendCallback | null;
}

/** send(message[, offset, length][, port][, address][, callback]): what follows the message is told apart as Node does. */
export function sendArguments(connected: boolean, message: unknown, args: readonly unknown[]): SendArguments {
  const sliced = connected
    ? typeof args[1] === 'number'
    : Boolean(args[3]) || (Boolean(args[2]) && typeof args[2] !== 'function');
  const parts = sliced ? [sliceOf(message as Bytes, args[0] as number, args[1] as number)] : listOf(message);
  let [port, address, callback] = sliced ? args.slice(2) : args;
  if (connected) {
    if (!sliced || typeof port === 'function') callback = port;
    else if (port || address) throw nodeError('ERR_SOCKET_DGRAM_IS_CONNECTED', 'Already connected');
  }
  const number = connected ? 0 : validatePort(port, 'Port', false);
  if (typeof address === 'function') {
    callback = address;
    address = undefined;
  } else if (address !== undefined && address !== null && typeof address !== 'string') {
    throw argType('address', 'one of type string or falsy', address);
  }
  if (parts.length === 0) parts.push(new Uint8Array(0));
  const done = typeof callback === 'function' ? (callback as SendCallback) : null;
  return { parts, port: number, address, done };
}

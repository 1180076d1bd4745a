// The seam up: the part of node:net that ours and Node's both satisfy. Who needs sockets (lib/http-proxy, applications)
// asks for this, and runs on either.

import type { EventEmitter } from 'node:events';
import type { Duplex } from 'node:stream';

export interface SocketLike extends Duplex {
  readonly remoteAddress?: string | undefined;
  readonly remotePort?: number | undefined;
  readonly localAddress?: string | undefined;
  readonly localPort?: number | undefined;
  readonly bytesRead: number;
  readonly bytesWritten: number;
  readonly connecting: boolean;
  setTimeout(ms: number, callback?: () => void): this;
  setNoDelay(enable?: boolean): this;
  setKeepAlive(enable?: boolean, initialDelay?: number): this;
  /**
   * Takes what the connection takes at once, past the stream; returns how many bytes. 0 also while the stream has something to
   * write, and after an error: `write` says which. The caller may use the buffer again. For relays; Node's sockets do not have it.
   */
  tryWrite?(bytes: Uint8Array): number;
  destroySoon(): void;
  resetAndDestroy(): this;
  ref(): this;
  unref(): this;
}

export interface ServerLike extends EventEmitter {
  readonly listening: boolean;
  listen(options: { port: number; host?: string }, callback?: () => void): this;
  close(callback?: (error?: Error) => void): this;
  address(): { address: string; family: string; port: number } | string | null;
  ref(): this;
  unref(): this;
}

export interface NetLike {
  connect(options: { port: number; host?: string; allowHalfOpen?: boolean }, listener?: () => void): SocketLike;
  createServer(options: { allowHalfOpen?: boolean }, listener?: (socket: SocketLike) => void): ServerLike;
}

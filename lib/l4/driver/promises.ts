// Edge: listen, accept, connect and disconnect as promises.

import { once } from 'node:events';
import type { NetModule } from '../net.js';
import type { Server, ServerOptions } from '../server.js';
import type { Socket } from '../socket.js';
import { abortError } from './errors.js';
import type { AddressInfo, ConnectOptions } from './socket-options.js';

/** A listening server whose connections are fetched. Those that wait are at most `backlog`; more are refused with RST. */
export interface ListenPromise extends AsyncIterable<Socket> {
  readonly server: Server;
  address(): AddressInfo;
  /** The next connection; rejects with AbortError when the listener is closed or `signal` aborts. */
  accept(options?: { signal?: AbortSignal }): Promise<Socket>;
  /** No more connections: those that wait are reset, pending accepts reject, loops end. Sockets that were accepted live on. */
  close(): Promise<void>;
}

interface Waiter {
  resolve(socket: Socket): void;
  reject(error: Error): void;
}

export async function listenPromise(
  net: NetModule,
  port: number,
  options: { host?: string; backlog?: number } & ServerOptions,
): Promise<ListenPromise> {
  const { host, backlog = 511, ...settings } = options;
  const ready: Socket[] = [];
  const waiters: Waiter[] = [];
  let closed = false;

  // Data and errors wait with the socket until somebody has fetched it.
  const server = net.createServer({ pauseOnConnect: true, ...settings }, (socket) => {
    const waiter = waiters.shift();
    if (waiter !== undefined) waiter.resolve(socket);
    else if (ready.length < backlog) {
      ready.push(socket);
      socket.once('error', forget);
    } else socket.resetAndDestroy();
  });
  // Of sockets that wait. It has to go when somebody takes one: an error that is heard here is none that he hears of.
  const forget = function (this: Socket) {
    const i = ready.indexOf(this);
    if (i >= 0) ready.splice(i, 1);
  };
  server.listen(host === undefined ? { port } : { port, host });
  await once(server, 'listening');

  const accept = (accepting: { signal?: AbortSignal } = {}): Promise<Socket> => {
    const socket = ready.shift();
    if (socket !== undefined) {
      socket.removeListener('error', forget);
      return Promise.resolve(socket);
    }
    if (closed) return Promise.reject(abortError());
    const { signal } = accepting;
    if (signal?.aborted) return Promise.reject(abortError(signal.reason));
    return new Promise<Socket>((resolve, reject) => {
      const onAbort = () => {
        waiters.splice(waiters.indexOf(waiter), 1);
        reject(abortError(signal?.reason));
      };
      const waiter: Waiter = {
        resolve(value) {
          signal?.removeEventListener('abort', onAbort);
          resolve(value);
        },
        reject(error) {
          signal?.removeEventListener('abort', onAbort);
          reject(error);
        },
      };
      signal?.addEventListener('abort', onAbort, { once: true });
      waiters.push(waiter);
    });
  };

  const listener: ListenPromise = {
    server,
    address: () => server.address()!,
    accept,
    async close() {
      if (closed) return;
      closed = true;
      server.close();
      for (const socket of ready.splice(0)) socket.resetAndDestroy();
      for (const waiter of waiters.splice(0)) waiter.reject(abortError());
    },
    async *[Symbol.asyncIterator]() {
      try {
        while (!closed) {
          let socket: Socket;
          try {
            socket = await accept();
          } catch {
            return;
          }
          yield socket;
        }
      } finally {
        await listener.close();
      }
    },
  };
  return listener;
}

export async function connectPromise(net: NetModule, options: ConnectOptions): Promise<Socket> {
  const socket = net.connect(options);
  await once(socket, 'connect');
  return socket;
}

/**
 * Ends a connection in order: what was written is delivered, then FIN; resolves once the other side has ended too. What still
 * arrives is discarded. Rejects with the connection's error, and with AbortError (after a reset) when `signal` aborts first.
 */
export async function disconnectPromise(socket: Socket, options: { signal?: AbortSignal } = {}): Promise<void> {
  if (socket.closed) return;
  const { signal } = options;
  const closed = once(socket, 'close', signal === undefined ? {} : { signal });
  if (!socket.destroyed) {
    socket.end();
    socket.resume();
  }
  try {
    await closed;
  } catch (error) {
    if (signal?.aborted === true) socket.resetAndDestroy();
    throw error;
  }
}

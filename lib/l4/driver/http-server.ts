// Edge: http.Server that listens on the overlay. Node's own server parses and answers; only where its connections come
// from is ours. So express, fastify, ws and whatever takes an http.Server run on it unchanged.

import { Server as HttpServer, type RequestListener, type ServerOptions } from 'node:http';
import type { Server } from '../server.js';
import type { AddressInfo } from './socket-options.js';

export interface HttpModule {
  /** As `http.createServer`; `listen`, `close` and `address` are those of `net.createServer` on the overlay. */
  createServer(options?: ServerOptions | RequestListener, listener?: RequestListener): HttpServer;
}

type CloseCallback = (error?: Error) => void;

export function httpModule(
  createServer: (options: { allowHalfOpen: boolean; noDelay: boolean }) => Server,
): HttpModule {
  /** Calls that need the listening socket go to `inner`; its events are passed on. */
  class OverlayHttpServer extends HttpServer {
    readonly inner = createServer({ allowHalfOpen: true, noDelay: true });

    constructor(options: ServerOptions, listener?: RequestListener) {
      super(options, listener);
      for (const event of ['connection', 'listening', 'error', 'close', 'drop']) {
        this.inner.on(event, (...args: unknown[]) => this.emit(event, ...args));
      }
    }

    override listen(...args: unknown[]): this {
      const last = args.at(-1);
      if (typeof last === 'function') {
        this.once('listening', last as () => void);
        args = args.slice(0, -1);
      }
      this.inner.listen(...args);
      return this;
    }

    override close(callback?: CloseCallback): this {
      this.inner.close(callback);
      // As Node since version 19: what is idle does not hold the server open.
      this.closeIdleConnections();
      return this;
    }

    override address(): AddressInfo | null {
      return this.inner.address();
    }

    override getConnections(callback: (error: Error | null, count: number) => void): this {
      this.inner.getConnections(callback);
      return this;
    }

    override ref(): this {
      this.inner.ref();
      return this;
    }

    override unref(): this {
      this.inner.unref();
      return this;
    }
  }
  // A getter of net.Server's prototype, which the types take for a field.
  Object.defineProperty(OverlayHttpServer.prototype, 'listening', {
    configurable: true,
    get(this: OverlayHttpServer) {
      return this.inner.listening;
    },
  });
  return {
    createServer: (options, listener) =>
      typeof options === 'function'
        ? new OverlayHttpServer({}, options)
        : new OverlayHttpServer(options ?? {}, listener),
  };
}

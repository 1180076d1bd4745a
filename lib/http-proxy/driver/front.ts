// Edge: the side towards callers, for both proxies: Node's HTTP/1.1 and HTTP/2 servers with bounds, and every way in which a request can come
// (plain, Expect, upgrade, CONNECT, unreadable) led to three calls.

import { createServer, type IncomingMessage, Server, type ServerResponse } from 'node:http';
import { createSecureServer, type Http2SecureServer, type ServerHttp2Session } from 'node:http2';
import type { Duplex } from 'node:stream';
import { HttpFailure } from '../failure.js';
import { countField } from '../headers.js';
import { answerFailure, answerRaw, isHttp2 } from './answer.js';
import { EXCHANGE } from './exchange.js';
import type { TlsFront } from './tls.js';

export interface FrontLimits {
  /** Header fields of a request, bytes; more is 431. **Default:** 16 KiB. */
  readonly headerBytes: number;
  /** Time for a request's head. **Default:** 30 s. */
  readonly headMs: number;
  /** How long a caller may neither send nor read. **Default:** 5 min. */
  readonly idleTimeoutMs: number;
  /** How long a connection stays open without a request. **Default:** 65 s. */
  readonly keepAliveMs: number;
  /** Connections at once; more are closed. **Default:** 10,000. */
  readonly connections: number;
  /** Requests of an HTTP/1.1 connection that wait behind others of it (pipelining); a connection with more is closed. **Default:** 16. */
  readonly pipelined: number;
  /** Bytes of a request's body; more is 413. **Default:** no limit. */
  readonly bodyBytes: number;
}

export const DEFAULT_FRONT_LIMITS: FrontLimits = {
  headerBytes: 16 * 1024,
  headMs: 30_000,
  idleTimeoutMs: 300_000,
  keepAliveMs: 65_000,
  connections: 10_000,
  pipelined: 16,
  bodyBytes: Number.POSITIVE_INFINITY,
};

export interface FrontHandlers {
  /** `expects`: it waits for 100 before its body. */
  request(req: IncomingMessage, res: ServerResponse, expects: boolean): void;
  upgrade(req: IncomingMessage, socket: Duplex, head: Buffer): void;
  /** **Default:** 405. */
  connect?(req: IncomingMessage, socket: Duplex, head: Buffer): void;
  newRequestId(): string;
}

export interface Front {
  readonly server: Server | Http2SecureServer;
  /** A connection from elsewhere than a listener of this server. */
  accept(socket: Duplex): void;
  /** Stops listening, ends idle connections; resolves when the last is closed, after `graceMs` by force. */
  close(graceMs?: number): Promise<void>;
}

export function createFront(handlers: FrontHandlers, limits: FrontLimits, tls: TlsFront | null): Front {
  const options = {
    maxHeaderSize: limits.headerBytes,
    headersTimeout: limits.headMs,
    // By progress, not in all: an upload may take hours.
    requestTimeout: 0,
    keepAliveTimeout: limits.keepAliveMs,
    noDelay: true,
    insecureHTTPParser: false,
    requireHostHeader: true,
    // More of the body is read ahead per connection than the default 64 KiB, for links with a long way.
    highWaterMark: 128 * 1024,
  };
  const server =
    tls === null
      ? createServer(options)
      : createSecureServer({
          ...options,
          ...tls.options(),
          handshakeTimeout: limits.headMs,
          allowHTTP1: true,
          maxSessionMemory: 16,
          settings: { initialWindowSize: 1024 * 1024, maxConcurrentStreams: 256, enableConnectProtocol: false },
        });
  tls?.watch((context) => (server as Http2SecureServer).setSecureContext(context));
  // Also those that have not finished their TLS handshake.
  server.maxConnections = limits.connections;
  const open = new Set<Duplex>();
  const sessions = new Set<ServerHttp2Session>();
  const track = (socket: Duplex) => {
    if (open.size >= limits.connections) {
      socket.destroy();
      return;
    }
    open.add(socket);
    socket.once('close', () => open.delete(socket));
  };
  server.on(tls === null ? 'connection' : 'secureConnection', track);
  if (tls !== null) {
    (server as Http2SecureServer).on('session', (session) => {
      sessions.add(session);
      session.once('close', () => sessions.delete(session));
      session.setTimeout(limits.idleTimeoutMs, () => session.close());
    });
    // TLS handshakes that fail are the caller's trouble.
    (server as Http2SecureServer).on('tlsClientError', (_error, socket) => socket.destroy());
    (server as Http2SecureServer).on('unknownProtocol', (socket) => socket.destroy());
  }
  server.setTimeout(limits.idleTimeoutMs);
  if (server instanceof Server) server.maxRequestsPerSocket = 0;

  const refused = new WeakSet<Duplex>();
  /** Requests behind others, by connection. */
  const behind = new WeakMap<Duplex, number>();
  const guard = (req: IncomingMessage, res: ServerResponse, expects: boolean) => {
    // Node hands on what was pipelined behind a refused request; it may be that request's body.
    if (refused.has(req.socket)) return;
    // Each would hold a connection to a service, and memory for its answer.
    if (res.socket === null && !isHttp2(req)) {
      const { socket } = req;
      const waiting = (behind.get(socket) ?? 0) + 1;
      if (waiting > limits.pipelined) {
        refused.add(socket);
        socket.destroy();
        return;
      }
      behind.set(socket, waiting);
      res.once('close', () => behind.set(socket, behind.get(socket)! - 1));
    }
    const failure = unacceptable(req);
    if (failure === null) {
      handlers.request(req, res, expects);
      return;
    }
    // Where the message ends may be in doubt: nothing more is read from this connection.
    if (!isHttp2(req)) {
      refused.add(req.socket);
      res.shouldKeepAlive = false;
    }
    answerFailure(req, res, failure, handlers.newRequestId());
  };
  server.on('request', (req: IncomingMessage, res: ServerResponse) => guard(req, res, false));
  server.on('checkContinue', (req: IncomingMessage, res: ServerResponse) => guard(req, res, true));
  server.on('checkExpectation', (req: IncomingMessage, res: ServerResponse) => {
    const { expect } = req.headers;
    const reason = `nothing is known of Expect: ${expect}`;
    answerFailure(req, res, new HttpFailure('ERR_HTTP_EXPECTATION', reason), handlers.newRequestId());
  });
  server.on('upgrade', (req: IncomingMessage, socket: Duplex, head: Buffer) => {
    if (refused.has(socket)) return;
    const failure = unacceptable(req);
    if (failure !== null) answerRaw(socket, failure, handlers.newRequestId(), req.headers.accept);
    else handlers.upgrade(req, socket, head);
  });
  server.on('connect', (req: IncomingMessage, socket: Duplex, head: Buffer) => {
    if (handlers.connect !== undefined && !isHttp2(req)) {
      handlers.connect(req, socket, head);
      return;
    }
    if (isHttp2(req)) {
      // RFC 9113 §8.5; `socket` is the response here.
      (socket as unknown as ServerResponse).writeHead(405).end();
      return;
    }
    const failure = new HttpFailure('ERR_HTTP_METHOD', 'CONNECT is not for this port');
    answerRaw(socket, failure, handlers.newRequestId(), req.headers.accept);
  });
  server.on('clientError', (error: NodeJS.ErrnoException, socket: Duplex) => {
    if (error.code === 'ECONNRESET' || !socket.writable) {
      socket.destroy();
      return;
    }
    const current = (socket as { _httpMessage?: { headersSent?: boolean } })._httpMessage;
    if (current?.headersSent === true) {
      socket.destroy();
      return;
    }
    answerRaw(socket, parseFailure(error), handlers.newRequestId());
  });
  server.on('timeout', (socket: Duplex & { _httpMessage?: { [EXCHANGE]?: { stalled(): void } } }) => {
    const exchange = socket._httpMessage?.[EXCHANGE];
    if (exchange !== undefined) exchange.stalled();
    else socket.destroy();
  });

  return {
    server,
    accept: (socket) => {
      server.emit('connection', socket);
    },
    close: (graceMs = 1_000) =>
      new Promise((resolve) => {
        tls?.close();
        const force = setTimeout(() => {
          for (const socket of open) socket.destroy();
          for (const session of sessions) session.destroy();
        }, graceMs);
        const wait = () => {
          if (open.size > 0) {
            for (const socket of open) {
              socket.once('close', wait);
              return;
            }
          }
          clearTimeout(force);
          resolve();
        };
        for (const session of sessions) session.close();
        if (server.listening) server.close();
        if (server instanceof Server) server.closeIdleConnections();
        wait();
      }),
  };
}

/** What llhttp lets pass and a proxy must not. */
function unacceptable(req: IncomingMessage): HttpFailure | null {
  if (isHttp2(req)) return null;
  const bad = (reason: string) => new HttpFailure('ERR_HTTP_BAD_REQUEST', reason);
  const { headers, rawHeaders } = req;
  // llhttp takes a request line without a version for HTTP/0.9.
  if (req.httpVersionMajor < 1) return bad('the request line has no version');
  // RFC 9112 §3.2: exactly one Host.
  if (countField(rawHeaders, 'host') > 1) return bad('more than one Host field');
  const coding = headers['transfer-encoding'];
  if (coding !== undefined) {
    // RFC 9112 §6.1, §6.3: nothing but one "chunked", not together with a length, and not from HTTP/1.0.
    if (coding.trim().toLowerCase() !== 'chunked') return bad('Transfer-Encoding is not chunked');
    if (headers['content-length'] !== undefined) return bad('Content-Length together with Transfer-Encoding');
    if (req.httpVersionMinor === 0) return bad('Transfer-Encoding in HTTP/1.0');
  }
  if (countField(rawHeaders, 'content-length') > 1) return bad('more than one Content-Length');
  if (headers['content-length'] !== undefined && !/^\d+$/.test(headers['content-length']))
    return bad('Content-Length is no number');
  // RFC 9110 §9.3.8: TRACE shows a script what it must not see.
  if (req.method === 'TRACE') return new HttpFailure('ERR_HTTP_METHOD', 'TRACE is not passed on');
  return null;
}

function parseFailure(error: NodeJS.ErrnoException & { reason?: string }): HttpFailure {
  switch (error.code) {
    case 'HPE_HEADER_OVERFLOW':
      return new HttpFailure('ERR_HTTP_HEADERS_TOO_LARGE', 'the header fields are larger than the limit');
    case 'HPE_CHUNK_EXTENSIONS_OVERFLOW':
      return new HttpFailure('ERR_HTTP_BODY_TOO_LARGE', 'the chunk extensions are larger than the limit');
    case 'ERR_HTTP_REQUEST_TIMEOUT':
      return new HttpFailure('ERR_HTTP_STALLED', 'the head of the request did not come in time');
    default:
      return new HttpFailure('ERR_HTTP_BAD_REQUEST', `not valid HTTP: ${error.reason ?? error.message}`);
  }
}

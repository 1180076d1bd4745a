// The WebSocket transport, for networks that let only HTTPS out: frames in binary messages (RFC 6455) on a path of an HTTPS
// server, on port 443 if need be, also behind a reverse proxy that ends the TLS. Both ends prove who they are in the first
// bytes, bound to the TLS certificate that the dialer saw (web/auth.ts). Needs the optional package ws.

import http from 'node:http';
import https from 'node:https';
import net from 'node:net';
import type { Duplex } from 'node:stream';
import tls from 'node:tls';
import type { WebSocket, WebSocketServer } from 'ws';
import { KubeBusError, type Micros, MS, SECOND } from '../lib/core/index.js';
import type { AcceptHandler, ByteStream, Listener, TlsMaterial, TlsSource, Transport } from '../lib/l2/transport.js';
import { material } from './identity.js';
import { checkLimits } from './limits.js';
import { watchLocalAddress } from './local-address.js';
import { connectThroughProxy, parseProxy } from './proxy.js';
import { parseHostPort } from './tcp.js';
import { AuthMachine, bindingOf } from './web/auth.js';
import { DuplexStream } from './web/duplex-stream.js';

export const WEBSOCKET_PORT = 443;
const PATH = '/kubebus';
/** Of one message: what a peer can make us hold before it is parsed. */
const MAX_MESSAGE = 1024 * 1024;

export interface WebSocketOptions {
  /** Where `listen` binds. **Default:** 0.0.0.0 and port 443; port 0 takes a free one. */
  readonly listen?: { readonly host?: string; readonly port?: number };
  /** This side's certificate and key, and the CA that signs the other's; also those of the HTTPS server. */
  readonly tls: TlsMaterial | TlsSource;
  /**
   * A reverse proxy in front ends the TLS: listen in plain HTTP, for the proxy only, and take dialers that saw one of these
   * certificates (PEM) of it. **Default:** none: HTTPS.
   */
  readonly behind?: { readonly certificates: readonly string[] };
  /** Path of the URL. **Default:** '/kubebus'. */
  readonly path?: string;
  /** Dials through this proxy of the network: `http://`, `https://` or `socks5://[user:password@]host:port`. **Default:** none. */
  readonly proxy?: string;
  /** Time for an accepted connection to prove who it is. **Default:** 5 s. */
  readonly handshakeTimeout?: Micros;
  /** Connections that have not proved who they are. **Default:** 256. */
  readonly handshakes?: number;
  /** Connections in all. **Default:** 16384. */
  readonly connections?: number;
}

export function webSocketTransport(options: WebSocketOptions): Transport {
  checkLimits(options);
  if (options.proxy !== undefined) parseProxy(options.proxy);
  return {
    name: 'websocket',
    listen: (handler) => listen(options, handler),
    dial: (address, signal) => dial(options, address, signal),
  };
}

async function loadWs(): Promise<typeof import('ws')> {
  try {
    return await import('ws');
  } catch (cause) {
    throw new KubeBusError(
      'ERR_TRANSPORT_UNAVAILABLE',
      'the WebSocket transport needs the optional package ws 8 (npm install ws@8)',
      { cause },
    );
  }
}

async function dial(options: WebSocketOptions, address: string, signal: AbortSignal): Promise<ByteStream> {
  const ws = await loadWs();
  const { host, port } = parseHostPort(address);
  const where = `${host.includes(':') ? `[${host}]` : host}:${port}`;
  const failed = (error: Error) =>
    error instanceof KubeBusError
      ? error
      : new KubeBusError(
          'ERR_CONNECT',
          `cannot connect to ${where}: ${signal.aborted ? 'no answer in time' : error.message}`,
          { cause: error },
        );
  const tunnel = options.proxy === undefined ? null : await connectThroughProxy(options.proxy, host, port, signal);
  // Whose certificate it is, is told by the proof of identity; a public CA has no say in it.
  const socket = tls.connect({
    host,
    port,
    ...(tunnel === null ? {} : { socket: tunnel }),
    rejectUnauthorized: false,
    servername: net.isIP(host) === 0 ? host : '',
    minVersion: 'TLSv1.2',
    ALPNProtocols: ['http/1.1'],
  });
  const client = new ws.WebSocket(`wss://${where}${options.path ?? PATH}`, {
    createConnection: () => socket,
    perMessageDeflate: false,
    maxPayload: MAX_MESSAGE,
    followRedirects: false,
  });
  const aborted = () => client.terminate();
  try {
    if (signal.aborted) throw new Error('no answer in time');
    signal.addEventListener('abort', aborted, { once: true });
    await new Promise<void>((resolve, reject) => {
      client.once('open', resolve);
      client.once('error', reject);
      client.once('close', () => reject(new Error('the other side closed the connection during the handshake')));
    });
    const certificate = socket.getPeerX509Certificate();
    if (certificate === undefined) throw new Error('it has no certificate');
    const stream = new DuplexStream(ws.createWebSocketStream(client), `wss://${where}`, false);
    const bindings = [bindingOf(certificate.raw)];
    await stream.authenticate(
      new AuthMachine({ role: 'dialer', tls: material(options.tls), bindings, host, where }, Date.now()),
      signal,
    );
    client.once(
      'close',
      watchLocalAddress((tunnel ?? socket).localAddress, () => client.terminate()),
    );
    return stream;
  } catch (error) {
    client.on('error', () => {});
    client.terminate();
    socket.destroy();
    throw failed(error as Error);
  } finally {
    signal.removeEventListener('abort', aborted);
  }
}

async function listen(options: WebSocketOptions, handler: AcceptHandler): Promise<Listener> {
  const ws = await loadWs();
  const { host = '0.0.0.0', port = WEBSOCKET_PORT } = options.listen ?? {};
  const server = options.behind === undefined ? httpsServer(options) : http.createServer();
  // A caller that does not finish its request is cut off, and callers are bounded before they are anybody.
  server.headersTimeout = (options.handshakeTimeout ?? 5 * SECOND) / MS;
  server.requestTimeout = server.headersTimeout;
  server.maxConnections = options.connections ?? 16_384;
  server.on('request', (_request, response) => response.writeHead(426, { upgrade: 'websocket' }).end());
  const sockets = new ws.WebSocketServer({ noServer: true, perMessageDeflate: false, maxPayload: MAX_MESSAGE });
  const acceptor = new Acceptor(options, handler, sockets, ws.createWebSocketStream);
  server.on('upgrade', (request, socket, head) => acceptor.upgrade(request, socket, head));
  const open = new Set<net.Socket>();
  server.on('connection', (socket: net.Socket) => {
    open.add(socket);
    socket.once('close', () => open.delete(socket));
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', (cause) =>
      reject(new KubeBusError('ERR_CONNECT', `cannot listen on ${host}:${port}: ${cause.message}`, { cause })),
    );
    server.listen({ host, port }, () => resolve());
  });
  server.on('error', () => {});
  const bound = server.address() as net.AddressInfo;
  const shown = bound.address.includes(':') ? `[${bound.address}]` : bound.address;
  return {
    address: `kubebus://${shown}:${bound.port}?transport=websocket`,
    close: () =>
      new Promise<void>((resolve) => {
        // Streams end by themselves after their goodbye; what is still there a second later is cut off.
        const cut = setTimeout(() => {
          for (const socket of open) socket.destroy();
        }, 1_000);
        server.close(() => {
          clearTimeout(cut);
          resolve();
        });
        server.closeIdleConnections();
      }),
  };
}

function httpsServer({ tls: source, handshakeTimeout = 5 * SECOND }: WebSocketOptions): https.Server {
  const context = () => {
    const { cert, key } = material(source);
    return { cert, key, minVersion: 'TLSv1.2' as const };
  };
  const server = https.createServer({ ...context(), handshakeTimeout: handshakeTimeout / MS });
  if ('onChange' in source) {
    const unsubscribe = source.onChange(() => server.setSecureContext(context()));
    server.once('close', unsubscribe);
  }
  return server;
}

class Acceptor {
  private proving = 0;

  constructor(
    private readonly options: WebSocketOptions,
    private readonly handler: AcceptHandler,
    private readonly sockets: WebSocketServer,
    private readonly toStream: (socket: WebSocket) => Duplex,
  ) {}

  upgrade(request: http.IncomingMessage, socket: Duplex, head: Buffer): void {
    const { handshakes = 256, path = PATH } = this.options;
    const remote = `wss://${request.socket.remoteAddress}:${request.socket.remotePort}`;
    socket.on('error', () => {});
    if ((request.url ?? '').split('?')[0] !== path) {
      socket.end('HTTP/1.1 404 Not Found\r\nConnection: close\r\n\r\n');
      return;
    }
    if (this.proving >= handshakes) {
      this.handler.onRefused('ERR_TOO_MANY_CONNECTIONS', `more than ${handshakes} handshakes in progress`, remote);
      socket.destroy();
      return;
    }
    this.proving++;
    this.sockets.handleUpgrade(request, socket, head, (client) => {
      void this.accept(client, remote).finally(() => {
        this.proving--;
      });
    });
    // A request that is no WebSocket handshake was answered and closed.
    if (socket.destroyed || socket.writableEnded) this.proving--;
  }

  private async accept(client: WebSocket, remote: string): Promise<void> {
    const { tls, behind, handshakeTimeout = 5 * SECOND } = this.options;
    const stream = new DuplexStream(this.toStream(client), remote, false);
    const certificates = behind?.certificates ?? [material(tls).cert];
    const machine = new AuthMachine(
      { role: 'listener', tls: material(tls), bindings: certificates.map(bindingOf), where: remote },
      Date.now(),
    );
    try {
      await stream.authenticate(machine, AbortSignal.timeout(handshakeTimeout / MS));
      this.handler.onStream(stream);
    } catch (error) {
      const code = error instanceof KubeBusError ? error.code : 'ERR_TRANSPORT';
      this.handler.onRefused(code, (error as Error).message, remote);
      // The reason is on its way; a peer that does not take it cannot hold us.
      setTimeout(() => client.terminate(), 500).unref();
    }
  }
}

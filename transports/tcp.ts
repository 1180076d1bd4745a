// The TCP transport: TLS 1.3 with certificates on both sides, or plain TCP where `insecure` says so on both sides.

import net from 'node:net';
import tls from 'node:tls';
import { KubeBusError, type Micros, SECOND } from '../lib/core/index.js';
import type {
  AcceptHandler,
  ByteStream,
  Listener,
  PeerIdentity,
  PortService,
  TlsMaterial,
  TlsSource,
  Transport,
} from '../lib/l2/transport.js';
import { cloudIdentity, material, nodeIdentity } from './identity.js';
import { watchLocalAddress } from './local-address.js';
import { connectThroughProxy, parseProxy } from './proxy.js';
import { SocketStream } from './socket-stream.js';
import { connectError, explain, explainCertificate, handshakeCode } from './tls-reasons.js';

export const DEFAULT_PORT = 7443;

export interface TcpOptions {
  /** Where `listen` binds. **Default:** 0.0.0.0 and port 7443; port 0 takes a free one. */
  readonly listen?: { readonly host?: string; readonly port?: number };
  /** This side's certificate and key, and the CA that signs the other's: texts, or a source of them that may change. */
  readonly tls?: TlsMaterial | TlsSource;
  /** Other protocols on the same port, told apart by ALPN. Only with `tls`. **Default:** none. */
  readonly services?: readonly PortService[];
  /** Dials through this proxy of the network: `http://`, `https://` or `socks5://[user:password@]host:port`. **Default:** none. */
  readonly proxy?: string;
  /** Plain TCP: anybody who reaches the port is who the hello says. Only without `tls`. */
  readonly insecure?: boolean;
  /** Time for the TLS handshake of an accepted connection. **Default:** 5 s. */
  readonly handshakeTimeout?: Micros;
  /**
   * TLS handshakes in progress. When all places are taken, one that is older than a second gives way; if there is none the newcomer is
   * closed at once. **Default:** 256.
   */
  readonly handshakes?: number;
}

/** A handshake takes a few round trips: who needs longer than this gives way when all places are taken. */
const GIVE_WAY_MS = 1_000;

/** AES-GCM first: with AES instructions it is several times as fast as ChaCha20 (which stays for those without). */
const CIPHERS = 'TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256';

const NOBODY: PeerIdentity = {
  tenant: '',
  node: '',
  prefixes: [],
  authenticated: false,
  expires: Number.POSITIVE_INFINITY,
};

/** host and port of `kubebus://host:port`, also without scheme or port. Throws ERR_INVALID_ARGUMENT. */
export function parseHostPort(address: string): { host: string; port: number } {
  const url = address.includes('://') ? address : `kubebus://${address}`;
  if (!URL.canParse(url)) throw new KubeBusError('ERR_INVALID_ARGUMENT', `not an address of a cloud: ${address}`);
  const { hostname, port, protocol } = new URL(url);
  if (protocol !== 'kubebus:' || hostname === '') {
    throw new KubeBusError('ERR_INVALID_ARGUMENT', `not an address of a cloud (kubebus://host:port): ${address}`);
  }
  return { host: hostname.replace(/^\[|\]$/g, ''), port: port === '' ? DEFAULT_PORT : Number(port) };
}

export function tcpTransport(options: TcpOptions): Transport {
  if ((options.tls === undefined) !== (options.insecure === true)) {
    throw new KubeBusError('ERR_INVALID_ARGUMENT', 'give either tls (cert, key, ca) or insecure: true');
  }
  if (options.proxy !== undefined) parseProxy(options.proxy);
  return {
    name: 'tcp',
    listen: (handler) => listen(options, handler),
    dial: (address, signal, farewell) => dial(options, address, signal, farewell),
  };
}

interface SecureDial {
  readonly ca?: string;
  readonly cert?: string;
  readonly key?: string;
  /** ALPN. */
  readonly protocol?: string;
  /** Only to ask who the other side is: its certificate is not checked, so nothing secret may be said. **Default:** false. */
  readonly unverified?: boolean;
}

/** A connected socket, after the TLS handshake where `secure` asks for one. */
async function connectSocket(
  address: string,
  secure: SecureDial | undefined,
  signal: AbortSignal,
  proxy?: string,
): Promise<{ socket: net.Socket; where: string }> {
  const { host, port } = parseHostPort(address);
  const where = `${host.includes(':') ? `[${host}]` : host}:${port}`;
  const { protocol, unverified = false, ...pem } = secure ?? {};
  const tunnel = proxy === undefined ? null : await connectThroughProxy(proxy, host, port, signal);
  if (tunnel !== null && secure === undefined) return { socket: tunnel.setNoDelay(true), where };
  const socket =
    secure === undefined
      ? net.connect({ host, port, noDelay: true })
      : tls.connect({
          host,
          port,
          ...(tunnel === null ? {} : { socket: tunnel }),
          ...pem,
          ...(protocol === undefined ? {} : { ALPNProtocols: [protocol] }),
          rejectUnauthorized: !unverified,
          minVersion: 'TLSv1.3',
          ciphers: CIPHERS,
          servername: net.isIP(host) === 0 ? host : '',
        });
  await new Promise<void>((resolve, reject) => {
    const settle = (error?: Error) => {
      socket.removeListener('error', settle);
      socket.removeListener('close', closed);
      signal.removeEventListener('abort', aborted);
      if (error === undefined) resolve();
      else {
        socket.destroy();
        socket.on('error', () => {});
        reject(connectError(error, where));
      }
    };
    const closed = () => settle(new Error('the other side closed the connection during the handshake'));
    const aborted = () => settle(new Error('no answer in time'));
    socket.on('error', settle);
    socket.on('close', closed);
    socket.once(secure === undefined ? 'connect' : 'secureConnect', () => settle());
    if (signal.aborted) aborted();
    else signal.addEventListener('abort', aborted);
  });
  socket.setNoDelay(true);
  const { localAddress } = tunnel ?? socket;
  const unwatch = watchLocalAddress(localAddress, () =>
    socket.destroy(new Error(`this host has no longer the address ${localAddress}`)),
  );
  socket.once('close', unwatch);
  return { socket, where };
}

async function dial(
  options: TcpOptions,
  address: string,
  signal: AbortSignal,
  farewell?: (reason: KubeBusError) => Uint8Array,
): Promise<ByteStream> {
  // Not verified by Node, which would destroy the socket without a word to the other side; but here, before there is a stream.
  const secure = options.tls === undefined ? undefined : { ...material(options.tls), unverified: true };
  const { socket, where } = await connectSocket(address, secure, signal, options.proxy);
  if (!(socket instanceof tls.TLSSocket)) return new SocketStream(socket, NOBODY, `tcp://${where}`);
  const refusal = cloudRefusal(socket);
  if (refusal === null) {
    return new SocketStream(socket, cloudIdentity(socket.getPeerCertificate())!, `tls://${where}`);
  }
  const told = new KubeBusError('ERR_CERTIFICATE', `the node refused the cloud's certificate: ${refusal}`);
  socket.on('error', () => {});
  socket.resume(); // what is left unread would turn the end into a reset
  if (farewell === undefined) socket.destroy();
  else socket.end(farewell(told));
  setTimeout(() => socket.destroy(), 1_000).unref();
  throw new KubeBusError('ERR_CERTIFICATE', `certificate of ${where}: ${refusal}`);
}

/** Why this socket does not lead to our cloud, or null. */
function cloudRefusal(socket: tls.TLSSocket): string | null {
  if (!socket.authorized) return explainCertificate(socket.authorizationError);
  return cloudIdentity(socket.getPeerCertificate()) === null
    ? "it is not a cloud's (no kubebus-cloud: name in it)"
    : null;
}

/**
 * Connects to a PortService of a cloud. Rejects with ERR_CONNECT or ERR_CERTIFICATE, and with ERR_JOIN_DISABLED when the port does
 * not offer the service.
 */
export async function dialService(
  address: string,
  secure: SecureDial & { readonly protocol: string },
  signal: AbortSignal,
  proxy?: string,
): Promise<tls.TLSSocket> {
  const { socket, where } = await connectSocket(address, secure, signal, proxy);
  const secured = socket as tls.TLSSocket;
  const refuse = (error: KubeBusError) => {
    secured.on('error', () => {});
    secured.destroy();
    return error;
  };
  if (secured.alpnProtocol !== secure.protocol) {
    throw refuse(
      new KubeBusError('ERR_JOIN_DISABLED', `${where} does not offer ${secure.protocol}`, { side: 'remote' }),
    );
  }
  if (secure.unverified !== true && cloudIdentity(secured.getPeerCertificate()) === null) {
    throw refuse(new KubeBusError('ERR_CERTIFICATE', `the certificate of ${where} is not a cloud's`));
  }
  return secured;
}

/** dialService through a proxy, where there is one. */
export const serviceDialer =
  (proxy?: string) =>
  (address: string, secure: SecureDial & { readonly protocol: string }, signal: AbortSignal): Promise<tls.TLSSocket> =>
    dialService(address, secure, signal, proxy);

async function listen(options: TcpOptions, handler: AcceptHandler): Promise<Listener> {
  const { host = '0.0.0.0', port = DEFAULT_PORT } = options.listen ?? {};
  const secure = options.tls;
  const server = secure === undefined ? net.createServer({ noDelay: true }) : tlsServer(options, secure, handler);
  const sockets = new Set<net.Socket>();
  server.on('connection', (socket: net.Socket) => {
    sockets.add(socket);
    socket.once('close', () => sockets.delete(socket));
    if (secure === undefined) handler.onStream(new SocketStream(socket, NOBODY, remoteOf('tcp', socket)));
  });
  await new Promise<void>((resolve, reject) => {
    server.once('error', (cause) =>
      reject(new KubeBusError('ERR_CONNECT', `cannot listen on ${host}:${port}: ${explainListen(cause)}`, { cause })),
    );
    server.listen({ host, port }, () => resolve());
  });
  server.on('error', () => {});
  const bound = server.address() as net.AddressInfo;
  const shown = bound.address.includes(':') ? `[${bound.address}]` : bound.address;
  return {
    address: `kubebus://${shown}:${bound.port}`,
    close: () =>
      new Promise<void>((resolve) => {
        server.close(() => resolve());
        // Streams end by themselves after their goodbye; what is still there a second later is cut off.
        const cut = setTimeout(() => {
          for (const socket of sockets) socket.destroy();
        }, 1_000);
        server.once('close', () => clearTimeout(cut));
      }),
  };
}

function explainListen(error: NodeJS.ErrnoException): string {
  const known: Record<string, string> = {
    EADDRINUSE: 'another process listens there already',
    EADDRNOTAVAIL: 'this host has no such address',
    EACCES: 'ports below 1024 need root or the right CAP_NET_BIND_SERVICE',
  };
  return known[error.code ?? ''] ?? error.message;
}

const remoteOf = (scheme: 'tcp' | 'tls', socket: net.Socket) =>
  `${scheme}://${socket.remoteAddress}:${socket.remotePort}`;

/** Handshakes with their bound; then each socket to the service it asked for, or, with its certificate checked, to the links. */
function tlsServer(options: TcpOptions, secure: TlsMaterial | TlsSource, handler: AcceptHandler): tls.Server {
  const { services = [] } = options;
  const context = () => ({ ...material(secure), minVersion: 'TLSv1.3' as const, ciphers: CIPHERS });
  const server = tls.createServer({
    ...context(),
    requestCert: true,
    // A service may take callers without a certificate. For links it is checked below, and the reason of a refusal can be sent.
    rejectUnauthorized: false,
    ...(services.length === 0 ? {} : { ALPNProtocols: services.map((s) => s.protocol) }),
    handshakeTimeout: (options.handshakeTimeout ?? 5 * SECOND) / 1_000,
    noDelay: true,
  });
  if ('onChange' in secure) {
    const unsubscribe = secure.onChange(() => server.setSecureContext(context()));
    server.once('close', unsubscribe);
  }
  const handshakes = new Handshakes(options.handshakes ?? 256);
  server.on('connection', (socket: net.Socket) => {
    if (handshakes.begin(socket)) return;
    const text = `more than ${handshakes.limit} TLS handshakes in progress`;
    handler.onRefused('ERR_TOO_MANY_CONNECTIONS', text, remoteOf('tls', socket));
    socket.destroy(); // no TLS, so nothing can be said
  });
  server.on('secureConnection', (socket) => {
    handshakes.end(socket);
    const remote = remoteOf('tls', socket);
    const service = services.find((s) => s.protocol === socket.alpnProtocol);
    if (service !== undefined) {
      const certificate = socket.getPeerX509Certificate()?.raw ?? null;
      return service.onSocket(socket, { remote, address: socket.remoteAddress ?? '', certificate });
    }
    const refusal = linkRefusal(socket);
    if (refusal === null) {
      return handler.onStream(new SocketStream(socket, nodeIdentity(socket.getPeerCertificate())!, remote));
    }
    handler.onRefused('ERR_CERTIFICATE', refusal, remote, new SocketStream(socket, NOBODY, remote));
  });
  server.on('tlsClientError', (error, socket) => {
    handshakes.end(socket);
    handler.onRefused(handshakeCode(error), explain(error), remoteOf('tls', socket));
    socket.destroy();
  });
  return server;
}

/** Why this socket must not carry a link, or null: only a certificate that was proved in this very handshake lets it. */
function linkRefusal(socket: tls.TLSSocket): string | null {
  // Node calls a resumed TLS 1.3 session authorized though it shows no certificate. Nodes never resume.
  if (socket.isSessionReused()) return 'the TLS session was resumed: the certificate has to be shown each time';
  if (socket.getPeerX509Certificate() === undefined) return 'the peer sent no certificate';
  if (!socket.authorized) return `certificate refused: ${explainCertificate(socket.authorizationError)}`;
  if (nodeIdentity(socket.getPeerCertificate()) === null)
    return 'the certificate names no node (URI kubebus://tenant/node)';
  return null;
}

const endOf = (socket: net.Socket) => `${socket.remoteAddress}:${socket.remotePort}`;

/** TLS handshakes in progress, the oldest first. */
class Handshakes {
  private readonly begun = new Map<string, { socket: net.Socket; at: number }>();

  constructor(readonly limit: number) {}

  /** False: no place is free. */
  begin(socket: net.Socket): boolean {
    const now = performance.now();
    if (this.begun.size >= this.limit) {
      const [key, oldest] = this.begun.entries().next().value!;
      if (now - oldest.at < GIVE_WAY_MS) return false;
      this.begun.delete(key);
      oldest.socket.destroy();
    }
    const key = endOf(socket);
    this.begun.set(key, { socket, at: now });
    socket.once('close', () => {
      if (this.begun.get(key)?.socket === socket) this.begun.delete(key);
    });
    return true;
  }

  /** `socket`: the one that TLS made; both have the same remote end. */
  end(socket: net.Socket): void {
    this.begun.delete(endOf(socket));
  }
}

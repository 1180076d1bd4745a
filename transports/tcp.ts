// The TCP transport: TLS 1.3 with certificates on both sides, or plain TCP where `insecure` says so on both sides.

import net from 'node:net';
import tls from 'node:tls';
import { KubeBusError, type Micros, SECOND, Slab } from '../lib/core/index.js';
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
import type { Native, NativeSecureContext } from '../native/loader.mjs';
import { cloudIdentity, material, nodeIdentity } from './identity.js';
import { checkLimits } from './limits.js';
import { watchLocalAddress } from './local-address.js';
import { verifyPinned } from './pinned.js';
import { connectThroughProxy, parseProxy } from './proxy.js';
import { CIPHERS, type Connected, type Credentials } from './tcp/connected.js';
import { Handshakes } from './tcp/handshakes.js';
import { hostFault, NativeSocket, nativeSockets, secureContext } from './tcp/native-socket.js';
import { endOf, NodeSocket } from './tcp/node-socket.js';
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
   * told so and closed at once; with 0 nobody gets in. **Default:** 1,024.
   */
  readonly handshakes?: number;
  /** Sockets by the addon, which cost less time and memory than Node's own. **Default:** true; has an effect only where the addon is there. */
  readonly native?: boolean;
}

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
  checkLimits(options);
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

let noCertificates: tls.SecureContext | undefined;

/** A connected socket of Node's, after the TLS handshake where `secure` asks for one. */
async function secured(
  host: string,
  port: number,
  secure: SecureDial | undefined,
  signal: AbortSignal,
  tunnel: net.Socket | null,
): Promise<net.Socket> {
  if (tunnel !== null && secure === undefined) return tunnel.setNoDelay(true);
  const { protocol, unverified = false, ...pem } = secure ?? {};
  // Nobody's certificates, neither ours nor the ones that Node brings: the same for all.
  const bare = unverified && pem.cert === undefined && pem.ca === undefined;
  if (bare) noCertificates ??= tls.createSecureContext({ ca: [], minVersion: 'TLSv1.3', ciphers: CIPHERS });
  const socket =
    secure === undefined
      ? net.connect({ host, port, noDelay: true })
      : tls.connect({
          host,
          port,
          ...(tunnel === null ? {} : { socket: tunnel }),
          ...(bare ? { secureContext: noCertificates } : pem),
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
        reject(connectError(error, shownAs(host, port)));
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
  return socket.setNoDelay(true);
}

async function dial(
  options: TcpOptions,
  address: string,
  signal: AbortSignal,
  farewell?: (reason: KubeBusError) => Uint8Array,
): Promise<ByteStream> {
  const { host, port } = parseHostPort(address);
  const where = shownAs(host, port);
  const credentials = options.tls === undefined ? null : material(options.tls);
  const socket = await connect(options, host, port, credentials, signal);
  const refusal = socket.shown === null ? null : cloudRefusal(socket);
  const scheme = socket.shown === null ? 'tcp' : 'tls';
  const identity = refusal === null && socket.shown !== null ? cloudIdentity(socket.shown.fields)! : NOBODY;
  const stream = socket.stream(identity, `${scheme}://${where}`);
  if (refusal === null) {
    const { localAddress } = socket;
    const gone = () => stream.destroy(new Error(`this host has no longer the address ${localAddress}`));
    socket.onClosed(watchLocalAddress(localAddress, gone));
    return stream;
  }
  const told = new KubeBusError('ERR_CERTIFICATE', `the node refused the cloud's certificate: ${refusal}`);
  lastWords(stream, farewell?.(told));
  throw new KubeBusError('ERR_CERTIFICATE', `certificate of ${where}: ${refusal}`);
}

/** What the other side says meanwhile is read and forgotten: left unread it would turn the end into a reset. */
function lastWords(stream: ByteStream, words: Uint8Array | undefined): void {
  const nowhere = Buffer.allocUnsafe(4096);
  const cut = setTimeout(() => stream.destroy(), 1_000);
  cut.unref();
  stream.open({
    room: () => nowhere,
    hasPartial: true,
    onData: () => {},
    onDrain: () => {},
    datagramRoom: () => nowhere,
    onDatagram: () => {},
    onDatagramsDone: () => {},
    onClose: () => clearTimeout(cut),
  });
  if (words !== undefined) stream.write(Slab.of(words), 0, words.length);
  stream.end();
}

const shownAs = (host: string, port: number) => `${host.includes(':') ? `[${host}]` : host}:${port}`;

/** The certificate is looked at by whoever called: Node would destroy the socket without a word to the other side. */
async function connect(
  options: TcpOptions,
  host: string,
  port: number,
  credentials: Credentials | null,
  signal: AbortSignal,
): Promise<Connected> {
  const native = options.native === false ? null : nativeSockets(credentials !== null);
  const tunnel = options.proxy === undefined ? null : await connectThroughProxy(options.proxy, host, port, signal);
  // Behind a proxy Node has read from the socket already. With TLS nothing follows before we have spoken.
  if (native === null || (tunnel !== null && (tunnel instanceof tls.TLSSocket || credentials === null))) {
    const secure = credentials === null ? undefined : { ...credentials, unverified: true };
    return new NodeSocket(await secured(host, port, secure, signal, tunnel));
  }
  const where = shownAs(host, port);
  try {
    const raw = tunnel ?? (await unread(host, port, signal));
    raw.setNoDelay(true);
    const context = credentials === null ? null : contextFor(native, credentials);
    const socket = NativeSocket.take(native, raw, context, { server: false, name: host });
    if (context === null) return socket;
    await socket.handshake(signal);
    const { shown } = socket;
    if (shown !== null && shown.fault === null && shown.raw !== null) {
      socket.shown = { ...shown, fault: hostFault(host, shown.raw) };
    }
    return socket;
  } catch (error) {
    throw connectError(signal.aborted ? new Error('no answer in time') : (error as Error), where);
  }
}

/** A connected socket from which Node does not read. */
function unread(host: string, port: number, signal: AbortSignal): Promise<net.Socket> {
  return new Promise((resolve, reject) => {
    const socket = net.connect({ host, port });
    socket.pause();
    const settle = (error?: Error) => {
      signal.removeEventListener('abort', aborted);
      if (error === undefined) return resolve(socket);
      socket.destroy();
      reject(error);
    };
    const aborted = () => settle(new Error('no answer in time'));
    socket.on('error', settle);
    socket.once('connect', () => settle());
    if (signal.aborted) aborted();
    else signal.addEventListener('abort', aborted);
  });
}

/** The last one made: dials follow each other with the same certificate. */
let lastContext: { readonly of: Credentials; readonly context: NativeSecureContext } | null = null;

function contextFor(native: Native, of: Credentials): NativeSecureContext {
  const last = lastContext?.of;
  if (last?.cert !== of.cert || last.key !== of.key || last.ca !== of.ca) {
    lastContext = { of, context: secureContext(native, of) };
  }
  return lastContext!.context;
}

/** Why this socket does not lead to our cloud, or null. */
function cloudRefusal({ shown }: Connected): string | null {
  if (shown!.fault !== null) return explainCertificate(shown!.fault);
  return cloudIdentity(shown!.fields) === null ? "it is not a cloud's (no kubebus-cloud: name in it)" : null;
}

/** `verify`: of an unverified one, once the CA is known: throws ERR_CERTIFICATE unless this session was opened by a cloud of that CA. */
export type VerifiableSocket = tls.TLSSocket & { verify(ca: string): void };

/**
 * Connects to a PortService of a cloud. Rejects with ERR_CONNECT or ERR_CERTIFICATE, and with ERR_JOIN_DISABLED when the port does
 * not offer the service.
 */
export async function dialService(
  address: string,
  secure: SecureDial & { readonly protocol: string },
  signal: AbortSignal,
  proxy?: string,
): Promise<VerifiableSocket> {
  const { host, port } = parseHostPort(address);
  const where = shownAs(host, port);
  const tunnel = proxy === undefined ? null : await connectThroughProxy(proxy, host, port, signal);
  const socket = (await secured(host, port, secure, signal, tunnel)) as tls.TLSSocket;
  const refuse = (error: KubeBusError) => {
    socket.on('error', () => {});
    socket.destroy();
    return error;
  };
  if (socket.alpnProtocol !== secure.protocol) {
    throw refuse(
      new KubeBusError('ERR_JOIN_DISABLED', `${where} does not offer ${secure.protocol}`, { side: 'remote' }),
    );
  }
  if (secure.unverified !== true && cloudIdentity(socket.getPeerCertificate()) === null) {
    throw refuse(new KubeBusError('ERR_CERTIFICATE', `the certificate of ${where} is not a cloud's`));
  }
  return Object.assign(socket, { verify: (ca: string) => verifyPinned(socket, ca, host, where) });
}

/** dialService through a proxy, where there is one. */
export const serviceDialer =
  (proxy?: string) =>
  (
    address: string,
    secure: SecureDial & { readonly protocol: string },
    signal: AbortSignal,
  ): Promise<VerifiableSocket> =>
    dialService(address, secure, signal, proxy);

async function listen(options: TcpOptions, handler: AcceptHandler): Promise<Listener> {
  const { host = '0.0.0.0', port = DEFAULT_PORT } = options.listen ?? {};
  const { tls: secure } = options;
  const native = options.native === false ? null : nativeSockets(secure !== undefined);
  const open = new Set<Connected>();
  const accept = (socket: Connected) => {
    open.add(socket);
    socket.onClosed(() => open.delete(socket));
    admit(socket, options, handler);
  };
  const server =
    native === null
      ? secure === undefined
        ? net.createServer({ noDelay: true }, (socket) => accept(new NodeSocket(socket)))
        : nodeServer(options, secure, handler, accept)
      : nativeServer(native, options, secure ?? null, handler, accept);
  await new Promise<void>((resolve, reject) => {
    server.once('error', (cause) =>
      reject(new KubeBusError('ERR_CONNECT', `cannot listen on ${host}:${port}: ${explainListen(cause)}`, { cause })),
    );
    server.listen({ host, port }, () => resolve());
  });
  server.on('error', () => {});
  const bound = server.address() as net.AddressInfo;
  return {
    address: `kubebus://${shownAs(bound.address, bound.port)}`,
    close: async () => {
      server.close();
      // Streams end by themselves after their goodbye; what is still there a second later is cut off.
      const cut = setTimeout(() => {
        for (const socket of open) socket.destroy();
      }, 1_000);
      await Promise.all([...open].map((socket) => new Promise<void>((resolve) => socket.onClosed(resolve))));
      clearTimeout(cut);
    },
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

/** Each socket to the service it asked for, or, with its certificate checked, to the links. */
function admit(socket: Connected, { services = [] }: TcpOptions, handler: AcceptHandler): void {
  const { shown, address } = socket;
  if (shown === null) return handler.onStream(socket.stream(NOBODY, `tcp://${socket.remote}`));
  const remote = `tls://${socket.remote}`;
  const service = services.find((s) => s.protocol === shown.protocol);
  if (service !== undefined) return service.onSocket(socket.duplex(), { remote, address, certificate: shown.raw });
  const refusal = linkRefusal(socket);
  if (refusal === null) return handler.onStream(socket.stream(nodeIdentity(shown.fields)!, remote));
  handler.onRefused('ERR_CERTIFICATE', refusal, remote, socket.stream(NOBODY, remote));
}

/** Why this socket must not carry a link, or null: only a certificate that was proved in this very handshake lets it. */
function linkRefusal({ shown }: Connected): string | null {
  if (shown!.resumed) return 'the TLS session was resumed: the certificate has to be shown each time';
  if (shown!.raw === null) return 'the peer sent no certificate';
  if (shown!.fault !== null) return `certificate refused: ${explainCertificate(shown!.fault)}`;
  return nodeIdentity(shown!.fields) === null ? 'the certificate names no node (URI kubebus://tenant/node)' : null;
}

/** A TLS record, as it is before there are keys: the alert internal_error, fatal (RFC 8446 §5.1, §6.2). There is none for "too busy". */
const TOO_BUSY = Buffer.from('15030300020250', 'hex');

/** Turns a newcomer away at the limit of handshakes. */
function tooMany(socket: net.Socket, handler: AcceptHandler, limit: number, remote: string): void {
  handler.onRefused('ERR_TOO_MANY_CONNECTIONS', `more than ${limit} TLS handshakes in progress`, `tls://${remote}`);
  socket.end(TOO_BUSY, () => socket.destroy());
}

/** Calls `changed` when the credentials change, as long as the server is open. */
function follow(server: net.Server, secure: TlsMaterial | TlsSource, changed: () => void): void {
  if ('onChange' in secure) server.once('close', secure.onChange(changed));
}

const handshakeMs = (options: TcpOptions) => (options.handshakeTimeout ?? 5 * SECOND) / 1_000;

/** Sockets by the addon; handshakes with their bound in number and time. */
function nativeServer(
  native: Native,
  options: TcpOptions,
  secure: TlsMaterial | TlsSource | null,
  handler: AcceptHandler,
  accept: (socket: Connected) => void,
): net.Server {
  const protocols = (options.services ?? []).map((s) => s.protocol);
  const context = () => (secure === null ? null : secureContext(native, material(secure), protocols));
  let current = context();
  const server = net.createServer({ noDelay: true, pauseOnConnect: true });
  if (secure !== null) {
    follow(server, secure, () => {
      current = context();
    });
  }
  const handshakes = new Handshakes(options.handshakes ?? 1_024);
  server.on('connection', async (raw: net.Socket) => {
    const remote = endOf(raw);
    raw.on('error', () => {});
    const cut = new AbortController();
    if (current !== null && !handshakes.begin(remote, () => cut.abort())) {
      return tooMany(raw, handler, handshakes.limit, remote);
    }
    let socket: NativeSocket;
    try {
      socket = NativeSocket.take(native, raw, current, { server: true });
    } catch {
      handshakes.end(remote);
      raw.destroy(); // it is gone already
      return;
    }
    if (current === null) return accept(socket);
    const timer = setTimeout(
      () => cut.abort(Object.assign(new Error('TLS handshake timeout'), { code: 'ERR_TLS_HANDSHAKE_TIMEOUT' })),
      handshakeMs(options),
    );
    try {
      await socket.handshake(cut.signal);
    } catch (error) {
      handler.onRefused(handshakeCode(error as Error), explain(error as Error), `tls://${remote}`);
      return;
    } finally {
      clearTimeout(timer);
      handshakes.end(remote);
    }
    accept(socket);
  });
  return server;
}

/** The same with Node's own TLS sockets. */
function nodeServer(
  options: TcpOptions,
  secure: TlsMaterial | TlsSource,
  handler: AcceptHandler,
  accept: (socket: Connected) => void,
): net.Server {
  const { services = [] } = options;
  const context = () => ({ ...material(secure), minVersion: 'TLSv1.3' as const, ciphers: CIPHERS });
  const server = tls.createServer({
    ...context(),
    requestCert: true,
    // A service may take callers without a certificate. For links it is checked later, and the reason of a refusal can be sent.
    rejectUnauthorized: false,
    ...(services.length === 0 ? {} : { ALPNProtocols: services.map((s) => s.protocol) }),
    handshakeTimeout: handshakeMs(options),
    noDelay: true,
  });
  follow(server, secure, () => server.setSecureContext(context()));
  const handshakes = new Handshakes(options.handshakes ?? 1_024);
  server.on('connection', (socket: net.Socket) => {
    const remote = endOf(socket);
    if (handshakes.begin(remote, () => socket.destroy())) {
      socket.once('close', () => handshakes.end(remote));
      return;
    }
    tooMany(socket, handler, handshakes.limit, remote);
  });
  server.on('secureConnection', (socket) => {
    handshakes.end(endOf(socket)); // the socket that TLS made has the same remote end
    accept(new NodeSocket(socket));
  });
  server.on('tlsClientError', (error, socket) => {
    handshakes.end(endOf(socket));
    handler.onRefused(handshakeCode(error), explain(error), `tls://${endOf(socket)}`);
    socket.destroy();
  });
  return server;
}

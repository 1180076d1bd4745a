// The TCP transport: TLS 1.3 with certificates on both sides, or plain TCP where `insecure` says so on both sides.

import net from 'node:net';
import tls from 'node:tls';
import { KubeBusError, type Micros, SECOND, type Slab } from '../lib/core/index.js';
import type {
  AcceptHandler,
  ByteStream,
  Listener,
  PeerIdentity,
  PortService,
  StreamHandler,
  TlsMaterial,
  TlsSource,
  Transport,
} from '../lib/l2/transport.js';
import { loadNative } from '../native/loader.mjs';
import { cloudIdentity, material, nodeIdentity } from './identity.js';

export const DEFAULT_PORT = 7443;

export interface TcpOptions {
  /** Where `listen` binds. **Default:** 0.0.0.0 and port 7443; port 0 takes a free one. */
  readonly listen?: { readonly host?: string; readonly port?: number };
  /** This side's certificate and key, and the CA that signs the other's: texts, or a source of them that may change. */
  readonly tls?: TlsMaterial | TlsSource;
  /** Other protocols on the same port, told apart by ALPN. Only with `tls`. **Default:** none. */
  readonly services?: readonly PortService[];
  /** Plain TCP: anybody who reaches the port is who the hello says. Only without `tls`. */
  readonly insecure?: boolean;
  /** Time for the TLS handshake of an accepted connection. **Default:** 5 s. */
  readonly handshakeTimeout?: Micros;
  /** TLS handshakes in progress; beyond, connections are closed at once. **Default:** 256. */
  readonly handshakes?: number;
}

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
  return {
    name: 'tcp',
    listen: (handler) => listen(options, handler),
    dial: (address, signal) => dial(options, address, signal),
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
): Promise<{ socket: net.Socket; where: string }> {
  const { host, port } = parseHostPort(address);
  const where = `${host.includes(':') ? `[${host}]` : host}:${port}`;
  const { protocol, unverified = false, ...pem } = secure ?? {};
  const socket =
    secure === undefined
      ? net.connect({ host, port, noDelay: true })
      : tls.connect({
          host,
          port,
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
  return { socket, where };
}

async function dial(options: TcpOptions, address: string, signal: AbortSignal): Promise<ByteStream> {
  const secure = options.tls === undefined ? undefined : material(options.tls);
  const { socket, where } = await connectSocket(address, secure, signal);
  if (!(socket instanceof tls.TLSSocket)) return new SocketStream(socket, NOBODY, `tcp://${where}`);
  const identity = cloudIdentity(socket.getPeerCertificate());
  if (identity === null) {
    socket.destroy();
    throw new KubeBusError(
      'ERR_CERTIFICATE',
      `the certificate of ${where} is not a cloud's (no kubebus-cloud: name in it)`,
    );
  }
  return new SocketStream(socket, identity, `tls://${where}`);
}

/**
 * Connects to a PortService of a cloud. Rejects with ERR_CONNECT or ERR_CERTIFICATE, and with ERR_JOIN_DISABLED when the port does
 * not offer the service.
 */
export async function dialService(
  address: string,
  secure: SecureDial & { readonly protocol: string },
  signal: AbortSignal,
): Promise<tls.TLSSocket> {
  const { socket, where } = await connectSocket(address, secure, signal);
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
  let handshaking = 0;
  const limit = options.handshakes ?? 256;
  const waiting = new Map<string, () => void>();
  server.on('connection', (socket: net.Socket) => {
    if (handshaking >= limit) {
      const text = `more than ${limit} TLS handshakes in progress`;
      handler.onRefused('ERR_TOO_MANY_CONNECTIONS', text, remoteOf('tls', socket));
      socket.destroy();
      return;
    }
    handshaking++;
    let done = false;
    // Either end of the handshake, or of the socket, gives the place back, once.
    const over = () => {
      if (!done) handshaking--;
      done = true;
    };
    socket.once('close', over);
    waiting.set(`${socket.remoteAddress}:${socket.remotePort}`, over);
  });
  const finished = (socket: tls.TLSSocket) => {
    const key = `${socket.remoteAddress}:${socket.remotePort}`;
    waiting.get(key)?.();
    waiting.delete(key);
  };
  server.on('secureConnection', (socket) => {
    finished(socket);
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
    finished(socket);
    handler.onRefused('ERR_CERTIFICATE', explainTls(error), remoteOf('tls', socket));
    socket.destroy();
  });
  return server;
}

/** Why this socket must not carry a link, or null: only a certificate that was proved in this very handshake lets it. */
function linkRefusal(socket: tls.TLSSocket): string | null {
  // Node calls a resumed TLS 1.3 session authorized though it shows no certificate. Nodes never resume.
  if (socket.isSessionReused()) return 'the TLS session was resumed: the certificate has to be shown each time';
  if (socket.getPeerX509Certificate() === undefined) return 'the peer sent no certificate';
  if (!socket.authorized) {
    const code = String(socket.authorizationError);
    return `certificate refused: ${explainTls(Object.assign(new Error('it is not valid'), { code }))}`;
  }
  if (nodeIdentity(socket.getPeerCertificate()) === null)
    return 'the certificate names no node (URI kubebus://tenant/node)';
  return null;
}

/** One for all streams: a read is over before the next begins. */
const sharedRead = Buffer.allocUnsafeSlow(64 * 1024);
const MIN_READ = 16 * 1024;

/**
 * Makes an accepted socket read into buffers of ours, as the option `onread` of net.connect does, which servers do not
 * offer: saves an allocation of 64 KiB per read. The fields are Node's own, found by name on a socket made with the
 * public option; where a version of Node has others, false is returned and 'data' events do.
 */
function useReadBuffer(
  socket: net.Socket,
  room: () => Uint8Array,
  callback: (n: number, buf: Uint8Array) => boolean,
): boolean {
  const handle = (socket as unknown as { _handle?: { useUserBuffer?(buf: Uint8Array): void } })._handle;
  if (readFields === null || handle === undefined || handle === null || typeof handle.useUserBuffer !== 'function')
    return false;
  const fields = socket as unknown as Record<symbol, unknown>;
  const first = room();
  fields[readFields.buffer] = first;
  fields[readFields.callback] = callback;
  fields[readFields.next] = room;
  handle.useUserBuffer(first);
  socket.resume();
  return true;
}

const readFields = findReadFields();

const IPPROTO_TCP = 6;
const TCP_NOTSENT_LOWAT = 25;
/** Bytes that the kernel holds without having sent them: what waits longer waits in the link's fair queue instead. */
const NOTSENT_BYTES = 128 * 1024;

/** Keeps the kernel's send queue short (where the addon is there to ask for it), so that a ping overtakes bulk in our queue. */
function limitUnsent(socket: net.Socket): void {
  type Handle = { fd?: number; _parent?: { fd?: number } } | null | undefined;
  const handle = (socket as unknown as { _handle?: Handle })._handle;
  // A TLS handle wraps the TCP handle.
  const fd = handle?.fd ?? -1;
  const real = fd >= 0 ? fd : (handle?._parent?.fd ?? -1);
  if (real >= 0) loadNative()?.setSocketOption(real, IPPROTO_TCP, TCP_NOTSENT_LOWAT, NOTSENT_BYTES);
}

function findReadFields(): { buffer: symbol; callback: symbol; next: symbol } | null {
  const options = { onread: { buffer: () => sharedRead, callback: () => true } };
  const probe = new net.Socket(options as net.SocketConstructorOpts);
  const named = (name: string) => Object.getOwnPropertySymbols(probe).find((s) => s.description === name);
  const [buffer, callback, next] = [named('kBuffer'), named('kBufferCb'), named('kBufferGen')];
  probe.destroy();
  if (buffer === undefined || callback === undefined || next === undefined) return null;
  return { buffer, callback, next };
}

class SocketStream implements ByteStream {
  private handler: StreamHandler | null = null;
  private needDrain = false;

  constructor(
    private readonly socket: net.Socket,
    readonly identity: PeerIdentity,
    readonly remote: string,
  ) {
    socket.on('error', () => {}); // reported by 'close', with the error kept below
  }

  open(handler: StreamHandler): void {
    this.handler = handler;
    const { socket } = this;
    let failure: Error | undefined;
    socket.on('error', (error: Error) => {
      failure = error;
    });
    if (
      !useReadBuffer(
        socket,
        () => this.nextRoom(),
        (n, buf) => this.landed(n, buf),
      )
    ) {
      socket.on('data', (chunk: Buffer) => this.receive(chunk));
    }
    socket.on('drain', () => {
      this.needDrain = false;
      handler.onDrain();
    });
    // A half-closed link is of no use: the other side's end is ours.
    socket.on('end', () => socket.end());
    socket.on('close', () => handler.onClose(failure === undefined ? undefined : streamError(failure)));
    limitUnsent(socket);
    if (socket.destroyed) queueMicrotask(() => handler.onClose(failure));
  }

  get pending(): number {
    return this.socket.writableLength;
  }

  write(slab: Slab, start: number, end: number): boolean {
    if (!this.socket.writable) return true;
    slab.retain();
    const more = this.socket.write(slab.bytes.subarray(start, end), () => slab.release());
    if (!more) this.needDrain = true;
    return !this.needDrain;
  }

  pause(): void {
    this.socket.pause();
  }

  resume(): void {
    this.socket.resume();
  }

  end(): void {
    this.socket.end();
  }

  destroy(error?: Error): void {
    this.socket.destroy(error);
  }

  /** Where the next read is to land: behind a frame that is half there, else in the buffer that all idle streams share. */
  private nextRoom(): Uint8Array {
    const { handler } = this;
    if (handler === null || !handler.hasPartial) return sharedRead;
    const room = handler.room();
    return room.length >= MIN_READ ? room : sharedRead;
  }

  private landed(n: number, buf: Uint8Array): boolean {
    if (buf === sharedRead) this.receive(sharedRead.subarray(0, n));
    else this.handler!.onData(n);
    return true;
  }

  private receive(chunk: Buffer): void {
    let off = 0;
    while (off < chunk.length && !this.socket.destroyed) {
      const room = this.handler!.room();
      const n = Math.min(room.length, chunk.length - off);
      room.set(off === 0 && n === chunk.length ? chunk : chunk.subarray(off, off + n));
      this.handler!.onData(n);
      off += n;
    }
  }
}

/** Errors of a running stream: after a TLS 1.3 handshake the client learns only here that its certificate was refused. */
function streamError(error: Error): Error {
  const code = (error as NodeJS.ErrnoException).code ?? '';
  if (!code.startsWith('ERR_SSL_')) return error;
  return new KubeBusError('ERR_CERTIFICATE', explainTls(error), { side: 'remote', cause: error });
}

function connectError(error: Error, where: string): KubeBusError {
  if (error instanceof KubeBusError) return error;
  const code = (error as NodeJS.ErrnoException).code ?? '';
  if (isCertificateCode(code)) {
    return new KubeBusError('ERR_CERTIFICATE', `certificate of ${where}: ${explainTls(error)}`, { cause: error });
  }
  return new KubeBusError('ERR_CONNECT', `cannot connect to ${where}: ${error.message}`, { cause: error });
}

function isCertificateCode(code: string): boolean {
  return code.startsWith('ERR_SSL_') || code.startsWith('ERR_TLS_') || /CERT|UNABLE_TO|SIGNATURE|CRL/.test(code);
}

/** OpenSSL's codes and TLS alerts (RFC 8446 §6.2) in words that say what to do. */
function explainTls(error: Error): string {
  const code = (error as NodeJS.ErrnoException).code ?? '';
  const known: Record<string, string> = {
    CERT_HAS_EXPIRED: 'it has expired: renew it',
    CERT_NOT_YET_VALID: 'it is not valid yet: check the clocks',
    DEPTH_ZERO_SELF_SIGNED_CERT: 'it is not signed by our CA',
    SELF_SIGNED_CERT_IN_CHAIN: 'it is signed by another CA than ours',
    UNABLE_TO_VERIFY_LEAF_SIGNATURE: 'it is not signed by our CA',
    UNABLE_TO_GET_ISSUER_CERT_LOCALLY: 'it is not signed by our CA',
    CERT_SIGNATURE_FAILURE: 'it is not signed by our CA (the CA has the same name but another key)',
    ERR_TLS_CERT_ALTNAME_INVALID: 'it is for another host name or address',
    INVALID_PURPOSE: 'it is not made for this side (key usage)',
    ERR_SSL_PEER_DID_NOT_RETURN_A_CERTIFICATE: 'the peer sent no certificate',
    ERR_SSL_TLSV1_ALERT_UNKNOWN_CA: 'the peer refused our certificate: it is not signed by its CA',
    ERR_SSL_TLSV13_ALERT_CERTIFICATE_REQUIRED: 'the peer wants a certificate and we sent none',
    ERR_SSL_SSLV3_ALERT_CERTIFICATE_EXPIRED: 'the peer refused our certificate: it has expired',
    ERR_SSL_SSLV3_ALERT_BAD_CERTIFICATE:
      'the peer refused our certificate: it is not valid (date, signature or purpose)',
    ERR_SSL_SSLV3_ALERT_CERTIFICATE_UNKNOWN: 'the peer refused our certificate',
    ERR_SSL_SSLV3_ALERT_UNSUPPORTED_CERTIFICATE: 'the peer refused our certificate: wrong key usage',
    ERR_SSL_TLSV1_ALERT_DECRYPT_ERROR: 'the peer refused our certificate: its signature is wrong',
    ERR_SSL_WRONG_VERSION_NUMBER: 'the other side does not speak TLS (is it started with --insecure?)',
  };
  return known[code] ?? `${error.message}${code === '' ? '' : ` (${code})`}`;
}

// The WebTransport transport, written to the W3C interface as @fails-components/webtransport has it: over HTTP/3 where that
// package's native part is installed, over HTTP/2 otherwise. Its TLS knows neither our CA nor client certificates, so both
// ends prove who they are in the first bytes (web/auth.ts), and it reads without limit, so credit is kept above it
// (web/credit.ts). Only the dialer opens a stream.

import { Duplex } from 'node:stream';
import tls from 'node:tls';
import { KubeBusError, type Micros, MS, SECOND } from '../lib/core/index.js';
import type { AcceptHandler, ByteStream, Listener, TlsMaterial, TlsSource, Transport } from '../lib/l2/transport.js';
import { material } from './identity.js';
import { checkLimits } from './limits.js';
import { DEFAULT_PORT, parseHostPort } from './tcp.js';
import { AuthMachine, bindingOf } from './web/auth.js';
import { DuplexStream } from './web/duplex-stream.js';
import type { ServerCertificate } from './web/short-lived.js';
import {
  chooseReliability,
  endSession,
  FLOW,
  guardClose,
  loadWebTransport,
  PATH,
  type WebTransportSession,
} from './web/webtransport-engine.js';

export interface WebTransportOptions {
  /** Where `listen` binds. **Default:** 0.0.0.0 and port 7443; port 0 takes a free one. */
  readonly listen?: { readonly host?: string; readonly port?: number };
  /** This side's certificate and key, and the CA that signs the other's. Not the certificate of the HTTPS server, which makes its own. */
  readonly tls: TlsMaterial | TlsSource;
  /** Time for an accepted session to prove who it is. **Default:** 5 s. */
  readonly handshakeTimeout?: Micros;
  /** Sessions that have not proved who they are. **Default:** 256. */
  readonly handshakes?: number;
}

/** How long a refused peer has to read why. */
const REASON_MS = 500;

export function webTransport(options: WebTransportOptions): Transport {
  checkLimits(options);
  return {
    name: 'webtransport',
    listen: (handler) => listen(options, handler),
    dial: (address, signal) => dial(options, address, signal),
  };
}

async function dial(options: WebTransportOptions, address: string, signal: AbortSignal): Promise<ByteStream> {
  const engine = await loadWebTransport();
  const { host, port } = parseHostPort(address);
  const authority = `${host.includes(':') ? `[${host}]` : host}:${port}`;
  const binding = await seenCertificate(host, port, authority, signal);
  const session = new engine.module.WebTransport(`https://${authority}${PATH}`, {
    serverCertificateHashes: [{ algorithm: 'sha-256', value: binding }],
    ...(engine.http3 ? {} : { forceReliable: true }),
    ...FLOW,
  });
  const failed = (what: string, cause?: unknown) =>
    new KubeBusError('ERR_CONNECT', `cannot connect to ${authority}: ${what}`, { cause });
  const { over, release } = endOf(session, signal, failed);
  try {
    await Promise.race([session.ready, over]);
    guardClose(session);
    const stream = await Promise.race([openStream(session, signal), over]);
    const duplex = new DuplexStream(stream, `webtransport://${authority}`, true);
    closeWith(session, stream);
    const machine = new AuthMachine(
      { role: 'dialer', tls: material(options.tls), bindings: [binding], host, where: authority },
      Date.now(),
    );
    await duplex.authenticate(machine, signal);
    return duplex;
  } catch (error) {
    void endSession(session);
    if (signal.aborted) throw failed('no answer in time');
    throw error instanceof KubeBusError ? error : failed(String((error as Error | undefined)?.message ?? error), error);
  } finally {
    release();
  }
}

/**
 * `over` rejects as soon as the session has ended or `signal` says so. The package by itself settles `ready`, `closed` and a stream that is
 * being opened late (8 s for TLS, 2 s for the settings) or, where the session ends at the wrong moment, never.
 */
function endOf(session: WebTransportSession, signal: AbortSignal, failed: (what: string, cause?: unknown) => Error) {
  let aborted = () => {};
  const over = new Promise<never>((_, reject) => {
    aborted = () => reject(failed('no answer in time'));
    session.closed.then(
      () => reject(failed('the session was refused')),
      (cause) => reject(failed('the session was not opened', cause)),
    );
    if (signal.aborted) aborted();
    else signal.addEventListener('abort', aborted, { once: true });
  });
  over.catch(() => {});
  return { over, release: () => signal.removeEventListener('abort', aborted) };
}

/** Asks who the HTTPS server says it is. Nothing is trusted by it: the proof of identity is bound to what is seen here. */
function seenCertificate(host: string, port: number, where: string, signal: AbortSignal): Promise<Uint8Array> {
  return new Promise((resolve, reject) => {
    const socket = tls.connect({ host, port, rejectUnauthorized: false, ALPNProtocols: ['h2'], minVersion: 'TLSv1.3' });
    const settle = (error: Error | null) => {
      signal.removeEventListener('abort', aborted);
      const certificate = socket.getPeerX509Certificate();
      socket.removeAllListeners();
      socket.on('error', () => {});
      socket.destroy();
      if (error !== null || certificate === undefined)
        reject(
          new KubeBusError('ERR_CONNECT', `cannot connect to ${where}: ${error?.message ?? 'it has no certificate'}`, {
            cause: error,
          }),
        );
      else resolve(bindingOf(certificate.raw));
    };
    const aborted = () => settle(new Error('no answer in time'));
    socket.once('secureConnect', () => settle(null));
    socket.once('error', settle);
    socket.once('close', () => settle(new Error('the other side closed the connection during the handshake')));
    if (signal.aborted) aborted();
    else signal.addEventListener('abort', aborted, { once: true });
  });
}

async function openStream(session: WebTransportSession, signal: AbortSignal): Promise<Duplex> {
  const { readable, writable } = await session.createBidirectionalStream();
  const stream: Duplex = Duplex.fromWeb({ readable, writable } as never);
  // Nobody waits for it any more.
  if (signal.aborted) stream.on('error', () => {}).destroy();
  return stream;
}

/** One stream is all a session is for. */
function closeWith(session: WebTransportSession, stream: Duplex): void {
  stream.once('close', () => setTimeout(() => void endSession(session), REASON_MS).unref());
  const over = () => stream.destroy();
  session.closed.then(over, over);
}

async function listen(options: WebTransportOptions, handler: AcceptHandler): Promise<Listener> {
  const engine = await loadWebTransport();
  const { host = '0.0.0.0', port = DEFAULT_PORT } = options.listen ?? {};
  // Loaded here: a dialer makes no certificates.
  const { shortLived } = await import('./web/short-lived.js');
  let certificate: ServerCertificate = await shortLived();
  let previous: Uint8Array | null = null;
  const server = new engine.module.HttpServer({
    host,
    port,
    // Only for HTTP/3's own tokens.
    secret: Buffer.from(certificate.binding).toString('hex'),
    cert: certificate.cert,
    privKey: certificate.key,
    reliability: chooseReliability(engine.http3),
    ...FLOW,
  });
  server.setRequestCallback(async ({ header }) => {
    const path = new URL(header[':path'] ?? '/', 'https://local').pathname;
    return path === PATH ? { path, status: 200, userData: {} } : { path, status: 404 };
  });
  server.startServer();
  try {
    await server.ready;
  } catch (cause) {
    throw new KubeBusError('ERR_CONNECT', `cannot listen on ${host}:${port}: ${(cause as Error)?.message ?? cause}`, {
      cause,
    });
  }
  const renew = setInterval(async () => {
    previous = certificate.binding;
    certificate = await shortLived();
    server.updateCert(certificate.cert, certificate.key, false);
  }, certificate.renewAfterMs);
  renew.unref();
  const acceptor = new Acceptor(options, handler, () =>
    previous === null ? [certificate.binding] : [certificate.binding, previous],
  );
  void acceptor.sessions(server.sessionStream(PATH));
  const bound = server.address()!;
  const shown = bound.host.includes(':') ? `[${bound.host}]` : bound.host;
  return {
    address: `kubebus://${shown}:${bound.port}?transport=webtransport`,
    close: async () => {
      clearInterval(renew);
      await acceptor.close();
      server.stopServer();
      await Promise.resolve(server.closed).catch(() => {});
    },
  };
}

class Acceptor {
  private proving = 0;
  private readonly open = new Set<WebTransportSession>();
  private closed = false;

  constructor(
    private readonly options: WebTransportOptions,
    private readonly handler: AcceptHandler,
    private readonly bindings: () => Uint8Array[],
  ) {}

  async sessions(stream: AsyncIterable<WebTransportSession>): Promise<void> {
    for await (const session of stream) void this.accept(session).catch(() => {});
  }

  /** Streams end by themselves after their goodbye; what is still there a second later is cut off. */
  async close(): Promise<void> {
    this.closed = true;
    const ends = [...this.open].map((session) => session.closed.catch(() => {}));
    let late: NodeJS.Timeout | undefined;
    await Promise.race([
      Promise.all(ends),
      new Promise((done) => {
        late = setTimeout(done, 1_000);
      }),
    ]);
    clearTimeout(late);
    await Promise.all([...this.open].map(endSession));
  }

  private async accept(session: WebTransportSession): Promise<void> {
    const { handshakes = 256, handshakeTimeout = 5 * SECOND } = this.options;
    const remote = `webtransport://${session.peerAddress ?? 'unknown'}`;
    this.open.add(session);
    const gone = () => this.open.delete(session);
    session.closed.then(gone, gone);
    if (this.closed || this.proving >= handshakes) {
      if (!this.closed)
        this.handler.onRefused('ERR_TOO_MANY_CONNECTIONS', `more than ${handshakes} handshakes in progress`, remote);
      return void endSession(session);
    }
    this.proving++;
    const timeout = AbortSignal.timeout(handshakeTimeout / MS);
    try {
      await session.ready;
      guardClose(session);
      const stream = await this.firstStream(session, timeout);
      closeWith(session, stream);
      const duplex = new DuplexStream(stream, remote, true);
      const where = remote;
      const tls = material(this.options.tls);
      await duplex.authenticate(
        new AuthMachine({ role: 'listener', tls, bindings: this.bindings(), where }, Date.now()),
        timeout,
      );
      this.handler.onStream(duplex);
    } catch (error) {
      const code = error instanceof KubeBusError ? error.code : 'ERR_TRANSPORT';
      this.handler.onRefused(code, String((error as Error | undefined)?.message ?? error), remote);
      // The reason is on its way; a peer that does not take it cannot hold us.
      setTimeout(() => void endSession(session), REASON_MS).unref();
    } finally {
      this.proving--;
    }
  }

  private async firstStream(session: WebTransportSession, timeout: AbortSignal): Promise<Duplex> {
    const reader = session.incomingBidirectionalStreams.getReader();
    const late = new Promise<never>((_, reject) => {
      timeout.addEventListener('abort', () =>
        reject(new KubeBusError('ERR_HELLO_TIMEOUT', 'the session opened no stream in time', { side: 'remote' })),
      );
    });
    const { value, done } = await Promise.race([reader.read(), late]);
    if (done || value === undefined)
      throw new KubeBusError('ERR_TRANSPORT', 'the session ended without a stream', { side: 'remote' });
    return Duplex.fromWeb({ readable: value.readable, writable: value.writable } as never);
  }
}

// The package behind WebTransport, loaded when it is needed, and the part of the W3C interface that is used of it.

import { KubeBusError } from '../../lib/core/index.js';

export interface WebTransportStream {
  readonly readable: ReadableStream<Uint8Array>;
  readonly writable: WritableStream<Uint8Array>;
}

/** https://www.w3.org/TR/webtransport/, as far as it is called; `peerAddress` is the package's own. */
export interface WebTransportSession {
  readonly ready: Promise<unknown>;
  readonly closed: Promise<unknown>;
  readonly peerAddress?: string;
  readonly incomingBidirectionalStreams: ReadableStream<WebTransportStream>;
  createBidirectionalStream(): Promise<WebTransportStream>;
  close(info: { closeCode: number; reason: string }): void;
}

interface HttpServer {
  readonly ready: Promise<unknown>;
  readonly closed: Promise<unknown>;
  startServer(): void;
  stopServer(): void;
  updateCert(cert: string, key: string, http2only: boolean): void;
  address(): { port: number; host: string } | null;
  sessionStream(path: string): AsyncIterable<WebTransportSession>;
  setRequestCallback(
    callback: (request: {
      header: Record<string, string>;
    }) => Promise<{ path: string; status: number; userData?: object }>,
  ): void;
}

interface WebTransportModule {
  readonly WebTransport: new (url: string, options: object) => WebTransportSession;
  readonly HttpServer: new (options: object) => HttpServer;
  readonly quicheLoaded: Promise<unknown>;
}

export interface WebTransportEngine {
  readonly module: WebTransportModule;
  /** The native part is there. */
  readonly http3: boolean;
}

export const PATH = '/kubebus';
/** The package's limit of a session: with one value everywhere its accounts agree, and nothing stalls. */
const WINDOW = 15 * 1024 * 1024;
export const FLOW = { initialStreamFlowControlWindow: WINDOW, initialSessionFlowControlWindow: WINDOW };

const PACKAGE = '@fails-components/webtransport';
const NATIVE = '@fails-components/webtransport-transport-http3-quiche';

let loading: Promise<WebTransportEngine> | null = null;

/** Throws ERR_TRANSPORT_UNAVAILABLE where the optional package is missing. */
export function loadWebTransport(): Promise<WebTransportEngine> {
  loading ??= load().catch((error: unknown) => {
    loading = null;
    throw error;
  });
  return loading;
}

/** The HTTP/2 stream and session below a session, by the package's own names; neither is there over HTTP/3. */
interface Http2Stream {
  readonly writableFinished: boolean;
  close(code: number): void;
  readonly session?: { destroy(): void };
}

/** A listener's session has them itself, a dialer's in the session that it wraps. */
interface Inner {
  readonly sessionint?: Inner;
  readonly objint?: { readonly stream?: Http2Stream };
}

const http2Of = (session: WebTransportSession): Http2Stream | undefined => {
  const outer = session as Inner;
  return (outer.sessionint ?? outer).objint?.stream;
};

/** RFC 9113 §7: the stream is no longer needed; no error to either side. */
const CANCEL = 8;

/**
 * Has to be called for a session before anything ends it. When one end's close capsule comes while the other's still waits to
 * leave, the package closes the HTTP/2 stream with the capsule's code, and destroys it. With code 0 Node then waits with the
 * RST_STREAM until what waits has left, forgets it in `destroy`, and asks the destroyed stream for bytes for ever: empty DATA
 * frames until memory is full (`std::bad_alloc`; seen with Node 20.20.2). With any other code RST_STREAM goes at once.
 */
export function guardClose(session: WebTransportSession): void {
  const stream = http2Of(session);
  // A browser's WebSocket comes on a socket, which has no `close`.
  if (stream?.close === undefined || Object.hasOwn(stream, 'close')) return;
  const close = stream.close.bind(stream);
  stream.close = (code) => close(code === 0 && !stream.writableFinished ? CANCEL : code);
}

/** How long an end in order may take. */
const GRACE_MS = 5_000;

/**
 * Ends a session. Resolves when it is over: the package only asks the other side to close, so one that does not answer
 * within that has its HTTP/2 connection cut (found by the package's own names; an HTTP/3 session ends by its idle timeout).
 */
export function endSession(session: WebTransportSession): Promise<void> {
  guardClose(session);
  // Now: a stream that is destroyed no longer knows it.
  const connection = http2Of(session)?.session;
  try {
    session.close({ closeCode: 0, reason: '' });
  } catch {
    // not open yet, or closed already
  }
  return new Promise((resolve) => {
    const cut = setTimeout(() => {
      connection?.destroy();
      resolve();
    }, GRACE_MS);
    const over = () => {
      clearTimeout(cut);
      resolve();
    };
    session.closed.then(over, over);
  });
}

/** Without the native part a server that offers both never becomes ready. */
export function chooseReliability(http3: boolean): 'both' | 'reliableOnly' {
  return http3 ? 'both' : 'reliableOnly';
}

async function load(): Promise<WebTransportEngine> {
  const { log, error } = console;
  // The package prints to standard output when its native part is missing; a command's output is not its to spoil.
  console.log = () => {};
  console.error = () => {};
  try {
    const module = (await import(PACKAGE)) as WebTransportModule;
    await module.quicheLoaded;
    await new Promise((done) => setImmediate(done));
    const http3 = await import(NATIVE).then(
      () => true,
      () => false,
    );
    return { module, http3 };
  } catch (cause) {
    throw new KubeBusError(
      'ERR_TRANSPORT_UNAVAILABLE',
      `the WebTransport transport needs the optional package ${PACKAGE} 1.6.8 (npm install ${PACKAGE}@1.6.8)`,
      { cause },
    );
  } finally {
    console.log = log;
    console.error = error;
  }
}

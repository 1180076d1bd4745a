// Connected sockets by the addon: TLS 1.3 by the OpenSSL inside Node, without the layers of streams between a link and the
// socket. Node makes and accepts the connections; then a duplicate of the descriptor goes to the addon and Node's socket ends.

import { X509Certificate } from 'node:crypto';
import net from 'node:net';
import type { Duplex } from 'node:stream';
import tls from 'node:tls';
import type { ByteStream, PeerIdentity } from '../../lib/l2/transport.js';
import { loadNative, type Native, type NativeSecureContext, type NativeStream } from '../../native/loader.mjs';
import { verifyCode } from '../tls-reasons.js';
import { CIPHERS, type Connected, type Credentials, type Shown } from './connected.js';
import { descriptorOf, limitUnsent } from './descriptor.js';
import { NativeByteStream } from './native-byte-stream.js';
import { NativeDuplex } from './native-duplex.js';
import { FAILED, nativeError, type OpenSocket, READABLE, SECURED } from './native-events.js';

/** RFC 8446 §5.5 allows AES-GCM 2^24.5 records under one key. */
const REKEY_RECORDS = 2 ** 23;

/** The addon, where it can do what is asked. */
export function nativeSockets(secure: boolean): Native | null {
  const native = loadNative();
  if (native === null || (secure && native.SecureContext === undefined)) return null;
  return native;
}

/** `protocols`: what a server offers by ALPN. Throws what OpenSSL says of certificate, key or CA. */
export function secureContext(
  native: Native,
  { cert, key, ca }: Credentials,
  protocols: readonly string[] = [],
  rekey = REKEY_RECORDS,
): NativeSecureContext {
  const alpn = protocols.map((name) => String.fromCharCode(name.length) + name).join('');
  return new native.SecureContext!(cert, key, ca, CIPHERS, alpn, rekey);
}

export class NativeSocket implements Connected, OpenSocket {
  shown: Shown | null = null;
  /** Whoever has the socket gets its events. */
  listener: ((event: number) => void) | null = null;
  private started = false;
  private closed: (() => void)[] = [];
  private over = false;

  private constructor(
    readonly handle: NativeStream,
    readonly address: string,
    readonly remote: string,
    readonly localAddress: string | undefined,
    private readonly secure: boolean,
  ) {}

  /** Takes over a socket of Node's of which nothing was read. Throws what the system says. */
  static take(
    native: Native,
    socket: net.Socket,
    context: NativeSecureContext | null,
    role: { readonly server: boolean; readonly name?: string },
  ): NativeSocket {
    limitUnsent(socket);
    const { remoteAddress = '', remotePort = 0, localAddress } = socket;
    const name = role.name === undefined || net.isIP(role.name) !== 0 ? '' : role.name;
    const handle = new native.Stream(descriptorOf(socket), context, role.server, name);
    socket.on('error', () => {});
    socket.destroy();
    return new NativeSocket(handle, remoteAddress, `${remoteAddress}:${remotePort}`, localAddress, context !== null);
  }

  /** Runs the TLS handshake. Rejects with what OpenSSL or the system says, and with the reason of `signal`. */
  handshake(signal: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      const settle = (error?: Error) => {
        signal.removeEventListener('abort', aborted);
        this.listener = null;
        try {
          if (error !== undefined) throw error;
          // Until there is somebody to read.
          this.handle.pause();
          // Who has no certificate of ours may show anything that OpenSSL can read.
          this.shown = this.look();
          resolve();
        } catch (cause) {
          this.destroy();
          reject(cause as Error);
        }
      };
      const aborted = () => settle(signal.reason as Error);
      this.listener = (event) => settle(event === SECURED ? undefined : nativeError(this.handle));
      if (signal.aborted) return aborted();
      signal.addEventListener('abort', aborted);
      this.start();
      if (this.handle.error !== null) settle(nativeError(this.handle));
    });
  }

  /** Events go to `listener` from now on. */
  open(listener: (event: number) => void): void {
    this.listener = listener;
    if (this.over) return;
    if (!this.started) this.start();
    else this.handle.resume();
    // What came with the handshake is here already; a failure so far has been told to nobody.
    setImmediate(() => this.over || this.listener?.(this.handle.error === null ? READABLE : FAILED));
  }

  stream(identity: PeerIdentity, remote: string): ByteStream {
    return new NativeByteStream(this, identity, remote);
  }

  duplex(): Duplex {
    return new NativeDuplex(this);
  }

  destroy(): void {
    if (this.over) return;
    this.over = true;
    this.handle.close();
    for (const closed of this.closed) closed();
    this.closed = [];
  }

  onClosed(closed: () => void): void {
    if (this.over) closed();
    else this.closed.push(closed);
  }

  private start(): void {
    this.started = true;
    this.handle.start((event) => this.listener?.(event));
  }

  private look(): Shown | null {
    if (!this.secure) return null;
    const { certificate, verify, reason, alpn } = this.handle.peer();
    return {
      raw: certificate,
      fields: certificate === null ? {} : new X509Certificate(certificate).toLegacyObject(),
      fault: verify === 0 ? null : verifyCode(verify, reason),
      protocol: alpn,
      resumed: false,
    };
  }
}

/** As Node's client does: the certificate has to be for the host that was dialled. */
export function hostFault(host: string, raw: Uint8Array): Error | null {
  return tls.checkServerIdentity(host, new X509Certificate(raw).toLegacyObject()) ?? null;
}

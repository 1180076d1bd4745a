// A connected socket of which nobody has decided yet what it is for. There are two kinds: on Linux the addon's
// (native-socket.ts), elsewhere and where the addon is missing Node's own (node-socket.ts).

import type { Duplex } from 'node:stream';
import type { ByteStream, PeerIdentity } from '../../lib/l2/transport.js';
import type { CertificateFields } from '../identity.js';

/** What the other side showed in the TLS handshake. */
export interface Shown {
  /** DER; null: no certificate. */
  readonly raw: Uint8Array | null;
  readonly fields: CertificateFields;
  /** Why the certificate is not to be trusted: OpenSSL's code, or an error of Node; null: it is good. */
  readonly fault: unknown;
  /** The protocol chosen by ALPN; '' where there is none. */
  readonly protocol: string;
  /** The TLS session is a resumed one, in which nothing was shown. */
  readonly resumed: boolean;
}

export interface Connected {
  /** IP address of the other end. */
  readonly address: string;
  /** address:port of the other end. */
  readonly remote: string;
  readonly localAddress: string | undefined;
  /** Null: plain TCP. */
  readonly shown: Shown | null;
  /** One of these is called, once. */
  stream(identity: PeerIdentity, remote: string): ByteStream;
  duplex(): Duplex;
  destroy(): void;
  /** `closed` is called once, when the socket is closed. */
  onClosed(closed: () => void): void;
}

/** For TLS: certificate, key and CA of this side. */
export interface Credentials {
  readonly cert: string;
  readonly key: string;
  readonly ca: string;
}

/** AES-GCM first: with AES instructions it is several times as fast as ChaCha20 (which stays for those without). */
export const CIPHERS = 'TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256';

// The seam down: what L2 needs of a transport. A transport moves bytes and says who the other end is; framing,
// keepalive, limits and identity checks stand above it. How to write one: transports/README.md.

import type { Duplex } from 'node:stream';
import type { KubeBusError, Slab } from '../core/index.js';

/** Who the other end is, as the transport has proved it (from its certificate), or claims it where `insecure`. */
export interface PeerIdentity {
  readonly tenant: string;
  readonly node: string;
  /** CIDR prefixes that the certificate lets the node originate besides its own address. */
  readonly prefixes: readonly string[];
  /** False: nothing was proved (memory, or the explicit `insecure` option) and the hello alone names the peer. */
  readonly authenticated: boolean;
  /** Milliseconds since the epoch at which the credential ends; Infinity where there is none. */
  readonly expires: number;
  /** Serial number of the certificate, lower-case hexadecimal, where there is one. */
  readonly serial?: string;
}

/** What a stream tells its user. Calls come one at a time and never from inside a call of `write`. */
export interface StreamHandler {
  /**
   * Where the next received bytes are to be put: room of at least 1 byte (best 64 KiB or more). Asked before every read; the bytes
   * are then reported by `onData(n)`. So bytes land where they are parsed, and nobody allocates per read.
   */
  room(): Uint8Array;
  /** True while the bytes of a frame are half there: the next bytes are best read straight into `room()`. */
  readonly hasPartial: boolean;
  onData(length: number): void;
  /** Less than STREAM_HIGH_WATER waits again, best nothing; comes only, and always, after `write` returned false. */
  onDrain(): void;
  /** Where the next datagram is to be put: room for the largest. Reported by `onDatagram(n)`. Only where the stream has datagrams. */
  datagramRoom(): Uint8Array;
  onDatagram(length: number): void;
  /** No more datagrams wait at the moment: what has come so far may go on in one run. */
  onDatagramsDone(): void;
  /** The stream is over, exactly once; `error` when it did not end in order. */
  onClose(error?: Error): void;
}

/** The unreliable, unordered side of a connection (RFC 9221, say), where it has one. Packets go this way if they fit. */
export interface DatagramPath {
  /** Largest datagram in bytes; constant while the connection lives. */
  readonly maxBytes: number;
  /** Bytes taken by `send` that have not left yet. */
  readonly pending: number;
  /** Sends bytes[start, end) as one datagram; takes or copies them before it returns. False: the queue is full, nothing was taken. */
  send(bytes: Uint8Array, start: number, end: number): boolean;
}

/** A stream says no (`write` returns false) at the latest when this much waits. */
export const STREAM_HIGH_WATER = 64 * 1024;

/** A connected, authenticated, reliable, ordered stream of bytes. */
export interface ByteStream {
  readonly identity: PeerIdentity;
  /** For logs: `tls://10.0.0.1:7443`. */
  readonly remote: string;
  /** Starts delivery. Called once. */
  open(handler: StreamHandler): void;
  /**
   * Writes slab.bytes[start, end). The stream retains the slab while it needs the bytes. Returns false when the transport's
   * high-water mark, at most STREAM_HIGH_WATER, is waiting: then stop and wait for `onDrain` (nothing is lost if you do not).
   * A stream that is over takes nothing and returns true.
   */
  write(slab: Slab, start: number, end: number): boolean;
  /** Bytes taken by `write` that the operating system has not taken yet. */
  readonly pending: number;
  /** Any number that changes when the operating system takes a part of what is pending; only needed where `pending` does not. */
  readonly progress?: number;
  /** Once the stream is over: bytes taken by `write` that did not get out. */
  readonly lost?: number;
  readonly datagrams?: DatagramPath | undefined;
  /** Set where a better way than this one was wanted and not to be had: why. The dialer tries again for it later. */
  compromise?: string;
  pause(): void;
  resume(): void;
  /** Sends what is pending, then ends; `destroy` drops it. `onClose` follows either. */
  end(): void;
  destroy(error?: Error): void;
}

/** Accepts streams. Handshakes in progress are bounded and timed by the listener (options of each transport). */
export interface Listener {
  /** `tls://127.0.0.1:7443`: what a dialer is to be given. */
  readonly address: string;
  close(): Promise<void>;
}

export interface AcceptHandler {
  onStream(stream: ByteStream): void;
  /**
   * A connection that was refused before it became a stream (bad certificate, too many, too slow): for counters and logs. Where
   * bytes can still be sent, `goodbye` takes the reason to the peer.
   */
  onRefused(code: string, message: string, remote: string, goodbye?: ByteStream): void;
}

/** PEM texts: the certificate and key of this side, and the CA (or several) that signs the other's. */
export interface TlsMaterial {
  readonly cert: string;
  readonly key: string;
  readonly ca: string;
}

/** Credentials that change while the process runs. Asked at each dial; a listener takes a change over at once. */
export interface TlsSource {
  current(): TlsMaterial;
  /** Returns a function that ends the subscription. */
  onChange(listener: () => void): () => void;
}

/** Who calls a PortService: nothing is proved but that the caller has the key of the certificate, if it sent one. */
export interface ServicePeer {
  readonly remote: string;
  /** IP address of the caller, as text. */
  readonly address: string;
  /** DER as received: whoever reads it has to verify the signature and the dates. */
  readonly certificate: Uint8Array | null;
}

/** A second protocol on the port of a transport with TLS, told apart by its name in ALPN (RFC 7301). Links are never given to it. */
export interface PortService {
  readonly protocol: string;
  onSocket(socket: Duplex, peer: ServicePeer): void;
}

export interface Transport {
  readonly name: string;
  listen(handler: AcceptHandler): Promise<Listener>;
  /**
   * One attempt; rejects with ERR_CONNECT or ERR_CERTIFICATE. `farewell` makes the last bytes for a peer that this side
   * refuses, where the transport can still send some.
   */
  dial(address: string, signal: AbortSignal, farewell?: (reason: KubeBusError) => Uint8Array): Promise<ByteStream>;
}

/** The addon's TUN device; see native/src/addon.cc. */
export interface NativeTun {
  readonly name: string;
  /** Bits: 1 checksum, 2 TSO, 4 USO. */
  readonly offload: number;
  /** invalid, full, rejected, coalesced, written, read, split. */
  readonly counters: Float64Array;
  start(callback: (errno: number) => void): void;
  pause(): void;
  resume(): void;
  close(): void;
  /** Makes no super-packets of its own any more. */
  plain(): void;
  readBatch(buf: Uint8Array, start: number, limit: number, maxPackets: number): number;
  /** Packets written; -1 when the kernel takes no super-packets although it said so. */
  writeBatch(buf: Uint8Array, start: number, end: number): number;
}
/** Certificate, key and CA of one side; see native/src/stream.cc. */
export type NativeSecureContext = object;
/** Who the other side showed itself to be. `certificate`: DER; `verify`: an X509_V_* of OpenSSL, 0 where it is good. */
export interface NativePeer {
  readonly certificate: Uint8Array | null;
  readonly verify: number;
  readonly reason: string;
  readonly alpn: string;
}
/** A connected socket; see native/src/stream.cc. */
export interface NativeStream {
  /** Bytes taken by `write` and not by the system. */
  readonly pending: number;
  /** Code and message. */
  readonly error: readonly [string, string] | null;
  /** Events: 1 readable, 2 nothing waits any more, 3 the TLS handshake is over, 4 error. */
  start(callback: (event: number) => void): void;
  /** Bytes, plus 2^30 when more is there at once; -1: the peer's end; -2: error. */
  read(buf: Uint8Array, start: number): number;
  /** Bytes that wait; -2: error. */
  write(buf: Uint8Array, start: number, end: number): number;
  pause(): void;
  resume(): void;
  end(): void;
  close(): void;
  peer(): NativePeer;
}
export interface Native {
  readonly Stream: new (
    fd: number,
    context: NativeSecureContext | null,
    server: boolean,
    servername: string,
  ) => NativeStream;
  /** Undefined where Node's OpenSSL is not the one that this was compiled for. */
  readonly SecureContext?: new (
    cert: string,
    key: string,
    ca: string,
    ciphers: string,
    alpn: string,
    rekey: number,
  ) => NativeSecureContext;
  readonly Tun: new (name: string, flags: number) => NativeTun;
  /** On: programs that this thread starts have CAP_NET_ADMIN if it has. Returns whether something was changed. */
  netAdminForChildren(on: boolean): boolean;
  /** Lets this thread run before all programs that are not real-time. 0, or errno. */
  setRealtime(on: boolean): number;
  /** 0, or errno. */
  setSocketOption(fd: number, level: number, name: number, value: number): number;
}
/** Null where no binary fits this machine. */
export function loadNative(): Native | null;

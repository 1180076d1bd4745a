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
export interface Native {
  readonly Tun: new (name: string, flags: number) => NativeTun;
  /** On: programs that this thread starts have CAP_NET_ADMIN if it has. Returns whether something was changed. */
  netAdminForChildren(on: boolean): boolean;
  /** 0, or errno. */
  setSocketOption(fd: number, level: number, name: number, value: number): number;
}
/** Null where no binary fits this machine. */
export function loadNative(): Native | null;

// The seam up: what L4 (and anything else that speaks IP inside this process) sees of L3.

import type { Slab } from '../core/index.js';

export interface IpEndpointHandler {
  /**
   * Whole packet frames for one of our addresses (layout in core/packet.ts), possibly super-packets and partial
   * checksums. IP headers are validated; fragments arrive as they came. Valid until return.
   */
  onPackets(slab: Slab, start: number, end: number): void;
  /**
   * On a node with a TUN device, asked for each packet to a local address: true = it is ours (a userspace socket has
   * this port), false = it goes to the kernel. `off` is the start of the frame header.
   */
  claims(buf: Uint8Array, off: number): boolean;
  /** The set of local addresses, or the reachability of the network, changed. */
  onChange(): void;
}

export interface IpEndpoint {
  /** This node's addresses: 4 or 16 bytes each. */
  readonly addresses: readonly Uint8Array[];
  /** Largest IP packet towards `destination`, not counting super-packets. */
  mtuTo(destination: Uint8Array): number;
  /** True where super-packets (up to 64 KiB) and partial checksums may be sent towards `destination`. */
  offloadTo(destination: Uint8Array): boolean;
  /** True where ordinary packets may be sent with partial checksums: wherever `offloadTo` is true, and on more paths. */
  partialChecksumsTo(destination: Uint8Array): boolean;
  /** Whole packet frames whose sources are our addresses. Never blocks. */
  send(slab: Slab, start: number, end: number): void;
  /** False while the next hop is backed up; onWritable-like wake-ups are not needed: TCP's own clock retries. */
  attach(handler: IpEndpointHandler): void;
}

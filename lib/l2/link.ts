// The seam up: what L3 sees of L2. A link is one peer, whatever number of connections carries it.

import type { KubeBusError, Slab } from '../core/index.js';
import type { PeerIdentity } from './transport.js';

/** `connecting`: no connection is up (yet, or again). `closed` is final. */
export type LinkState = 'connecting' | 'up' | 'closed';

export interface LinkHandler {
  /** Whole packet frames back to back in slab.bytes[start, end); layout in core/packet.ts. May be changed in place until return. */
  onPackets(slab: Slab, start: number, end: number): void;
  /** A message of the layer above (L3's control protocol). The bytes are valid until return. */
  onControl(message: Uint8Array): void;
  /** `reason` says why the link left 'up', or why the last attempt failed. */
  onState(state: LinkState, reason?: KubeBusError): void;
  /** `writable` became true again. */
  onWritable(): void;
}

export interface Link {
  readonly peer: PeerIdentity;
  readonly state: LinkState;
  /** Packets on a lossy medium may vanish or be reordered; a reliable one loses only at its ends' queues. */
  readonly medium: 'reliable' | 'lossy';
  /** Largest IP packet in bytes, not counting super-packets. */
  readonly mtu: number;
  /** The far end takes super-packets and partial checksums as they are. */
  readonly offload: boolean;
  /** It takes partial checksums, at least on ordinary packets; true wherever `offload` is. */
  readonly partialChecksums: boolean;
  /** Smoothed round-trip time in microseconds; NaN before the first sample. */
  readonly rtt: number;
  /**
   * Hint for sources that can wait (a TUN device): false while more than the link's high-water mark is queued. Sending
   * all the same is allowed: the bounded egress queue drops by its policy and counts.
   */
  readonly writable: boolean;
  attach(handler: LinkHandler): void;
  /** Whole packet frames back to back. Never blocks; retains the slab as long as it needs the bytes. */
  send(slab: Slab, start: number, end: number): void;
  /** Goes before all packets that wait; at most 65,532 bytes. Reliable and in order while the link is up, whatever connection
   * of it dies. */
  sendControl(message: Uint8Array): void;
  /** Tells the peer why (shown to its user), sends what is pending, closes. */
  close(reason: KubeBusError): void;
  stats(): Readonly<Record<string, number>>;
}

// The one packet layout of the system: a batch is data frames back to back in one slab.
//
//     0      1       2..3        4..7          8
//     +------+-------+-----------+-------------+----------------------------+
//     | type | flags |  gsoSize  |   length    |  IP packet, `length` bytes |
//     +------+-------+-----------+-------------+----------------------------+
//       u8     u8      u16 BE      u32 BE
//
// It is at once the frame on the wire (docs/spec/frame.md), what the TUN device reads into and writes from, and what
// L3 and L4 parse in place. So a packet that only passes through is never rewritten, moved or wrapped in an object:
// layers hand each other (slab, start, end) and walk it with `off += HEADER + lengthAt(buf, off)`.
//
// `off` always means the first byte of the header; the IP packet starts at `off + HEADER`.

/** Bytes of the header in front of every packet. */
export const HEADER = 8;

/** Largest IP packet a frame may carry: an IPv6 header and a full 16-bit payload length (RFC 8200 §3, no jumbograms). */
export const MAX_PACKET = 40 + 65_535;

/** Header type of a frame that carries an IP packet. All other types are control frames and belong to L2. */
export const TYPE_PACKET = 0x00;

/** Flags of a packet frame. A receiver ignores bits it does not know. */
export const Flag = {
  /** Super-packet of TCP: to be cut in segments of `gsoSize` payload bytes. */
  gsoTcp: 0x01,
  /** Super-packet of UDP: to be cut in datagrams of `gsoSize` payload bytes. */
  gsoUdp: 0x02,
  /** With gsoTcp: only the first segment keeps CWR (RFC 3168 §6.1.2), as Linux' SKB_GSO_TCP_ECN. */
  gsoEcn: 0x04,
  /**
   * The TCP or UDP checksum field holds only the sum of the pseudo-header: whoever hands the packet to a path without
   * offload completes it. Set on every super-packet, and allowed on ordinary packets.
   */
  partialChecksum: 0x08,
} as const;

/** Any bit that says "needs work before it may leave on a path without offload". */
export const OFFLOAD_FLAGS = Flag.gsoTcp | Flag.gsoUdp | Flag.gsoEcn | Flag.partialChecksum;
export const GSO_FLAGS = Flag.gsoTcp | Flag.gsoUdp;

/** Length of the packet (without the header) of the frame at `off`. */
export function lengthAt(buf: Uint8Array, off: number): number {
  // Multiplication keeps the result unsigned: a hostile length must not turn negative.
  return buf[off + 4]! * 0x1000000 + ((buf[off + 5]! << 16) | (buf[off + 6]! << 8) | buf[off + 7]!);
}

/** Segment size of the super-packet at `off`; 0 for an ordinary packet. */
export function gsoSizeAt(buf: Uint8Array, off: number): number {
  return (buf[off + 2]! << 8) | buf[off + 3]!;
}

/** Writes the header of a frame at `off`. */
export function putHeader(
  buf: Uint8Array,
  off: number,
  type: number,
  flags: number,
  gsoSize: number,
  length: number,
): void {
  buf[off] = type;
  buf[off + 1] = flags;
  buf[off + 2] = gsoSize >>> 8;
  buf[off + 3] = gsoSize;
  buf[off + 4] = length >>> 24;
  buf[off + 5] = length >>> 16;
  buf[off + 6] = length >>> 8;
  buf[off + 7] = length;
}

// Segmentation and checksum offload in software: what a path without offload needs done to the frames of core/packet.ts.
//
// The rules are Linux' (Documentation/networking/segmentation-offloads): all segments carry the headers of the
// super-packet; TCP sequence numbers and the IPv4 identification count up, FIN and PSH stay with the last segment, CWR with
// the first.

import {
  Flag,
  GSO_FLAGS,
  getU16,
  getU32,
  gsoSizeAt,
  HEADER,
  lengthAt,
  OFFLOAD_FLAGS,
  putHeader,
  putU16,
  putU32,
} from '../core/index.js';
import { checksum, pseudoSum4, pseudoSum6 } from './wire/checksum.js';
import { headerLength4, isFragment4, protocol4, putChecksum4 } from './wire/ipv4.js';
import { IPV6_HEADER, upperLayer6 } from './wire/ipv6.js';
import { Protocol } from './wire/protocol.js';
import { TCP_CHECKSUM, TcpFlag, transportHeaderLength, UDP_CHECKSUM } from './wire/transport.js';

/**
 * What a kernel makes is within these (Linux: TCP_MIN_GSO_SIZE and UDP_MAX_SEGMENTS); beyond is a segment size that only an attacker
 * chooses, for whom others are to cut a few bytes into thousands of packets.
 */
export const MAX_UDP_SEGMENTS = 128;
export const MIN_TCP_SEGMENT = 8;

/**
 * Checks that the offload fields of the frame at `off` fit its packet, whose IP header is valid. Returns the length of all
 * headers (0: malformed). A frame without offload fields is not to be asked about.
 */
export function offloadHeaders(buf: Uint8Array, off: number): number {
  const flags = buf[off + 1]!;
  const length = lengthAt(buf, off);
  const upper = transportOf(buf, off + HEADER, length);
  if (upper < 0) return 0;
  const protocol = upper >>> 16;
  const at = upper & 0xffff;
  const header = transportHeaderLength(buf, off + HEADER + at, length - at, protocol);
  if (header === 0) return 0;
  const gso = flags & GSO_FLAGS;
  if (gso === 0) return (flags & Flag.gsoEcn) === 0 ? at + header : 0;
  if (gso !== (protocol === Protocol.tcp ? Flag.gsoTcp : Flag.gsoUdp)) return 0;
  if ((flags & Flag.gsoEcn) !== 0 && protocol !== Protocol.tcp) return 0;
  // RFC 9293 §3.8.5 has the urgent pointer count from the segment's own sequence number, and a SYN occupies one: neither can be split.
  if (protocol === Protocol.tcp && (buf[off + HEADER + at + 13]! & (TcpFlag.syn | TcpFlag.rst | TcpFlag.urg)) !== 0)
    return 0;
  const size = gsoSizeAt(buf, off);
  const payload = length - at - header;
  if (size === 0 || payload === 0) return 0;
  const sane = protocol === Protocol.tcp ? size >= MIN_TCP_SEGMENT : payload <= size * MAX_UDP_SEGMENTS;
  return sane ? at + header : 0;
}

/** Length of the largest IP packet that the frame at `off` becomes on a path without offload. */
export function wireLength(buf: Uint8Array, off: number, headers: number): number {
  const length = lengthAt(buf, off);
  return (buf[off + 1]! & GSO_FLAGS) === 0 ? length : Math.min(length, headers + gsoSizeAt(buf, off));
}

/** Completes the checksum of the frame at `off` in place and clears its flags; false if the packet does not allow it. */
export function completeChecksum(buf: Uint8Array, off: number): boolean {
  const headers = offloadHeaders(buf, off);
  if (headers === 0) return false;
  const p = off + HEADER;
  const upper = transportOf(buf, p, lengthAt(buf, off));
  putTransportChecksum(buf, p, p + (upper & 0xffff), p + lengthAt(buf, off), upper >>> 16);
  buf[off + 1]! &= ~OFFLOAD_FLAGS;
  putU16(buf, off + 2, 0);
  return true;
}

/** Cuts one super-packet after the other; holds no bytes of its own. */
export class Segmenter {
  private from: Buffer = Buffer.alloc(0);
  private p = 0;
  private headers = 0;
  private transport = 0;
  private protocol = 0;
  private size = 0;
  private payload = 0;
  private done = 0;
  private index = 0;
  private partial = false;

  /**
   * Starts on the super-packet at `off`, which has to stay as it is until `next` returns 0. `partial`: the segments go where
   * partial checksums are taken. False: malformed.
   */
  begin(from: Buffer, off: number, partial = false): boolean {
    const headers = offloadHeaders(from, off);
    if (headers === 0 || (from[off + 1]! & GSO_FLAGS) === 0) return false;
    const length = lengthAt(from, off);
    const upper = transportOf(from, off + HEADER, length);
    this.partial = partial;
    this.from = from;
    this.p = off + HEADER;
    this.headers = headers;
    this.transport = upper & 0xffff;
    this.protocol = upper >>> 16;
    this.size = gsoSizeAt(from, off);
    this.payload = length - headers;
    this.done = 0;
    this.index = 0;
    return true;
  }

  /** Frames still to come. */
  get remaining(): number {
    return Math.ceil((this.payload - this.done) / this.size);
  }

  /** Room that `next` needs: bytes of the largest frame. */
  get frameBytes(): number {
    return HEADER + this.headers + Math.min(this.size, this.payload);
  }

  /** Writes the next plain frame at `at`; returns where it ends, or 0 when there is none left. */
  next(to: Buffer, at: number): number {
    if (this.done >= this.payload) return 0;
    const chunk = Math.min(this.size, this.payload - this.done);
    const length = this.headers + chunk;
    const p = at + HEADER;
    const end = p + length;
    const t = p + this.transport;
    const first = this.done === 0;
    const last = this.done + chunk === this.payload;
    putHeader(to, at, 0, 0, 0, length);
    this.from.copy(to, p, this.p, this.p + this.headers);
    const data = this.p + this.headers + this.done;
    this.from.copy(to, p + this.headers, data, data + chunk);
    if (to[p]! >>> 4 === 4) {
      putU16(to, p + 2, length);
      putU16(to, p + 4, getU16(to, p + 4) + this.index);
      putChecksum4(to, p);
    } else {
      putU16(to, p + 4, length - IPV6_HEADER);
    }
    if (this.protocol === Protocol.tcp) {
      putU32(to, t + 4, getU32(to, t + 4) + this.done);
      if (!last) to[t + 13]! &= ~(TcpFlag.fin | TcpFlag.psh);
      if (!first) to[t + 13]! &= ~TcpFlag.cwr;
    } else {
      putU16(to, t + 4, end - t);
    }
    if (this.partial) {
      putPseudoSum(to, p, t, end, this.protocol);
      to[at + 1] = Flag.partialChecksum;
    } else putTransportChecksum(to, p, t, end, this.protocol);
    this.done += chunk;
    this.index++;
    return end;
  }
}

/** TCP or UDP header that offload can work on, as upperLayer gives it; -1 for all else, fragments included. */
function transportOf(buf: Uint8Array, p: number, length: number): number {
  if (buf[p]! >>> 4 === 4) return isFragment4(buf, p) ? -1 : protocol4(buf, p) * 0x10000 + headerLength4(buf, p);
  // Deviation: with extension headers (rare, and never made by a kernel's offload) the packet is taken only if none of
  // them is a fragment or routing header: the first has no whole checksum, the second another destination in it.
  for (let next = buf[p + 6]!, at = IPV6_HEADER; next !== Protocol.tcp && next !== Protocol.udp; ) {
    if (next === Protocol.fragment || next === Protocol.routing || at + 8 > length) return -1;
    if (next !== Protocol.hopByHop && next !== Protocol.destinationOptions) return -1;
    next = buf[p + at]!;
    at += (buf[p + at + 1]! + 1) << 3;
  }
  return upperLayer6(buf, p, length);
}

function pseudoSum(buf: Uint8Array, p: number, protocol: number, length: number): number {
  return buf[p]! >>> 4 === 4 ? pseudoSum4(buf, p, protocol, length) : pseudoSum6(buf, p, protocol, length);
}

function fieldAt(t: number, protocol: number): number {
  return t + (protocol === Protocol.tcp ? TCP_CHECKSUM : UDP_CHECKSUM);
}

function putPseudoSum(buf: Uint8Array, p: number, t: number, end: number, protocol: number): void {
  putU16(buf, fieldAt(t, protocol), pseudoSum(buf, p, protocol, end - t));
}

function putTransportChecksum(buf: Uint8Array, p: number, t: number, end: number, protocol: number): void {
  const field = fieldAt(t, protocol);
  const pseudo = pseudoSum(buf, p, protocol, end - t);
  putU16(buf, field, 0);
  const value = checksum(buf, t, end, pseudo);
  // RFC 768: a computed 0 is sent as all ones; 0 in the field means that there is no checksum.
  putU16(buf, field, value === 0 && protocol === Protocol.udp ? 0xffff : value);
}

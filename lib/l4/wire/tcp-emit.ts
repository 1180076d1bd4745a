// Writes one TCP packet as a frame: header of core/packet.ts, IPv4 or IPv6, TCP with its options, and room for payload.
//
// Two steps, so that the payload is copied straight to its place: `begin` writes everything but payload and checksum and
// returns where the payload goes; `finish` completes checksum and frame.
//
// `beginCut` and `finishCut` write many segments of one size. Their payload is copied in one piece, because a copy between buffers
// costs a view of the source, and more time for that than for the bytes:
//
//     beginCut    | room for all headers    | payload of all segments  |
//     finishCut   | hdr | payload 1 | hdr | payload 2 | hdr | payload 3 |     each moves left, the last lies where it is

import { Flag, HEADER, putHeader, TYPE_PACKET } from '../../core/index.js';
import { checksum, pseudoSum4, pseudoSum6 } from '../../l3/wire/checksum.js';
import type { TcpConfig } from '../tcp/types.js';
import type { PacketWriter } from './packet-writer.js';
import { PROTOCOL_TCP, TcpFlag, TcpOption } from './tcp.js';

/** Largest IP packet we build: four frames of it fit in a slab of 256 KiB, and IPv4's length field holds it. */
export const MAX_SUPER_PACKET = 65_528;

/** Fields of the segment to come; one object is filled again for every segment. Options are written if set. */
export class TcpFields {
  seq = 0;
  ack = 0;
  flags = 0;
  window = 0;
  /** 0: none. */
  mss = 0;
  /** -1: none. */
  windowScale = -1;
  sackPermitted = false;
  timestamps = false;
  tsval = 0;
  tsecr = 0;
  sackCount = 0;
  readonly sack = new Int32Array(8);
  /** ECN codepoint of the IP header: 0, or 2 for ECT(0). */
  ecn = 0;

  reset(seq: number, ack: number, flags: number, window: number): void {
    this.seq = seq;
    this.ack = ack;
    this.flags = flags;
    this.window = window;
    this.mss = 0;
    this.windowScale = -1;
    this.sackPermitted = false;
    this.timestamps = false;
    this.sackCount = 0;
    this.ecn = 0;
  }

  /** Bytes of options, padded to a multiple of four. */
  get optionBytes(): number {
    let n = this.timestamps ? 12 : 0;
    if (this.mss > 0) n += 4;
    if (this.windowScale >= 0) n += 4;
    if (this.sackPermitted) n += this.timestamps ? 0 : 4;
    if (this.sackCount > 0) n += 4 + 8 * this.sackCount;
    return n;
  }
}

let frame = 0;
let tcpAt = 0;
let payloadAt = 0;

/** Reserves room for the headers and `length` bytes of payload, writes the headers; returns where the payload goes. */
export function beginTcp(out: PacketWriter, config: TcpConfig, f: TcpFields, length: number): number {
  const at = out.reserve(frameHeaders(config, f) + length);
  return putHeaders(out.bytes, at, config, f, length);
}

/** Bytes of a frame before its payload. */
export function frameHeaders(config: TcpConfig, f: TcpFields): number {
  return HEADER + (config.localAddress.length === 4 ? 40 : 60) + f.optionBytes;
}

/** Writes all headers of the frame at `at`, but checksum and frame header; returns where the payload goes. */
function putHeaders(buf: Uint8Array, at: number, config: TcpConfig, f: TcpFields, length: number): number {
  const v4 = config.localAddress.length === 4;
  const headerBytes = 20 + f.optionBytes;
  frame = at;
  const ip = frame + HEADER;
  tcpAt = ip + (v4 ? 20 : 40);
  payloadAt = tcpAt + headerBytes;
  const total = headerBytes + length;
  if (v4) putIpv4(buf, ip, config, f.ecn, total);
  else putIpv6(buf, ip, config, f.ecn, total);

  let p = tcpAt;
  buf[p] = config.localPort >>> 8;
  buf[p + 1] = config.localPort;
  buf[p + 2] = config.remotePort >>> 8;
  buf[p + 3] = config.remotePort;
  put32(buf, p + 4, f.seq);
  put32(buf, p + 8, f.ack);
  buf[p + 12] = headerBytes << 2;
  buf[p + 13] = f.flags;
  buf[p + 14] = f.window >>> 8;
  buf[p + 15] = f.window;
  put32(buf, p + 16, 0);
  p += 20;
  if (headerBytes > 20) putOptions(buf, p, f);
  return payloadAt;
}

/** Completes the packet that `beginTcp` started, with `length` bytes of payload now in place. */
export function finishTcp(
  out: PacketWriter,
  config: TcpConfig,
  partialChecksum: boolean,
  gsoSize: number,
  length: number,
  cwr: boolean,
): void {
  out.commit(complete(out.bytes, config, partialChecksum, gsoSize, length, cwr));
}

/** Checksum and frame header of the frame that `putHeaders` began; returns where it ends. */
function complete(
  buf: Uint8Array,
  config: TcpConfig,
  partialChecksum: boolean,
  gsoSize: number,
  length: number,
  cwr: boolean,
): number {
  const ip = frame + HEADER;
  const end = payloadAt + length;
  const tcpLength = end - tcpAt;
  const pseudo =
    config.localAddress.length === 4
      ? pseudoSum4(buf, ip, PROTOCOL_TCP, tcpLength)
      : pseudoSum6(buf, ip, PROTOCOL_TCP, tcpLength);
  let flags = 0;
  let sum: number;
  if (partialChecksum) {
    flags = Flag.partialChecksum;
    sum = pseudo;
  } else sum = checksum(buf, tcpAt, end, pseudo);
  buf[tcpAt + 16] = sum >>> 8;
  buf[tcpAt + 17] = sum;
  if (gsoSize > 0) flags |= cwr ? Flag.gsoTcp | Flag.gsoEcn : Flag.gsoTcp;
  putHeader(buf, frame, TYPE_PACKET, flags, gsoSize, end - ip);
  return end;
}

let cutAt = 0;

/** Room for segments of `size` bytes that carry `length` together; returns where all of that payload goes. */
export function beginCut(out: PacketWriter, config: TcpConfig, f: TcpFields, length: number, size: number): number {
  const headers = Math.ceil(length / size) * frameHeaders(config, f);
  cutAt = out.reserve(headers + length);
  return cutAt + headers;
}

/** Writes the segments that `beginCut` made room for; FIN and PSH go with the last, CWR with the first. Returns their number. */
export function finishCut(
  out: PacketWriter,
  config: TcpConfig,
  f: TcpFields,
  partialChecksum: boolean,
  length: number,
  size: number,
): number {
  const buf = out.bytes;
  const { seq, flags } = f;
  const count = Math.ceil(length / size);
  let from = cutAt + count * frameHeaders(config, f);
  let at = cutAt;
  for (let done = 0; done < length; done += size) {
    const n = Math.min(size, length - done);
    f.seq = (seq + done) | 0;
    f.flags = flags;
    if (done > 0) f.flags &= ~TcpFlag.cwr;
    if (done + n < length) f.flags &= ~(TcpFlag.fin | TcpFlag.psh);
    const to = putHeaders(buf, at, config, f, n);
    if (to < from) buf.copyWithin(to, from, from + n);
    at = complete(buf, config, partialChecksum, 0, n, false);
    from += n;
  }
  out.commit(at);
  return count;
}

function putIpv4(buf: Uint8Array, ip: number, config: TcpConfig, ecn: number, payload: number): void {
  const length = 20 + payload;
  const { localAddress: src, remoteAddress: dst } = config;
  buf[ip] = 0x45;
  buf[ip + 1] = ecn;
  buf[ip + 2] = length >>> 8;
  buf[ip + 3] = length;
  // Identification may be anything in an atomic datagram (RFC 6864 §4.1); DF is always set: path MTU discovery.
  put32(buf, ip + 4, 0x4000);
  buf[ip + 8] = 64;
  buf[ip + 9] = PROTOCOL_TCP;
  buf[ip + 10] = 0;
  buf[ip + 11] = 0;
  for (let i = 0; i < 4; i++) {
    buf[ip + 12 + i] = src[i]!;
    buf[ip + 16 + i] = dst[i]!;
  }
  const sum = checksum(buf, ip, ip + 20);
  buf[ip + 10] = sum >>> 8;
  buf[ip + 11] = sum;
}

function putIpv6(buf: Uint8Array, ip: number, config: TcpConfig, ecn: number, payload: number): void {
  const { localAddress: src, remoteAddress: dst } = config;
  buf[ip] = 0x60;
  buf[ip + 1] = ecn << 4;
  buf[ip + 2] = 0;
  buf[ip + 3] = 0;
  buf[ip + 4] = payload >>> 8;
  buf[ip + 5] = payload;
  buf[ip + 6] = PROTOCOL_TCP;
  buf[ip + 7] = 64;
  for (let i = 0; i < 16; i++) {
    buf[ip + 8 + i] = src[i]!;
    buf[ip + 24 + i] = dst[i]!;
  }
}

/** The order and padding that Linux uses: 32-bit words stay aligned, and header prediction of peers works. */
function putOptions(buf: Uint8Array, p: number, f: TcpFields): void {
  if (f.mss > 0) {
    put32(buf, p, (TcpOption.mss << 24) | (4 << 16) | f.mss);
    p += 4;
  }
  if (f.timestamps) {
    const head = f.sackPermitted
      ? (TcpOption.sackPermitted << 24) | (2 << 16)
      : (TcpOption.nop << 24) | (TcpOption.nop << 16);
    put32(buf, p, head | (TcpOption.timestamps << 8) | 10);
    put32(buf, p + 4, f.tsval);
    put32(buf, p + 8, f.tsecr);
    p += 12;
  } else if (f.sackPermitted) {
    put32(buf, p, (TcpOption.nop << 24) | (TcpOption.nop << 16) | (TcpOption.sackPermitted << 8) | 2);
    p += 4;
  }
  if (f.windowScale >= 0) {
    put32(buf, p, (TcpOption.nop << 24) | (TcpOption.windowScale << 16) | (3 << 8) | f.windowScale);
    p += 4;
  }
  if (f.sackCount > 0) {
    put32(buf, p, (TcpOption.nop << 24) | (TcpOption.nop << 16) | (TcpOption.sack << 8) | (2 + 8 * f.sackCount));
    p += 4;
    for (let i = 0; i < 2 * f.sackCount; i++, p += 4) put32(buf, p, f.sack[i]!);
  }
}

function put32(buf: Uint8Array, at: number, value: number): void {
  buf[at] = value >>> 24;
  buf[at + 1] = value >>> 16;
  buf[at + 2] = value >>> 8;
  buf[at + 3] = value;
}

/** A RST, or another segment without payload, outside any connection: `f` filled, addresses and ports in `config`. */
export function emitBare(out: PacketWriter, config: TcpConfig, f: TcpFields, partialChecksum: boolean): void {
  beginTcp(out, config, f, 0);
  finishTcp(out, config, partialChecksum, 0, 0, false);
}

/** The answer of RFC 9293 §3.10.7.1 to a segment without a connection. Fills `f`; the caller must not answer a RST. */
export function fillReset(f: TcpFields, seq: number, ack: number, flags: number, seqLength: number): void {
  if (flags & TcpFlag.ack) f.reset(ack, 0, TcpFlag.rst, 0);
  else f.reset(0, (seq + seqLength) | 0, TcpFlag.rst | TcpFlag.ack, 0);
}

// A view of one received TCP segment inside its frame: RFC 9293 §3.1, options of RFC 7323 and RFC 2018.
//
// One view is reused for all segments (nothing is allocated per segment): whoever keeps anything of it copies it.
// `parse` checks every length once, so the fields can be used without further checks. It shows whatever the packet
// says; what is allowed is decided by lib/l4/tcp.

import { Flag, gsoSizeAt, HEADER, lengthAt } from '../../core/index.js';
import { checksum, pseudoSum4, pseudoSum6 } from '../../l3/wire/checksum.js';
import type { Seq } from '../tcp/seq.js';

export const PROTOCOL_TCP = 6;

/** Control bits, RFC 9293 §3.1 and RFC 3168 §6.1. */
export const TcpFlag = {
  fin: 0x01,
  syn: 0x02,
  rst: 0x04,
  psh: 0x08,
  ack: 0x10,
  urg: 0x20,
  ece: 0x40,
  cwr: 0x80,
} as const;

/** Option kinds: RFC 9293 §3.2, RFC 7323, RFC 2018. */
export const TcpOption = { end: 0, nop: 1, mss: 2, windowScale: 3, sackPermitted: 4, sack: 5, timestamps: 8 } as const;

/** Four blocks fit in 40 bytes of options (three beside timestamps): RFC 2018 §3. */
export const MAX_SACK_BLOCKS = 4;

export class TcpSegment {
  /** The frame: `off` is the first byte of its header, `end` the first byte after the packet. */
  buf: Uint8Array = EMPTY;
  off = 0;
  frameEnd = 0;
  /** 4 or 16; addresses lie at `src` and `dst`. */
  addressLength = 4;
  src = 0;
  dst = 0;
  /** First byte of the TCP header. */
  tcp = 0;
  srcPort = 0;
  dstPort = 0;
  seq: Seq = 0;
  ack: Seq = 0;
  flags = 0;
  /** Raw, not scaled. */
  window = 0;
  urgent = 0;
  /** Payload: `length` bytes at `payload`. */
  payload = 0;
  length = 0;
  /** Payload bytes per segment of a super-segment; 0 for an ordinary one. */
  gsoSize = 0;
  /** The packet carries the CE codepoint of RFC 3168. */
  ce = false;
  /** 0: no such option. */
  mss = 0;
  /** -1: no such option. */
  windowScale = -1;
  sackPermitted = false;
  hasTimestamps = false;
  tsval = 0;
  tsecr = 0;
  sackCount = 0;
  /** Left and right edges of `sackCount` blocks. */
  readonly sack = new Int32Array(2 * MAX_SACK_BLOCKS);
  /** The options were malformed from some point on (what came before counts, RFC 9293 MUST-68). */
  badOptions = false;

  /** Sequence space used: payload plus SYN and FIN. */
  get seqLength(): number {
    return this.length + ((this.flags >> 1) & 1) + (this.flags & 1);
  }

  /** Segments of this packet: more than one for a super-segment. */
  get segments(): number {
    return this.gsoSize > 0 && this.length > this.gsoSize ? Math.ceil(this.length / this.gsoSize) : 1;
  }

  /**
   * Reads the frame at `off`; its IP header has been validated by L3. False: not a whole TCP segment (drop, count).
   * The checksum is not looked at (see tcpChecksumGood).
   */
  parse(buf: Uint8Array, off: number): boolean {
    const ip = off + HEADER;
    let end = ip + lengthAt(buf, off);
    if (end > buf.length || end - ip < 40) return false;
    let tcp: number;
    if (buf[ip]! >> 4 === 4) {
      if (buf[ip + 9] !== PROTOCOL_TCP) return false;
      // A fragment that is not the first has no TCP header; a first one has no whole payload.
      if (((buf[ip + 6]! << 8) | buf[ip + 7]!) & 0x3fff) return false;
      tcp = ip + ((buf[ip]! & 15) << 2);
      end = Math.min(end, ip + ((buf[ip + 2]! << 8) | buf[ip + 3]!));
      this.addressLength = 4;
      this.src = ip + 12;
      this.dst = ip + 16;
      this.ce = (buf[ip + 1]! & 3) === 3;
    } else {
      tcp = skipExtensionHeaders(buf, ip, end);
      if (tcp < 0) return false;
      end = Math.min(end, ip + 40 + ((buf[ip + 4]! << 8) | buf[ip + 5]!));
      this.addressLength = 16;
      this.src = ip + 8;
      this.dst = ip + 24;
      this.ce = (buf[ip + 1]! & 0x30) === 0x30;
    }
    if (tcp + 20 > end) return false;
    const payload = tcp + ((buf[tcp + 12]! >> 4) << 2);
    if (payload < tcp + 20 || payload > end) return false;

    this.buf = buf;
    this.off = off;
    this.frameEnd = ip + lengthAt(buf, off);
    this.tcp = tcp;
    this.srcPort = (buf[tcp]! << 8) | buf[tcp + 1]!;
    this.dstPort = (buf[tcp + 2]! << 8) | buf[tcp + 3]!;
    this.seq = (buf[tcp + 4]! << 24) | (buf[tcp + 5]! << 16) | (buf[tcp + 6]! << 8) | buf[tcp + 7]!;
    this.ack = (buf[tcp + 8]! << 24) | (buf[tcp + 9]! << 16) | (buf[tcp + 10]! << 8) | buf[tcp + 11]!;
    this.flags = buf[tcp + 13]!;
    this.window = (buf[tcp + 14]! << 8) | buf[tcp + 15]!;
    this.urgent = (buf[tcp + 18]! << 8) | buf[tcp + 19]!;
    this.payload = payload;
    this.length = end - payload;
    this.gsoSize = gsoSizeAt(buf, off);
    this.mss = 0;
    this.windowScale = -1;
    this.sackPermitted = false;
    this.hasTimestamps = false;
    this.sackCount = 0;
    this.badOptions = false;
    if (payload > tcp + 20) this.parseOptions(tcp + 20, payload);
    return true;
  }

  private parseOptions(at: number, end: number): void {
    const buf = this.buf;
    while (at < end) {
      const kind = buf[at]!;
      if (kind === TcpOption.nop) {
        at++;
        continue;
      }
      if (kind === TcpOption.end) return;
      const length = at + 1 < end ? buf[at + 1]! : 0;
      if (length < 2 || at + length > end) {
        this.badOptions = true;
        return;
      }
      if (kind === TcpOption.timestamps && length === 10) {
        this.hasTimestamps = true;
        this.tsval = (buf[at + 2]! << 24) | (buf[at + 3]! << 16) | (buf[at + 4]! << 8) | buf[at + 5]!;
        this.tsecr = (buf[at + 6]! << 24) | (buf[at + 7]! << 16) | (buf[at + 8]! << 8) | buf[at + 9]!;
      } else if (kind === TcpOption.sack && (length - 2) % 8 === 0) {
        const count = Math.min((length - 2) >> 3, MAX_SACK_BLOCKS);
        for (let i = 0, p = at + 2; i < 2 * count; i++, p += 4) {
          this.sack[i] = (buf[p]! << 24) | (buf[p + 1]! << 16) | (buf[p + 2]! << 8) | buf[p + 3]!;
        }
        this.sackCount = count;
      } else if (kind === TcpOption.mss && length === 4) this.mss = (buf[at + 2]! << 8) | buf[at + 3]!;
      else if (kind === TcpOption.windowScale && length === 3) this.windowScale = buf[at + 2]!;
      else if (kind === TcpOption.sackPermitted && length === 2) this.sackPermitted = true;
      at += length;
    }
  }
}

const EMPTY = new Uint8Array(0);

/** Whether the checksum of the segment `tcp` to `end` in the frame at `off` is good, or left to offload. */
export function tcpChecksumGood(buf: Uint8Array, off: number, tcp: number, end: number): boolean {
  if ((buf[off + 1]! & Flag.partialChecksum) !== 0) return true;
  const sum = buf[off + HEADER]! >> 4 === 4 ? pseudoSum4 : pseudoSum6;
  return checksum(buf, tcp, end, sum(buf, off + HEADER, PROTOCOL_TCP, end - tcp)) === 0;
}

/** Offset of the TCP header behind hop-by-hop, routing and destination options (RFC 8200 §4.1), or -1. */
function skipExtensionHeaders(buf: Uint8Array, ip: number, end: number): number {
  let next = buf[ip + 6]!;
  let at = ip + 40;
  while (next !== PROTOCOL_TCP) {
    if ((next !== 0 && next !== 43 && next !== 60) || at + 8 > end) return -1;
    next = buf[at]!;
    at += (buf[at + 1]! + 1) << 3;
  }
  return at;
}

// Receive offload in software: segments of one flow that follow each other in a batch become one super-segment, as a kernel's GRO
// makes it (net/ipv4/tcp_offload.c has the rules that Linux follows), so that what is done per segment is done once for all of them.
//
//     before   | hdr 1 | payload 1 | hdr 2 | payload 2 | hdr 3 | payload 3 |
//     after    | hdr 1 | payload 1 | payload 2 | payload 3 |     . . .        in the batch itself, which is ours until return
//
// Merged is only what says nothing by itself: the same headers but for sequence number, lengths, IPv4 identification and the
// checksums; the same options, timestamps included; the same size, and the last one may be shorter.

import { GSO_FLAGS, HEADER, lengthAt } from '../../core/index.js';
import { TcpFlag, type TcpSegment, tcpChecksumGood } from './tcp.js';

/** Payload of a super-segment; what a kernel's own may have. */
const MAX_GATHERED = 65_536;
const TEXT = TcpFlag.ack | TcpFlag.psh;

/**
 * Adds to `s` the frames behind it, up to `end`, that go on with it; returns where the first one lies that does not. The checksum of
 * `s` has been looked at.
 */
export function gather(s: TcpSegment, end: number): number {
  const { buf } = s;
  const size = s.length;
  let next = s.frameEnd;
  // A padded packet, a super-segment, and what is more than text, is as it is.
  if (s.flags !== TcpFlag.ack || size === 0 || s.payload + size !== next || s.gsoSize !== 0) return next;
  const headers = s.payload - s.off;
  while (next + headers < end) {
    const length = HEADER + lengthAt(buf, next) - headers;
    const { length: held } = s;
    if (length <= 0 || length > size || next + headers + length > end || held + length > MAX_GATHERED) break;
    if (!goesOn(s, next, held) || !whole(s, next, headers + length)) break;
    const payload = next + headers;
    s.flags |= buf[next + s.tcp - s.off + 13]!;
    buf.copyWithin(s.payload + held, payload, payload + length);
    s.length = held + length;
    s.gsoSize = size;
    next = payload + length;
    s.frameEnd = next;
    if (length < size || s.flags !== TcpFlag.ack) break;
  }
  return next;
}

/** The headers of the frame at `off` are those of `s`, `held` bytes later. */
function goesOn(s: TcpSegment, off: number, held: number): boolean {
  const { buf } = s;
  const d = off - s.off;
  const ip = s.off + HEADER;
  if (buf[off] !== buf[s.off] || buf[off + 1] !== buf[s.off + 1] || (buf[off + 1]! & GSO_FLAGS) !== 0) return false;
  const t = s.tcp + d;
  const seq = (buf[t + 4]! << 24) | (buf[t + 5]! << 16) | (buf[t + 6]! << 8) | buf[t + 7]!;
  if (seq !== ((s.seq + held) | 0)) return false;
  if ((buf[t + 13]! | TcpFlag.psh) !== TEXT) return false;
  // IPv4: version, header length, TOS; flags and fragment; TTL and protocol. IPv6: all but the length.
  if (s.addressLength === 4) {
    if (!same(buf, ip, ip + 2, d) || !same(buf, ip + 6, ip + 10, d)) return false;
  } else if (!same(buf, ip, ip + 4, d) || !same(buf, ip + 6, ip + 8, d)) return false;
  // Addresses (and whatever lies between them and TCP), ports; ACK and header length; window; urgent pointer and options.
  return (
    same(buf, s.src, s.tcp + 4, d) &&
    same(buf, s.tcp + 8, s.tcp + 13, d) &&
    same(buf, s.tcp + 14, s.tcp + 16, d) &&
    same(buf, s.tcp + 18, s.payload, d)
  );
}

function same(buf: Uint8Array, start: number, end: number, distance: number): boolean {
  for (let i = start; i < end; i++) if (buf[i] !== buf[i + distance]) return false;
  return true;
}

/** The IP packet fills its frame, and its checksum is good, or is left to offload. */
function whole(s: TcpSegment, off: number, bytes: number): boolean {
  const { buf } = s;
  const ip = off + HEADER;
  const at = s.addressLength === 4 ? ip + 2 : ip + 4;
  const said = ((buf[at]! << 8) | buf[at + 1]!) + (s.addressLength === 4 ? 0 : 40);
  return said === bytes - HEADER && tcpChecksumGood(buf, off, s.tcp + off - s.off, off + bytes);
}

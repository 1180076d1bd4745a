// What L3 has to know of TCP (RFC 9293 §3.1) and UDP (RFC 768): ports, lengths and where the checksum is.

import { getU16 } from '../../core/index.js';
import { headerLength4, isFragment4, protocol4 } from './ipv4.js';
import { upperLayer6 } from './ipv6.js';
import { Protocol } from './protocol.js';

export const TCP_HEADER = 20;
export const UDP_HEADER = 8;
export const TCP_CHECKSUM = 16;
export const UDP_CHECKSUM = 6;

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

export const sourcePort = (buf: Uint8Array, t: number): number => getU16(buf, t);
export const destinationPort = (buf: Uint8Array, t: number): number => getU16(buf, t + 2);
export const tcpHeaderLength = (buf: Uint8Array, t: number): number => (buf[t + 12]! >>> 4) << 2;

/**
 * Upper-layer protocol and the offset of its header from `p`, as protocol * 0x10000 + offset, of the validated packet
 * at buf[p, p + length). For a fragment other than the first: Protocol.fragment. -1: none can be found.
 */
export function upperLayer(buf: Uint8Array, p: number, length: number): number {
  if (buf[p]! >>> 4 === 6) return upperLayer6(buf, p, length);
  if (isFragment4(buf, p) && (getU16(buf, p + 6) & 0x1fff) !== 0) {
    return Protocol.fragment * 0x10000 + headerLength4(buf, p);
  }
  return protocol4(buf, p) * 0x10000 + headerLength4(buf, p);
}

/** Length of the TCP or UDP header at `t`, of which `room` bytes are there; 0 if it is malformed or another protocol. */
export function transportHeaderLength(buf: Uint8Array, t: number, room: number, protocol: number): number {
  if (protocol === Protocol.udp) return room >= UDP_HEADER ? UDP_HEADER : 0;
  if (protocol !== Protocol.tcp || room < TCP_HEADER) return 0;
  const length = tcpHeaderLength(buf, t);
  return length >= TCP_HEADER && length <= room ? length : 0;
}

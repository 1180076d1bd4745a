// An ICMP error that came in, and the packet of ours that it quotes: RFC 792, RFC 4443, RFC 1122 §3.2.2.
// One view, filled again for every message.

import { getU16, getU32, HEADER, lengthAt } from '../core/index.js';
import { checksum, pseudoSum6 } from '../l3/wire/checksum.js';
import { Icmp4, Unreachable4 } from '../l3/wire/icmpv4.js';
import { Icmp6, Unreachable6 } from '../l3/wire/icmpv6.js';
import { headerLength4 } from '../l3/wire/ipv4.js';
import { Protocol } from '../l3/wire/protocol.js';
import { upperLayer } from '../l3/wire/transport.js';
import type { IcmpKind } from './tcp/types.js';

export class IcmpError {
  kind: IcmpKind = 'host-unreachable';
  mtu = 0;
  /** Of the quoted packet: its addresses' offsets (source = ours), their length, protocol and ports. */
  src = 0;
  dst = 0;
  addressLength = 4;
  protocol = 0;
  localPort = 0;
  remotePort = 0;
  /** Offset of the quoted TCP, UDP or ICMP header: at least 8 bytes are there. */
  header = 0;

  /** False: not an error that concerns us, or malformed. */
  parse(buf: Uint8Array, off: number): boolean {
    const p = off + HEADER;
    const length = lengthAt(buf, off);
    const upper = upperLayer(buf, p, length);
    const protocol = upper >>> 16;
    const t = p + (upper & 0xffff);
    const end = p + length;
    if (upper < 0 || t + 8 > end) return false;
    const v4 = buf[p]! >>> 4 === 4;
    if (v4 ? protocol !== Protocol.icmp : protocol !== Protocol.icmpv6) return false;
    if (!(v4 ? this.classify4(buf, t) : this.classify6(buf, t))) return false;
    const sum = v4 ? 0 : pseudoSum6(buf, p, Protocol.icmpv6, end - t);
    if (checksum(buf, t, end, sum) !== 0) return false;
    return this.parseQuote(buf, t + 8, end, v4);
  }

  private classify4(buf: Uint8Array, t: number): boolean {
    if (buf[t] !== Icmp4.unreachable) return false;
    switch (buf[t + 1]) {
      case Unreachable4.fragmentationNeeded:
        this.kind = 'packet-too-big';
        this.mtu = getU16(buf, t + 6);
        return true;
      case Unreachable4.port:
      case Unreachable4.protocol:
        this.kind = 'port-unreachable';
        return true;
      case Unreachable4.net:
      case 6: // destination network unknown
      case 9: // network prohibited
      case 11: // network unreachable for this type of service
        this.kind = 'network-unreachable';
        return true;
      default:
        this.kind = 'host-unreachable';
        return true;
    }
  }

  private classify6(buf: Uint8Array, t: number): boolean {
    if (buf[t] === Icmp6.packetTooBig) {
      this.kind = 'packet-too-big';
      this.mtu = getU32(buf, t + 4);
      return true;
    }
    if (buf[t] !== Icmp6.unreachable) return false;
    const code = buf[t + 1];
    this.kind =
      code === Unreachable6.port
        ? 'port-unreachable'
        : code === Unreachable6.noRoute
          ? 'network-unreachable'
          : 'host-unreachable';
    return true;
  }

  /** The quote is cut short: its lengths are not checked against the packet, only what is read is. */
  private parseQuote(buf: Uint8Array, q: number, end: number, v4: boolean): boolean {
    if (q + (v4 ? 20 : 40) > end || buf[q]! >>> 4 !== (v4 ? 4 : 6)) return false;
    let at: number;
    if (v4) {
      if ((getU16(buf, q + 6) & 0x1fff) !== 0) return false;
      at = q + headerLength4(buf, q);
      this.protocol = buf[q + 9]!;
      this.addressLength = 4;
      this.src = q + 12;
      this.dst = q + 16;
    } else {
      // What we send has no extension header but a fragment header.
      at = q + 40;
      this.protocol = buf[q + 6]!;
      if (this.protocol === Protocol.fragment) {
        if (at + 8 > end || (getU16(buf, at + 2) & 0xfff8) !== 0) return false;
        this.protocol = buf[at]!;
        at += 8;
      }
      this.addressLength = 16;
      this.src = q + 8;
      this.dst = q + 24;
    }
    if (at + 8 > end) return false;
    this.header = at;
    this.localPort = getU16(buf, at);
    this.remotePort = getU16(buf, at + 2);
    return true;
  }
}

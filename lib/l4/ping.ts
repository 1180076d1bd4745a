// Echo requests and their replies: RFC 792, RFC 4443 §4. Who sends when is the driver's business.

import { getU16, HEADER, lengthAt, type Micros, putHeader, putU16, type Random } from '../core/index.js';
import { checksum, pseudoSum6 } from '../l3/wire/checksum.js';
import { ICMP_HEADER, Icmp4, putIcmp4Checksum } from '../l3/wire/icmpv4.js';
import { Icmp6, putIcmp6Checksum } from '../l3/wire/icmpv6.js';
import { putIpv4 } from '../l3/wire/ipv4.js';
import { putIpv6 } from '../l3/wire/ipv6.js';
import { Protocol } from '../l3/wire/protocol.js';
import { upperLayer } from '../l3/wire/transport.js';
import type { IcmpError } from './icmp-error.js';
import type { IcmpKind } from './tcp/types.js';
import type { PacketWriter } from './wire/packet-writer.js';

/** One series of requests: the owner implements it. */
export interface PingSession {
  /** Chosen by `open`. */
  id: number;
  readonly address: Uint8Array;
  onReply(now: Micros, sequence: number, bytes: number): void;
  onError(sequence: number, kind: IcmpKind): void;
}

export class PingStack {
  private readonly sessions = new Map<number, PingSession>();

  constructor(
    private readonly out: PacketWriter,
    private readonly random: Random,
  ) {}

  get size(): number {
    return this.sessions.size;
  }

  open(session: PingSession): void {
    do session.id = this.random.u32() & 0xffff;
    while (this.sessions.has(session.id));
    this.sessions.set(session.id, session);
  }

  close(session: PingSession): void {
    this.sessions.delete(session.id);
  }

  /** A request with `size` bytes of data, which the reply has to bring back. */
  send(session: PingSession, local: Uint8Array, sequence: number, size: number): void {
    const v4 = local.length === 4;
    const header = v4 ? 20 : 40;
    const total = header + ICMP_HEADER + size;
    const off = this.out.reserve(HEADER + total);
    const buf = this.out.bytes;
    const p = off + HEADER;
    const t = p + header;
    putHeader(buf, off, 0, 0, 0, total);
    if (v4) putIpv4(buf, p, Protocol.icmp, total, local, session.address, 64);
    else putIpv6(buf, p, Protocol.icmpv6, total, local, session.address, 64);
    buf[t] = v4 ? Icmp4.echoRequest : Icmp6.echoRequest;
    buf[t + 1] = 0;
    putU16(buf, t + 4, session.id);
    putU16(buf, t + 6, sequence);
    for (let i = 0; i < size; i++) buf[t + ICMP_HEADER + i] = i;
    if (v4) putIcmp4Checksum(buf, t, p + total);
    else putIcmp6Checksum(buf, p, t, p + total);
    this.out.commit(p + total);
  }

  /** The frame at `off` is a reply to a request of ours. */
  claims(buf: Uint8Array, off: number): boolean {
    return this.sessionOf(buf, off) !== null;
  }

  claimsQuote(buf: Uint8Array, e: IcmpError): boolean {
    return this.sessions.has(getU16(buf, e.header + 4));
  }

  handle(now: Micros, buf: Uint8Array, off: number): void {
    const session = this.sessionOf(buf, off);
    if (session === null) return;
    const p = off + HEADER;
    const length = lengthAt(buf, off);
    const t = p + (upperLayer(buf, p, length) & 0xffff);
    const sum = session.address.length === 4 ? 0 : pseudoSum6(buf, p, Protocol.icmpv6, p + length - t);
    if (checksum(buf, t, p + length, sum) !== 0) return;
    session.onReply(now, getU16(buf, t + 6), p + length - t - ICMP_HEADER);
  }

  handleIcmp(buf: Uint8Array, e: IcmpError): void {
    const session = this.sessions.get(getU16(buf, e.header + 4));
    if (session === undefined || session.address.length !== e.addressLength) return;
    for (let i = 0; i < e.addressLength; i++) if (session.address[i] !== buf[e.dst + i]) return;
    session.onError(getU16(buf, e.header + 6), e.kind);
  }

  private sessionOf(buf: Uint8Array, off: number): PingSession | null {
    if (this.sessions.size === 0) return null;
    const p = off + HEADER;
    const length = lengthAt(buf, off);
    const upper = upperLayer(buf, p, length);
    const t = p + (upper & 0xffff);
    if (upper < 0 || t + ICMP_HEADER > p + length) return null;
    const v4 = buf[p]! >>> 4 === 4;
    if (upper >>> 16 !== (v4 ? Protocol.icmp : Protocol.icmpv6)) return null;
    if (buf[t] !== (v4 ? Icmp4.echoReply : Icmp6.echoReply)) return null;
    const session = this.sessions.get(getU16(buf, t + 4));
    if (session === undefined || session.address.length !== (v4 ? 4 : 16)) return null;
    const src = p + (v4 ? 12 : 8);
    for (let i = 0; i < session.address.length; i++) if (session.address[i] !== buf[src + i]) return null;
    return session;
  }
}

// ICMP from a router's side: which packets may be answered with an error, how often, and the messages themselves.

import { HEADER, type Micros, putHeader, putU16, putU32, SECOND } from '../core/index.js';
import { checksum, pseudoSum6 } from './wire/checksum.js';
import { ICMP_HEADER, Icmp4, isIcmp4Error, putIcmp4Checksum, Unreachable4 } from './wire/icmpv4.js';
import { Icmp6, isIcmp6Error, putIcmp6Checksum, Unreachable6 } from './wire/icmpv6.js';
import { headerLength4, IPV4_HEADER, putChecksum4, putIpv4 } from './wire/ipv4.js';
import { IPV6_HEADER, IPV6_MIN_MTU, putIpv6 } from './wire/ipv6.js';
import { Protocol } from './wire/protocol.js';
import { upperLayer } from './wire/transport.js';

/** Initial TTL and hop limit of what we send ourselves (RFC 1700's recommendation, and Linux'). */
export const DEFAULT_TTL = 64;

/** RFC 1812 §4.3.2.3: as much of the packet as fits in 576 bytes; RFC 4443 §2.4 (c): in the minimum IPv6 MTU. */
const ERROR_MAX_4 = 576;
const ERROR_MAX_6 = IPV6_MIN_MTU;

/** An ICMP error as type and code of both families. */
export interface IcmpError {
  readonly type4: number;
  readonly code4: number;
  readonly type6: number;
  readonly code6: number;
}

const unreachable = (code4: number, code6: number): IcmpError => ({
  type4: Icmp4.unreachable,
  code4,
  type6: Icmp6.unreachable,
  code6,
});

export const TIME_EXCEEDED: IcmpError = { type4: Icmp4.timeExceeded, code4: 0, type6: Icmp6.timeExceeded, code6: 0 };
/** For IPv4 with the next hop's MTU (RFC 1191 §4), for IPv6 its own type. */
export const TOO_BIG: IcmpError = {
  type4: Icmp4.unreachable,
  code4: Unreachable4.fragmentationNeeded,
  type6: Icmp6.packetTooBig,
  code6: 0,
};
/** RFC 1812 §5.2.7.1: net unreachable where there is no route, host unreachable where there is one that leads nowhere now. */
export const NO_ROUTE: IcmpError = unreachable(Unreachable4.net, Unreachable6.noRoute);
export const HOST_DOWN: IcmpError = unreachable(Unreachable4.host, Unreachable6.address);
export const NO_PORT_HERE: IcmpError = unreachable(Unreachable4.port, Unreachable6.port);
export const NO_PROTOCOL_HERE: IcmpError = unreachable(Unreachable4.protocol, Unreachable6.port);

/** Tokens come at `perSecond`, at most `burst` wait (RFC 1812 §4.3.2.8, RFC 4443 §2.4 (f)). */
export class TokenBucket {
  private tokens: number;
  private last: Micros | null = null;

  constructor(
    private readonly perSecond: number,
    private readonly burst: number,
  ) {
    this.tokens = burst;
  }

  take(now: Micros, cost = 1): boolean {
    if (this.last !== null && now > this.last) {
      this.tokens = Math.min(this.burst, this.tokens + ((now - this.last) * this.perSecond) / SECOND);
    }
    this.last = now;
    if (this.tokens < cost) return false;
    this.tokens -= cost;
    return true;
  }

  /** After a `take` that failed: how long until one of this cost can succeed. */
  wait(cost: number): Micros {
    return Math.ceil(((Math.min(cost, this.burst) - this.tokens) * SECOND) / this.perSecond);
  }
}

/**
 * Whether the validated packet at `p` may be answered with an ICMP error: not if it is an ICMP error itself, a fragment
 * other than the first, or not from one host to one host (RFC 1812 §4.3.2.7, RFC 4443 §2.4 (e)).
 */
export function mayAnswer(buf: Uint8Array, p: number, length: number): boolean {
  const upper = upperLayer(buf, p, length);
  if (upper < 0) return false;
  const protocol = upper >>> 16;
  const t = p + (upper & 0xffff);
  if (protocol === Protocol.fragment) return false;
  if (buf[p]! >>> 4 === 4) {
    if (!isUnicast4(buf, p + 12) || buf[p + 16]! >= 224) return false;
    return protocol !== Protocol.icmp || (t < p + length && !isIcmp4Error(buf[t]!));
  }
  if (!isUnicast6(buf, p + 8) || buf[p + 24] === 0xff) return false;
  return protocol !== Protocol.icmpv6 || (t < p + length && !isIcmp6Error(buf[t]!));
}

/** A source or destination that a single host can have (RFC 1122 §3.2.1.3). */
export function isUnicast4(buf: Uint8Array, off: number): boolean {
  const first = buf[off]!;
  return first !== 0 && first !== 127 && first < 224;
}

/** Neither multicast, unspecified nor loopback (RFC 4291 §2.4). */
export function isUnicast6(buf: Uint8Array, off: number): boolean {
  if (buf[off] !== 0) return buf[off] !== 0xff;
  for (let i = 1; i < 15; i++) if (buf[off + i] !== 0) return true;
  return buf[off + 15]! > 1;
}

/** RFC 3927 §2.7, RFC 4291 §2.5.6: never forwarded. */
export function isLinkLocal4(buf: Uint8Array, off: number): boolean {
  return buf[off] === 169 && buf[off + 1] === 254;
}

export function isLinkLocal6(buf: Uint8Array, off: number): boolean {
  return buf[off] === 0xfe && (buf[off + 1]! & 0xc0) === 0x80;
}

/**
 * Writes the frame of an ICMP error about the packet at buf[p, p + length) to out[at...]; returns where it ends. `rest` is the second word of
 * the message: the MTU for TOO_BIG, otherwise 0. `mtu` is that of the path back.
 */
export function writeError(
  out: Uint8Array,
  at: number,
  error: IcmpError,
  rest: number,
  source: Uint8Array,
  buf: Uint8Array,
  p: number,
  length: number,
  mtu: number,
): number {
  const v4 = source.length === 4;
  const header = v4 ? IPV4_HEADER : IPV6_HEADER;
  const quoted = Math.max(0, Math.min(length, Math.min(mtu, v4 ? ERROR_MAX_4 : ERROR_MAX_6) - header - ICMP_HEADER));
  const total = header + ICMP_HEADER + quoted;
  const ip = at + HEADER;
  const t = ip + header;
  putHeader(out, at, 0, 0, 0, total);
  out.set(buf.subarray(p, p + quoted), t + ICMP_HEADER);
  if (v4) {
    putIpv4(out, ip, Protocol.icmp, total, source, buf.subarray(p + 12, p + 16), DEFAULT_TTL);
    out[t] = error.type4;
    out[t + 1] = error.code4;
    // RFC 1191 §4: the MTU stands in the low half; the whole word is otherwise unused.
    putU32(out, t + 4, Math.min(rest, 0xffff));
    putIcmp4Checksum(out, t, ip + total);
  } else {
    putIpv6(out, ip, Protocol.icmpv6, total, source, buf.subarray(p + 8, p + 24), DEFAULT_TTL);
    out[t] = error.type6;
    out[t + 1] = error.code6;
    putU32(out, t + 4, rest);
    putIcmp6Checksum(out, ip, t, ip + total);
  }
  return ip + total;
}

/** The packet is an echo request, in one piece and with a right checksum. */
export function isEchoRequest(buf: Uint8Array, p: number, length: number): boolean {
  const upper = upperLayer(buf, p, length);
  if (upper < 0) return false;
  const t = p + (upper & 0xffff);
  if (t + ICMP_HEADER > p + length) return false;
  if (upper >>> 16 === Protocol.icmp && buf[p]! >>> 4 === 4) {
    if (((buf[p + 6]! << 8) | buf[p + 7]!) & 0x3fff) return false;
    return buf[t] === Icmp4.echoRequest && buf[t + 1] === 0 && checksum(buf, t, p + length) === 0;
  }
  // A request behind extension headers would be answered with them in place: only the plain form is.
  if (upper !== Protocol.icmpv6 * 0x10000 + IPV6_HEADER || buf[p]! >>> 4 !== 6) return false;
  if (buf[t] !== Icmp6.echoRequest || buf[t + 1] !== 0) return false;
  return checksum(buf, t, p + length, pseudoSum6(buf, p, Protocol.icmpv6, p + length - t)) === 0;
}

/** Turns the echo request into its reply, in place (RFC 792, RFC 4443 §4.2): addresses swapped, a fresh TTL. */
export function makeEchoReply(buf: Uint8Array, p: number, length: number): void {
  if (buf[p]! >>> 4 === 4) {
    for (let i = p + 12; i < p + 16; i++) [buf[i], buf[i + 4]] = [buf[i + 4]!, buf[i]!];
    buf[p + 8] = DEFAULT_TTL;
    // RFC 1122 §3.2.2.6 lets options be left as they came.
    const t = p + headerLength4(buf, p);
    buf[t] = Icmp4.echoReply;
    putU16(buf, p + 6, 0x4000);
    putChecksum4(buf, p);
    putIcmp4Checksum(buf, t, p + length);
    return;
  }
  for (let i = p + 8; i < p + 24; i++) [buf[i], buf[i + 16]] = [buf[i + 16]!, buf[i]!];
  buf[p + 7] = DEFAULT_TTL;
  buf[p + IPV6_HEADER] = Icmp6.echoReply;
  putIcmp6Checksum(buf, p, p + IPV6_HEADER, p + length);
}

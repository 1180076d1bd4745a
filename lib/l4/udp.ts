// UDP (RFC 768): bound sockets, datagrams in and out, ICMP errors to the socket that caused them.
//
// MTU: a datagram goes out in one packet if it fits the path's MTU, otherwise in fragments made here (RFC 791 §3.2,
// RFC 8200 §4.5), up to 65,507 bytes of payload over IPv4 and 65,527 over IPv6. Deviation: RFC 8200 §5 would rather not
// have them at all; Node's users expect them.

import {
  Flag,
  getU16,
  gsoSizeAt,
  HEADER,
  lengthAt,
  type Micros,
  putHeader,
  putU16,
  putU32,
  type Random,
} from '../core/index.js';
import type { IpEndpoint } from '../l3/index.js';
import { checksum, pseudoSum4, pseudoSum6 } from '../l3/wire/checksum.js';
import { putChecksum4, putIpv4 } from '../l3/wire/ipv4.js';
import { putIpv6 } from '../l3/wire/ipv6.js';
import { Protocol } from '../l3/wire/protocol.js';
import { UDP_HEADER, upperLayer } from '../l3/wire/transport.js';
import type { IcmpError } from './icmp-error.js';
import type { PathMtu } from './path-mtu.js';
import { EphemeralPorts } from './ports.js';
import type { IcmpKind } from './tcp/types.js';
import type { PacketWriter } from './wire/packet-writer.js';

/** Largest payload by family: the length fields of IPv4 and UDP (RFC 791, RFC 768). */
export const MAX_UDP_PAYLOAD_4 = 65_535 - 20 - 8;
export const MAX_UDP_PAYLOAD_6 = 65_535 - 8;

/** A bound socket; the owner implements it, the stack only reads it. */
export interface UdpBinding {
  /** null: every address of the family, and with family 0 of both. */
  readonly address: Uint8Array | null;
  readonly family: 0 | 4 | 6;
  readonly port: number;
  readonly reuse: boolean;
  /** Only datagrams from here are taken, and ICMP errors reported (as Linux); null: from anyone. */
  readonly peer: { readonly address: Uint8Array; readonly port: number } | null;
  readonly ttl: number;
  /** A datagram, in buf[start, end), from the address at `src` (4 or 16 bytes). Nothing of it may be kept but a copy. */
  onDatagram(buf: Uint8Array, start: number, end: number, src: number, addressLength: number, port: number): void;
  /** ICMP about a datagram to `peer`. */
  onIcmp(kind: IcmpKind): void;
}

export class UdpStack {
  readonly counters = {
    'udp-malformed': 0,
    'udp-bad-checksum': 0,
    'udp-no-socket': 0,
    'udp-fragmented': 0,
  };
  private readonly bindings = new Map<number, UdpBinding[]>();
  private readonly ports: EphemeralPorts;
  private identification: number;

  constructor(
    private readonly endpoint: IpEndpoint,
    private readonly out: PacketWriter,
    random: Random,
    private readonly paths: PathMtu,
    ports?: readonly [number, number],
  ) {
    this.ports = new EphemeralPorts(random, ...(ports ?? []));
    this.identification = random.u32();
  }

  get size(): number {
    let n = 0;
    for (const list of this.bindings.values()) n += list.length;
    return n;
  }

  inUse(address: Uint8Array | null, family: 0 | 4 | 6, port: number, reuse: boolean): boolean {
    const list = this.bindings.get(port) ?? [];
    return list.some((b) => !(reuse && b.reuse) && overlaps(b, address, family));
  }

  freePort(address: Uint8Array | null, family: 0 | 4 | 6): number {
    return this.ports.forBinding((port) => !this.inUse(address, family, port, false));
  }

  bind(binding: UdpBinding): void {
    const list = this.bindings.get(binding.port);
    if (list === undefined) this.bindings.set(binding.port, [binding]);
    else list.push(binding);
  }

  unbind(binding: UdpBinding): void {
    const list = this.bindings.get(binding.port);
    const i = list?.indexOf(binding) ?? -1;
    if (list === undefined || i < 0) return;
    list.splice(i, 1);
    if (list.length === 0) this.bindings.delete(binding.port);
  }

  /** Whether the frame at `off` is for a socket here. */
  claims(buf: Uint8Array, off: number): boolean {
    const p = off + HEADER;
    const length = lengthAt(buf, off);
    const upper = upperLayer(buf, p, length);
    const t = p + (upper & 0xffff);
    if (upper < 0 || upper >>> 16 !== Protocol.udp || t + UDP_HEADER > p + length) return false;
    return this.find(buf, p, t) !== null;
  }

  claimsQuote(buf: Uint8Array, e: IcmpError): boolean {
    return this.ofQuote(buf, e) !== null;
  }

  /** One UDP frame for one of our addresses. False: nobody has the port (the caller answers with an ICMP error). */
  handle(buf: Uint8Array, off: number): boolean {
    const p = off + HEADER;
    const length = lengthAt(buf, off);
    const upper = upperLayer(buf, p, length);
    const t = p + (upper & 0xffff);
    let end = p + length;
    if (upper < 0 || upper >>> 16 !== Protocol.udp || t + UDP_HEADER > end) {
      this.counters['udp-malformed']++;
      return true;
    }
    const flags = buf[off + 1]!;
    const gso = (flags & Flag.gsoUdp) !== 0 ? gsoSizeAt(buf, off) : 0;
    if (gso === 0) {
      const said = getU16(buf, t + 4);
      if (said < UDP_HEADER || t + said > end) {
        this.counters['udp-malformed']++;
        return true;
      }
      end = t + said;
    }
    const v4 = buf[p]! >>> 4 === 4;
    if ((flags & Flag.partialChecksum) === 0) {
      const field = getU16(buf, t + 6);
      // RFC 768: 0 is "none" over IPv4; RFC 8200 §8.1 forbids it over IPv6.
      const sum = v4 ? pseudoSum4 : pseudoSum6;
      const good = field === 0 ? v4 : checksum(buf, t, end, sum(buf, p, Protocol.udp, end - t)) === 0;
      if (!good) {
        this.counters['udp-bad-checksum']++;
        return true;
      }
    }
    const binding = this.find(buf, p, t);
    if (binding === null) {
      this.counters['udp-no-socket']++;
      return false;
    }
    const src = p + (v4 ? 12 : 8);
    const port = getU16(buf, t);
    const addressLength = v4 ? 4 : 16;
    if (gso === 0) binding.onDatagram(buf, t + UDP_HEADER, end, src, addressLength, port);
    else
      for (let at = t + UDP_HEADER; at < end; at += gso) {
        binding.onDatagram(buf, at, Math.min(end, at + gso), src, addressLength, port);
      }
    return true;
  }

  /** An ICMP error that quotes a datagram of ours. Only connected sockets hear of it, as in Linux without IP_RECVERR. */
  handleIcmp(buf: Uint8Array, e: IcmpError): void {
    if (e.kind === 'packet-too-big') return;
    const binding = this.ofQuote(buf, e);
    if (binding === null || binding.peer === null || binding.peer.port !== e.remotePort) return;
    if (!sameAt(binding.peer.address, buf, e.dst)) return;
    binding.onIcmp(e.kind);
  }

  /** Sends one datagram: the parts' bytes, back to back, `length` in all. */
  send(
    now: Micros,
    binding: UdpBinding,
    local: Uint8Array,
    remote: Uint8Array,
    remotePort: number,
    parts: readonly Uint8Array[],
    length: number,
  ): void {
    const v4 = remote.length === 4;
    const header = v4 ? 20 : 40;
    const total = header + UDP_HEADER + length;
    const mtu = this.paths.towards(now, remote, this.endpoint.mtuTo(remote));
    if (total <= mtu) {
      const off = this.out.reserve(HEADER + total);
      const buf = this.out.bytes;
      const p = off + HEADER;
      putHeader(buf, off, 0, 0, 0, total);
      putIp(buf, p, total, local, remote, binding.ttl, Protocol.udp);
      putDatagram(buf, p, p + header, binding.port, remotePort, parts, length);
      this.out.commit(p + total);
      return;
    }
    this.sendFragments(mtu, binding, local, remote, remotePort, parts, length);
  }

  private sendFragments(
    mtu: number,
    binding: UdpBinding,
    local: Uint8Array,
    remote: Uint8Array,
    remotePort: number,
    parts: readonly Uint8Array[],
    length: number,
  ): void {
    this.counters['udp-fragmented']++;
    const v4 = remote.length === 4;
    const header = v4 ? 20 : 40;
    const whole = new Uint8Array(header + UDP_HEADER + length);
    putIp(whole, 0, Math.min(whole.length, 65_535), local, remote, binding.ttl, Protocol.udp);
    putDatagram(whole, 0, header, binding.port, remotePort, parts, length);
    const extra = v4 ? 0 : 8;
    const chunk = (mtu - header - extra) & ~7;
    const payload = whole.length - header;
    this.identification = (this.identification + 1) | 0;
    for (let done = 0; done < payload; done += chunk) {
      const bytes = Math.min(chunk, payload - done);
      const more = done + bytes < payload;
      const total = header + extra + bytes;
      const off = this.out.reserve(HEADER + total);
      const buf = this.out.bytes;
      const p = off + HEADER;
      putHeader(buf, off, 0, 0, 0, total);
      putIp(buf, p, total, local, remote, binding.ttl, v4 ? Protocol.udp : Protocol.fragment);
      if (v4) {
        putU16(buf, p + 4, this.identification);
        putU16(buf, p + 6, (more ? 0x2000 : 0) | (done >>> 3));
        putChecksum4(buf, p);
      } else {
        buf[p + 40] = Protocol.udp;
        buf[p + 41] = 0;
        putU16(buf, p + 42, done | (more ? 1 : 0));
        putU32(buf, p + 44, this.identification);
      }
      buf.set(whole.subarray(header + done, header + done + bytes), p + header + extra);
      this.out.commit(p + total);
    }
  }

  private ofQuote(buf: Uint8Array, e: IcmpError): UdpBinding | null {
    for (const b of this.bindings.get(e.localPort) ?? []) {
      if (b.address === null || (b.address.length === e.addressLength && sameAt(b.address, buf, e.src))) return b;
    }
    return null;
  }

  /** The socket for the packet at `p` with its UDP header at `t`: a connected one first, then the most specific address. */
  private find(buf: Uint8Array, p: number, t: number): UdpBinding | null {
    const list = this.bindings.get(getU16(buf, t + 2));
    if (list === undefined) return null;
    const v4 = buf[p]! >>> 4 === 4;
    const length = v4 ? 4 : 16;
    const src = p + (v4 ? 12 : 8);
    let best: UdpBinding | null = null;
    let bestScore = 0;
    for (const b of list) {
      if (b.family !== 0 && b.family !== (v4 ? 4 : 6)) continue;
      let score = 1;
      if (b.address !== null) {
        if (b.address.length !== length || !sameAt(b.address, buf, src + length)) continue;
        score += 1;
      }
      if (b.peer !== null) {
        if (b.peer.port !== getU16(buf, t) || b.peer.address.length !== length) continue;
        if (!sameAt(b.peer.address, buf, src)) continue;
        score += 2;
      }
      if (score >= bestScore) {
        best = b;
        bestScore = score;
      }
    }
    return best;
  }
}

function putIp(
  buf: Uint8Array,
  p: number,
  total: number,
  local: Uint8Array,
  remote: Uint8Array,
  ttl: number,
  protocol: number,
): void {
  if (local.length === 4) putIpv4(buf, p, protocol, total, local, remote, ttl);
  else putIpv6(buf, p, protocol, total, local, remote, ttl);
}

/** Header and payload at `t` of the packet at `p`, whose IP header is there. */
function putDatagram(
  buf: Uint8Array,
  p: number,
  t: number,
  localPort: number,
  remotePort: number,
  parts: readonly Uint8Array[],
  length: number,
): void {
  const bytes = UDP_HEADER + length;
  putU16(buf, t, localPort);
  putU16(buf, t + 2, remotePort);
  putU16(buf, t + 4, bytes);
  putU16(buf, t + 6, 0);
  let at = t + UDP_HEADER;
  for (const part of parts) {
    buf.set(part, at);
    at += part.length;
  }
  const v4 = buf[p]! >>> 4 === 4;
  const sum = checksum(buf, t, at, (v4 ? pseudoSum4 : pseudoSum6)(buf, p, Protocol.udp, bytes));
  // RFC 768: a sum of 0 is sent as all ones.
  putU16(buf, t + 6, sum === 0 ? 0xffff : sum);
}

function overlaps(b: UdpBinding, address: Uint8Array | null, family: 0 | 4 | 6): boolean {
  if (b.family !== 0 && family !== 0 && b.family !== family) return false;
  if (b.address === null || address === null) return true;
  return b.address.length === address.length && sameAt(b.address, address, 0);
}

function sameAt(a: Uint8Array, buf: Uint8Array, off: number): boolean {
  for (let i = 0; i < a.length; i++) if (a[i] !== buf[off + i]) return false;
  return true;
}

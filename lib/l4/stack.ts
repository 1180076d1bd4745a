// The stack of one node: IP packets in, to TCP, UDP and ping; packets out through one writer. It knows no sockets, no
// timers and no promises: lib/l4/driver.ts does. Read first: tcp-stack.ts, udp.ts.
//
// Order of use after anything was handled or commanded: `poll` (writes packets), `deliver` until false (tells owners,
// whose commands make new things to poll), then one timer for `pollDeadline`.

import { HEADER, lengthAt, type Micros, putHeader, putU32, type Random, SECOND } from '../core/index.js';
import type { IpEndpoint } from '../l3/index.js';
import { ICMP_HEADER, Icmp4, putIcmp4Checksum, Unreachable4 } from '../l3/wire/icmpv4.js';
import { Icmp6, putIcmp6Checksum, Unreachable6 } from '../l3/wire/icmpv6.js';
import { putIpv4 } from '../l3/wire/ipv4.js';
import { putIpv6 } from '../l3/wire/ipv6.js';
import { Protocol } from '../l3/wire/protocol.js';
import { upperLayer } from '../l3/wire/transport.js';
import { copyOf } from './bytes.js';
import { IcmpError } from './icmp-error.js';
import { PathMtu } from './path-mtu.js';
import { PingStack } from './ping.js';
import { DEFAULT_REASSEMBLY_LIMITS, isFragment, Reassembly, type ReassemblyLimits } from './reassembly.js';
import { DEFAULT_TCP_OPTIONS, type TcpOptions } from './tcp/types.js';
import { DEFAULT_TCP_LIMITS, type TcpFactory, type TcpLimits, TcpStack } from './tcp-stack.js';
import { UdpStack } from './udp.js';
import type { PacketWriter } from './wire/packet-writer.js';

export interface StackOptions {
  /** First and last of the ports for connections and sockets that ask for none. **Default:** 49,152 to 65,535; on a node with a TUN device those that the kernel leaves. */
  readonly ports?: readonly [number, number];
  readonly tcp?: Partial<TcpOptions>;
  readonly limits?: Partial<TcpLimits> & { readonly reassembly?: Partial<ReassemblyLimits> };
}

/** ICMP errors we send (port unreachable): at most this many a second, as many at once (RFC 1812 §4.3.2.8). */
const ERRORS_PER_SECOND = 100;

export class Stack {
  readonly tcp: TcpStack;
  readonly udp: UdpStack;
  readonly ping: PingStack;
  readonly reassembly: Reassembly;
  readonly tcpOptions: Readonly<TcpOptions>;
  private readonly paths = new PathMtu();
  private readonly error = new IcmpError();
  private readonly counters = { 'l4-unknown-protocol': 0, 'icmp-errors-sent': 0, 'icmp-errors-limited': 0 };
  private tokens = ERRORS_PER_SECOND;
  private tokensAt: Micros = 0;

  constructor(
    readonly endpoint: IpEndpoint,
    private readonly out: PacketWriter,
    random: Random,
    factory: TcpFactory,
    options: StackOptions = {},
  ) {
    const { reassembly, ...limits } = options.limits ?? {};
    this.tcpOptions = { ...DEFAULT_TCP_OPTIONS, ...options.tcp };
    const tcpLimits = { ...DEFAULT_TCP_LIMITS, ...limits };
    this.tcp = new TcpStack(endpoint, out, random, factory, this.tcpOptions, tcpLimits, this.paths, options.ports);
    this.udp = new UdpStack(endpoint, out, random, this.paths, options.ports);
    this.ping = new PingStack(out, random);
    this.reassembly = new Reassembly({ ...DEFAULT_REASSEMBLY_LIMITS, ...reassembly });
  }

  /** The address of ours to speak to `remote` from; null: we have none of that family. */
  localFor(remote: Uint8Array): Uint8Array | null {
    const { addresses } = this.endpoint;
    return (
      addresses.find((a) => a.length === remote.length && equal(a, remote)) ??
      addresses.find((a) => a.length === remote.length) ??
      null
    );
  }

  isLocal(address: Uint8Array): boolean {
    return this.endpoint.addresses.some((a) => a.length === address.length && equal(a, address));
  }

  stats(): Record<string, number> {
    const { connections, timeWait } = this.tcp.size;
    return {
      connections,
      'time-wait': timeWait,
      'udp-sockets': this.udp.size,
      'buffered-bytes': this.tcp.memory.used,
      'out-of-order-refused': this.tcp.memory.refused,
      'fragments-held': this.reassembly.held,
      ...this.tcp.counters,
      ...this.udp.counters,
      ...this.reassembly.counters,
      ...this.counters,
    };
  }

  /** See IpEndpointHandler.claims. */
  claims(buf: Uint8Array, off: number): boolean {
    const p = off + HEADER;
    const length = lengthAt(buf, off);
    if (isFragment(buf, p)) {
      // Only the first fragment has ports; the others follow where it went. One that overtakes it goes to the kernel, which
      // gives up on the datagram: senders keep the order, and so do links.
      if (this.reassembly.knows(buf, off)) return true;
      if (!firstOfUdp(buf, p, length) || !this.udp.claims(buf, off)) return false;
      this.reassembly.expect(buf, off);
      return true;
    }
    switch (upperLayer(buf, p, length) >>> 16) {
      case Protocol.tcp:
        return this.tcp.claims(buf, off);
      case Protocol.udp:
        return this.udp.claims(buf, off);
      case Protocol.icmp:
      case Protocol.icmpv6:
        if (this.ping.claims(buf, off)) return true;
        return this.error.parse(buf, off) && this.claimsQuote(buf);
      default:
        return false;
    }
  }

  /** Whole frames for our addresses. */
  handlePackets(now: Micros, buf: Uint8Array, start: number, end: number): void {
    for (let off = start; off + HEADER < end; ) {
      if (off + HEADER + lengthAt(buf, off) > end) return;
      off = this.handlePacket(now, buf, off, end);
    }
  }

  /** Returns where the next packet begins. */
  private handlePacket(now: Micros, buf: Uint8Array, off: number, end: number): number {
    const p = off + HEADER;
    const length = lengthAt(buf, off);
    const next = p + length;
    if (isFragment(buf, p)) {
      const frame = this.reassembly.handle(now, buf, off);
      if (frame !== null && !isFragment(frame, HEADER)) this.handlePacket(now, frame, 0, HEADER + lengthAt(frame, 0));
      return next;
    }
    switch (upperLayer(buf, p, length) >>> 16) {
      case Protocol.tcp:
        return this.tcp.handle(now, buf, off, end);
      case Protocol.udp:
        if (!this.udp.handle(buf, off)) this.sendPortUnreachable(now, buf, p, length);
        break;
      case Protocol.icmp:
      case Protocol.icmpv6:
        if (this.error.parse(buf, off)) this.handleError(now, buf);
        else this.ping.handle(now, buf, off);
        break;
      default:
        this.counters['l4-unknown-protocol']++;
    }
    return next;
  }

  handleTimeouts(now: Micros): void {
    this.tcp.handleTimeouts(now);
  }

  handlePathChange(now: Micros): void {
    this.tcp.handlePathChange(now);
  }

  poll(now: Micros): void {
    this.tcp.poll(now);
  }

  get hasEvents(): boolean {
    return this.tcp.hasEvents;
  }

  deliver(): boolean {
    return this.tcp.deliver();
  }

  pollDeadline(): Micros {
    return this.tcp.pollDeadline();
  }

  private claimsQuote(buf: Uint8Array): boolean {
    const { error } = this;
    if (error.protocol === Protocol.tcp) return this.tcp.claimsQuote(buf, error);
    if (error.protocol === Protocol.udp) return this.udp.claimsQuote(buf, error);
    return this.ping.claimsQuote(buf, error);
  }

  private handleError(now: Micros, buf: Uint8Array): void {
    const { error } = this;
    if (error.protocol === Protocol.tcp) this.tcp.handleIcmp(now, buf, error);
    else {
      // A datagram leaves no trace that a quote could be checked against, but its port: it must be bound.
      const ours =
        error.protocol === Protocol.udp ? this.udp.claimsQuote(buf, error) : this.ping.claimsQuote(buf, error);
      if (!ours) return;
      if (error.kind === 'packet-too-big') {
        this.paths.learn(now, copyOf(buf, error.dst, error.dst + error.addressLength), error.mtu);
      } else if (error.protocol === Protocol.udp) this.udp.handleIcmp(buf, error);
      else this.ping.handleIcmp(buf, error);
    }
  }

  /** RFC 1122 §4.1.3.1, RFC 4443 §3.1: nobody has this port. */
  private sendPortUnreachable(now: Micros, buf: Uint8Array, p: number, length: number): void {
    this.tokens = Math.min(ERRORS_PER_SECOND, this.tokens + ((now - this.tokensAt) * ERRORS_PER_SECOND) / SECOND);
    this.tokensAt = now;
    if (this.tokens < 1) {
      this.counters['icmp-errors-limited']++;
      return;
    }
    this.tokens--;
    this.counters['icmp-errors-sent']++;
    const v4 = buf[p]! >>> 4 === 4;
    const n = v4 ? 4 : 16;
    const header = v4 ? 20 : 40;
    const src = p + (v4 ? 12 : 8);
    // RFC 1812 §4.3.2.3 and RFC 4443 §2.4 (c) say how much to quote.
    const quoted = Math.min(length, (v4 ? 576 : 1280) - header - ICMP_HEADER);
    const total = header + ICMP_HEADER + quoted;
    const quote = copyOf(buf, p, p + quoted);
    const remote = copyOf(buf, src, src + n);
    const local = copyOf(buf, src + n, src + 2 * n);
    const off = this.out.reserve(HEADER + total);
    const to = this.out.bytes;
    const q = off + HEADER;
    const t = q + header;
    putHeader(to, off, 0, 0, 0, total);
    if (v4) putIpv4(to, q, Protocol.icmp, total, local, remote, 64);
    else putIpv6(to, q, Protocol.icmpv6, total, local, remote, 64);
    to[t] = v4 ? Icmp4.unreachable : Icmp6.unreachable;
    to[t + 1] = v4 ? Unreachable4.port : Unreachable6.port;
    putU32(to, t + 4, 0);
    to.set(quote, t + ICMP_HEADER);
    if (v4) putIcmp4Checksum(to, t, q + total);
    else putIcmp6Checksum(to, q, t, q + total);
    this.out.commit(q + total);
  }
}

function firstOfUdp(buf: Uint8Array, p: number, length: number): boolean {
  return upperLayer(buf, p, length) >>> 16 === Protocol.udp;
}

function equal(a: Uint8Array, b: Uint8Array): boolean {
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return false;
  return true;
}

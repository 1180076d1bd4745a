// Core: the echo client behind node.ping() (RFC 792, RFC 4443 §4.1). Requests out, replies and ICMP errors in, deadlines.

import {
  getU16,
  getU32,
  HEADER,
  KubeBusError,
  lengthAt,
  type Micros,
  NEVER,
  putHeader,
  putU32,
  type Random,
} from '../core/index.js';
import { addressKey, formatAddress } from './address.js';
import { DEFAULT_TTL } from './icmp.js';
import { checksum, pseudoSum6 } from './wire/checksum.js';
import { ICMP_HEADER, Icmp4, putIcmp4Checksum, Unreachable4 } from './wire/icmpv4.js';
import { Icmp6, putIcmp6Checksum } from './wire/icmpv6.js';
import { headerLength4, IPV4_HEADER, putIpv4 } from './wire/ipv4.js';
import { IPV6_HEADER, putIpv6 } from './wire/ipv6.js';
import { Protocol } from './wire/protocol.js';
import { upperLayer } from './wire/transport.js';

/** Why an echo request got no reply. */
export type PingFailure =
  | { readonly reason: 'timeout' }
  /** An ICMP error came back; `from` sent it. `mtu` for 'too-big'. */
  | {
      readonly reason: 'unreachable' | 'ttl-exceeded' | 'too-big' | 'other';
      readonly from: string;
      readonly type: number;
      readonly code: number;
      readonly mtu?: number;
    };

export type PingResult =
  | { readonly ok: true; readonly sequence: number; readonly rttMicros: number; readonly ttl: number }
  | { readonly ok: false; readonly sequence: number; readonly failure: PingFailure };

export interface PingRequest {
  readonly source: Uint8Array;
  readonly destination: Uint8Array;
  /** Bytes of echo data, at least 8. **Default:** 56, as ping has it. */
  readonly size?: number;
  /** **Default:** 64. */
  readonly ttl?: number;
  readonly timeout: Micros;
}

/** Bytes at the start of the echo data that tell our requests from those of the host's kernel with the same id. */
const TOKEN_BYTES = 8;

interface Waiting {
  readonly destination: string;
  readonly sentAt: Micros;
  readonly deadline: Micros;
  readonly done: (result: PingResult) => void;
}

export interface PingerOptions {
  readonly random: Random;
  /** Requests that may wait at once. Beyond: ERR_INVALID_ARGUMENT. **Default:** 1024. */
  readonly maxWaiting?: number;
}

/** One id per pinger, one sequence number per request. Attach with Vrf.listenIcmp. */
export class Pinger {
  private readonly id: number;
  private readonly token: Uint8Array = new Uint8Array(TOKEN_BYTES);
  private readonly maxWaiting: number;
  private readonly waiting = new Map<number, Waiting>();
  private sequence = 0;

  constructor(options: PingerOptions) {
    this.id = options.random.u32() & 0xffff;
    options.random.fill(this.token);
    this.maxWaiting = options.maxWaiting ?? 1024;
  }

  /** Bytes of the frame that `request` writes. */
  static frameBytes(request: PingRequest): number {
    return HEADER + (request.source.length === 4 ? IPV4_HEADER : IPV6_HEADER) + ICMP_HEADER + (request.size ?? 56);
  }

  /**
   * Writes the frame of an echo request at `at` and returns where it ends; `done` is called once with the outcome.
   * Throws ERR_INVALID_ARGUMENT for sizes that fit no packet, mixed families, and too many at once.
   */
  request(now: Micros, buf: Uint8Array, at: number, request: PingRequest, done: (result: PingResult) => void): number {
    const { source, destination, size = 56, ttl = DEFAULT_TTL } = request;
    const header = source.length === 4 ? IPV4_HEADER : IPV6_HEADER;
    const total = header + ICMP_HEADER + size;
    if (source.length !== destination.length) throw invalid('source and destination are of different families');
    if (!Number.isInteger(size) || size < TOKEN_BYTES || total > 0xffff) throw invalid(`size ${size}`);
    if (this.waiting.size >= this.maxWaiting) throw invalid(`more than ${this.maxWaiting} echo requests at once`);
    while (this.waiting.has(this.sequence)) this.sequence = (this.sequence + 1) & 0xffff;
    const sequence = this.sequence;
    this.sequence = (sequence + 1) & 0xffff;
    const p = at + HEADER;
    const t = p + header;
    const end = p + total;
    putHeader(buf, at, 0, 0, 0, total);
    buf[t] = source.length === 4 ? Icmp4.echoRequest : Icmp6.echoRequest;
    buf[t + 1] = 0;
    putU32(buf, t + 4, this.id * 0x10000 + sequence);
    buf.set(this.token, t + ICMP_HEADER);
    for (let i = t + ICMP_HEADER + TOKEN_BYTES; i < end; i++) buf[i] = i - t;
    if (source.length === 4) {
      putIpv4(buf, p, Protocol.icmp, total, source, destination, ttl);
      putIcmp4Checksum(buf, t, end);
    } else {
      putIpv6(buf, p, Protocol.icmpv6, total, source, destination, ttl);
      putIcmp6Checksum(buf, p, t, end);
    }
    this.waiting.set(sequence, {
      destination: addressKey(destination),
      sentAt: now,
      deadline: now + request.timeout,
      done,
    });
    return end;
  }

  /** A validated packet to one of our addresses; true if it answers one of our requests. */
  handleIcmp(now: Micros, buf: Uint8Array, off: number): boolean {
    const p = off + HEADER;
    const length = lengthAt(buf, off);
    const upper = upperLayer(buf, p, length);
    const v4 = buf[p]! >>> 4 === 4;
    if (upper < 0 || upper >>> 16 !== (v4 ? Protocol.icmp : Protocol.icmpv6)) return false;
    const t = p + (upper & 0xffff);
    const end = p + length;
    if (t + ICMP_HEADER > end) return false;
    if (buf[t] === (v4 ? Icmp4.echoReply : Icmp6.echoReply)) return this.reply(now, buf, p, t, end, v4);
    if (v4 ? buf[t] === Icmp4.echoRequest : buf[t]! >= 128) return false;
    return this.error(buf, p, t, end, v4);
  }

  /** Fails what is overdue. */
  handleTimeout(now: Micros): void {
    for (const [sequence, { deadline }] of this.waiting) {
      if (deadline <= now) this.finish(sequence, { ok: false, sequence, failure: { reason: 'timeout' } });
    }
  }

  /** When handleTimeout is wanted next. */
  pollDeadline(): Micros {
    let earliest: Micros = NEVER;
    for (const { deadline } of this.waiting.values()) earliest = Math.min(earliest, deadline);
    return earliest;
  }

  private reply(now: Micros, buf: Uint8Array, p: number, t: number, end: number, v4: boolean): boolean {
    if (getU16(buf, t + 4) !== this.id || !this.hasToken(buf, t + ICMP_HEADER, end)) return false;
    const sequence = getU16(buf, t + 6);
    const waiting = this.waiting.get(sequence);
    const from = buf.subarray(v4 ? p + 12 : p + 8, v4 ? p + 16 : p + 24);
    // A second or late reply is ours all the same: the kernel has no use for it.
    if (waiting === undefined) return true;
    if (addressKey(from) !== waiting.destination) return false;
    const pseudo = v4 ? 0 : pseudoSum6(buf, p, Protocol.icmpv6, end - t);
    if (checksum(buf, t, end, pseudo) !== 0) return true;
    const ttl = buf[v4 ? p + 8 : p + 7]!;
    this.finish(sequence, { ok: true, sequence, rttMicros: now - waiting.sentAt, ttl });
    return true;
  }

  /** An ICMP error: ours if it quotes one of our requests. */
  private error(buf: Uint8Array, p: number, t: number, end: number, v4: boolean): boolean {
    const q = t + ICMP_HEADER;
    if (q + (v4 ? IPV4_HEADER : IPV6_HEADER) > end || buf[q]! >>> 4 !== (v4 ? 4 : 6)) return false;
    const header = v4 ? headerLength4(buf, q) : IPV6_HEADER;
    const echo = q + header;
    // RFC 792 promises only 8 bytes of what was sent; with more there, they must be right.
    if ((v4 ? buf[q + 9] !== Protocol.icmp : buf[q + 6] !== Protocol.icmpv6) || echo + ICMP_HEADER > end) return false;
    if (buf[echo] !== (v4 ? Icmp4.echoRequest : Icmp6.echoRequest) || getU16(buf, echo + 4) !== this.id) return false;
    if (end - echo >= ICMP_HEADER + TOKEN_BYTES && !this.hasToken(buf, echo + ICMP_HEADER, end)) return false;
    const sequence = getU16(buf, echo + 6);
    const waiting = this.waiting.get(sequence);
    const to = buf.subarray(v4 ? q + 16 : q + 24, v4 ? q + 20 : q + 40);
    if (waiting === undefined || addressKey(to) !== waiting.destination) return false;
    const pseudo = v4 ? 0 : pseudoSum6(buf, p, Protocol.icmpv6, end - t);
    if (checksum(buf, t, end, pseudo) !== 0) return true;
    const type = buf[t]!;
    const code = buf[t + 1]!;
    const from = formatAddress(buf.subarray(v4 ? p + 12 : p + 8, v4 ? p + 16 : p + 24));
    const reason = v4 ? reason4(type, code) : reason6(type);
    const failure: PingFailure =
      reason === 'too-big' ? { reason, from, type, code, mtu: getU32(buf, t + 4) } : { reason, from, type, code };
    this.finish(sequence, { ok: false, sequence, failure });
    return true;
  }

  private hasToken(buf: Uint8Array, off: number, end: number): boolean {
    if (off + TOKEN_BYTES > end) return false;
    for (let i = 0; i < TOKEN_BYTES; i++) if (buf[off + i] !== this.token[i]) return false;
    return true;
  }

  private finish(sequence: number, result: PingResult): void {
    const waiting = this.waiting.get(sequence);
    this.waiting.delete(sequence);
    waiting?.done(result);
  }
}

function reason4(type: number, code: number): 'unreachable' | 'ttl-exceeded' | 'too-big' | 'other' {
  if (type === Icmp4.unreachable) return code === Unreachable4.fragmentationNeeded ? 'too-big' : 'unreachable';
  return type === Icmp4.timeExceeded ? 'ttl-exceeded' : 'other';
}

function reason6(type: number): 'unreachable' | 'ttl-exceeded' | 'too-big' | 'other' {
  if (type === Icmp6.unreachable) return 'unreachable';
  if (type === Icmp6.packetTooBig) return 'too-big';
  return type === Icmp6.timeExceeded ? 'ttl-exceeded' : 'other';
}

function invalid(what: string): KubeBusError {
  return new KubeBusError('ERR_INVALID_ARGUMENT', `ping: ${what}`);
}

// What a TCP connection is given and what it tells: configuration, options with defaults, events, reasons.

import { type Micros, MS, type Random, SECOND } from '../../core/index.js';

/** Tunables of one connection. Times in microseconds, sizes in bytes. */
export interface TcpOptions {
  /** Send small segments at once instead of Nagle's algorithm (RFC 9293 §3.7.4). **Default:** `false`. */
  noDelay: boolean;
  /** Keep-alive probes on an idle connection (RFC 9293 §3.8.4). **Default:** `false`. */
  keepAlive: boolean;
  /** Idle time before the first probe. **Default:** 2 h, as the RFC asks. */
  keepAliveIdle: Micros;
  /** Between probes. **Default:** 75 s. */
  keepAliveInterval: Micros;
  /** Unanswered probes before the connection is given up with `timeout`. **Default:** 9. */
  keepAliveCount: number;
  /** How long sent data may stay unacknowledged (or the window closed without an answer) before `timeout` (RFC 9293 §3.8.3). **Default:** 15 min. */
  userTimeout: Micros;
  /** How long connecting may take, SYN retransmissions included. **Default:** 127 s (six retries). */
  connectTimeout: Micros;
  /** Congestion controller. **Default:** `'cubic'`. */
  congestion: 'cubic' | 'reno';
  /** Ask for ECN (RFC 3168) when opening; agreed to when asked. **Default:** `true`. */
  ecn: boolean;
  /** RFC 2018, RFC 7323 §3 and §2. **Default:** `true` each. */
  sack: boolean;
  timestamps: boolean;
  windowScaling: boolean;
  /** Spread segments over the round-trip time. **Default:** `true`; has no effect where the RTT is below 2 ms. */
  pacing: boolean;
  /** Start with this receive buffer ... **Default:** 128 KiB. */
  receiveBuffer: number;
  /** ... and let it grow to this. **Default:** 6 MiB. */
  maxReceiveBuffer: number;
  /** Most bytes `write` takes while unacknowledged; the limit grows with cwnd up to this. **Default:** 4 MiB. */
  maxSendBuffer: number;
  /** Longest delay of an acknowledgement (RFC 9293 §3.8.6.3: below 0.5 s). **Default:** 40 ms. */
  delayedAck: Micros;
  /** Bounds of the retransmission timeout. **Default:** 200 ms (Deviation from the 1 s of RFC 6298 (2.4), as Linux) and 60 s. */
  minRto: Micros;
  maxRto: Micros;
  /** TIME-WAIT lasts twice this. **Default:** 30 s (Deviation from RFC 9293's 2 min, as Linux). */
  msl: Micros;
  /** How long a fully closed socket waits in FIN-WAIT-2 for the peer's FIN. **Default:** 60 s, as Linux. */
  finWait2: Micros;
  /** Largest segment we ask for, before options; the path's MTU bounds it as well. **Default:** 65495. */
  mss: number;
  /** Initial window in segments (RFC 6928). **Default:** 10. */
  initialWindow: number;
}

export const DEFAULT_TCP_OPTIONS: Readonly<TcpOptions> = {
  noDelay: false,
  keepAlive: false,
  keepAliveIdle: 7_200 * SECOND,
  keepAliveInterval: 75 * SECOND,
  keepAliveCount: 9,
  userTimeout: 900 * SECOND,
  connectTimeout: 127 * SECOND,
  congestion: 'cubic',
  ecn: true,
  sack: true,
  timestamps: true,
  windowScaling: true,
  pacing: true,
  receiveBuffer: 128 * 1024,
  maxReceiveBuffer: 6 * 1024 * 1024,
  maxSendBuffer: 4 * 1024 * 1024,
  delayedAck: 40 * MS,
  minRto: 200 * MS,
  maxRto: 60 * SECOND,
  msl: 30 * SECOND,
  finWait2: 60 * SECOND,
  mss: 65_495,
  initialWindow: 10,
};

/** Who talks to whom and over what; fixed for the life of a connection, but for the path. */
export interface TcpConfig {
  /** 4 or 16 bytes each, of the same family; kept by reference. */
  readonly localAddress: Uint8Array;
  readonly remoteAddress: Uint8Array;
  readonly localPort: number;
  readonly remotePort: number;
  /** Initial send sequence number (RFC 6528; from the stack). */
  readonly iss: number;
  /** Added to the millisecond clock in the timestamps we send (RFC 7323 §5.4; from the stack, per four-tuple). */
  readonly tsOffset: number;
  /** Largest IP packet of the path, and whether it takes super-packets and partial checksums. `handlePath` changes them. */
  readonly mtu: number;
  readonly offload: boolean;
  /** Whether it takes partial checksums on ordinary packets. **Default:** as `offload`. */
  readonly partialChecksums?: boolean;
  readonly random: Random;
  /** Shared by all connections of a stack (one object, not copied): a connection keeps only what was changed by command. */
  readonly options: Readonly<TcpOptions>;
  /** Bytes buffered by all connections of the stack, with a bound; shared. */
  readonly memory?: TcpMemory;
  /** The same for all connections of the stack. */
  readonly counters?: TcpCounters;
}

/** Bound over all connections. Above `limit` windows stop growing and out-of-order data is refused. */
export interface TcpMemory {
  used: number;
  readonly limit: number;
  /** Segments out of order that were not kept: above the limit, or with too many holes between them. */
  refused: number;
}

/** What peers of all connections do that honest ones do not; each is answered as its rule says and costs no more than that. */
export interface TcpCounters {
  /** Acknowledgements that end inside a segment (RFC 3465 §2.1: they gain nothing, windows grow by bytes). */
  'acks-split': number;
  /** SACK blocks of what is not in flight, or with an edge inside a segment: ignored, or taken for the whole segments they hold. */
  'sack-blocks-odd': number;
  /** Windows smaller than a segment, while data waits. */
  'windows-tiny': number;
}

/** What a SYN cookie has preserved of the SYN it answered. */
export interface CookieState {
  /** The peer's initial sequence number. */
  readonly irs: number;
  /** Of the peer's SYN: its MSS option (0 = none), window scale (-1 = none), and whether these were offered and thus agreed. */
  readonly mss: number;
  readonly windowScale: number;
  readonly sackPermitted: boolean;
  readonly timestamps: boolean;
  readonly ecn: boolean;
  /** The window scale that our SYN-ACK announced; -1 = none. */
  readonly ourWindowScale: number;
}

/** Why a connection is over. `none`: it is not, or it ended in order. */
export type TcpReason =
  | 'none'
  /** RST while opening: nobody listens. */
  | 'refused'
  /** RST on a connection that was up. */
  | 'reset'
  /** User timeout, connect timeout or keep-alive ran out. */
  | 'timeout'
  /** ICMP said so while opening, or all along until a timeout. */
  | 'host-unreachable'
  | 'network-unreachable'
  /** We aborted. */
  | 'aborted';

/** Bits of `pollEvents`. */
export const TcpEvent = {
  /** The handshake is done (both roles). */
  established: 0x01,
  /** `readable` became greater than 0 or grew. */
  readable: 0x02,
  /** The peer's FIN has been reached in order: after the bytes that are readable now, nothing follows. */
  peerFinished: 0x04,
  /** `writable` became greater than 0 after a `write` took less than it was given. */
  writable: 0x08,
  /** All written bytes have been acknowledged, and our FIN too if one was sent. */
  drained: 0x10,
  /** Our side is done for good: TIME-WAIT or CLOSED; `reason` says why. The stack may drop its reference (see takeTimeWait). */
  closed: 0x20,
  /** Something soft happened (ICMP unreachable on a live connection): `softReason`. */
  soft: 0x40,
} as const;

/** Kinds of ICMP message that concern a connection; RFC 1122 §4.2.3.9, RFC 5927, RFC 8201. */
export type IcmpKind = 'packet-too-big' | 'host-unreachable' | 'network-unreachable' | 'port-unreachable';

/** Counters of one connection. Bytes are payload. */
export interface TcpStats {
  bytesSent: number;
  bytesReceived: number;
  segmentsSent: number;
  segmentsReceived: number;
  retransmitted: number;
  timeouts: number;
  fastRecoveries: number;
  undone: number;
  dropped: number;
  challengeAcks: number;
}

/** The same but for one option. Switches that many connections turn (noDelay of a server's) give them one object to share. */
export function optionsWith<K extends keyof TcpOptions>(
  options: Readonly<TcpOptions>,
  name: K,
  value: TcpOptions[K],
): Readonly<TcpOptions> {
  if (options[name] === value) return options;
  if (typeof value !== 'boolean') return { ...options, [name]: value };
  let turned = switched.get(options);
  if (turned === undefined) switched.set(options, (turned = new Map()));
  let variant = turned.get(name);
  if (variant === undefined) {
    turned.set(name, (variant = { ...options, [name]: value }));
    // Turned back it is the object that it was: who turns it to and fro for ever makes no more of them.
    switched.set(variant, new Map([[name, options]]));
  }
  return variant;
}

/** By option: a switch has only one other position. */
const switched = new WeakMap<Readonly<TcpOptions>, Map<keyof TcpOptions, Readonly<TcpOptions>>>();

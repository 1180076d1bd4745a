// The surface of a TCP connection, in the four kinds of method that every core has. `TcpConnection` implements it;
// stack, sockets, drill scripts and the simulator use nothing else.
//
// Order of use by a driver, after any handle* or command: `pollTransmit` until it returns false, then `pollEvents`,
// then arm one timer for `pollDeadline`. All three are cheap when there is nothing, and spurious calls are harmless.
// A batch of segments may be handled before one round of polling: then it is acknowledged once (as with GRO).

import type { Micros } from '../../core/index.js';
import type { PacketWriter } from '../wire/packet-writer.js';
import type { TcpSegment } from '../wire/tcp.js';
import type { TcpState } from './state.js';
import type { TimeWait } from './time-wait.js';
import type { IcmpKind, TcpConfig, TcpOptions, TcpReason, TcpStats } from './types.js';

export interface TcpSurface {
  // ---- getters: never change anything -------------------------------------------------------------------------
  readonly config: TcpConfig;
  readonly state: TcpState;
  /** Why the connection is over; `'none'` while it is not, and after an orderly end. */
  readonly reason: TcpReason;
  /** Last soft error (ICMP) on a connection that is still up; becomes `reason` if it times out. */
  readonly softReason: TcpReason;
  /** Bytes that `read` can return now. */
  readonly readable: number;
  /** The peer's FIN has been reached and all bytes before it have been read. */
  readonly ended: boolean;
  /** Bytes that `write` would take now. 0 before ESTABLISHED is possible only when the buffer is full: writing early is fine. */
  readonly writable: number;
  /** Written bytes not yet acknowledged by the peer. */
  readonly unacknowledged: number;
  /** Smoothed round-trip time in microseconds; NaN before the first sample. */
  readonly rtt: number;
  /** Congestion window in bytes. */
  readonly cwnd: number;
  stats(): Readonly<TcpStats>;

  // ---- handle*: from the network and the clock ----------------------------------------------------------------
  /** One segment of this four-tuple, parsed, its checksum good. The view and its buffer are not kept. */
  handleSegment(now: Micros, segment: TcpSegment): void;
  /** Time has passed; call it when `pollDeadline` is due. */
  handleTimeout(now: Micros): void;
  /**
   * An ICMP error that quotes a segment of ours; `sequence` is the quoted sequence number (it must be outstanding, else
   * ignored: RFC 5927 §4.1), `mtu` that of packet-too-big.
   */
  handleIcmp(now: Micros, kind: IcmpKind, sequence: number, mtu: number): void;
  /** The route changed, or the network is back: MTU and offload as now known; what waits for a timeout is sent at once. */
  handlePath(now: Micros, mtu: number, offload: boolean, partialChecksums?: boolean): void;

  // ---- commands: from the application -------------------------------------------------------------------------
  /**
   * Queues bytes and returns how many were taken (0 when full or after `shutdown`). They are copied, unless `owned`: then the
   * caller promises not to change them until they are acknowledged, and they are kept by reference.
   * After a short return, `TcpEvent.writable` says when to go on.
   */
  write(bytes: Uint8Array, owned?: boolean): number;
  /** The next received bytes, at most `max`, as a buffer that is the caller's; null when nothing is readable. Opens the window. */
  read(max?: number): Buffer | null;
  /** Fills `target` and returns the count; for callers that bring their own buffer. */
  readInto(target: Uint8Array): number;
  /** No more writes: FIN after what is queued. Reading goes on (half close). */
  shutdown(): void;
  /**
   * Nobody reads any more, and no more writes: as `shutdown`, but data that arrives from now on, or that is unread, is answered
   * with RST (RFC 9293 §3.6, MUST-17 of RFC 1122 §4.2.2.13), and FIN-WAIT-2 is bounded. `lingerTimeout`: abort if the end is
   * not acknowledged in that time; 0 aborts at once (SO_LINGER).
   */
  close(lingerTimeout?: Micros): void;
  /** RST to the peer, everything is dropped, `reason` becomes `aborted`. */
  abort(): void;
  /** Changes an option for this connection only: noDelay, keepAlive*, userTimeout, pacing, delayedAck ... */
  setOption<K extends keyof TcpOptions>(name: K, value: TcpOptions[K]): void;

  // ---- poll*: towards the driver ------------------------------------------------------------------------------
  /** Writes at most one packet to `out`; true: call again. */
  pollTransmit(now: Micros, out: PacketWriter): boolean;
  /** Bits of TcpEvent since the last call. */
  pollEvents(): number;
  /** When `handleTimeout` is to be called next; NEVER: nothing is armed. */
  pollDeadline(): Micros;
  /**
   * In TIME-WAIT: a small object (about 100 bytes) that answers for this four-tuple from now on, so that the stack can drop the
   * connection at once. Null otherwise, and on further calls. Without it the connection answers itself.
   */
  takeTimeWait(): TimeWait | null;
}

/** Construction (static on TcpConnection):
 *
 *     TcpConnection.connect(config, now)                 active open: SYN goes out at the next poll
 *     TcpConnection.accept(config, now, syn)             passive open by a SYN of a listener (SYN-RECEIVED)
 *     TcpConnection.fromCookie(config, now, ack, cookie) passive open by the ACK of a SYN cookie (ESTABLISHED at once)
 */
export type TcpSurfaceConstruction = never;

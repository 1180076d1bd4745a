// What the connection knows of its path: MTU, offload, and the segment size that follows; what ICMP says of it.

import type { Micros } from '../../core/index.js';
import type { Handshake } from './handshake.js';
import { PathMtu } from './mtu.js';
import type { Sender } from './sender.js';
import type { IcmpKind, TcpConfig, TcpReason } from './types.js';

const TIMESTAMPS = 12;
/** Whatever a path or a peer says, a segment carries something. */
const LEAST = 8;

export class Path {
  private readonly mtu: PathMtu;
  /** IP and TCP header, without options. */
  private readonly headers: number;
  offload: boolean;
  partialChecksums: boolean;
  /** Last soft error: it becomes the reason if the connection times out. */
  soft: TcpReason = 'none';

  constructor(
    config: TcpConfig,
    private readonly sender: Sender,
    private readonly handshake: Handshake,
  ) {
    const v6 = config.localAddress.length === 16;
    this.headers = v6 ? 60 : 40;
    this.mtu = new PathMtu(config.mtu, v6);
    this.offload = config.offload;
    this.partialChecksums = config.partialChecksums ?? config.offload;
  }

  /** For our MSS option: what can be received, options not counted (RFC 6691). */
  get mss(): number {
    return this.mtu.value - this.headers;
  }

  /** Tells the sender its segment size. */
  apply(): void {
    const options = this.handshake.timestamps ? TIMESTAMPS : 0;
    const mss = Math.min(this.handshake.peerMss, this.mss) - options;
    this.sender.setMss(Math.max(mss, LEAST), this.headers + options, this.offload);
  }

  handleRoute(mtu: number, offload: boolean, partialChecksums: boolean): void {
    this.offload = offload;
    this.partialChecksums = partialChecksums;
    this.soft = 'none';
    this.mtu.handleRoute(mtu);
  }

  handleTooBig(now: Micros, mtu: number): void {
    if (!this.mtu.handleTooBig(now, mtu)) return;
    this.apply();
    // RFC 8201 §5.4: retransmit at once, without taking it for congestion.
    this.sender.recovery.handleTooBig(this.sender.mss);
  }

  /** Retransmission timeouts in a row: is it a black hole? */
  handleTimeouts(now: Micros): void {
    if (this.mtu.handleTimeouts(now, this.sender.timeouts)) this.apply();
  }

  handleTime(now: Micros): void {
    if (this.mtu.handleTime(now)) this.apply();
  }
}

export function reasonOf(kind: Exclude<IcmpKind, 'packet-too-big'>): TcpReason {
  return kind === 'port-unreachable' ? 'refused' : kind;
}

// Timestamps and PAWS: RFC 7323 §3.2, §4.3, §5.

import type { Micros } from '../../core/index.js';
import { TcpFlag, type TcpSegment } from '../wire/tcp.js';
import { type Seq, seqLe } from './seq.js';

/** §5.5: after this, TS.Recent is too old to compare with. */
const OUTDATED: Micros = 24 * 86_400 * 1_000_000;

export class Timestamps {
  /** Agreed in the handshake. */
  enabled = false;
  /** TS.Recent. */
  recent = 0;
  private recentAt: Micros = 0;

  constructor(private readonly offset: number) {}

  /** Our clock: milliseconds, from an offset of the connection's own (§5.4). */
  value(now: Micros): number {
    return (Math.floor(now / 1_000) + this.offset) | 0;
  }

  /** Round-trip time that an echo shows, in whole milliseconds as microseconds; negative: it cannot be ours. */
  elapsed(now: Micros, tsecr: number): Micros {
    return ((this.value(now) - tsecr) | 0) * 1_000;
  }

  start(now: Micros, tsval: number): void {
    this.enabled = true;
    this.recent = tsval;
    this.recentAt = now;
  }

  /** §5.3 R1: false for an old duplicate. A RST is never judged by its timestamp (§5.2). */
  accepts(now: Micros, segment: TcpSegment): boolean {
    if (!this.enabled || !segment.hasTimestamps || segment.flags & TcpFlag.rst) return true;
    return ((segment.tsval - this.recent) | 0) >= 0 || now - this.recentAt > OUTDATED;
  }

  /** §4.3 (2) and (3): only a segment that reaches Last.ACK.sent may change TS.Recent (it has passed `accepts`). */
  handleAccepted(now: Micros, segment: TcpSegment, lastAckSent: Seq): void {
    if (!this.enabled || !segment.hasTimestamps || !seqLe(segment.seq, lastAckSent)) return;
    this.recent = segment.tsval;
    this.recentAt = now;
  }
}

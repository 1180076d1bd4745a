// Explicit congestion notification: RFC 3168 §6.1. Both halves, and the negotiation's outcome.

import { TcpFlag } from '../wire/tcp.js';
import { type Seq, seqGt } from './seq.js';

export class Ecn {
  /** Of every connection that has not agreed on it: as long as it is not enabled, nothing is remembered. */
  static readonly none = new Ecn(false);

  /** As receiver: CE was seen, and the sender has not yet said CWR (§6.1.3). */
  private echo = false;
  /** As sender: the window was reduced, tell the peer with the next new data (§6.1.2). */
  private cwrDue = false;
  /** One reduction per window of data: until this is acknowledged. */
  private reducedUntil: Seq = 0;
  private reduced = false;

  /** `enabled`: agreed in the handshake (§6.1.1). */
  constructor(readonly enabled: boolean) {}

  handleReceived(flags: number, ce: boolean, hasText: boolean): boolean {
    if (!this.enabled) return false;
    const before = this.echo;
    if (flags & TcpFlag.cwr && hasText) this.echo = false;
    if (ce) this.echo = true;
    return this.echo && !before;
  }

  /** An acknowledgement with ECE: true when the window has to be reduced. */
  handleEcho(flags: number, ack: Seq, nxt: Seq): boolean {
    if (!this.enabled) return false;
    if (this.reduced && seqGt(ack, this.reducedUntil)) this.reduced = false;
    if (!(flags & TcpFlag.ece) || this.reduced) return false;
    this.handleReduction(nxt);
    return true;
  }

  /** The window was reduced, for whatever reason: no second time for this window of data. */
  handleReduction(nxt: Seq): void {
    if (!this.enabled) return;
    this.reduced = true;
    this.reducedUntil = nxt;
    this.cwrDue = true;
  }

  /** Flags for a segment that goes out; `fresh`: it carries new data (retransmissions are not ECT, §6.1.5). */
  flagsFor(fresh: boolean): number {
    if (!this.enabled) return 0;
    let flags = this.echo ? TcpFlag.ece : 0;
    if (fresh && this.cwrDue) {
      flags |= TcpFlag.cwr;
      this.cwrDue = false;
    }
    return flags;
  }
}

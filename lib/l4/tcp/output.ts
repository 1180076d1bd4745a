// Makes the segments of a connection: the common fields, and one method per kind of segment. What to send and when is
// decided elsewhere.

import type { Micros } from '../../core/index.js';
import type { PacketWriter } from '../wire/packet-writer.js';
import { TcpFlag } from '../wire/tcp.js';
import { beginCut, beginTcp, finishCut, finishTcp, frameHeaders, TcpFields } from '../wire/tcp-emit.js';
import type { Handshake } from './handshake.js';
import type { Path } from './path.js';
import type { Receiver } from './receiver.js';
import type { Plan, Sender } from './sender.js';
import type { Seq } from './seq.js';
import type { Timestamps } from './timestamps.js';
import type { TcpConfig } from './types.js';

/** Filled and written within one call; a writer never sends in the middle of a packet. */
const fields = new TcpFields();
/** Bytes of segments written in one piece: several fit in a slab. */
const MAX_CUT = 96 * 1024;
/** Codepoint ECT(0): RFC 3168 §5. */
const ECT0 = 2;

export class Output {
  segments = 0;
  bytes = 0;

  constructor(
    private readonly config: TcpConfig,
    private readonly handshake: Handshake,
    private readonly ts: Timestamps,
    private readonly sender: Sender,
    private readonly receiver: Receiver,
    private readonly path: Pick<Path, 'offload' | 'partialChecksums'>,
  ) {}

  emitSyn(now: Micros, out: PacketWriter, iss: Seq, mss: number): void {
    const { handshake, receiver } = this;
    const answer = handshake.synReceived;
    // The window of a SYN is never scaled: RFC 7323 §2.2.
    const window = answer ? receiver.offerWindow(true) : Math.min(receiver.bufferLimit, 65_535);
    fields.reset(iss, answer ? receiver.nxt : 0, answer ? TcpFlag.syn | TcpFlag.ack : TcpFlag.syn, window);
    handshake.fillSyn(fields, mss, this.ts.value(now), this.ts.recent);
    this.emitBare(out);
  }

  emitAck(now: Micros, out: PacketWriter, seq: Seq): void {
    this.fill(now, seq, TcpFlag.ack | this.sender.ecn.flagsFor(false));
    if (this.handshake.sack && this.receiver.sackDue) {
      fields.sackCount = this.receiver.writeSack(fields.sack, fields.timestamps ? 3 : 4);
    }
    this.emitBare(out);
  }

  emitData(now: Micros, out: PacketWriter, plan: Plan): void {
    const { sender } = this;
    const { start, length } = plan;
    const fresh = !plan.retransmission && length > 0;
    let flags: number = TcpFlag.ack | sender.ecn.flagsFor(fresh);
    if (plan.fin) flags |= TcpFlag.fin;
    if (plan.push && length > 0) flags |= TcpFlag.psh;
    this.fill(now, start, flags);
    // RFC 3168 §6.1.5: a retransmission is not ECT, nor is a segment without data (§6.1.4).
    if (sender.ecn.enabled && fresh) fields.ecn = ECT0;
    if (fresh) this.bytes += length;
    if (plan.gsoSize > 0 && !this.path.offload) this.emitCut(out, plan, flags);
    else this.emitPacket(out, start, length, plan.gsoSize, (flags & TcpFlag.cwr) !== 0);
  }

  /** A super-packet on a path without offload: its segments, with what the kernel's TSO would make of the flags. */
  private emitCut(out: PacketWriter, plan: Plan, flags: number): void {
    const { start, length, gsoSize } = plan;
    const group = gsoSize * Math.max(1, Math.floor(MAX_CUT / (frameHeaders(this.config, fields) + gsoSize)));
    for (let done = 0; done < length; done += group) {
      const n = Math.min(group, length - done);
      fields.seq = (start + done) | 0;
      fields.flags = flags;
      if (done > 0) fields.flags &= ~TcpFlag.cwr;
      if (done + n < length) fields.flags &= ~(TcpFlag.fin | TcpFlag.psh);
      const at = beginCut(out, this.config, fields, n, gsoSize);
      this.sender.copy((start + done) | 0, n, out.bytes, at);
      this.segments += finishCut(out, this.config, fields, this.path.partialChecksums, n, gsoSize);
    }
  }

  private emitPacket(out: PacketWriter, start: Seq, length: number, gsoSize: number, cwr: boolean): void {
    const at = beginTcp(out, this.config, fields, length);
    this.sender.copy(start, length, out.bytes, at);
    finishTcp(out, this.config, this.path.partialChecksums, gsoSize, length, cwr);
    this.segments++;
  }

  /** `ack` null: the answer to a segment that is not of this connection, without ACK. */
  emitReset(out: PacketWriter, seq: Seq, ack: Seq | null): void {
    fields.reset(seq, ack ?? 0, ack === null ? TcpFlag.rst : TcpFlag.rst | TcpFlag.ack, 0);
    this.emitBare(out);
  }

  private fill(now: Micros, seq: Seq, flags: number): void {
    fields.reset(seq, this.receiver.nxt, flags, this.receiver.offerWindow(false));
    if (this.ts.enabled) {
      fields.timestamps = true;
      fields.tsval = this.ts.value(now);
      fields.tsecr = this.ts.recent;
    }
  }

  private emitBare(out: PacketWriter): void {
    beginTcp(out, this.config, fields, 0);
    finishTcp(out, this.config, this.path.partialChecksums, 0, 0, false);
    this.segments++;
  }
}

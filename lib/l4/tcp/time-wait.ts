// TIME-WAIT in a small object: RFC 9293 §3.6.1, RFC 1337, RFC 6191. A busy server holds many thousands of them.

import type { Micros } from '../../core/index.js';
import type { PacketWriter } from '../wire/packet-writer.js';
import { TcpFlag, type TcpSegment } from '../wire/tcp.js';
import { emitBare, TcpFields } from '../wire/tcp-emit.js';
import type { Receiver } from './receiver.js';
import { type Seq, seqDiff, seqGt } from './seq.js';
import type { Timestamps } from './timestamps.js';
import type { TcpConfig } from './types.js';

const fields = new TcpFields();

export class TimeWait {
  /** When it ends; a retransmitted FIN starts it anew. */
  deadline: Micros;
  private ackDue = false;
  private lastAck = Number.NEGATIVE_INFINITY;

  private readonly rcvNxt: Seq;
  /** As it goes in the field: scaled. */
  private readonly window: number;
  private readonly timestamps: boolean;
  private readonly tsRecent: number;

  /** Copies what it needs of `receiver` and `ts`: the connection shall be free to go. */
  constructor(
    readonly config: TcpConfig,
    private readonly sndNxt: Seq,
    receiver: Receiver,
    ts: Timestamps,
    private readonly partialChecksums: boolean,
    now: Micros,
  ) {
    this.rcvNxt = receiver.nxt;
    this.window = receiver.offerWindow(false);
    this.timestamps = ts.enabled;
    this.tsRecent = ts.recent;
    this.deadline = now + 2 * config.options.msl;
  }

  /**
   * `'reopen'`: a SYN that may start a new connection on this four-tuple (RFC 6191, RFC 9293 MUST-13): drop this object,
   * give the SYN to the listener, with an ISS above `sndNxt`. Otherwise poll.
   */
  handleSegment(now: Micros, segment: TcpSegment): 'reopen' | 'stay' {
    const { flags } = segment;
    // RFC 1337: a RST does not end TIME-WAIT.
    if (flags & TcpFlag.rst) return 'stay';
    if (flags & TcpFlag.syn && !(flags & TcpFlag.ack)) {
      const newer = this.timestamps && segment.hasTimestamps && seqDiff(segment.tsval, this.tsRecent) > 0;
      if (newer || seqGt(segment.seq, this.rcvNxt)) return 'reopen';
    }
    // Anything else is acknowledged; a pure acknowledgement that fits gets no answer.
    if (flags & TcpFlag.fin && seqDiff(segment.seq, this.rcvNxt) < 0) this.deadline = now + 2 * this.config.options.msl;
    if (segment.seqLength === 0 && segment.seq === this.rcvNxt) return 'stay';
    // Two of these must not answer each other for ever: at most one acknowledgement in half a second (RFC 5961 §7).
    if (now - this.lastAck >= 500_000) this.ackDue = true;
    return 'stay';
  }

  /** The FIN that led here has to be acknowledged. */
  requestAck(): void {
    this.ackDue = true;
  }

  /** Where a new connection on this four-tuple has to start above. */
  get nextSequence(): Seq {
    return this.sndNxt;
  }

  pollTransmit(now: Micros, out: PacketWriter): boolean {
    if (!this.ackDue) return false;
    this.ackDue = false;
    this.lastAck = now;
    fields.reset(this.sndNxt, this.rcvNxt, TcpFlag.ack, this.window);
    if (this.timestamps) {
      fields.timestamps = true;
      fields.tsval = (Math.floor(now / 1000) + this.config.tsOffset) | 0;
      fields.tsecr = this.tsRecent;
    }
    emitBare(out, this.config, fields, this.partialChecksums);
    return true;
  }
}

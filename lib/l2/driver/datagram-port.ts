// Edge: the packets of one connection as datagrams, where its transport has them. Whole frames only, as many as fit in one.

import { HEADER, lengthAt, MAX_PACKET, type Slab } from '../../core/index.js';
import { type HelloInfo, MIN_MTU } from '../connection-machine.js';
import type { ByteStream, DatagramPath } from '../transport.js';
import { FrameType } from '../wire/frame.js';
import type { Buffers } from './receive-buffer.js';

export const NO_DATAGRAMS = { datagramMalformed: 0, datagramQueue: 0 };

type Deliver = (slab: Slab, end: number) => void;

export class DatagramPort {
  readonly dropped = { datagramMalformed: 0, datagramQueue: 0 };
  /** Datagrams that have arrived and not been passed on: whole frames up to `end`. */
  private slab: Slab | null = null;
  private end = 0;

  constructor(
    readonly path: DatagramPath,
    private readonly buffers: Buffers,
  ) {}

  /** Packets are to fit a datagram, and super-packets never do; the transport keeps a datagram whole, so checksums may stay partial. */
  limit(hello: HelloInfo): HelloInfo {
    return { ...hello, mtu: Math.max(MIN_MTU, Math.min(hello.mtu, this.path.maxBytes - HEADER)), offload: false };
  }

  room(deliver: Deliver): Uint8Array {
    if (this.slab !== null && this.slab.bytes.length - this.end < HEADER + MAX_PACKET) this.deliver(deliver);
    this.slab ??= this.buffers.large.take();
    return this.slab.bytes.subarray(this.end);
  }

  /** Only whole packet frames may travel this way; anything else is counted and forgotten. */
  landed(length: number, open: boolean): void {
    if (this.slab === null) return;
    const { bytes } = this.slab;
    const end = this.end + length;
    let off = this.end;
    while (end - off >= HEADER && bytes[off] === FrameType.packet) {
      const next = off + HEADER + lengthAt(bytes, off);
      if (next > end) break;
      off = next;
    }
    if (off === end && length > 0 && open) this.end = end;
    else this.dropped.datagramMalformed++;
  }

  deliver(deliver: Deliver): void {
    const { slab, end } = this;
    this.slab = null;
    this.end = 0;
    if (slab === null) return;
    if (end > 0) deliver(slab, end);
    slab.release();
  }

  /** A run: as datagrams of as many whole frames as fit; what fits none goes on the stream. */
  send(stream: ByteStream, slab: Slab, start: number, end: number): void {
    const { bytes } = slab;
    const { maxBytes } = this.path;
    for (let off = start; off < end; ) {
      let to = off + HEADER + lengthAt(bytes, off);
      if (to - off > maxBytes) stream.write(slab, off, to);
      else {
        for (let next = to; next < end; to = next) {
          next += HEADER + lengthAt(bytes, next);
          if (next - off > maxBytes) break;
        }
        if (!this.path.send(bytes, off, to)) {
          for (let f = off; f < to; f += HEADER + lengthAt(bytes, f)) this.dropped.datagramQueue++;
        }
      }
      off = to;
    }
  }

  release(): void {
    this.slab?.release();
    this.slab = null;
    this.end = 0;
  }
}

// Packets that cannot leave as they lie: cut in segments or fragments into slabs of our own.

import { Flag, GSO_FLAGS, type Slab, type SlabPool } from '../core/index.js';
import { Count, type Counters } from './counters.js';
import { Fragmenter } from './fragment.js';
import { completeChecksum, Segmenter } from './offload.js';

/** Holds more than one frame of the largest packet. */
export const CUT_SLAB_BYTES = 128 * 1024;

/** Takes the pieces, valid until return; `packets` of them in slab.bytes[0, end). */
export type Emit = (slab: Slab, end: number, packets: number) => void;

export class Cutter {
  /** Slabs of the pool have at least CUT_SLAB_BYTES. */
  constructor(
    private readonly slabs: SlabPool,
    private readonly counters: Counters,
  ) {}

  /** Segments of the super-packet at `off`; `partial`: with partial checksums. */
  segment(slab: Slab, off: number, partial: boolean, emit: Emit): void {
    const segmenter = new Segmenter();
    if (!segmenter.begin(slab.bytes, off, partial)) return;
    this.counters.values[Count['super-packets-segmented']]!++;
    this.cut(segmenter, emit);
  }

  /** RFC 791 §3.2. A super-packet with DF clear is cut in segments first, each of which is then cut in fragments. */
  fragment(slab: Slab, off: number, mtu: number, emit: Emit): void {
    const flags = slab.bytes[off + 1]!;
    if ((flags & GSO_FLAGS) !== 0) {
      const segmenter = new Segmenter();
      if (!segmenter.begin(slab.bytes, off)) return;
      this.counters.values[Count['super-packets-segmented']]!++;
      const one = this.slabs.take();
      while (segmenter.next(one.bytes, 0) !== 0) this.fragment(one, 0, mtu, emit);
      one.release();
      return;
    }
    if ((flags & Flag.partialChecksum) !== 0) completeChecksum(slab.bytes, off);
    const fragmenter = new Fragmenter();
    if (fragmenter.begin(slab.bytes, off, mtu)) {
      this.counters.values[Count['fragments-made']]! += this.cut(fragmenter, emit);
    }
  }

  /** Writes all pieces to slabs and hands them on; returns how many there were. */
  private cut(pieces: Segmenter | Fragmenter, emit: Emit): number {
    const bytes = pieces.frameBytes;
    let slab = this.slabs.take();
    let end = 0;
    let packets = 0;
    let total = 0;
    for (;;) {
      if (end + bytes > slab.bytes.length) {
        emit(slab, end, packets);
        slab.release();
        slab = this.slabs.take();
        end = 0;
        packets = 0;
      }
      const next = pieces.next(slab.bytes, end);
      if (next === 0) break;
      end = next;
      packets++;
      total++;
    }
    if (packets > 0) emit(slab, end, packets);
    slab.release();
    return total;
  }
}

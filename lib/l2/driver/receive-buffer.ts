// Edge: where received bytes lie until they are whole frames. An idle connection holds nothing; a slow one, or one that
// has not said hello, a small slab; a busy one a large slab, in which a half-received frame is completed in place. When
// many large slabs are out, what waits in them is kept in buffers of its own size.

import { HEADER, MAX_PACKET, Slab, SlabPool } from '../../core/index.js';

/** Slabs of all connections of the process. */
export interface Buffers {
  readonly small: SlabPool;
  readonly large: SlabPool;
  /** Large slabs in use above which whoever has to wait copies what it waits with. */
  readonly largeSlabs: number;
}

const SMALL = 16 * 1024;
const LARGE = 256 * 1024;
/** A read of at least this makes a connection a busy one. */
const BUSY_READ = 8 * 1024;

export function createBuffers(largeSlabs = 256): Buffers {
  return { small: new SlabPool(SMALL, 64), large: new SlabPool(LARGE, 8), largeSlabs };
}

export function isScarce(buffers: Buffers): boolean {
  return buffers.large.inUse >= buffers.largeSlabs;
}

/** A copy of slab[start, end) of just that size, with one reference. */
export function compact(slab: Slab, start: number, end: number): Slab {
  const copy = Buffer.allocUnsafeSlow(end - start);
  slab.bytes.copy(copy, 0, start, end);
  return Slab.of(copy);
}

export class ReceiveBuffer {
  slab: Slab | null = null;
  /** Bytes [read, written) are not yet consumed. */
  read = 0;
  written = 0;
  private busy = false;

  constructor(private readonly buffers: Buffers) {}

  /** Bytes of the frame that is half there. */
  get partial(): number {
    return this.slab === null ? 0 : this.written - this.read;
  }

  room(): Uint8Array {
    if (this.slab === null) {
      this.slab = this.busy && !isScarce(this.buffers) ? this.buffers.large.take() : this.buffers.small.take();
      this.read = this.written = 0;
    }
    // A view is an object: an idle connection, whose slab is a fresh one, does without.
    return this.written === 0 ? this.slab.bytes : this.slab.bytes.subarray(this.written);
  }

  landed(length: number): void {
    this.written += length;
    if (length >= BUSY_READ) this.busy = true;
    else if (length < BUSY_READ / 4) this.busy = false;
  }

  /** After parsing: makes sure that the frame at the end, of `needed` bytes, can be completed. */
  settle(needed: number, open: boolean): void {
    const { slab } = this;
    if (slab === null) return;
    const size = slab.bytes.length;
    const tail = this.written - this.read;
    if (tail === 0) {
      this.read = this.written;
      // Somebody still needs the slab: go on behind, as long as it is worth while.
      const enough = size === LARGE ? HEADER + MAX_PACKET + SMALL : SMALL / 4;
      if (slab.refs > 1 && size - this.written >= enough) return;
      this.release();
      return;
    }
    const busy = this.busy && open && !isScarce(this.buffers);
    // A busy connection reads the next frames behind this one; the others only need its rest.
    const room = busy ? Math.max(needed, SMALL) + SMALL : needed;
    const fits = room <= size && (size >= LARGE || !busy);
    if (fits && this.read + room <= size) return;
    if (fits && slab.refs === 1) slab.bytes.copyWithin(0, this.read, this.written);
    else {
      const fresh = this.take(room, busy);
      slab.bytes.copy(fresh.bytes, 0, this.read, this.written);
      slab.release();
      this.slab = fresh;
    }
    this.read = 0;
    this.written = tail;
  }

  release(): void {
    this.slab?.release();
    this.slab = null;
  }

  private take(room: number, busy: boolean): Slab {
    const { small, large } = this.buffers;
    if (!busy && room <= SMALL) return small.take();
    return isScarce(this.buffers) ? Slab.of(Buffer.allocUnsafeSlow(room)) : large.take();
  }
}

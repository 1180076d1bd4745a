// Where L4 puts packets: frames back to back in slabs, so that one flush of a batch is one send to L3.

import type { Slab, SlabPool } from '../../core/index.js';

/** Output of every L4 core. `reserve`, write the frame (or several, back to back) into `bytes` from the offset it returned, then `commit`. */
export interface PacketWriter {
  /** Valid from `reserve` to the next `reserve`. */
  readonly bytes: Uint8Array;
  /** Room for frames of `length` bytes, headers included; returns the offset of the first header. */
  reserve(length: number): number;
  /** The frames are whole, and the last one ends at `end`. */
  commit(end: number): void;
}

/**
 * The writer of the driver: takes slabs from a pool and hands over runs of frames at `flush`. `reserve` never sends, so
 * nothing of the other end can run in the middle of a packet, even over a link that delivers at once.
 */
export class SlabWriter implements PacketWriter {
  bytes: Uint8Array = new Uint8Array(0);
  private slab: Slab | null = null;
  private start = 0;
  private end = 0;
  /** Slabs that are full and not yet sent: [start of the unsent frames, their end]. */
  private readonly full: { slab: Slab; start: number; end: number }[] = [];

  /** `send` is called with whole frames back to back; it retains the slab if it keeps it. */
  constructor(
    private readonly pool: SlabPool,
    private readonly send: (slab: Slab, start: number, end: number) => void,
  ) {}

  reserve(length: number): number {
    if (this.slab === null || this.end + length > this.slab.bytes.length) this.nextSlab();
    return this.end;
  }

  commit(end: number): void {
    this.end = end;
  }

  /** Bytes written and not flushed. */
  get pending(): number {
    let sum = this.end - this.start;
    for (const run of this.full) sum += run.end - run.start;
    return sum;
  }

  /** Hands over what was written since the last flush. The rest of the slab is used for what follows. */
  flush(): void {
    for (let run = this.full.shift(); run !== undefined; run = this.full.shift()) {
      this.send(run.slab, run.start, run.end);
      run.slab.release();
    }
    const { slab, start, end } = this;
    if (slab === null || start === end) return;
    this.start = end;
    slab.retain();
    this.send(slab, start, end);
    slab.release();
  }

  /** Flushes and gives the slab back. */
  close(): void {
    this.flush();
    this.slab?.release();
    this.slab = null;
    this.start = this.end = 0;
  }

  private nextSlab(): void {
    const { slab, start, end } = this;
    if (slab !== null) {
      if (start < end) this.full.push({ slab, start, end });
      else slab.release();
    }
    this.slab = this.pool.take();
    this.bytes = this.slab.bytes;
    this.start = this.end = 0;
  }
}

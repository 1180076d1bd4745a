// Slabs: large reusable buffers with a count of who still needs them.
//
// Ownership, in one rule: a callee that is handed (slab, start, end) may read, and for the packets it is responsible
// for change, those bytes until it returns; to keep them longer it calls `retain()` first and `release()` once when
// done. Whoever takes a slab from the pool holds one reference.

import { KubeBusError } from './error.js';

export class Slab {
  /** Reference count; 0 = in the pool. */
  refs = 0;

  constructor(
    readonly bytes: Buffer,
    private readonly pool: SlabPool | null,
  ) {}

  retain(): void {
    this.refs++;
  }

  release(): void {
    if (this.refs <= 0) throw new KubeBusError('ERR_INTERNAL', 'slab released twice');
    if (--this.refs === 0) this.pool?.put(this);
  }

  /** A slab around bytes that need no pool (a test vector, one control message); holds one reference. */
  static of(bytes: Uint8Array): Slab {
    const slab = new Slab(Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength), null);
    slab.refs = 1;
    return slab;
  }
}

/** Slabs of one size. Keeps at most `keep` free ones; the rest is left to the garbage collector. */
export class SlabPool {
  private readonly free: Slab[] = [];
  /** Slabs handed out and not yet back. */
  inUse = 0;

  constructor(
    readonly slabBytes = 256 * 1024,
    private readonly keep = 8,
  ) {}

  take(): Slab {
    const slab = this.free.pop() ?? new Slab(Buffer.allocUnsafeSlow(this.slabBytes), this);
    slab.refs = 1;
    this.inUse++;
    return slab;
  }

  /** Called by Slab.release when the last reference is gone. */
  put(slab: Slab): void {
    this.inUse--;
    if (this.free.length < this.keep) this.free.push(slab);
  }
}

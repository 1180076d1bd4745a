// Bytes in order, waiting for the application. The payload is copied once, from the packet's slab (which is not kept: one
// byte must not hold 256 KiB) to memory that is handed out as it is.
//
//     arena:   |  a: #####  b: ### a: ########  . . . free |      one for all connections, 64 KiB, filled from the front
//     queue a: [arena 0..5) [arena 8..16)                         regions; the last one grows while nobody else writes
//
// So a segment costs a copy and no allocation, a batch of segments is one region and one read, and an idle connection
// holds nothing. Who keeps a buffer keeps its arena alive, as with Node's own pool; small pieces are copied out of it.

import { copyBytes } from './copy-bytes.js';

const ARENA = 65_536;
/** A payload of this size gets a buffer of its own where the arena would cut it in two. */
const WHOLE = 8_192;
/** Below this, what `read` returns is a copy. */
const SMALL = 1_024;

let arena: Buffer = Buffer.allocUnsafeSlow(ARENA);
let arenaEnd = 0;

interface Region {
  readonly bytes: Buffer;
  start: number;
  end: number;
}

const NOTHING: Region[] = [];

export class ReceiveQueue {
  /** Never changed while empty: all empty queues share one. */
  private regions: Region[] = NOTHING;
  /** Bytes that wait. */
  length = 0;

  append(buf: Uint8Array, at: number, length: number): void {
    this.length += length;
    if (length >= WHOLE && length > ARENA - arenaEnd) {
      const own = Buffer.allocUnsafeSlow(length);
      copyBytes(buf, at, length, own, 0);
      this.push({ bytes: own, start: 0, end: length });
      return;
    }
    while (length > 0) {
      if (arenaEnd === ARENA) {
        arena = Buffer.allocUnsafeSlow(ARENA);
        arenaEnd = 0;
      }
      const n = Math.min(length, ARENA - arenaEnd);
      copyBytes(buf, at, n, arena, arenaEnd);
      const last = this.regions[this.regions.length - 1];
      if (last !== undefined && last.bytes === arena && last.end === arenaEnd) last.end += n;
      else this.push({ bytes: arena, start: arenaEnd, end: arenaEnd + n });
      arenaEnd += n;
      at += n;
      length -= n;
    }
  }

  private push(region: Region): void {
    if (this.regions.length === 0) this.regions = [region];
    else this.regions.push(region);
  }

  /** Takes over all bytes of `other`, which must not be used again. */
  concat(other: ReceiveQueue): void {
    if (this.regions.length === 0) this.regions = other.regions;
    else for (const region of other.regions) this.regions.push(region);
    this.length += other.length;
  }

  /** At most `max` bytes, those of one region; null when empty. */
  read(max: number): Buffer | null {
    const region = this.regions[0];
    if (region === undefined || max <= 0) return null;
    const n = Math.min(max, region.end - region.start);
    const bytes = region.bytes.subarray(region.start, region.start + n);
    this.consume(region, n);
    return n < SMALL && region.bytes.length > 2 * n ? Buffer.from(bytes) : bytes;
  }

  readInto(target: Uint8Array): number {
    let done = 0;
    for (let region = this.regions[0]; region !== undefined && done < target.length; region = this.regions[0]) {
      const n = Math.min(target.length - done, region.end - region.start);
      target.set(region.bytes.subarray(region.start, region.start + n), done);
      done += n;
      this.consume(region, n);
    }
    return done;
  }

  /** Drops `n` bytes from the front. */
  skip(n: number): void {
    for (let region = this.regions[0]; region !== undefined && n > 0; region = this.regions[0]) {
      const some = Math.min(n, region.end - region.start);
      this.consume(region, some);
      n -= some;
    }
  }

  clear(): void {
    this.regions = NOTHING;
    this.length = 0;
  }

  private consume(region: Region, n: number): void {
    region.start += n;
    this.length -= n;
    if (region.start !== region.end) return;
    if (this.regions.length === 1) this.regions = NOTHING;
    else this.regions.shift();
  }
}

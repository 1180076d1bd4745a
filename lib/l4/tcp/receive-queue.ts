// Bytes in order, waiting for the application. The payload is copied once, from the packet's slab (which is not kept: one
// byte must not hold 256 KiB) to memory that is handed out as it is.
//
//     arena:   |  a: #####  b: ### a: ########  . . . free |      one for all connections, 64 KiB, filled from the front
//     queue a: [arena 0..5) [arena 8..16)                         regions; the last one grows while nobody else writes
//
// So a segment costs a copy and no allocation, a batch of segments is one region and one read, and an idle connection
// holds nothing. Who keeps a buffer keeps its arena alive, as with Node's own pool; small pieces are copied out of it.
//
// Who is done with bytes that were read may say so (`giveBack`); an arena of which all bytes came back is filled again (blocks.ts).

import { BLOCK, putBlock, takeBlock } from './blocks.js';
import { copyBytes } from './copy-bytes.js';

/** A payload of this size goes to the next arena where this one would cut it in two. */
const WHOLE = 8_192;
/** Below this, what `read` returns is a copy. */
const SMALL = 1_024;

/** Bytes of an arena that nobody uses any more, or never did. */
const unused = new WeakMap<ArrayBufferLike, number>();

let arena = takeArena();
let arenaEnd = 0;

function takeArena(): Buffer {
  const bytes = takeBlock();
  unused.set(bytes.buffer, 0);
  return bytes;
}

function nextArena(): void {
  disuse(arena.buffer, BLOCK - arenaEnd);
  arena = takeArena();
  arenaEnd = 0;
}

function disuse(buffer: ArrayBufferLike, length: number): void {
  const before = unused.get(buffer);
  if (before === undefined) return;
  if (before + length < BLOCK) unused.set(buffer, before + length);
  else {
    // Not known any more: nothing of it can come back twice.
    unused.delete(buffer);
    putBlock(Buffer.from(buffer));
  }
}

/**
 * The caller, and whoever it showed them to, is done with these bytes, which it read from a socket of ours: they may be written over. Once
 * for each byte; bytes from elsewhere are let be.
 */
export function giveBack(bytes: Uint8Array): void {
  disuse(bytes.buffer, bytes.length);
}

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
    if (length >= WHOLE && length > BLOCK - arenaEnd) nextArena();
    while (length > 0) {
      if (arenaEnd === BLOCK) nextArena();
      const n = Math.min(length, BLOCK - arenaEnd);
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
    if (n >= SMALL || region.bytes.length <= 2 * n) return bytes;
    const copy = Buffer.from(bytes);
    giveBack(bytes);
    return copy;
  }

  readInto(target: Uint8Array): number {
    let done = 0;
    for (let region = this.regions[0]; region !== undefined && done < target.length; region = this.regions[0]) {
      const n = Math.min(target.length - done, region.end - region.start);
      const bytes = region.bytes.subarray(region.start, region.start + n);
      target.set(bytes, done);
      giveBack(bytes);
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

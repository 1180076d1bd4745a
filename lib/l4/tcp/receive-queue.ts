// Bytes in order, waiting for the application: blocks that are filled once and then handed out without another copy.
//
//     blocks:  [ ####### ][ ######... ]      # = bytes; the last block may have room, which the next segment fills
//
// A block is given away when it is read, so the payload is copied once: from the packet's slab (which is not kept: one
// byte must not hold 256 KiB) into memory that becomes the application's.

const BLOCK = 65_536;
/** A lone small segment (a request, an answer) gets a block of just its size. */
const SMALL = 2_048;

export class ReceiveQueue {
  private blocks: Buffer[] = [];
  /** Bytes read of the first block, bytes filled of the last. */
  private readAt = 0;
  private filled = 0;
  /** Bytes that wait. */
  length = 0;

  append(buf: Uint8Array, at: number, length: number): void {
    this.length += length;
    let block = this.blocks[this.blocks.length - 1];
    while (length > 0) {
      if (block === undefined || this.filled === block.length) {
        block = Buffer.allocUnsafe(this.blockSize(length));
        if (this.blocks.length > 0) this.sealLast();
        this.blocks.push(block);
        this.filled = 0;
      }
      const n = Math.min(length, block.length - this.filled);
      block.set(buf.subarray(at, at + n), this.filled);
      this.filled += n;
      at += n;
      length -= n;
    }
  }

  /** Takes over all blocks of `other`, which must not be used again. */
  concat(other: ReceiveQueue): void {
    if (other.length === 0) return;
    if (this.length === 0) {
      this.blocks = other.blocks;
      this.readAt = other.readAt;
    } else {
      this.sealLast();
      if (other.readAt > 0) other.blocks[0] = other.blocks[0]!.subarray(other.readAt);
      // When the first is also the last, what is cut off its front no longer counts as filled.
      if (other.blocks.length === 1) other.filled -= other.readAt;
      for (const block of other.blocks) this.blocks.push(block);
    }
    this.filled = other.filled;
    this.length += other.length;
  }

  /** At most `max` bytes, all of one block; null when empty. */
  read(max: number): Buffer | null {
    if (this.length === 0 || max <= 0) return null;
    const block = this.blocks[0]!;
    const end = this.blocks.length === 1 ? this.filled : block.length;
    const n = Math.min(max, end - this.readAt);
    const bytes = block.subarray(this.readAt, this.readAt + n);
    this.readAt += n;
    this.length -= n;
    // What the reader keeps must not hold a block that is mostly air.
    const last = this.readAt === end;
    if (last) this.dropFirst();
    return last && 2 * n < block.length ? Buffer.from(bytes) : bytes;
  }

  readInto(target: Uint8Array): number {
    let done = 0;
    while (done < target.length && this.length > 0) {
      const block = this.blocks[0]!;
      const end = this.blocks.length === 1 ? this.filled : block.length;
      const n = Math.min(target.length - done, end - this.readAt);
      target.set(block.subarray(this.readAt, this.readAt + n), done);
      done += n;
      this.readAt += n;
      this.length -= n;
      if (this.readAt === end) this.dropFirst();
    }
    return done;
  }

  clear(): void {
    this.blocks = [];
    this.readAt = this.filled = this.length = 0;
  }

  private dropFirst(): void {
    this.blocks.shift();
    this.readAt = 0;
    if (this.blocks.length === 0) this.filled = 0;
  }

  private blockSize(needed: number): number {
    if (this.blocks.length === 0) return needed <= SMALL ? needed : Math.min(needed * 2, BLOCK);
    return BLOCK;
  }

  /** The last block will not be the last any more: its end has to be where its bytes end. */
  private sealLast(): void {
    const i = this.blocks.length - 1;
    const block = this.blocks[i]!;
    if (this.filled < block.length) this.blocks[i] = block.subarray(0, this.filled);
  }
}

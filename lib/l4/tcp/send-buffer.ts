// Bytes that are written and not yet acknowledged, addressed by their distance from SND.UNA.
//
// Small writes are packed into blocks of ours (so that a segment is filled from few pieces); large `owned` ones are kept
// by reference. Blocks of full size come from, and go back to, blocks.ts.

import { BLOCK, putBlock, takeBlock } from './blocks.js';
import { copyBytes } from './copy-bytes.js';

const SMALLEST = 512;
const KEEP_BY_REFERENCE = 4_096;

interface Block {
  readonly bytes: Uint8Array;
  /** Ours to fill and to use again; false: the writer's. */
  readonly owned: boolean;
  /** Stream position of the first byte, and how much is filled. */
  readonly position: number;
  fill: number;
}

const NOTHING: Block[] = [];

export class SendBuffer {
  /** Never changed while empty: all empty buffers share one. */
  private blocks: Block[] = NOTHING;
  /** Blocks before this one are done with. */
  private head = 0;
  /** Stream positions of the first byte held and of the end. */
  private first = 0;
  private end = 0;
  /** Block of the last `copy`: the next one usually goes on there. */
  private hint = 0;

  get length(): number {
    return this.end - this.first;
  }

  append(bytes: Uint8Array, owned: boolean): void {
    if (owned && bytes.length >= KEEP_BY_REFERENCE) {
      this.push({ bytes, owned: false, position: this.end, fill: bytes.length });
      this.end += bytes.length;
      return;
    }
    for (let at = 0; at < bytes.length; ) {
      let block = this.blocks[this.blocks.length - 1];
      if (block === undefined || !block.owned || block.fill === block.bytes.length) {
        block = { bytes: newBlock(bytes.length - at, this.length), owned: true, position: this.end, fill: 0 };
        this.push(block);
      }
      const n = Math.min(bytes.length - at, block.bytes.length - block.fill);
      block.bytes.set(n === bytes.length ? bytes : bytes.subarray(at, at + n), block.fill);
      block.fill += n;
      at += n;
      this.end += n;
    }
  }

  private push(block: Block): void {
    if (this.blocks.length === 0) this.blocks = [block];
    else this.blocks.push(block);
  }

  /** Copies `length` bytes that begin `offset` bytes behind SND.UNA to target[at...]. The caller keeps within `length`. */
  copy(offset: number, length: number, target: Uint8Array, at: number): void {
    let position = this.first + offset;
    let i = this.hint;
    if (i < this.head || i >= this.blocks.length || this.blocks[i]!.position > position) i = this.head;
    while (length > 0) {
      const block = this.blocks[i]!;
      const start = position - block.position;
      if (start >= block.fill) {
        i++;
        continue;
      }
      const n = Math.min(length, block.fill - start);
      copyBytes(block.bytes, start, n, target, at);
      position += n;
      at += n;
      length -= n;
    }
    this.hint = i;
  }

  /** The first `bytes` have been acknowledged. */
  release(bytes: number): void {
    this.first += bytes;
    const { blocks } = this;
    for (; this.head < blocks.length; this.head++) {
      const block = blocks[this.head]!;
      if (block.position + block.fill > this.first) break;
      if (block.owned) recycle(block.bytes);
      blocks[this.head] = DONE;
    }
    if (this.head === blocks.length) {
      this.blocks = NOTHING;
      this.head = this.hint = 0;
    } else if (this.head > 32 && this.head * 2 > blocks.length) {
      blocks.splice(0, this.head);
      this.hint = Math.max(0, this.hint - this.head);
      this.head = 0;
    }
  }

  clear(): void {
    this.release(this.length);
  }
}

const DONE: Block = { bytes: new Uint8Array(0), owned: false, position: 0, fill: 0 };

/** A lone small write gets a small block; a stream of them ever larger ones. */
function newBlock(needed: number, buffered: number): Buffer {
  const size = Math.max(needed, buffered, SMALLEST);
  if (size < BLOCK / 2) return Buffer.allocUnsafeSlow(size);
  return takeBlock();
}

function recycle(block: Uint8Array): void {
  if (block.length === BLOCK && block instanceof Buffer) putBlock(block);
}

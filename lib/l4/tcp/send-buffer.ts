// Bytes that are written and not yet acknowledged, addressed by their distance from SND.UNA.
//
// Small writes are packed into blocks of ours (so that a segment is filled from few pieces); large `owned` ones are kept
// by reference. Blocks of full size come from, and go back to, a small free list.

const BLOCK = 65_536;
const SMALLEST = 512;
const KEEP_BY_REFERENCE = 4_096;
const MAX_FREE = 32;
const free: Buffer[] = [];

export class SendBuffer {
  private blocks: Uint8Array[] = [];
  private owned: boolean[] = [];
  /** Stream position of the first byte of each block, and how much of each is filled. */
  private positions: number[] = [];
  private fills: number[] = [];
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
      this.push(bytes, bytes.length, false);
      this.end += bytes.length;
      return;
    }
    let at = 0;
    while (at < bytes.length) {
      const last = this.blocks.length - 1;
      let block = this.blocks[last];
      if (block === undefined || last < this.head || !this.owned[last] || this.fills[last]! === block.length) {
        block = newBlock(bytes.length - at, this.length);
        this.push(block, 0, true);
        continue;
      }
      const fill = this.fills[last]!;
      const n = Math.min(bytes.length - at, block.length - fill);
      block.set(at === 0 && n === bytes.length ? bytes : bytes.subarray(at, at + n), fill);
      this.fills[last] = fill + n;
      at += n;
      this.end += n;
    }
  }

  /** Copies `length` bytes that begin `offset` bytes behind SND.UNA to target[at...]. The caller keeps within `length`. */
  copy(offset: number, length: number, target: Uint8Array, at: number): void {
    let position = this.first + offset;
    let i = this.hint;
    if (i < this.head || i >= this.blocks.length || this.positions[i]! > position) i = this.head;
    while (length > 0) {
      const start = position - this.positions[i]!;
      const fill = this.fills[i]!;
      if (start >= fill) {
        i++;
        continue;
      }
      const n = Math.min(length, fill - start);
      target.set(this.blocks[i]!.subarray(start, start + n), at);
      position += n;
      at += n;
      length -= n;
    }
    this.hint = i;
  }

  /** The first `bytes` have been acknowledged. */
  release(bytes: number): void {
    this.first += bytes;
    while (this.head < this.blocks.length && this.positions[this.head]! + this.fills[this.head]! <= this.first) {
      if (this.owned[this.head]) recycle(this.blocks[this.head]!);
      this.blocks[this.head] = EMPTY;
      this.head++;
    }
    if (this.head === this.blocks.length) this.reset();
    else if (this.head > 32 && this.head * 2 > this.blocks.length) this.compact();
  }

  clear(): void {
    this.release(this.length);
  }

  private push(block: Uint8Array, fill: number, owned: boolean): void {
    this.blocks.push(block);
    this.owned.push(owned);
    this.positions.push(this.end);
    this.fills.push(fill);
  }

  private reset(): void {
    this.blocks = [];
    this.owned = [];
    this.positions = [];
    this.fills = [];
    this.head = this.hint = 0;
  }

  private compact(): void {
    const n = this.head;
    this.blocks.splice(0, n);
    this.owned.splice(0, n);
    this.positions.splice(0, n);
    this.fills.splice(0, n);
    this.hint = Math.max(0, this.hint - n);
    this.head = 0;
  }
}

const EMPTY = new Uint8Array(0);

/** A lone small write gets a small block; a stream of them ever larger ones. */
function newBlock(needed: number, buffered: number): Buffer {
  const size = Math.max(needed, buffered, SMALLEST);
  if (size < BLOCK / 2) return Buffer.allocUnsafeSlow(size);
  return free.pop() ?? Buffer.allocUnsafeSlow(BLOCK);
}

function recycle(block: Uint8Array): void {
  if (block.length === BLOCK && block instanceof Buffer && free.length < MAX_FREE) free.push(block);
}

// Memory of the lookup tries: blocks of 32-bit words in one growing array, with a free list per block size. A table
// of five routes takes a few hundred bytes and one of a million routes is a few large typed arrays, not objects.

export class Arena {
  /** Changes identity when it grows: fetch it anew after every `alloc`. */
  words: Uint32Array;
  private used = 1; // offset 0 stays unused so that 0 can mean "nothing"
  private readonly free = new Map<number, number[]>();

  constructor(initialWords = 64) {
    this.words = new Uint32Array(initialWords);
  }

  get bytes(): number {
    return this.words.byteLength;
  }

  /** Offset of a zeroed block of `size` words. */
  alloc(size: number): number {
    const again = this.free.get(size)?.pop();
    if (again !== undefined) {
      this.words.fill(0, again, again + size);
      return again;
    }
    const offset = this.used;
    this.used += size;
    if (this.used > this.words.length) {
      const larger = new Uint32Array(Math.max(this.used, Math.ceil(this.words.length * 1.5)));
      larger.set(this.words);
      this.words = larger;
    }
    return offset;
  }

  release(offset: number, size: number): void {
    const list = this.free.get(size);
    if (list === undefined) this.free.set(size, [offset]);
    else list.push(offset);
  }
}

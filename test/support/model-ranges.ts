// Slow and obviously right: one element per byte. What the fast structures are held against.

export class ByteMap<T> {
  private readonly cells: (T | undefined)[];

  constructor(readonly size: number) {
    this.cells = new Array<T | undefined>(size);
  }

  fill(start: number, end: number, value: T | ((at: number) => T)): void {
    for (let i = Math.max(0, start); i < Math.min(end, this.size); i++) {
      this.cells[i] = typeof value === 'function' ? (value as (at: number) => T)(i) : value;
    }
  }

  at(i: number): T | undefined {
    return this.cells[i];
  }

  count(test: (value: T | undefined, at: number) => boolean): number {
    let n = 0;
    for (let i = 0; i < this.size; i++) if (test(this.cells[i], i)) n++;
    return n;
  }

  /** Maximal runs of cells that pass, as [start, end). */
  runs(test: (value: T | undefined) => boolean): [number, number][] {
    const out: [number, number][] = [];
    for (let i = 0; i < this.size; i++) {
      if (!test(this.cells[i])) continue;
      const last = out[out.length - 1];
      if (last !== undefined && last[1] === i) last[1] = i + 1;
      else out.push([i, i + 1]);
    }
    return out;
  }
}

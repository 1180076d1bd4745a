// Core: copies of datagrams, in places of one size, bounded. Memory comes in chunks when it is first needed and goes when nothing is
// kept any more; all stores of a process share a budget.

/** Memory of all stores that share it. */
export interface RepairBudget {
  bytes: number;
  readonly maxBytes: number;
}

/** Places per chunk. */
const CHUNK = 64;

export class RepairStore {
  used = 0;
  private readonly chunks: Uint8Array[] = [];
  private readonly free: number[] = [];

  constructor(
    private readonly placeBytes: number,
    private readonly places: number,
    private readonly budget: RepairBudget,
  ) {}

  /** Bytes allocated. */
  get bytes(): number {
    return this.chunks.length * CHUNK * this.placeBytes;
  }

  /** A free place, or -1: the store is full, or the budget is spent. */
  take(): number {
    if (this.free.length === 0) {
      const first = this.chunks.length * CHUNK;
      const bytes = CHUNK * this.placeBytes;
      if (first >= this.places || this.budget.bytes + bytes > this.budget.maxBytes) return -1;
      this.budget.bytes += bytes;
      this.chunks.push(new Uint8Array(bytes));
      for (let place = first + CHUNK - 1; place >= first; place--) this.free.push(place);
    }
    this.used++;
    return this.free.pop()!;
  }

  /** The bytes stay as they are until the next `take`. */
  give(place: number): void {
    this.used--;
    this.free.push(place);
  }

  chunk(place: number): Uint8Array {
    return this.chunks[(place / CHUNK) | 0]!;
  }

  /** Where in its chunk the place begins. */
  offset(place: number): number {
    return (place % CHUNK) * this.placeBytes;
  }

  /** Gives the memory back; only while nothing is kept. */
  trim(): void {
    if (this.used > 0) return;
    this.budget.bytes -= this.bytes;
    this.chunks.length = 0;
    this.free.length = 0;
  }
}

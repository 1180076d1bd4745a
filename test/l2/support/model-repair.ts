// The slow-but-right twin of the repair of datagrams, straight from docs/spec/frame.md §8.1: who may be delivered once the numbers in
// `settled` have been received or given up. Sets and searches over everything that ever came; no windows, no lists, no memory bounds.

export interface Piece {
  readonly number: number;
  readonly lane: number;
  /** In its lane. */
  readonly order: number;
}

export class ModelRepair {
  private readonly received = new Map<number, Piece>();
  private readonly delivered = new Set<number>();
  private floor = 0;
  private readonly next = new Map<number, number>();

  /** What goes on now that `piece` has come (null: time has passed) and all numbers below `floor` are settled. */
  step(piece: Piece | null, floor: number): number[] {
    // What was given up is not taken any more.
    const late = piece !== null && piece.number < this.floor;
    if (piece !== null && !late && !this.received.has(piece.number)) this.received.set(piece.number, piece);
    this.floor = floor;
    const out: number[] = [];
    for (let found = true; found; ) {
      found = false;
      for (const p of [...this.received.values()].sort((a, b) => a.number - b.number)) {
        if (this.delivered.has(p.number)) continue;
        const inOrder = p.order === (this.next.get(p.lane) ?? 0);
        if (!inOrder && p.number >= floor) continue;
        this.delivered.add(p.number);
        this.next.set(p.lane, p.order + 1);
        out.push(p.number);
        found = true;
        break;
      }
    }
    return out;
  }
}

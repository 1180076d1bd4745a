// The deadlines of all connections: a binary heap that tolerates stale entries.
//
// A connection's deadline moves later with almost every segment. So a later deadline leaves the entry where it is, and
// the entry is filed anew when it comes up (spurious wake-ups are harmless by contract); only an earlier one moves it.

import { type Micros, NEVER } from '../core/index.js';
import type { TcpFlow } from './flow-table.js';

export class Deadlines {
  private readonly heap: TcpFlow[] = [];

  /** When something is due at the earliest. */
  get next(): Micros {
    return this.heap.length > 0 ? this.heap[0]!.heapAt : NEVER;
  }

  /** The flow wants to be called at `at`. */
  set(flow: TcpFlow, at: Micros): void {
    if (flow.heapIndex < 0) {
      if (at === NEVER) return;
      flow.heapAt = at;
      this.heap.push(flow);
      this.up(this.heap.length - 1, flow);
    } else if (at < flow.heapAt) {
      flow.heapAt = at;
      this.up(flow.heapIndex, flow);
    }
  }

  remove(flow: TcpFlow): void {
    const i = flow.heapIndex;
    if (i < 0) return;
    flow.heapIndex = -1;
    flow.heapAt = NEVER;
    const last = this.heap.pop()!;
    if (last === flow) return;
    this.up(i, last);
    this.down(last.heapIndex, last);
  }

  /** Takes out one flow that is due, or null. */
  pop(now: Micros): TcpFlow | null {
    const flow = this.heap[0];
    if (flow === undefined || flow.heapAt > now) return null;
    this.remove(flow);
    return flow;
  }

  private up(i: number, flow: TcpFlow): void {
    const { heap } = this;
    while (i > 0) {
      const parent = (i - 1) >> 1;
      const other = heap[parent]!;
      if (other.heapAt <= flow.heapAt) break;
      heap[i] = other;
      other.heapIndex = i;
      i = parent;
    }
    heap[i] = flow;
    flow.heapIndex = i;
  }

  private down(i: number, flow: TcpFlow): void {
    const { heap } = this;
    for (;;) {
      let child = 2 * i + 1;
      if (child >= heap.length) break;
      if (child + 1 < heap.length && heap[child + 1]!.heapAt < heap[child]!.heapAt) child++;
      const other = heap[child]!;
      if (other.heapAt >= flow.heapAt) break;
      heap[i] = other;
      other.heapIndex = i;
      i = child;
    }
    heap[i] = flow;
    flow.heapIndex = i;
  }
}

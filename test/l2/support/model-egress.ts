// The slow-but-right twin of the egress queue: objects and arrays, straight from the pseudo code of RFC 8289 §5 and the
// text of RFC 8290 §4. No reference counts, no indices.

export interface ModelPacket {
  readonly id: number;
  readonly size: number;
  readonly ecn: boolean;
  marked: boolean;
  enqueued: number;
}

interface Flow {
  readonly index: number;
  readonly queue: ModelPacket[];
  deficit: number;
  firstAbove: number;
  dropNext: number;
  count: number;
  lastCount: number;
  dropping: boolean;
}

export interface ModelOptions {
  readonly maxBytes: number;
  readonly maxPackets: number;
  readonly target: number;
  readonly interval: number;
  readonly quantum: number;
}

export class ModelEgress {
  private readonly flows = new Map<number, Flow>();
  private fresh: Flow[] = [];
  private old: Flow[] = [];
  overflow = 0;
  codel = 0;
  marked = 0;

  constructor(private readonly o: ModelOptions) {}

  private all(): ModelPacket[] {
    return [...this.flows.values()].flatMap((f) => f.queue);
  }

  get packets(): number {
    return this.all().length;
  }

  get bytes(): number {
    return this.all().reduce((n, p) => n + p.size, 0);
  }

  push(now: number, index: number, packet: ModelPacket): void {
    let flow = this.flows.get(index);
    if (flow === undefined) {
      flow = { index, queue: [], deficit: 0, firstAbove: 0, dropNext: 0, count: 0, lastCount: 0, dropping: false };
      this.flows.set(index, flow);
    }
    packet.enqueued = now;
    flow.queue.push(packet);
    if (!this.fresh.includes(flow) && !this.old.includes(flow)) {
      flow.deficit = this.o.quantum;
      this.fresh.push(flow);
    }
    while (this.bytes > this.o.maxBytes || this.packets > this.o.maxPackets) {
      const size = (f: Flow) => f.queue.reduce((n, p) => n + p.size, 0);
      const fattest = [...this.flows.values()].sort((a, b) => size(b) - size(a) || a.index - b.index)[0]!;
      fattest.queue.shift();
      this.overflow++;
    }
  }

  poll(now: number): ModelPacket | null {
    for (;;) {
      const list = this.fresh.length > 0 ? this.fresh : this.old;
      const flow = list[0];
      if (flow === undefined) return null;
      if (flow.deficit <= 0) {
        flow.deficit += this.o.quantum;
        list.shift();
        this.old.push(flow);
        continue;
      }
      const packet = this.dequeue(now, flow);
      if (packet !== null) {
        flow.deficit -= packet.size;
        return packet;
      }
      list.shift();
      if (list === this.fresh && this.old.length > 0) this.old.push(flow);
    }
  }

  /** RFC 8289 §5.6: dodequeue. */
  private doDequeue(now: number, flow: Flow): { packet: ModelPacket | null; okToDrop: boolean } {
    const bytes = flow.queue.reduce((n, p) => n + p.size, 0);
    const packet = flow.queue.shift() ?? null;
    if (packet === null) {
      flow.firstAbove = 0;
      return { packet, okToDrop: false };
    }
    if (now - packet.enqueued < this.o.target || bytes <= this.o.quantum) {
      flow.firstAbove = 0;
      return { packet, okToDrop: false };
    }
    if (flow.firstAbove === 0) {
      flow.firstAbove = now + this.o.interval;
      return { packet, okToDrop: false };
    }
    return { packet, okToDrop: now >= flow.firstAbove };
  }

  /** RFC 8289 §5.5, with marks in place of drops where the packet allows (RFC 8290 §4.3). */
  private dequeue(now: number, flow: Flow): ModelPacket | null {
    let r = this.doDequeue(now, flow);
    if (r.packet === null) {
      flow.dropping = false;
      return null;
    }
    if (flow.dropping) {
      if (!r.okToDrop) flow.dropping = false;
      while (flow.dropping && now >= flow.dropNext) {
        flow.count++;
        flow.dropNext += this.o.interval / Math.sqrt(flow.count);
        if (this.punish(r.packet!)) break;
        r = this.doDequeue(now, flow);
        if (r.packet === null) {
          flow.dropping = false;
          return null;
        }
        if (!r.okToDrop) flow.dropping = false;
      }
    } else if (r.okToDrop) {
      if (!this.punish(r.packet)) r = this.doDequeue(now, flow);
      flow.dropping = true;
      const delta = flow.count - flow.lastCount;
      flow.count = 1;
      if (delta > 1 && now - flow.dropNext < 16 * this.o.interval) flow.count = delta;
      flow.dropNext = now + this.o.interval / Math.sqrt(flow.count);
      flow.lastCount = flow.count;
    }
    return r.packet;
  }

  /** True: marked, and stays. */
  private punish(packet: ModelPacket): boolean {
    if (packet.ecn) {
      this.marked++;
      packet.marked = true;
      return true;
    }
    this.codel++;
    return false;
  }
}

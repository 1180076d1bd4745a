// A long and lossy path under the kernel's own UDP and TCP: two TUN devices without offload (one packet is one segment), one in each
// of two namespaces, joined by this process in real time: random loss, a queue drained at a rate, and a fixed delay, each way.

import type { Lab } from '../../examples/lab/netns.js';
import { must } from '../../examples/lab/netns.js';
import { HEADER, lengthAt, type Random, Slab, seededRandom } from '../../lib/core/index.js';
import { openTun, type TunDevice } from '../../lib/l3/index.js';

export interface PathOptions {
  /** Bits per second. */
  readonly rate: number;
  readonly rttMs: number;
  /** Of the packets, from the first end and from the second. */
  readonly loss: readonly [number, number];
  /** Bytes of the queue at each end. */
  readonly queue: number;
  readonly seed: number;
  /** **Default:** 1500. */
  readonly mtu?: number;
  /**
   * Does not sleep while packets wait: timers of a millisecond make them come in clumps. Takes a core that whatever is measured may want.
   * **Default:** false.
   */
  readonly awake?: boolean;
}

export interface WireCounts {
  sent: number;
  lost: number;
  queueDrops: number;
}

class Wire {
  private readonly waiting: { frame: Buffer; at: number }[] = [];
  private head = 0;
  private busyUntil = 0;
  private armed = false;
  readonly counts: WireCounts = { sent: 0, lost: 0, queueDrops: 0 };

  constructor(
    private readonly to: TunDevice,
    private readonly random: Random,
    private readonly path: PathOptions,
    private readonly loss: number,
  ) {}

  send(frame: Buffer): void {
    const { rate, rttMs, queue } = this.path;
    this.counts.sent++;
    if (this.random.float() < this.loss) {
      this.counts.lost++;
      return;
    }
    const now = performance.now();
    const perMs = rate / 8_000;
    const wait = Math.max(0, this.busyUntil - now);
    if (wait * perMs + frame.length - HEADER > queue) {
      this.counts.queueDrops++;
      return;
    }
    this.busyUntil = now + wait + (frame.length - HEADER) / perMs;
    this.waiting.push({ frame, at: this.busyUntil + rttMs / 2 });
    this.arm();
  }

  private arm(): void {
    if (this.armed || this.head === this.waiting.length) return;
    this.armed = true;
    if (this.path.awake === true) return void setImmediate(this.deliver);
    // A millisecond of lateness is small beside the delay, and sleeping leaves the cores to what is measured.
    setTimeout(this.deliver, Math.max(0, this.waiting[this.head]!.at - performance.now()));
  }

  private readonly deliver = (): void => {
    this.armed = false;
    const now = performance.now();
    for (; this.head < this.waiting.length && this.waiting[this.head]!.at <= now; this.head++) {
      const { frame } = this.waiting[this.head]!;
      this.to.send(Slab.of(frame), 0, frame.length);
    }
    if (this.head > 1_000) {
      this.waiting.splice(0, this.head);
      this.head = 0;
    }
    this.arm();
  };
}

/** Joins two namespaces of the lab, with an address (and prefix length) at each end; counts of what came from each. */
export async function lossyPath(
  lab: Lab,
  ends: readonly (readonly [ns: string, address: string])[],
  path: PathOptions,
): Promise<{ close(): void; counts: readonly WireCounts[] }> {
  const tuns: TunDevice[] = [];
  for (const [i, [ns, address]] of ends.entries()) {
    const tun = openTun({ name: `kbw${process.pid % 1_000_000}${i}`, offload: false });
    tuns.push(tun);
    await must('ip', ['link', 'set', tun.name, 'netns', lab.full(ns)]);
    await lab.address(ns, tun.name, address);
    await lab.ip(ns, 'link', 'set', tun.name, 'mtu', String(path.mtu ?? 1500), 'txqueuelen', '10000', 'up');
  }
  const random = seededRandom(path.seed);
  const wires = [new Wire(tuns[1]!, random, path, path.loss[0]), new Wire(tuns[0]!, random, path, path.loss[1])];
  for (const [i, tun] of tuns.entries()) {
    tun.open({
      onPackets: (slab, start, end) => {
        for (let off = start; off < end; ) {
          const next = off + HEADER + lengthAt(slab.bytes, off);
          wires[i]!.send(Buffer.from(slab.bytes.subarray(off, next)));
          off = next;
        }
      },
      onClose() {},
    });
  }
  const close = () => {
    for (const tun of tuns) tun.close();
  };
  return { close, counts: wires.map((wire) => wire.counts) };
}

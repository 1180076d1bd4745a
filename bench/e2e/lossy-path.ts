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
  /** Of the packets, each way. */
  readonly loss: number;
  /** Bytes of the queue at each end. */
  readonly queue: number;
  readonly seed: number;
}

class Wire {
  private readonly waiting: { frame: Buffer; at: number }[] = [];
  private head = 0;
  private busyUntil = 0;
  private armed = false;

  constructor(
    private readonly to: TunDevice,
    private readonly random: Random,
    private readonly path: PathOptions,
  ) {}

  send(frame: Buffer): void {
    const { rate, rttMs, loss, queue } = this.path;
    if (this.random.float() < loss) return;
    const now = performance.now();
    const perMs = rate / 8_000;
    const wait = Math.max(0, this.busyUntil - now);
    if (wait * perMs + frame.length - HEADER > queue) return;
    this.busyUntil = now + wait + (frame.length - HEADER) / perMs;
    this.waiting.push({ frame, at: this.busyUntil + rttMs / 2 });
    this.arm();
  }

  private arm(): void {
    if (this.armed || this.head === this.waiting.length) return;
    this.armed = true;
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

/** Joins two namespaces of the lab, with an address (and prefix length) at each end. Returns what ends it. */
export async function lossyPath(
  lab: Lab,
  ends: readonly [ns: string, address: string][],
  path: PathOptions,
): Promise<() => void> {
  const tuns: TunDevice[] = [];
  for (const [i, [ns, address]] of ends.entries()) {
    const tun = openTun({ name: `kbw${process.pid % 1_000_000}${i}`, offload: false });
    tuns.push(tun);
    await must('ip', ['link', 'set', tun.name, 'netns', lab.full(ns)]);
    await lab.address(ns, tun.name, address);
    await lab.ip(ns, 'link', 'set', tun.name, 'mtu', '1500', 'txqueuelen', '10000', 'up');
  }
  const random = seededRandom(path.seed);
  const wires = [new Wire(tuns[1]!, random, path), new Wire(tuns[0]!, random, path)];
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
  return () => {
    for (const tun of tuns) tun.close();
  };
}

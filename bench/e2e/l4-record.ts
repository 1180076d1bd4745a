// Records what Linux' own CUBIC gets on the path of l4-sim.ts, for comparison with ours in the simulator. As root:
//
//     node --import tsx bench/e2e/l4-record.ts && npx biome check --write bench/e2e/l4-linux-cubic.json
//
// The kernel stands on both ends: two namespaces with a TUN device each (no offload: one packet is one segment), iperf3 between.
// This process joins the two devices and impairs what passes in real time: random loss towards the receiver, a queue drained at the
// rate, and a fixed delay each way. It does not sleep while packets wait (timers of a millisecond would come in clumps).

import { writeFileSync } from 'node:fs';
import { release } from 'node:os';
import { Lab } from '../../examples/lab/netns.js';
import { HEADER, lengthAt, type Random, Slab, seededRandom } from '../../lib/core/index.js';
import { openTun, type TunDevice } from '../../lib/l3/index.js';
import { kernelIperfRun } from './l4-overlay.js';
import { LINUX_FILE, PATH } from './l4-sim.js';
import { allowCongestionControl } from './topology.js';

class Wire {
  private readonly queue: { frame: Buffer; at: number }[] = [];
  private head = 0;
  private busyUntil = 0;
  private polling = false;
  readonly counts = { sent: 0, lost: 0, queueDrops: 0 };

  constructor(
    private readonly to: TunDevice,
    private readonly random: Random,
    private readonly loss: number,
  ) {}

  send(frame: Buffer): void {
    const now = performance.now();
    this.counts.sent++;
    if (this.random.float() < this.loss) {
      this.counts.lost++;
      return;
    }
    const wait = Math.max(0, this.busyUntil - now);
    const perMs = PATH.rate / 8_000;
    if (wait * perMs + frame.length - HEADER > PATH.queue) {
      this.counts.queueDrops++;
      return;
    }
    this.busyUntil = now + wait + (frame.length - HEADER) / perMs;
    this.queue.push({ frame, at: this.busyUntil + PATH.rttMs / 2 });
    if (!this.polling) {
      this.polling = true;
      setImmediate(this.poll);
    }
  }

  private readonly poll = (): void => {
    const now = performance.now();
    for (; this.head < this.queue.length && this.queue[this.head]!.at <= now; this.head++) {
      const { frame } = this.queue[this.head]!;
      this.to.send(Slab.of(frame), 0, frame.length);
    }
    if (this.head > 1_000) {
      this.queue.splice(0, this.head);
      this.head = 0;
    }
    this.polling = this.head < this.queue.length;
    if (this.polling) setImmediate(this.poll);
  };
}

async function record(seed: number): Promise<{ mbps: number; meanRttMs: number; counts: Wire['counts'] }> {
  const lab = new Lab('kbr-');
  try {
    const tuns: TunDevice[] = [];
    for (const [i, ns] of ['left', 'right'].entries()) {
      await lab.ns(ns, { congestion: 'cubic', ipv6: false });
      const tun = openTun({ name: `kbr${process.pid % 10_000}${i}`, offload: false });
      await lab.ip(ns, 'link', 'set', 'lo', 'up');
      await lab.must(ns, 'true');
      const { execFileSync } = await import('node:child_process');
      execFileSync('ip', ['link', 'set', tun.name, 'netns', lab.full(ns)]);
      await lab.address(ns, tun.name, `10.98.0.${i + 1}/24`);
      await lab.ip(ns, 'link', 'set', tun.name, 'mtu', String(PATH.mtu), 'up');
      await lab.sysctl(ns, 'net.ipv4.tcp_no_metrics_save=1', 'net.ipv4.tcp_rmem=4096 131072 16777216');
      await lab.sysctl(ns, 'net.ipv4.tcp_wmem=4096 65536 16777216');
      tuns.push(tun);
    }
    const random = seededRandom(seed);
    const wires = [new Wire(tuns[1]!, random, PATH.loss), new Wire(tuns[0]!, random, 0)];
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
    lab.spawn('right', 'iperf3', ['-s']);
    await lab.waitListen('right', 5201);
    const { gbps, meanRttMs } = await kernelIperfRun(lab, 'left', '10.98.0.2', PATH.seconds, false);
    for (const tun of tuns) tun.close();
    return { mbps: gbps * 1_000, meanRttMs, counts: wires[0]!.counts };
  } finally {
    await lab.down();
  }
}

const restore = allowCongestionControl('cubic');
const samples: number[] = [];
/** As the kernels saw it: what this process and its machine add to the path's own RTT. */
const meanRttMs: number[] = [];
for (let seed = 1; seed <= PATH.seeds; seed++) {
  const { mbps, meanRttMs: rtt, counts } = await record(seed);
  console.log(`seed ${seed}: ${mbps.toFixed(2)} Mbit/s, mean RTT ${rtt.toFixed(1)} ms`, counts);
  meanRttMs.push(Math.round(rtt * 10) / 10);
  samples.push(Math.round(mbps * 1_000) / 1_000);
}
restore();
samples.sort((a, b) => a - b);
const what = {
  mbps: samples[samples.length >> 1],
  samples,
  meanRttMs,
  kernel: release(),
  congestion: 'cubic',
  path: PATH,
};
writeFileSync(LINUX_FILE, `${JSON.stringify(what, null, 2)}\n`);
process.exit(0);

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
import { kernelIperfRun } from './l4-overlay.js';
import { LINUX_FILE, PATH } from './l4-sim.js';
import { lossyPath, type WireCounts } from './lossy-path.js';
import { allowCongestionControl } from './topology.js';

async function record(seed: number): Promise<{ mbps: number; meanRttMs: number; counts: WireCounts }> {
  const lab = new Lab('kbr-');
  try {
    for (const ns of ['left', 'right']) {
      await lab.ns(ns, { congestion: 'cubic', ipv6: false });
      await lab.ip(ns, 'link', 'set', 'lo', 'up');
      await lab.sysctl(ns, 'net.ipv4.tcp_no_metrics_save=1', 'net.ipv4.tcp_rmem=4096 131072 16777216');
      await lab.sysctl(ns, 'net.ipv4.tcp_wmem=4096 65536 16777216');
    }
    const ends = [
      ['left', '10.98.0.1/24'],
      ['right', '10.98.0.2/24'],
    ] as const;
    const path = await lossyPath(lab, ends, { ...PATH, loss: [PATH.loss, 0], seed, awake: true });
    lab.spawn('right', 'iperf3', ['-s']);
    await lab.waitListen('right', 5201);
    const { gbps, meanRttMs } = await kernelIperfRun(lab, 'left', '10.98.0.2', PATH.seconds, false);
    path.close();
    return { mbps: gbps * 1_000, meanRttMs, counts: path.counts[0]! };
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

// Random networks, random impairments, every byte of every stream compared. One seed decides all of a run.
//
//     KUBEBUS_SIM_SEED=1234 npx ava test/sim/streams.test.ts      repeats one run
//     KUBEBUS_SIM_SEEDS=5000 KUBEBUS_SIM_FROM=100000 npx ava ...   other seeds

import { rmSync } from 'node:fs';
import test from 'ava';
import { has } from '../../examples/lab/netns.js';
import { HEADER } from '../../lib/core/index.js';
import { kernelTest } from '../support/kernel.js';
import type { Network } from '../support/sim-net.js';
import { judgeSeed } from '../support/sim-run.js';
import { countPackets } from '../support/tshark.js';

const ONE = process.env.KUBEBUS_SIM_SEED;
const FROM = Number(ONE ?? process.env.KUBEBUS_SIM_FROM ?? 1);
const COUNT = ONE === undefined ? Number(process.env.KUBEBUS_SIM_SEEDS ?? 1_000) : 1;

// In parts, so that a failure is seen early and the reporter shows progress.
const PART = 100;
for (let from = FROM; from < FROM + COUNT; from += PART) {
  const to = Math.min(from + PART, FROM + COUNT);
  test.serial(`every byte arrives, seeds ${from} to ${to - 1}`, async (t) => {
    t.timeout(120_000);
    for (let seed = from; seed < to; seed++) {
      // The reporter has to get a turn, or it takes the run for hung.
      if (seed % 10 === 0) await new Promise((resolve) => setImmediate(resolve));
      const failure = judgeSeed(seed);
      if (failure !== null) {
        t.fail(failure);
        return;
      }
    }
    t.pass();
  });
}

/** On each link two words of the payload of a segment change places, which no checksum notices. */
function swapWords(network: Network): void {
  for (const pipe of network.pipes) {
    let segments = 0;
    pipe.tap = (_now, frame) => {
      const ip = HEADER + (frame[HEADER]! >> 4 === 4 ? 20 : 40);
      const payload = ip + (frame[ip + 12]! >> 4) * 4;
      const words = frame.subarray(frame.length - 4);
      if (frame.length - 4 < payload || ++segments !== 3) return;
      words.set([words[2]!, words[3]!, words[0]!, words[1]!]);
    };
  }
}

const noTshark = has('tshark') ? null : 'the program tshark';
kernelTest(noTshark)('a run that fails leaves its packets in a file, and says where', (t) => {
  const failure = judgeSeed(7, swapWords);
  t.regex(failure ?? '', /^seed 7: flow .*wrong byte at \d+\npackets of all nodes: \S+\nrepeat: KUBEBUS_SIM_SEED=7 /);
  const file = /^packets of all nodes: (\S+)$/m.exec(failure!)![1]!;
  t.teardown(() => rmSync(file));
  t.log(failure!);
  // Both ends of a handshake, each seen at its sender and at its receiver.
  t.true(countPackets(file, 'tcp.flags.syn == 1 && tcp.flags.ack == 0') >= 2);
  t.true(countPackets(file, 'tcp.flags.syn == 1 && tcp.flags.ack == 1') >= 2);
  t.true(countPackets(file, 'tcp.len > 0') > 10);
  t.is(countPackets(file, '_ws.malformed'), 0);
});

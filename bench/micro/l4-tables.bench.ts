// The tables of TCP: flow lookup by a packet's bytes, the scoreboard under acknowledgements and SACKs, the reassembler.

import { seededRandom } from '../../lib/core/index.js';
import { FlowTable, TcpFlow } from '../../lib/l4/flow-table.js';
import { Reassembler } from '../../lib/l4/tcp/reassembler.js';
import { ReceiveQueue } from '../../lib/l4/tcp/receive-queue.js';
import { Scoreboard } from '../../lib/l4/tcp/scoreboard.js';
import type { TcpSurface } from '../../lib/l4/tcp/surface.js';
import { DEFAULT_TCP_OPTIONS } from '../../lib/l4/tcp/types.js';
import type { MicroBench, MicroCase } from './shape.js';

const MSS = 1_348;
const none = { onDelivered() {} };

/** Lookups in turn over all flows, so that the processor's caches help no more than they help a busy server. */
function lookup(flows: number, ops: number): MicroCase {
  const random = seededRandom(3);
  const table = new FlowTable(random);
  const addresses = Buffer.alloc(flows * 8);
  for (let i = 0; i < flows; i++) {
    addresses.set([10, 80, i >>> 8, i, 10, 80, 255, 1], i * 8);
    const config = {
      localAddress: Uint8Array.of(10, 80, 255, 1),
      remoteAddress: Uint8Array.from(addresses.subarray(i * 8, i * 8 + 4)),
      localPort: 80,
      remotePort: 1_024 + (i % 60_000),
      iss: 0,
      tsOffset: 0,
      mtu: 1_400,
      offload: true,
      random,
      options: DEFAULT_TCP_OPTIONS,
    };
    table.add(new TcpFlow(config, {} as TcpSurface));
  }
  let at = 0;
  return {
    name: `flow lookup, ${flows.toLocaleString('en')} flows`,
    unit: 'lookup',
    ops,
    fn() {
      for (let i = 0; i < ops; i++) {
        at = (at + 7_919) % flows;
        const flow = table.find(addresses, at * 8, at * 8 + 4, 4, 1_024 + (at % 60_000), 80);
        if (flow === null) throw new Error('a flow is missing');
      }
    },
  };
}

/** A window of `window` segments in flight; each acknowledgement takes two out and two go in. */
function acknowledged(window: number, ops: number): MicroCase {
  const board = new Scoreboard();
  let nxt = 0;
  let una = 0;
  const push = () => {
    board.push(nxt, (nxt + MSS) | 0, 1);
    nxt = (nxt + MSS) | 0;
  };
  for (let i = 0; i < window; i++) push();
  return {
    name: `scoreboard, cumulative acknowledgements, ${window} in flight`,
    unit: 'acknowledgement',
    ops,
    fn() {
      for (let i = 0; i < ops; i++) {
        una = (una + 2 * MSS) | 0;
        board.ackTo(una, MSS, none);
        push();
        push();
      }
    },
  };
}

/** The first of `window` segments is missing; the others are SACKed one after another. */
function sacked(window: number): MicroCase {
  const blocks = new Int32Array(8);
  return {
    name: `scoreboard, ${window} SACKs behind one hole`,
    unit: 'acknowledgement',
    ops: window,
    fn() {
      const board = new Scoreboard();
      for (let i = 0; i <= window; i++) board.push(i * MSS, (i + 1) * MSS, 1);
      for (let i = 1; i <= window; i++) {
        blocks[0] = MSS;
        blocks[1] = (i + 1) * MSS;
        board.handleSack(blocks, 0, 1, MSS, none);
      }
    },
  };
}

/** `holes` segments arrive with a hole before each, then the holes are filled from the front. */
function reassembled(holes: number): MicroCase {
  const bytes = Buffer.alloc(MSS);
  return {
    name: `reassembler, ${holes} holes filled`,
    unit: 'segment',
    bytes: MSS,
    ops: 2 * holes,
    fn() {
      const r = new Reassembler();
      const queue = new ReceiveQueue();
      for (let i = 0; i < holes; i++) r.insert((2 * i + 1) * MSS, bytes, 0, MSS);
      let nxt = 0;
      for (let i = 0; i < holes; i++) {
        queue.append(bytes, 0, MSS);
        nxt = r.take((nxt + MSS) | 0, queue);
        queue.skip(queue.length);
      }
    },
  };
}

export default {
  name: 'l4-tables',
  setup: (smoke) => {
    const n = smoke ? 10 : 1_000;
    return [
      lookup(100, n),
      lookup(smoke ? 1_000 : 50_000, n),
      acknowledged(32, n),
      acknowledged(2_048, n),
      sacked(smoke ? 8 : 512),
      reassembled(smoke ? 8 : 256),
    ];
  },
} satisfies MicroBench;

// The queue against its slow model, and the properties for which it is there.

import test from 'ava';
import {
  getU16,
  getU32,
  HEADER,
  type Micros,
  MS,
  putU16,
  SECOND,
  type Slab,
  seededRandom,
} from '../../lib/core/index.js';
import { resolveOptions } from '../../lib/l2/driver/options.js';
import {
  DEFAULT_EGRESS,
  type EgressBudget,
  EgressQueue,
  markCongestion,
  SCARCE_BYTES,
} from '../../lib/l2/egress-queue.js';
import { flowHash } from '../../lib/l2/flow-hash.js';
import { FlowTable } from '../../lib/l2/flow-table.js';
import { numbered, slabOf } from './support/frames.js';
import { ModelEgress } from './support/model-egress.js';

const idOf = (q: EgressQueue) => getU32(q.slab!.bytes, q.off + HEADER + 28);

/** The header checksum as RFC 1071 has it, over a header whose checksum field is in place: 0xffff when right. */
function headerSum(buf: Uint8Array, p: number): number {
  let sum = 0;
  for (let i = 0; i < 20; i += 2) sum += getU16(buf, p + i);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  return sum;
}

function frame(flow: number, id: number, length: number, ecn: boolean): Buffer {
  const f = numbered(flow, id, length);
  if (ecn) f[HEADER + 1] = 2; // ECT(0)
  putU16(f, HEADER + 10, ~headerSum(f, HEADER) & 0xffff);
  return f;
}

for (const seed of [1, 2, 3, 4]) {
  test(`random pushes and polls: packet for packet as the model (seed ${seed})`, (t) => {
    const random = seededRandom(seed);
    const below = (n: number) => random.u32() % n;
    const options = {
      ...DEFAULT_EGRESS,
      maxBytes: [40_000, 200_000, 1 << 20, 60_000][seed - 1]!,
      maxPackets: [64, 400, 1000, 30][seed - 1]!,
      // Few enough that the table has to grow in the middle of it.
      flows: 8,
      quantum: [1500, 3000, 65_600, 1][seed - 1]!,
    };
    const q = new EgressQueue(options);
    const model = new ModelEgress(options);
    const slabs: Slab[] = [];
    let now: Micros = 0;
    let id = 0;
    let polled = 0;
    for (let step = 0; step < 6_000; step++) {
      now += below(4) === 0 ? below(30 * MS) : below(200);
      if (below(100) < (step % 2_000 < 1_000 ? 55 : 35)) {
        const count = 1 + below(6);
        const frames = Array.from({ length: count }, () => frame(below(12), ++id, 32 + below(1400), below(3) === 0));
        const slab = slabOf(...frames);
        slabs.push(slab);
        q.push(now, slab, 0, slab.bytes.length);
        // The model takes them one by one: the bound holds after each.
        for (const f of frames) {
          const flow = flowHash(f, 0, f.length - HEADER);
          model.push(now, flow, {
            id: getU32(f, HEADER + 28),
            size: f.length,
            ecn: f[HEADER + 1] === 2,
            marked: false,
            enqueued: 0,
          });
        }
      } else {
        const expected = model.poll(now);
        if (q.poll(now) !== (expected !== null)) return t.fail(`step ${step}: empty or not`);
        if (expected !== null) {
          polled++;
          t.is(idOf(q), expected.id, `step ${step}`);
          t.is(q.slab!.bytes[q.off + HEADER + 1]! & 3, expected.marked ? 3 : expected.ecn ? 2 : 0);
          t.is(headerSum(q.slab!.bytes, q.off + HEADER), 0xffff);
          q.slab!.release();
        }
      }
      if (q.packets !== model.packets || q.bytes !== model.bytes) return t.fail(`step ${step}: sizes`);
      if (q.bytes > options.maxBytes || q.packets > options.maxPackets) return t.fail(`step ${step}: bound`);
    }
    t.deepEqual(
      { ...q.dropped, marked: q.marked },
      { overflow: model.overflow, codel: model.codel, down: 0, marked: model.marked },
    );
    t.true(
      polled > 1000 && q.dropped.overflow + q.dropped.codel > 50,
      `${polled} polled, ${JSON.stringify(q.dropped)}`,
    );
    const left = q.packets;
    q.clear();
    t.is(q.dropped.down, left);
    t.is(q.bytes, 0);
    t.true(
      slabs.every((slab) => slab.refs === 1),
      'no slab is kept',
    );
  });
}

test('a slab of very many tiny frames keeps the bounds, whatever maxPackets is', (t) => {
  for (const maxPackets of [1, 7, 100]) {
    const q = new EgressQueue({ ...DEFAULT_EGRESS, maxPackets });
    const slab = slabOf(...Array.from({ length: 5_000 }, (_, i) => numbered(i & 15, i)));
    q.push(0, slab, 0, slab.bytes.length);
    t.is(q.packets, maxPackets);
    t.is(q.dropped.overflow, 5_000 - maxPackets);
    let n = 0;
    for (; q.poll(1); n++) q.slab!.release();
    t.is(n, maxPackets);
    t.is(slab.refs, 1);
  }
});

test('a light flow is served at once beside a bulk flow that filled the queue, and loses nothing', (t) => {
  const q = new EgressQueue({ ...DEFAULT_EGRESS, maxBytes: 1 << 20 });
  const bulk = slabOf(...Array.from({ length: 2_000 }, (_, i) => numbered(1, i, 1400)));
  q.push(0, bulk, 0, bulk.bytes.length);
  t.true(q.dropped.overflow > 0);
  for (let i = 0; i < 100; i++) {
    const ping = slabOf(numbered(2, 1_000_000 + i, 64));
    const now = i * MS;
    q.push(now, ping, 0, ping.bytes.length);
    let waited = 0;
    for (; q.poll(now) && idOf(q) < 1_000_000; waited++) q.slab!.release();
    t.is(idOf(q), 1_000_000 + i);
    q.slab!.release();
    // At most what is left of the bulk flow's quantum was before it.
    t.true(waited * 1400 <= DEFAULT_EGRESS.quantum + 1400, `${waited} packets before ping ${i}`);
  }
});

test('a thousand flows have a queue each, share alike, and what grew for them is given back', (t) => {
  const q = new EgressQueue({ ...DEFAULT_EGRESS, quantum: 1_408, target: SECOND });
  const flows = 1_000;
  for (let round = 0; round < 2; round++) {
    for (let i = 0; i < flows; i++) {
      const slab = slabOf(numbered(i, i, 1400));
      q.push(0, slab, 0, slab.bytes.length);
    }
  }
  // Half of all is taken: one packet of every flow, then the second of each.
  for (let round = 0; round < 2; round++) {
    const served = new Set<number>();
    for (let i = 0; i < flows; i++) {
      t.true(q.poll(1));
      served.add(idOf(q));
      q.slab!.release();
    }
    t.is(served.size, flows, `round ${round}`);
  }
  t.false(q.poll(1));
  const again = slabOf(numbered(1, 7, 1400));
  q.push(2, again, 0, again.bytes.length);
  t.true(q.poll(3));
  t.is(idOf(q), 7);
});

test('beyond maxFlows flows share queues, in order each, and nothing is lost', (t) => {
  const q = new EgressQueue({ ...DEFAULT_EGRESS, flows: 8, maxFlows: 16, target: SECOND });
  for (let i = 0; i < 2_000; i++) {
    const slab = slabOf(numbered(i % 200, i, 100));
    q.push(0, slab, 0, slab.bytes.length);
  }
  const last = new Map<number, number>();
  let n = 0;
  for (; q.poll(1); n++) {
    const id = idOf(q);
    t.true((last.get(id % 200) ?? -1) < id);
    last.set(id % 200, id);
    q.slab!.release();
  }
  t.is(n, 2_000);
});

test('bulk flows share by bytes, not by packets', (t) => {
  const q = new EgressQueue({ ...DEFAULT_EGRESS, quantum: 3_000, target: SECOND });
  for (const [flow, length, count] of [
    [1, 1400, 700],
    [2, 200, 4900],
    [3, 700, 1400],
  ] as const) {
    const slab = slabOf(...Array.from({ length: count }, (_, i) => numbered(flow, i, length)));
    q.push(0, slab, 0, slab.bytes.length);
  }
  const bytes = new Map<number, number>();
  for (let sent = 0; sent < 900_000; ) {
    t.true(q.poll(1));
    const flow = getU16(q.slab!.bytes, q.off + HEADER + 20);
    bytes.set(flow, (bytes.get(flow) ?? 0) + q.length);
    sent += q.length;
    q.slab!.release();
  }
  for (const n of bytes.values()) t.true(Math.abs(n - 300_000) <= 3_000 + 1_408, JSON.stringify([...bytes]));
});

test('CoDel holds the delay of an unresponsive flow near its target once it stands, and leaves short bursts alone', (t) => {
  // 10 Mbit/s out, in: a burst of 40 packets (45 ms) that drains, then 10.5 Mbit/s for 20 s.
  const q = new EgressQueue({ ...DEFAULT_EGRESS, quantum: 1_500 });
  const gap = (1408 * 8) / 10; // microseconds per packet at 10 Mbit/s
  const burst = slabOf(...Array.from({ length: 40 }, (_, i) => numbered(1, i, 1400)));
  q.push(0, burst, 0, burst.bytes.length);
  let now = 0;
  for (; q.poll(now); now += gap) q.slab!.release();
  t.is(q.dropped.codel, 0);
  let id = 100;
  let nextIn = now;
  const end = now + 20 * SECOND;
  const born = new Map<number, number>();
  let late = 0;
  let served = 0;
  for (; now < end; now += gap) {
    for (; nextIn <= now; nextIn += gap / 1.05) {
      const slab = slabOf(numbered(1, ++id, 1400));
      born.set(id, nextIn);
      q.push(nextIn, slab, 0, slab.bytes.length);
    }
    if (!q.poll(now)) continue;
    if (now > end - 2 * SECOND) {
      served++;
      if (now - born.get(idOf(q))! > 50 * MS) late++;
    }
    q.slab!.release();
  }
  t.is(q.dropped.overflow, 0);
  t.true(q.dropped.codel > 300, `${q.dropped.codel}`);
  t.true(late < served / 20, `${late} of ${served} waited more than 50 ms`);
});

test('above the budget that queues share, each is held to its small bound', (t) => {
  const budget: EgressBudget = { bytes: 0, maxBytes: 1 << 20 };
  const queues = Array.from({ length: 10 }, () => new EgressQueue(DEFAULT_EGRESS, budget));
  const slab = slabOf(...Array.from({ length: 1_000 }, (_, i) => numbered(i, i, 1000)));
  for (const q of queues) q.push(0, slab, 0, slab.bytes.length);
  t.is(
    budget.bytes,
    queues.reduce((n, q) => n + q.bytes, 0),
  );
  t.true(budget.bytes <= budget.maxBytes + 10 * SCARCE_BYTES, `${budget.bytes}`);
  t.true(queues[9]!.bytes > 0, 'the last one still gets something through');
  for (const q of queues) q.clear();
  t.is(budget.bytes, 0);
  t.is(slab.refs, 1);
});

test('shift gives every packet, in order within its flow', (t) => {
  const q = new EgressQueue();
  const slab = slabOf(...Array.from({ length: 300 }, (_, i) => numbered(i % 7, i)));
  q.push(0, slab, 0, slab.bytes.length);
  const last = new Map<number, number>();
  let n = 0;
  for (; q.shift(); n++) {
    const flow = getU16(q.slab!.bytes, q.off + HEADER + 20);
    t.true(idOf(q) > (last.get(flow) ?? -1));
    last.set(flow, idOf(q));
    q.slab!.release();
  }
  t.is(n, 300);
  t.is(slab.refs, 1);
  // And the queue is as good as new.
  q.push(0, slab, 0, slab.bytes.length);
  for (n = 0; q.poll(1); n++) q.slab!.release();
  t.is(n, 300);
});

test('marking: IPv4 keeps its header checksum right, IPv6 sets the class bits, not ECN-capable stays', (t) => {
  for (const tos of [0, 1, 2, 3, 0xfd, 0xfe]) {
    const f = frame(1, 1, 60, false);
    f[HEADER + 1] = tos;
    putU16(f, HEADER + 10, 0);
    putU16(f, HEADER + 10, ~headerSum(f, HEADER) & 0xffff);
    t.is(markCongestion(f, HEADER), (tos & 3) !== 0);
    t.is(f[HEADER + 1], (tos & 3) === 0 ? tos : tos | 3);
    t.is(headerSum(f, HEADER), 0xffff, `tos ${tos}`);
  }
  // RFC 8200 §3: version 4 bits, traffic class 8 bits, flow label 20 bits.
  const v6 = Buffer.from('6abcdef0', 'hex');
  v6[1] = 0x20 | 0x0c; // ECT(0)
  t.true(markCongestion(v6, 0));
  t.is(v6.toString('hex'), '6a3cdef0');
  v6[1] = 0x0c;
  t.false(markCongestion(v6, 0));
});

test('of a large table the fattest queue is found by parts: a flood of flows costs little, and bulk still pays first', (t) => {
  const table = new FlowTable(4096);
  let reads = 0;
  const counted = new Proxy(table.backlog, {
    get(target, key) {
      reads++;
      return target[key as unknown as number];
    },
  });
  Object.assign(table, { backlog: counted });
  table.fattest();
  t.true(reads <= 2 * 256, `${reads} queues looked at`);
  const q = new EgressQueue({ ...DEFAULT_EGRESS, maxPackets: 8_000, target: SECOND });
  const bulk = slabOf(...Array.from({ length: 4_000 }, (_, i) => numbered(0, i, 200)));
  const thin = slabOf(...Array.from({ length: 3_000 }, (_, i) => numbered(1 + i, 0x10000 + i)));
  q.push(0, thin, 0, thin.bytes.length);
  q.push(0, bulk, 0, bulk.bytes.length);
  q.push(0, thin, 0, thin.bytes.length);
  t.is(q.dropped.overflow, 2_000);
  let left = 0;
  for (; q.poll(1); q.slab!.release()) if (idOf(q) >= 0x10000) left++;
  t.true(left >= 6_000 - 20, `${left} packets of 3,000 thin flows stay`);
});

test('whose packets share a queue cannot be chosen from outside: the hash has a secret seed', (t) => {
  const victim = numbered(443, 1);
  const evil = numbered(443, 1);
  evil[HEADER + 15] = 99; // another source
  const word = (f: Buffer, at: number) => f.readUInt32BE(HEADER + at);
  // The ports with which the unseeded hash is the same: 0x27d4eb2f is odd, so it has an inverse.
  let inverse = 1;
  for (let i = 0; i < 5; i++) inverse = Math.imul(inverse, 2 - Math.imul(0x27d4eb2f, inverse));
  const [a, b] = [victim, evil].map((f) => Math.imul(word(f, 12), 0x9e3779b1)) as [number, number];
  evil.writeUInt32BE(Math.imul(Math.imul(word(victim, 20), 0x27d4eb2f) ^ a ^ b, inverse) >>> 0, HEADER + 20);
  const same = (seed?: number) => flowHash(victim, 0, 32, seed) === flowHash(evil, 0, 32, seed);
  t.true(same());
  t.deepEqual([1, 0x1234567, 0x89abcdef, 0xdeadbeef].filter(same), []);
  const seed = (options = {}) => resolveOptions(options).connection.egress.seed;
  t.not(seed(), seed());
  t.is(seed({ random: seededRandom(1) }), 0, 'runs of a simulator repeat');
});

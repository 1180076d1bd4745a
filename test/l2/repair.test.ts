// The repair of lost datagrams: both cores on a virtual clock and a network that loses, doubles and reorders; the rule of delivery
// against a slow model; every bound hit.

import { readFileSync } from 'node:fs';
import test from 'ava';
import { getU32, HEADER, MS, putHeader, putU32, SECOND, seededRandom } from '../../lib/core/index.js';
import { NO_LANE, repairLane } from '../../lib/l2/repair-lane.js';
import { RepairReceiver, Verdict } from '../../lib/l2/repair-receiver.js';
import { RepairSender } from '../../lib/l2/repair-sender.js';
import {
  getLane,
  getNumber,
  getOrder,
  MAX_RANGES,
  putNumber,
  putProbe,
  putRange,
  putReport,
  REPAIR_HEAD,
  REPORT_BYTES,
  rangeFirst,
  rangeLength,
  rangesOf,
} from '../../lib/l2/wire/repair.js';
import { numbered } from './support/frames.js';
import { ModelRepair, type Piece } from './support/model-repair.js';

type Fields = { lane: number; order: number; number: number; floor: number; ranges: [number, number][]; next: number };
const { datagrams: vectors } = JSON.parse(
  readFileSync(new URL('../../docs/spec/frame.json', import.meta.url), 'utf8'),
) as {
  datagrams: { name: string; kind: string; hex: string; fields: Fields }[];
};

for (const { name, kind, hex, fields } of vectors) {
  test(`vector: ${name}`, (t) => {
    const b = Buffer.from(hex, 'hex');
    const out = Buffer.alloc(REPORT_BYTES);
    let length = REPAIR_HEAD;
    if (kind === 'number') {
      t.deepEqual([getLane(b, 0), getOrder(b, 0), getNumber(b, 0)], [fields.lane, fields.order, fields.number]);
      putNumber(out, 0, fields.lane, fields.order, fields.number);
    } else if (kind === 'probe') {
      t.is(getNumber(b, 0), fields.next);
      putProbe(out, 0, fields.next);
    } else {
      const ranges = rangesOf(b, 0, b.length);
      if (kind === 'malformed') return void t.is(ranges, -1);
      t.is(getNumber(b, 0), fields.floor);
      const read = Array.from({ length: ranges }, (_, i) => [rangeFirst(b, 0, i), rangeLength(b, 0, i)]);
      t.deepEqual(read, fields.ranges);
      for (const [i, [first, count]] of fields.ranges.entries()) putRange(out, 0, i, first, count);
      length = putReport(out, 0, ranges, fields.floor);
    }
    t.is(out.toString('hex', 0, length), hex);
  });
}

const PLACE = 100;
const RTT = 50 * MS;
const budget = (maxBytes = 1e9) => ({ bytes: 0, maxBytes });

interface NetOptions {
  readonly loss: number;
  readonly seed: number;
  readonly lanes?: number;
  readonly count?: number;
  /** Microseconds between datagrams. */
  readonly gap?: number;
  readonly jitter?: number;
  readonly doubled?: number;
  readonly window?: number;
  readonly time?: number;
}

/** Sender and receiver with a network between them; what was delivered, when, and when it first could have been. */
function overNet(o: NetOptions) {
  const { loss, lanes = 4, count = 2_000, gap = 500, jitter = 0, doubled = 0, window = 1024, time = 2 * SECOND } = o;
  const random = seededRandom(o.seed);
  const memory = budget();
  const sender = new RepairSender(PLACE, window, time, memory);
  const receiver = new RepairReceiver(PLACE, window, time, memory);
  const events: { at: number; order: number; fn: () => void }[] = [];
  let now = 0;
  let order = 0;
  const at = (when: number, fn: () => void) => events.push({ at: when, order: order++, fn });
  const carry = (bytes: Uint8Array, arrive: (copy: Buffer) => void) => {
    const copy = Buffer.from(bytes);
    for (let copies = random.float() < doubled ? 2 : 1; copies > 0; copies--) {
      if (random.float() >= loss) at(now + RTT / 2 + random.float() * jitter, () => arrive(copy));
    }
  };
  const deliveries: { index: number; lane: number; at: number }[] = [];
  const arrivals = new Map<number, number>();
  const scratch = Buffer.alloc(REPORT_BYTES);
  const deliver = (frames: Uint8Array) => deliveries.push({ index: getU32(frames, 0), lane: frames[4]!, at: now });
  const takeHeld = () => {
    while (receiver.lanes.poll()) deliver(receiver.lanes.out.subarray(receiver.lanes.start, receiver.lanes.end));
  };
  let probes = 0;
  const report = () => {
    const length = receiver.poll(now, RTT, scratch, 0);
    takeHeld();
    if (length > 0) carry(scratch.subarray(0, length), atSender);
  };
  const atReceiver = (b: Buffer) => {
    const off = b.length - REPAIR_HEAD;
    if (off === 0) receiver.handleProbe(now, getNumber(b, 0));
    else {
      const index = getU32(b, 0);
      if (!arrivals.has(index)) arrivals.set(index, now);
      const verdict = receiver.handle(now, RTT, getLane(b, off), getOrder(b, off), getNumber(b, off), b, 0, off);
      if (verdict === Verdict.deliver) deliver(b);
    }
    takeHeld();
    report();
  };
  const again = () => {
    while (sender.pollAgain(now)) carry(sender.out.subarray(sender.start, sender.end), atReceiver);
  };
  function atSender(b: Buffer): void {
    if (!sender.handleReport(now, RTT, b, 0, b.length)) throw new Error('not a report');
    again();
  }
  for (let i = 0; i < count; i++) {
    const lane = random.u32() % lanes;
    at(i * gap, () => {
      const frames = Buffer.alloc(20 + (random.u32() % 40));
      putU32(frames, 0, i);
      frames[4] = lane;
      if (sender.add(now, RTT, lane, frames, 0, frames.length)) {
        carry(sender.out.subarray(sender.start, sender.end), atReceiver);
      }
    });
  }
  let mostMemory = 0;
  for (;;) {
    events.sort((a, b) => a.at - b.at || a.order - b.order);
    const next = events[0]?.at ?? Number.POSITIVE_INFINITY;
    const deadline = Math.min(sender.pollDeadline(), receiver.pollDeadline());
    if (next === Number.POSITIVE_INFINITY && deadline === Number.POSITIVE_INFINITY) break;
    now = Math.max(now, Math.min(next, deadline));
    if (next <= deadline) events.shift()!.fn();
    else {
      if (sender.handleTimeout(now, RTT)) {
        probes++;
        const probe = Buffer.alloc(REPAIR_HEAD);
        probe[0] = 8;
        putU32(probe, 4, sender.nextNumber);
        carry(probe, atReceiver);
      }
      report();
    }
    mostMemory = Math.max(mostMemory, memory.bytes);
  }
  return { deliveries, arrivals, sender, receiver, memory, mostMemory, probes, ended: now };
}

for (const [loss, jitter, doubled] of [
  [0, 0, 0],
  [0.01, 0, 0],
  [0.01, 3 * MS, 0.01],
  [0.1, 0, 0],
  [0.3, 10 * MS, 0.05],
] as const) {
  test(`loss ${loss}, jitter ${jitter / MS} ms: each once, each lane in order, nothing waits beyond its time, no memory is left`, (t) => {
    for (let seed = 1; seed <= 4; seed++) {
      const { deliveries, arrivals, receiver, sender, memory } = overNet({ loss, jitter, doubled, seed });
      t.is(new Set(deliveries.map((d) => d.index)).size, deliveries.length, 'twice');
      const last = new Map<number, number>();
      for (const d of deliveries) {
        t.true(d.index > (last.get(d.lane) ?? -1), `seed ${seed}: lane ${d.lane} out of order at ${d.index}`);
        last.set(d.lane, d.index);
        t.true(d.at - arrivals.get(d.index)! <= 2 * SECOND);
      }
      const { repaired, repairsGivenUp } = receiver.counts;
      t.is(deliveries.length + repairsGivenUp, 2_000, 'delivered or given up');
      if (loss <= 0.01) t.is(repairsGivenUp, 0, `seed ${seed} ${JSON.stringify(receiver.counts)} ${sender.repeated}`);
      else t.true(repairsGivenUp < 2_000 * loss ** 2);
      if (loss > 0) t.true(repaired > 0);
      t.is(sender.kept, 0);
      t.is(receiver.lanes.used, 0);
      t.is(memory.bytes, 0, 'idle: all memory is given back');
    }
  });
}

test('a lost datagram is there after a round trip and a half, and only its lane has waited', (t) => {
  const { deliveries, arrivals } = overNet({ loss: 0.01, seed: 7, lanes: 8 });
  const sentAt = (index: number) => index * 500;
  const late = deliveries.filter((d) => d.at - sentAt(d.index) > RTT / 2 + 5 * MS);
  t.true(late.length > 0);
  for (const d of late) t.true(d.at - sentAt(d.index) < 3 * 2 * RTT, `${d.index}: ${d.at - sentAt(d.index)}`);
  // The model of waiting: a datagram goes on when it and all before it in its lane have arrived.
  const ready = new Map<number, number>();
  for (const { index, lane, at } of [...deliveries].sort((a, b) => a.index - b.index)) {
    const when = Math.max(ready.get(lane) ?? 0, arrivals.get(index)!);
    ready.set(lane, when);
    t.is(at, when, `${index} waited for what is not of its lane`);
  }
});

test('the last datagrams of a burst are repaired though nothing follows them', (t) => {
  for (let seed = 1; seed <= 30; seed++) {
    const { deliveries, ended } = overNet({ loss: 0.3, seed, count: 3, lanes: 1 });
    t.true(ended < 10 * SECOND);
    if (seed === 1) t.true(deliveries.length > 0);
  }
  const whole = Array.from(
    { length: 30 },
    (_, i) => overNet({ loss: 0.3, seed: i + 1, count: 3, lanes: 1 }).deliveries.length,
  );
  t.true(whole.filter((n) => n === 3).length >= 27, String(whole));
});

test('the rule of delivery: random arrivals, doubled, reordered and given up, against the model', (t) => {
  for (let seed = 1; seed <= 300; seed++) {
    const random = seededRandom(seed);
    const receiver = new RepairReceiver(PLACE, 256, 200 * MS, budget());
    const model = new ModelRepair();
    const lanes = 1 + (random.u32() % 5);
    const orders = Array.from({ length: lanes }, () => 0);
    const pieces: Piece[] = Array.from({ length: 60 }, (_, number) => {
      const lane = random.u32() % lanes;
      return { number, lane, order: orders[lane]!++ };
    });
    // What comes: most in order, some late, some twice, some never.
    const coming = pieces
      .filter(() => random.float() > 0.15)
      .flatMap((p) => (random.float() < 0.1 ? [p, p] : [p]))
      .map((p) => ({ p, at: p.number + (random.float() < 0.3 ? random.float() * 12 : 0) }))
      .sort((a, b) => a.at - b.at);
    const scratch = Buffer.alloc(REPORT_BYTES);
    const bytes = Buffer.alloc(4);
    let now = 0;
    // Between lanes there is no order.
    const byLane = (list: number[]) =>
      Array.from({ length: lanes }, (_, l) => list.filter((n) => pieces[n]!.lane === l));
    for (const { p } of [...coming, { p: null }]) {
      const out: number[] = [];
      const take = () => {
        while (receiver.lanes.poll()) out.push(getU32(receiver.lanes.out, receiver.lanes.start));
      };
      if (p === null) receiver.handleProbe(now, pieces.length);
      else {
        putU32(bytes, 0, p.number);
        if (receiver.handle(now, 10 * MS, p.lane, p.order, p.number, bytes, 0, 4) === Verdict.deliver)
          out.push(p.number);
      }
      take();
      const before = [...out];
      t.deepEqual(byLane(before), byLane(model.step(p, receiver.settledBelow)), `seed ${seed}, after ${p?.number}`);
      now += random.float() < 0.1 ? 120 * MS : MS;
      out.length = 0;
      for (let i = 0; i < 8; i++) {
        receiver.poll(now, 10 * MS, scratch, 0);
        take();
      }
      t.deepEqual(
        byLane(out),
        byLane(model.step(null, receiver.settledBelow)),
        `seed ${seed}, time after ${p?.number}`,
      );
    }
    for (let i = 0; i < 20; i++) {
      now += 100 * MS;
      receiver.poll(now, 10 * MS, scratch, 0);
      while (receiver.lanes.poll());
    }
    t.is(receiver.lanes.used, 0, `seed ${seed}: all is settled in the end`);
  }
});

const sent = (sender: RepairSender) => ({
  number: getNumber(sender.out, sender.end - REPAIR_HEAD),
  bytes: Buffer.from(sender.out.subarray(sender.start, sender.end)).toString('hex'),
});

function report(floor: number, ...ranges: [first: number, length: number][]): Buffer {
  const out = Buffer.alloc(REPORT_BYTES);
  for (const [i, [first, length]] of ranges.entries()) putRange(out, 0, i, first, length);
  return out.subarray(0, putReport(out, 0, ranges.length, floor));
}

test('the sender keeps no more than its window, sends no more than four times, nothing that is old, and forgets what is settled', (t) => {
  const memory = budget();
  const sender = new RepairSender(PLACE, 16, SECOND, memory);
  const originals: string[] = [];
  for (let i = 0; i < 20; i++) {
    t.true(sender.add(0, RTT, 1, Buffer.from(`datagram ${i}`), 0, 10));
    originals.push(sent(sender).bytes);
  }
  t.is(sender.kept, 16);
  const ask = (now: number, ...r: Parameters<typeof report>) => {
    const b = report(...r);
    return sender.handleReport(now, RTT, b, 0, b.length);
  };
  const again = (now: number) => {
    const list: number[] = [];
    while (sender.pollAgain(now)) {
      const { number, bytes } = sent(sender);
      t.is(bytes, originals[number]!, 'the same bytes');
      list.push(number);
    }
    return list;
  };
  t.true(ask(1, 0, [0, 6], [18, 400]));
  t.deepEqual(again(1), [4, 5, 18, 19], 'what is kept of it');
  t.true(ask(2, 0, [4, 1], [4, 1]));
  t.deepEqual(again(2), [4], 'once for one report');
  t.true(ask(3, 0, [4, 1]));
  t.true(ask(3, 0, [4, 1]));
  t.deepEqual(again(3), [4]);
  t.true(ask(4, 0, [4, 1]));
  t.deepEqual(again(4), [4]);
  t.true(ask(5, 0, [4, 1]));
  t.deepEqual(again(5), [], 'four times');
  t.true(ask(SECOND + 10, 0, [6, 1]));
  t.deepEqual(again(SECOND + 10), [], 'too old');
  t.true(ask(6, 10));
  t.is(sender.kept, 10);
  t.false(ask(6, 21), 'settled what was never sent');
  t.false(sender.handleReport(6, RTT, report(0), 0, 7));
  t.true(ask(7, 20));
  t.is(sender.kept, 0);
  t.is(sender.handleTimeout(3 * SECOND, RTT), false);
  t.is(memory.bytes, 0);
  t.is(sender.pollDeadline(), Number.POSITIVE_INFINITY, 'an idle sender wants no time');
});

test('nobody answers: three probes, then all is given up and the memory with it', (t) => {
  const memory = budget();
  const sender = new RepairSender(PLACE, 16, SECOND, memory);
  sender.add(0, RTT, 1, Buffer.alloc(4), 0, 4);
  let probes = 0;
  while (sender.pollDeadline() !== Number.POSITIVE_INFINITY)
    if (sender.handleTimeout(sender.pollDeadline(), RTT)) probes++;
  t.is(probes, 3);
  t.is(sender.kept, 0);
  t.is(memory.bytes, 0);
});

test('a budget that is spent: the sender numbers nothing, the receiver delivers as it comes', (t) => {
  const none = budget(0);
  const sender = new RepairSender(PLACE, 16, SECOND, none);
  t.false(sender.add(0, RTT, 1, Buffer.alloc(4), 0, 4));
  t.is(sender.nextNumber, 0);
  const receiver = new RepairReceiver(PLACE, 16, SECOND, none);
  t.is(receiver.handle(0, RTT, 1, 1, 1, Buffer.alloc(4), 0, 4), Verdict.deliver);
  t.is(receiver.lanes.used, 0);
});

test('who skips thousands of numbers with every datagram is not waited for so often: the work stays bounded', (t) => {
  const receiver = new RepairReceiver(PLACE, 4096, 2 * SECOND, budget());
  let number = 0;
  let noticed = 0;
  let given = 0;
  const come = (skip: number) => {
    number = (number + skip + 1) >>> 0;
    const before = receiver.counts.repairsGivenUp;
    receiver.handle(0, 10 * MS, 1, 0, number, new Uint8Array(60), 0, 60);
    while (receiver.lanes.poll());
    given = receiver.counts.repairsGivenUp - before;
    // What was not given up at once is one more place to look at, each time.
    noticed += Math.max(0, skip - given);
  };
  come(0);
  come(3_000);
  t.is(given, 0, 'an outage now and then is repaired as far as the window goes');
  noticed = 0;
  for (let i = 0; i < 1_000; i++) come(3_000);
  t.true(noticed <= 4096 + 4 * 1_000, `${noticed} numbers of 3,000,000 looked for`);
  // Losses of three in four are within what may be missed.
  for (let i = 0; i < 1_100; i++) come(0);
  let all = 0;
  for (let i = 0; i < 300; i++) {
    come(3);
    all += given;
  }
  t.is(all, 0);
});

test('a jump over more than the window: nothing of it is waited for, and order begins anew', (t) => {
  const receiver = new RepairReceiver(PLACE, 16, SECOND, budget());
  const b = Buffer.alloc(4);
  t.is(receiver.handle(0, RTT, 1, 0, 0, b, 0, 4), Verdict.deliver);
  t.is(receiver.handle(0, RTT, 1, 2, 2, b, 0, 4), Verdict.held);
  t.is(receiver.handle(0, RTT, 1, 50_000, 1_000_000, b, 0, 4), Verdict.deliver);
  t.true(receiver.lanes.poll(), 'what was held goes on');
  t.false(receiver.lanes.poll());
  t.is(receiver.counts.repairsGivenUp, 1_000_000 - 2 - 14, 'all but what the window holds');
  for (let n = 1_000_001; n < 1_000_100; n++) receiver.handle(1, RTT, 1, n - 950_000, n, b, 0, 4);
  t.is(receiver.lanes.used, 0);
});

test('which packets are repaired', (t) => {
  const tcp = (flags: number, payload: number, change: (frame: Buffer) => void = () => {}) => {
    const length = 40 + payload;
    const frame = numbered(7, 0, length);
    frame[HEADER + 9] = 6;
    frame[HEADER + 32] = 0x50;
    frame[HEADER + 33] = flags;
    change(frame);
    return repairLane(frame, 0, length);
  };
  const [ACK, SYN, FIN, RST] = [0x10, 0x02, 0x01, 0x04];
  t.is(tcp(ACK, 0), NO_LANE, 'a bare acknowledgement');
  t.not(tcp(ACK, 1), NO_LANE);
  for (const flag of [SYN, FIN, RST, SYN | ACK, FIN | ACK]) t.not(tcp(flag, 0), NO_LANE);
  t.is(tcp(ACK, 0), tcp(ACK, 0));
  t.is(tcp(FIN | ACK, 0), tcp(ACK, 900), 'one flow, one lane');
  const options = (frame: Buffer) => {
    frame[HEADER + 32] = 0x80;
  };
  t.is(tcp(ACK, 12, options), NO_LANE, 'options are no data');
  t.not(tcp(ACK, 13, options), NO_LANE);
  const fragment = (frame: Buffer) => {
    frame[HEADER + 6] = 0x20;
  };
  t.is(tcp(ACK, 100, fragment), NO_LANE);
  const udp = numbered(7, 0, 200);
  t.is(repairLane(udp, 0, 200), NO_LANE);
  udp[HEADER + 9] = 1;
  t.is(repairLane(udp, 0, 200), NO_LANE, 'ICMP');
  const six = Buffer.alloc(HEADER + 80);
  putHeader(six, 0, 0, 0, 0, 80);
  six[HEADER] = 0x60;
  six[HEADER + 6] = 6;
  six[HEADER + 52] = 0x50;
  t.not(repairLane(six, 0, 80), NO_LANE);
  six[HEADER + 6] = 17;
  t.is(repairLane(six, 0, 80), NO_LANE);
  t.is(repairLane(six, 0, 39), NO_LANE, 'too short for anything');
});

test('any bytes, in any order: nothing is thrown, held or kept beyond the bounds', (t) => {
  const random = seededRandom(Number(process.env.KUBEBUS_FUZZ_SEED ?? 1));
  const below = (n: number) => random.u32() % n;
  const memory = budget();
  const window = 64;
  const sender = new RepairSender(PLACE, window, SECOND, memory);
  const receiver = new RepairReceiver(PLACE, window, SECOND, memory);
  const scratch = Buffer.alloc(REPORT_BYTES);
  const bytes = Buffer.alloc(PLACE);
  const near = (n: number) => (below(4) === 0 ? random.u32() : (n + below(200) - 100) >>> 0);
  let now = 0;
  let next = 0;
  let repeated = 0;
  for (let i = 0; i < 200_000; i++) {
    now += below(20) === 0 ? below(2 * SECOND) : below(MS);
    const rtt = below(5) === 0 ? Number.NaN : below(SECOND);
    switch (below(6)) {
      case 0:
        sender.add(now, rtt, below(256), bytes, 0, 1 + below(PLACE - REPAIR_HEAD));
        break;
      case 1: {
        random.fill(scratch);
        const ranges = below(4) === 0 ? below(256) : below(MAX_RANGES + 1);
        for (let r = 0; r < Math.min(ranges, MAX_RANGES); r++)
          putRange(scratch, 0, r, near(sender.nextNumber), below(65_536));
        putReport(scratch, 0, ranges & 255, near(sender.nextNumber - below(window)));
        const length = below(8) === 0 ? below(REPORT_BYTES) : REPAIR_HEAD + ranges * 6;
        if (length <= REPORT_BYTES) sender.handleReport(now, rtt, scratch, 0, length);
        let one = 0;
        while (sender.pollAgain(now)) one++;
        t.true(one <= window);
        repeated += one;
        break;
      }
      case 2:
        receiver.handleProbe(now, near(next));
        break;
      case 3:
        sender.handleTimeout(now, rtt);
        break;
      case 4:
        receiver.poll(now, rtt, scratch, 0);
        break;
      default: {
        const number = below(3) === 0 ? near(next) : next;
        next = (next + 1) >>> 0;
        receiver.handle(
          now,
          rtt,
          below(3),
          below(4) === 0 ? below(65_536) : i & 0xffff,
          number,
          bytes,
          0,
          below(PLACE),
        );
      }
    }
    let taken = 0;
    while (receiver.lanes.poll()) taken++;
    t.true(taken <= window);
    if (receiver.lanes.used > window || sender.kept > window) return t.fail('beyond the window');
  }
  t.true(repeated > 1_000);
  t.true(memory.bytes <= 2 * window * PLACE);
  sender.release();
  receiver.release();
  t.is(memory.bytes, 0);
});

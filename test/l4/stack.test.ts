// The TCP of a stack against those who mean no good: floods, blind guesses, bogus acknowledgements. And what RFC 6528, 6056,
// 6191 and 4987 ask of it. Every bound has a counter, and every counter is seen to count.

import test from 'ava';
import { seededRandom } from '../../lib/core/index.js';
import { COOKIE_MSS } from '../../lib/l4/syn-cookies.js';
import { MAX_RANGES } from '../../lib/l4/tcp/reassembler.js';
import { TcpFlag } from '../../lib/l4/wire/tcp.js';
import { OURS, open, StackUnderTest, segment, THEIRS } from '../support/l4-frames.js';

const { syn, ack, rst, fin } = TcpFlag;
const FAMILIES = [4, 6] as const;
const QUIET = { onTcpEvents() {}, onStop() {} };

const spoofed = (i: number) => Uint8Array.of(172, 16 + (i >>> 16), i >>> 8, i);

test('a flood of SYNs is bounded, and who means it gets through by a cookie (RFC 4987)', (t) => {
  const s = new StackUnderTest({ limits: { halfOpen: 64 } });
  const listener = s.listen(80);
  for (let i = 0; i < 20_000; i++) {
    const out = s.give(segment({ from: spoofed(i), flags: syn, seq: i * 77, fields: (f) => (f.mss = 1_400) }));
    t.is(out.length, 1, 'no more goes out than came in');
  }
  t.is(listener.halfOpen, 64);
  t.is(s.counter('connections'), 64);
  t.is(s.counter('syn-cookies-sent'), 20_000 - 64);
  // An honest client, with all options.
  const options = { mss: 1_460, windowScale: 7 };
  const [answer] = s.give(
    segment({
      flags: syn,
      seq: 5_000,
      fields: (f) => {
        Object.assign(f, options, { sackPermitted: true, timestamps: true, tsval: 1_000 });
      },
    }),
  );
  const cookie = answer!.tcp!;
  t.deepEqual([cookie.flags, cookie.ack], [syn | ack, 5_001]);
  t.true(cookie.sackPermitted && cookie.hasTimestamps && cookie.windowScale >= 0);
  s.give(
    segment({
      flags: ack,
      seq: 5_001,
      ack: (cookie.seq + 1) | 0,
      payload: Buffer.from('hello'),
      window: 1_000,
      fields: (f) => Object.assign(f, { timestamps: true, tsval: 1_010, tsecr: cookie.tsval }),
    }),
  );
  t.is(s.counter('syn-cookies-good'), 1);
  t.is(s.accepted.length, 1);
  const connection = s.accepted[0]!.connection!;
  t.is(connection.state, 'ESTABLISHED');
  t.is(String(connection.read()), 'hello');
  // What the SYN said is known again: its window scale and that it takes timestamps.
  connection.write(Buffer.alloc(100_000));
  s.stack.tcp.touch(s.accepted[0]!);
  s.sent.length = 0;
  const sizes = s.settle().map((p) => p.tcp!.length);
  t.true(sizes.length > 0 && sizes[0] === Math.min(1_400 - 40, COOKIE_MSS[6]) - 12, String(sizes[0]));
});

test('a cookie of another port, address, time or number is none', (t) => {
  const s = new StackUnderTest({ limits: { halfOpen: 1 } });
  s.listen(80);
  s.give(segment({ from: spoofed(1), flags: syn, seq: 1 }));
  const cookieFor = (port: number) => s.give(segment({ port, flags: syn, seq: 5_000 }))[0]!.tcp!.seq;
  const good = cookieFor(4_000);
  const attempts: [string, Partial<Parameters<typeof segment>[0]>][] = [
    ['another source port', { port: 4_001 }],
    ['another address', { from: spoofed(9) }],
    ['another sequence number', { seq: 5_002 }],
    ['a number nearby', { ack: good + 2 }],
    ['another MSS', { ack: (good ^ (1 << 24)) + 1 }],
  ];
  for (const [what, more] of attempts) {
    const out = s.give(segment({ port: 4_000, flags: ack, seq: 5_001, ack: good + 1, ...more }));
    t.is(s.accepted.length, 0, what);
    t.true((out[0]!.tcp!.flags & rst) !== 0, what);
  }
  t.is(s.counter('syn-cookies-bad'), attempts.length);
  s.now += 129e6;
  s.give(segment({ port: 4_000, flags: ack, seq: 5_001, ack: good + 1 }));
  t.is(s.accepted.length, 0, 'two minutes later');
  // Guessing: none of thirty thousand, and not at all where no cookies were sent.
  s.give(segment({ from: spoofed(2), flags: syn, seq: 1 }));
  const random = seededRandom(4);
  for (let i = 0; i < 30_000; i++) {
    s.give(segment({ port: 4_000, flags: ack, seq: random.u32(), ack: random.u32() }));
  }
  t.is(s.accepted.length, 0);
});

test('connections in all are bounded: SYNs above are dropped and counted, connect says so', (t) => {
  const s = new StackUnderTest({ limits: { connections: 10 } });
  s.listen(80);
  for (let i = 0; i < 15; i++) s.give(segment({ port: 4_000 + i, flags: syn, seq: 1 }));
  t.is(s.counter('connections'), 10);
  t.is(s.counter('syn-dropped'), 5);
  t.is(s.stack.tcp.connect(s.now, OURS[4], 0, THEIRS[4], 9, s.stack.tcpOptions, QUIET), 'limit');
});

test('half-open connections go away by themselves, and at once with their listener', (t) => {
  const s = new StackUnderTest({ tcp: { connectTimeout: 5e6 } });
  const listener = s.listen(80);
  for (let i = 0; i < 20; i++) s.give(segment({ port: 4_000 + i, flags: syn, seq: 1 }));
  t.is(listener.halfOpen, 20);
  s.advance(6e6);
  t.is(listener.halfOpen, 0);
  t.is(s.counter('connections'), 0);
  s.give(segment({ port: 4_000, flags: syn, seq: 1 }));
  s.stack.tcp.unlisten(listener);
  s.sent.length = 0;
  t.true((s.settle()[0]!.tcp!.flags & rst) !== 0);
  t.is(s.counter('connections'), 0);
});

test('off the path nobody resets or fills a connection: tens of thousands of guesses of RST, SYN and data (RFC 5961)', (t) => {
  const s = new StackUnderTest();
  s.listen(80);
  const { ours, theirs } = open(s);
  const connection = s.accepted[0]!.connection!;
  const random = seededRandom(12);
  let answers = 0;
  for (let i = 0; i < 70_000; i++) {
    // The four-tuple is known, the numbers are not: exactly RCV.NXT is missed with luck of 1 - 2^-32 each.
    let seq = random.u32() | 0;
    if (seq === theirs) seq++;
    const flags = [rst, rst | ack, syn, syn | ack, ack, fin | ack, ack | TcpFlag.psh][i % 7]!;
    let number = random.u32() | 0;
    if (number === ours) number += 1 << 20;
    answers += s.give(
      segment({ flags, seq, ack: number, payload: i % 7 > 4 ? Buffer.from('evil') : new Uint8Array(0) }),
    ).length;
    if (i % 1_000 === 0) s.now += 1_000;
  }
  t.is(connection.state, 'ESTABLISHED');
  t.is(connection.readable, 0);
  // Challenges are rationed: ten in five seconds; text out of the window is acknowledged, as RFC 9293 asks.
  t.true(answers < 30_000 && connection.stats().challengeAcks <= 10, `${answers} ${connection.stats().challengeAcks}`);
  // In the window but not at RCV.NXT: challenged, not obeyed. At it: obeyed.
  s.now += 10e6;
  t.deepEqual(
    s.give(segment({ flags: rst, seq: theirs + 100 })).map((p) => p.tcp!.flags),
    [ack],
  );
  t.is(connection.state, 'ESTABLISHED');
  s.give(segment({ flags: rst, seq: theirs }));
  t.is(connection.state, 'CLOSED');
});

test('data with a right sequence number but an acknowledgement from nowhere is not taken (RFC 5961 §5)', (t) => {
  const s = new StackUnderTest();
  s.listen(80);
  const { ours, theirs } = open(s);
  const connection = s.accepted[0]!.connection!;
  for (const number of [ours + 1, ours + 70_000, ours - 70_000, ours ^ 0x40000000]) {
    s.give(segment({ flags: ack, seq: theirs, ack: number, payload: Buffer.from('evil') }));
    t.is(connection.readable, 0, String(number));
  }
  s.give(segment({ flags: ack, seq: theirs, ack: ours, payload: Buffer.from('good') }));
  t.is(String(connection.read()), 'good');
});

test('a blind ICMP error does nothing: it has to quote what is in flight (RFC 5927)', (t) => {
  const s = new StackUnderTest();
  const flow = s.stack.tcp.connect(s.now, OURS[4], 0, THEIRS[4], 9, s.stack.tcpOptions, QUIET);
  if (typeof flow === 'string') throw new Error(flow);
  const [first] = s.settle();
  const { connection } = flow;
  const random = seededRandom(5);
  for (let i = 0; i < 10_000; i++) connection!.handleIcmp(s.now, 'host-unreachable', random.u32(), 0);
  t.is(connection!.state, 'SYN-SENT');
  connection!.handleIcmp(s.now, 'host-unreachable', first!.tcp!.seq, 0);
  t.is(connection!.reason, 'host-unreachable');
});

/** A connection with `bytes` written to it, its first flight sent. */
function sending(t: { is(a: unknown, b: unknown): void }, bytes: number, window = 65_535) {
  const s = new StackUnderTest({ tcp: { pacing: false } });
  s.listen(80);
  const fields = (f: { mss: number; sackPermitted: boolean; windowScale: number }) => {
    Object.assign(f, { mss: 1_000, sackPermitted: true, windowScale: 7 });
  };
  const numbers = open(s, 4_000, 5_000, { fields, window });
  const connection = s.accepted[0]!.connection!;
  t.is(connection.write(new Uint8Array(bytes)), bytes);
  s.stack.tcp.touch(s.accepted[0]!);
  s.sent.length = 0;
  const flight = s.settle().length;
  return { s, ...numbers, connection, flight };
}

test('a peer that splits acknowledgements gains nothing (RFC 5681 §3.1, RFC 3465)', (t) => {
  const honest = sending(t, 200_000);
  honest.s.now += 50_000;
  honest.s.give(segment({ flags: ack, seq: honest.theirs, ack: honest.ours + 1_000, window: 4_000 }));
  const split = sending(t, 200_000);
  split.s.now += 50_000;
  let most = 0;
  for (let i = 1; i <= 1_000; i++) {
    most = Math.max(
      most,
      split.s.give(segment({ flags: ack, seq: split.theirs, ack: split.ours + i, window: 4_000 })).length,
    );
  }
  t.is(split.connection.cwnd, honest.connection.cwnd);
  t.true(split.s.counter('acks-split') >= 999);
  t.is(honest.s.counter('acks-split'), 0);
  t.true(most <= 2);
});

test('optimistic acknowledgements are challenged, not believed', (t) => {
  const { s, ours, theirs, connection } = sending(t, 200_000);
  const before = connection.cwnd;
  for (let i = 0; i < 1_000; i++) {
    s.give(segment({ flags: ack, seq: theirs, ack: ours + 100_000 + i * 1_000, window: 4_000 }));
  }
  t.is(connection.cwnd, before);
  t.is(connection.unacknowledged, 200_000);
  t.true(connection.stats().challengeAcks <= 10);
});

test('a bomb of SACK blocks costs little: no more ranges than segments, no endless retransmission', (t) => {
  const { s, ours, theirs, connection, flight } = sending(t, 60_000);
  const random = seededRandom(2);
  let sent = 0;
  const rounds = 20_000;
  for (let i = 0; i < rounds; i++) {
    const out = s.give(
      segment({
        flags: ack,
        seq: theirs,
        ack: ours,
        window: 4_000,
        fields: (f) => {
          f.sackCount = 4;
          for (let b = 0; b < 4; b++) {
            const start = 1 + Math.floor(random.float() * flight * 1_000);
            f.sack[2 * b] = (ours + start) | 0;
            f.sack[2 * b + 1] = (ours + start + 1) | 0;
          }
        },
      }),
    );
    sent += out.length;
  }
  const board = (connection as unknown as { sender: { recovery: { board: { count: number } } } }).sender.recovery.board;
  t.true(board.count <= 70, `${board.count} entries`);
  t.true(sent < 2_000, `${sent} packets for ${rounds}`);
  // A block of a single byte hardly ever has both edges where segments begin or end.
  t.true(s.counter('sack-blocks-odd') > 3.99 * rounds);
  t.is(connection.state, 'ESTABLISHED');
});

test('a closed window: nothing but probes is sent, and memory stays bounded', (t) => {
  const { s, ours, theirs, connection } = sending(t, 100_000, 0);
  s.advance(1_000_000);
  let una = ours;
  let packets = 0;
  for (let i = 0; i < 1_000; i++) {
    const out = s.give(segment({ flags: ack, seq: theirs, ack: una, window: 0 }));
    packets += out.length;
    const last = out.at(-1)?.tcp;
    if (last != null && last.length > 0) una = (last.seq + last.length) | 0;
    s.now += 1_000;
  }
  t.true(packets <= 20, `${packets} packets`);
  t.true(connection.unacknowledged <= 100_000);
  t.is(connection.state, 'ESTABLISHED');
});

test('tiny windows: no more packets than acknowledgements, and no buffer grows', (t) => {
  const { s, ours, theirs, connection } = sending(t, 100_000, 0);
  s.advance(1_000_000);
  let una = ours;
  let packets = 0;
  const rounds = 1_000;
  for (let i = 0; i < rounds; i++) {
    // 128 bytes (the scale is 7), where a segment has 1,000; never more than that was offered.
    const out = s.give(segment({ flags: ack, seq: theirs, ack: una, window: 1 }));
    packets += out.length;
    const last = out.at(-1)?.tcp;
    if (last != null && last.length > 0) una = (last.seq + last.length) | 0;
    s.now += 1_000;
  }
  t.true(packets <= rounds, `${packets} packets`);
  t.true(connection.unacknowledged <= 100_000);
  t.is(connection.state, 'ESTABLISHED');
  t.true(s.counter('windows-tiny') > rounds / 2, String(s.counter('windows-tiny')));
});

test('memory of all connections is bounded: out-of-order data is refused above it, in-order data still comes', (t) => {
  const s = new StackUnderTest({ limits: { memory: 200_000 } });
  s.listen(80);
  const numbers = [];
  for (let i = 0; i < 50; i++) numbers.push(open(s, 4_000 + i));
  for (const [i, { ours, theirs }] of numbers.entries()) {
    for (let n = 1; n <= 40; n++) {
      const payload = new Uint8Array(1_000);
      s.give(segment({ port: 4_000 + i, flags: ack, seq: theirs + 1_000 * n, ack: ours, payload }));
    }
  }
  t.true(s.counter('buffered-bytes') <= 200_000 + 50 * 1_000, String(s.counter('buffered-bytes')));
  const last = numbers[49]!;
  s.give(segment({ port: 4_049, flags: ack, seq: last.theirs, ack: last.ours, payload: Buffer.from('in order') }));
  t.true(s.accepted[49]!.connection!.readable > 0);
  t.true(s.counter('out-of-order-refused') > 1_500, String(s.counter('out-of-order-refused')));
});

test('what a connection that is over has left to read is given back when it is read', (t) => {
  const s = new StackUnderTest();
  s.listen(80);
  const endings = { 'TIME-WAIT': ack | fin, CLOSED: rst };
  for (const [i, [state, flags]] of Object.entries(endings).entries()) {
    const port = 4_000 + i;
    const { ours, theirs } = open(s, port);
    const flow = s.accepted.at(-1)!;
    const connection = flow.connection!;
    connection.shutdown();
    s.stack.tcp.touch(flow);
    s.settle();
    s.give(segment({ port, flags: ack, seq: theirs, ack: ours + 1, payload: Buffer.alloc(1_000) }));
    s.give(segment({ port, flags, seq: theirs + 1_000, ack: ours + 1 }));
    t.is(connection.state, state as typeof connection.state);
    t.is(s.counter('buffered-bytes'), 1_000);
    t.is(connection.read(600)?.length, 600);
    s.stack.tcp.touch(flow);
    s.settle();
    t.is(s.counter('buffered-bytes'), 400);
    t.is(connection.read()?.length, 400);
    t.is(s.counter('buffered-bytes'), 0);
  }
});

test('a hole behind every byte: so many ranges, and no more; what is refused is counted', (t) => {
  const s = new StackUnderTest();
  s.listen(80);
  const { ours, theirs } = open(s, 4_000, 5_000, {
    fields: (f) => Object.assign(f, { sackPermitted: true, windowScale: 7 }),
  });
  for (let i = 1; i <= 3_000; i++) {
    s.give(segment({ flags: ack, seq: theirs + 2 * i, ack: ours, payload: Uint8Array.of(1) }));
  }
  t.is(s.counter('out-of-order-refused'), 3_000 - MAX_RANGES);
  t.is(s.counter('buffered-bytes'), MAX_RANGES);
});

test('honest acknowledgements, blocks and windows are none of what is counted', (t) => {
  const { s, ours, theirs, connection } = sending(t, 200_000);
  const say = (n: number, blocks: number[], window = 4_000) =>
    s.give(
      segment({
        flags: ack,
        seq: theirs,
        ack: ours + n,
        window,
        fields: (f) => {
          f.sackCount = blocks.length / 2;
          blocks.forEach((b, i) => {
            f.sack[i] = (ours + b) | 0;
          });
        },
      }),
    );
  say(1_000, []);
  say(1_000, [2_000, 4_000]);
  // The last again, and a duplicate in front (RFC 2883).
  say(1_000, [0, 1_000, 2_000, 5_000]);
  say(8_000, []);
  say(8_000, [], 0);
  t.true(connection.unacknowledged < 200_000);
  for (const name of ['acks-split', 'sack-blocks-odd', 'windows-tiny']) t.is(s.counter(name), 0, name);
});

test('ISNs: not predictable from another connection, rising for the same one (RFC 6528)', (t) => {
  const s = new StackUnderTest();
  s.listen(80);
  const isn = (port: number) => {
    const seq = s.give(segment({ port, flags: syn, seq: 1 }))[0]!.tcp!.seq;
    s.give(segment({ port, flags: rst, seq: 2 }));
    return seq;
  };
  const seen = Array.from({ length: 500 }, (_, i) => isn(4_000 + i));
  const steps = new Set(seen.slice(1).map((x, i) => (x - seen[i]!) >>> 0));
  t.is(steps.size, 499, 'no constant step from port to port');
  t.true(seen.filter((x) => x < 0).length > 150 && seen.filter((x) => x >= 0).length > 150);
  const first = isn(4_000);
  s.now += 1_000_000;
  t.is((isn(4_000) - first) | 0, 250_000, 'one step every four microseconds');
});

test('ports: spread, never one that listens or is taken, until none is left (RFC 6056)', (t) => {
  const s = new StackUnderTest();
  const listener = s.listen(50_000);
  const ports: number[] = [];
  const connect = (port = 0) => s.stack.tcp.connect(s.now, OURS[4], port, THEIRS[4], 9, s.stack.tcpOptions, QUIET);
  for (;;) {
    const flow = connect();
    if (typeof flow === 'string') {
      t.is(flow, 'no-port');
      break;
    }
    ports.push(flow.config.localPort);
  }
  t.is(new Set(ports).size, 16_383, 'all but the listener, each once');
  t.false(ports.includes(listener.port));
  t.true(ports.every((p) => p >= 49_152));
  t.is(connect(ports[0]), 'in-use');
  // Another destination has all of them again, and begins elsewhere.
  const other = s.stack.tcp.connect(s.now, OURS[4], 0, Uint8Array.of(10, 0, 0, 3), 9, s.stack.tcpOptions, QUIET);
  t.true(typeof other === 'object' && other.config.localPort !== ports[0]);
  // Somebody who sees his own connections only learns nothing of the next one towards others.
  const firsts = Array.from({ length: 64 }, (_, i) => {
    const flow = s.stack.tcp.connect(s.now, OURS[4], 0, Uint8Array.of(10, 0, 1, i), 9, s.stack.tcpOptions, QUIET);
    return typeof flow === 'object' ? flow.config.localPort : 0;
  });
  t.true(new Set(firsts.map((p, i) => p - (firsts[i - 1] ?? 0))).size > 60);
});

test('TIME-WAIT: a SYN above the old numbers opens anew, one below does not (RFC 6191); many are bounded', (t) => {
  const s = new StackUnderTest({ limits: { timeWait: 3 } });
  s.listen(80);
  const end = (port: number) => {
    const { ours, theirs } = open(s, port);
    const flow = s.accepted.at(-1)!;
    flow.connection!.shutdown();
    s.stack.tcp.touch(flow);
    s.settle();
    s.give(segment({ port, flags: ack | fin, seq: theirs, ack: ours + 1 }));
    return { ours, theirs };
  };
  end(4_000);
  t.is(s.counter('time-wait'), 1);
  s.now += 600_000;
  t.is(s.give(segment({ port: 4_000, flags: syn, seq: 4_000 }))[0]!.tcp!.flags, ack, 'an old duplicate');
  s.give(segment({ port: 4_000, flags: rst, seq: 5_002 }));
  t.is(s.counter('time-wait'), 1, 'a RST does not end it (RFC 1337)');
  const again = s.give(segment({ port: 4_000, flags: syn, seq: 900_000 }));
  t.is(again[0]!.tcp!.flags, syn | ack);
  for (let i = 1; i <= 5; i++) end(4_000 + i);
  t.is(s.counter('time-wait'), 3);
  t.is(s.counter('time-wait-overflow'), 2);
  s.advance(61e6);
  t.is(s.counter('time-wait'), 0);
});

test('strangers: RST to what has no listener, silence to RST and to nonsense; bad checksums are counted', (t) => {
  for (const family of FAMILIES) {
    const s = new StackUnderTest();
    s.listen(80);
    const [refusal] = s.give(segment({ family, to: 81, flags: syn, seq: 100 }));
    t.deepEqual([refusal!.tcp!.flags, refusal!.tcp!.seq, refusal!.tcp!.ack], [rst | ack, 0, 101]);
    const [stray] = s.give(segment({ family, flags: ack, seq: 100, ack: 777 }));
    t.deepEqual([stray!.tcp!.flags, stray!.tcp!.seq], [rst, 777]);
    t.is(s.give(segment({ family, to: 81, flags: rst, seq: 100 })).length, 0);
    t.is(s.give(segment({ family, flags: syn | fin, seq: 100 })).length, 0);
    t.is(s.give(segment({ family, flags: 0, seq: 100 })).length, 0);
    const broken = segment({ family, flags: syn, seq: 100 });
    broken[broken.length - 4]! ^= 1;
    t.is(s.give(broken).length, 0);
    t.is(s.counter('tcp-bad-checksum'), 1);
    t.is(s.counter('tcp-no-flow'), 2);
  }
});

test('any frames: no throw, no growth', (t) => {
  const s = new StackUnderTest({ limits: { connections: 100, halfOpen: 20 } });
  s.listen(80);
  const random = seededRandom(31);
  for (let i = 0; i < 30_000; i++) {
    const family = random.float() < 0.5 ? 4 : 6;
    const frame = segment({
      family,
      port: 4_000 + Math.floor(random.float() * 30),
      to: random.float() < 0.9 ? 80 : 81,
      flags: random.float() < 0.5 ? random.u32() & 0xff : ack,
      seq: random.u32() & 0xffff,
      ack: random.u32(),
      payload: new Uint8Array(Math.floor(random.float() * 60)),
    });
    // Some are not TCP at all; what L3 has checked stays.
    if (random.float() < 0.3) frame[8 + (family === 4 ? 9 : 6)] = [6, 17, 1, 58, 0, 43, 44, 60, 132][i % 9]!;
    if (random.float() < 0.3) frame[28 + Math.floor(random.float() * (frame.length - 28))] = random.u32();
    s.give(frame);
    s.advance(random.float() * 1_000);
    if (s.counter('connections') > 100) t.fail();
  }
  t.true(s.counter('tcp-resets-sent') > 0 && s.counter('syn-cookies-sent') > 0);
});

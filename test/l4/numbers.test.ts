// Sequence numbers, ports, timestamp offsets, cookies and TIME-WAIT of a whole stack: what a connection inherits from the one before it,
// and what an outsider may learn. RFC 6528, 6056, 7323 §5.4, 4987, 6191.

import test from 'ava';
import { DEFAULT_TCP_OPTIONS } from '../../lib/l4/tcp/types.js';
import { TcpFlag } from '../../lib/l4/wire/tcp.js';
import { OURS, open, StackUnderTest, segment, THEIRS } from '../support/l4-frames.js';

const { syn, ack, rst, fin } = TcpFlag;
const QUIET = { onTcpEvents() {}, onStop() {} };
const MSS = 1_300;
const LARGE = 300 * MSS;

/** Of our listener on 80: a connection that we end first. Returns the number after our FIN. */
function endPassive(s: StackUnderTest, port: number, tsval?: number): number {
  const stamp = tsval === undefined ? {} : { fields: (f: object) => Object.assign(f, { timestamps: true, tsval }) };
  const { ours, theirs } = open(s, port, 5_000, stamp);
  const flow = s.accepted.at(-1)!;
  flow.connection!.shutdown();
  s.stack.tcp.touch(flow);
  s.settle();
  s.give(segment({ port, flags: ack | fin, seq: theirs, ack: ours + 1, ...stamp }));
  return (ours + 1) | 0;
}

test('a SYN with old numbers opens TIME-WAIT if its timestamp is newer, and only then (RFC 6191)', (t) => {
  const s = new StackUnderTest();
  s.listen(80);
  endPassive(s, 4_000, 1_000);
  s.now += 600_000;
  const again = (tsval: number) =>
    s.give(
      segment({
        port: 4_000,
        flags: syn,
        seq: 4_000,
        fields: (f) => Object.assign(f, { mss: MSS, timestamps: true, tsval }),
      }),
    )[0]!.tcp!.flags;
  t.is(again(900), ack);
  s.now += 600_000;
  t.is(again(1_001), syn | ack);
});

test('a TIME-WAIT answers at most twice a second, so that two of them do not go on for ever (RFC 5961 §7)', (t) => {
  const s = new StackUnderTest();
  s.listen(80);
  const next = endPassive(s, 4_000);
  s.now += 600_000;
  const old = () => s.give(segment({ port: 4_000, flags: ack, seq: 4_000, ack: next })).length;
  t.deepEqual([old(), old(), old()], [1, 0, 0]);
  s.now += 500_000;
  t.deepEqual([old(), old()], [1, 0]);
});

test('a connection in the place of one in TIME-WAIT starts above all that was sent before (RFC 6191 §3)', (t) => {
  const s = new StackUnderTest();
  s.listen(80);
  const { ours, theirs } = open(s, 4_000);
  const flow = s.accepted.at(-1)!;
  // More than the clock of RFC 6528 adds meanwhile.
  let left = LARGE;
  let sent = ours;
  for (let i = 0; i < 400 && flow.connection?.state !== 'FIN-WAIT-2'; i++) {
    left -= flow.connection!.write(Buffer.alloc(left));
    if (left === 0) flow.connection!.shutdown();
    s.stack.tcp.touch(flow);
    s.settle();
    for (const { tcp } of s.sent) sent = Math.max(sent, tcp!.seq + tcp!.seqLength);
    s.sent.length = 0;
    s.give(segment({ port: 4_000, flags: ack, seq: theirs, ack: sent }));
    for (const { tcp } of s.sent) sent = Math.max(sent, tcp!.seq + tcp!.seqLength);
  }
  t.is(sent, ours + LARGE + 1);
  s.give(segment({ port: 4_000, flags: ack | fin, seq: theirs, ack: sent }));
  t.is(s.counter('time-wait'), 1);
  const answer = s.give(segment({ port: 4_000, flags: syn, seq: 90_000 }))[0]!.tcp!;
  t.is(answer.flags, syn | ack);
  t.true(((answer.seq - sent) | 0) > 0);
});

test('our own connection takes the place of one in TIME-WAIT after a second, above its numbers', (t) => {
  const s = new StackUnderTest();
  const connect = () => s.stack.tcp.connect(s.now, OURS[4], 50_123, THEIRS[4], 4_000, DEFAULT_TCP_OPTIONS, QUIET);
  const flow = connect();
  if (typeof flow === 'string') throw new Error(flow);
  const connection = flow.take();
  const mySyn = s.settle()[0]!.tcp!;
  const peer = { port: 4_000, to: 50_123, window: 65_535 };
  let sent = (mySyn.seq + 1) | 0;
  const first = sent;
  s.give(segment({ ...peer, flags: syn | ack, seq: 0, ack: sent, fields: (f) => (f.mss = MSS) }));
  let left = LARGE;
  for (let i = 0; i < 400 && connection.state !== 'FIN-WAIT-2'; i++) {
    left -= connection.write(Buffer.alloc(left));
    if (left === 0) connection.shutdown();
    s.stack.tcp.touch(flow);
    s.settle();
    for (const { tcp } of s.sent) sent = Math.max(sent, tcp!.seq + tcp!.seqLength);
    s.give(segment({ ...peer, flags: ack, seq: 1, ack: sent }));
    for (const { tcp } of s.sent) sent = Math.max(sent, tcp!.seq + tcp!.seqLength);
  }
  t.is(sent, first + LARGE + 1);
  s.give(segment({ ...peer, flags: ack | fin, seq: 1, ack: sent }));
  t.is(s.counter('time-wait'), 1);
  s.now += 500_000;
  t.is(connect(), 'in-use');
  s.now += 600_000;
  s.sent.length = 0;
  const again = connect();
  t.not(typeof again, 'string');
  t.true(((s.settle()[0]!.tcp!.seq - sent) | 0) > 0);
});

test('every connection has a timestamp offset of its own (RFC 7323 §5.4)', (t) => {
  const s = new StackUnderTest();
  s.listen(80);
  const seen = new Set<number>();
  for (let port = 4_000; port < 4_100; port++) {
    const [answer] = s.give(
      segment({ port, flags: syn, seq: 1, fields: (f) => Object.assign(f, { timestamps: true, tsval: 1 }) }),
    );
    seen.add(answer!.tcp!.tsval);
  }
  t.is(seen.size, 100);
});

test('ports towards one destination say nothing of those towards others (RFC 6056 §3.3.4)', (t) => {
  const s = new StackUnderTest();
  const port = (i: number) => {
    const to = Uint8Array.of(10, 1, i >>> 8, i);
    const flow = s.stack.tcp.connect(s.now, OURS[4], 0, to, 443, DEFAULT_TCP_OPTIONS, QUIET);
    if (typeof flow === 'string') throw new Error(flow);
    return flow.config.localPort;
  };
  const first = Array.from({ length: 200 }, (_, i) => port(i));
  let near = 0;
  for (const [i, a] of first.entries()) for (const b of first.slice(i + 1)) if (Math.abs(a - b) <= 4) near++;
  // By chance about ten of 19,900 pairs; were the beginnings no secret, those that share a counter would be neighbours.
  t.true(near < 40, `${near} neighbours`);
  const again = Array.from({ length: 200 }, (_, i) => port(i));
  const steps = first.map((p, i) => again[i]! - p).filter((step) => step > 0);
  steps.sort((a, b) => a - b);
  // One counter for all would have moved by 200.
  t.true(steps[steps.length >> 1]! < 20, `${steps[steps.length >> 1]}`);
});

test('a cookie ages, also while new ones are sent (RFC 4987 §3.6); without any out, no ACK is taken for one', (t) => {
  const s = new StackUnderTest({ limits: { halfOpen: 1 } });
  s.listen(80);
  s.give(segment({ port: 3_999, flags: ack, seq: 1, ack: 2 }));
  t.is(s.counter('syn-cookies-bad'), 0);
  const flood = (i: number) => s.give(segment({ from: Uint8Array.of(172, 16, 0, i), flags: syn, seq: 1 }));
  flood(1);
  const cookie = s.give(segment({ port: 4_000, flags: syn, seq: 5_000 }))[0]!.tcp!.seq;
  s.now += 140e6;
  s.advance(1);
  flood(2);
  flood(3);
  const [answer] = s.give(segment({ port: 4_000, flags: ack, seq: 5_001, ack: cookie + 1 }));
  t.is(answer!.tcp!.flags, rst);
  t.is(s.counter('syn-cookies-bad'), 1);
  t.is(s.accepted.length, 0);
});

// Segments that are merged as they come in (wire/gather.ts) and cut as they go out (wire/tcp-emit.ts), against ways that do
// neither: a stack that gets every frame by itself, and L3's segmenter.

import test from 'ava';
import fc from 'fast-check';
import { Flag, HEADER, lengthAt, putU16 } from '../../lib/core/index.js';
import { Segmenter } from '../../lib/l3/index.js';
import type { TcpConfig } from '../../lib/l4/tcp/types.js';
import { gather } from '../../lib/l4/wire/gather.js';
import { TcpFlag, TcpSegment } from '../../lib/l4/wire/tcp.js';
import { beginCut, beginTcp, finishCut, finishTcp, TcpFields } from '../../lib/l4/wire/tcp-emit.js';
import { OURS, open, StackUnderTest, segment, THEIRS } from '../support/l4-frames.js';
import { FrameWriter } from '../support/sim-net.js';

const { ack, psh, fin } = TcpFlag;
const stream = Buffer.from(Array.from({ length: 4_000 }, (_, i) => (i * 31 + (i >> 8)) & 0xff));

/** A segment of one of four peers, and what is wrong with it. */
const odd = fc.record({
  family: fc.constantFrom(4 as const, 4 as const, 4 as const, 6 as const),
  port: fc.constantFrom(4_000, 4_000, 4_000, 4_000, 4_001),
  skip: fc.constantFrom(0, 0, 0, 0, 0, 0, 10, -10, -40),
  length: fc.constantFrom(40, 40, 40, 40, 40, 17, 0, 200),
  flags: fc.constantFrom(ack, ack, ack, ack, ack, ack | psh, ack | TcpFlag.urg, ack | TcpFlag.ece),
  window: fc.constantFrom(65_535, 65_535, 65_535, 65_535, 500),
  later: fc.constantFrom(0, 0, 0, 0, 0, 1, -5_000),
  fault: fc.constantFrom(
    'none',
    'none',
    'none',
    'none',
    'none',
    'none',
    'checksum',
    'ce',
    'ttl',
    'padded',
    'padded-partial',
    'partial',
  ),
});

const plain = fc.constant({
  family: 4,
  port: 4_000,
  skip: 0,
  length: 40,
  flags: ack as number,
  window: 65_535,
  later: 0,
  fault: 'none',
} as const);
const piece = fc.oneof({ arbitrary: plain, weight: 5 }, { arbitrary: odd, weight: 1 });

const options = (tsval: number) => (f: TcpFields) => Object.assign(f, { timestamps: true, tsval, tsecr: 1_000 });

test('a batch does what its frames do one by one, whatever is in it', (t) => {
  let merged = 0;
  const batches = fc.record({
    pieces: fc.array(piece, { minLength: 1, maxLength: 40, size: 'max' }),
    end: fc.boolean(),
    timestamps: fc.boolean(),
    partial: fc.boolean(),
  });
  fc.assert(
    fc.property(batches, ({ pieces, end, timestamps, partial }) => {
      const worlds = [new StackUnderTest(), new StackUnderTest()];
      const at = new Map<string, { seq: number; ours: number }>();
      for (const world of worlds) {
        world.listen(80);
        for (const family of [4, 6] as const) {
          for (const port of [4_000, 4_001]) {
            const syn = timestamps ? { family, fields: options(100_000) } : { family };
            const { ours } = open(world, port, 5_000, syn);
            at.set(`${family} ${port}`, { seq: 0, ours });
          }
        }
      }
      const frames = pieces.map((p, i) => {
        const flow = at.get(`${p.family} ${p.port}`)!;
        const from = Math.max(0, flow.seq + p.skip);
        const payload = stream.subarray(from, from + p.length);
        if (p.skip <= 0) flow.seq = Math.max(flow.seq, from + payload.length);
        const frame = segment({
          family: p.family,
          port: p.port,
          flags: p.flags | (end && i === pieces.length - 1 ? fin : 0),
          seq: 5_001 + from,
          ack: flow.ours,
          window: p.window,
          payload,
          ...(timestamps && { fields: options(100_000 + p.later) }),
        });
        if (partial) frame[1] = Flag.partialChecksum;
        return spoil(frame, p.fault, p.family);
      });
      const [whole, single] = worlds as [StackUnderTest, StackUnderTest];
      const copies = frames.map((frame) => Uint8Array.from(frame));
      const batch = Buffer.concat(frames);
      whole.give(batch);
      for (const frame of copies) single.stack.handlePackets(single.now, frame, 0, frame.length);
      single.settle();
      for (const world of worlds) world.advance(1_000_000);
      whole.accepted.forEach((flow, i) => {
        const other = single.accepted[i]!;
        t.is(flow.connection?.state, other.connection?.state);
        t.deepEqual(readAll(flow), readAll(other));
        merged += other.connection!.stats().segmentsReceived - flow.connection!.stats().segmentsReceived;
        t.is(flow.connection!.stats().bytesReceived, other.connection!.stats().bytesReceived);
        t.is(flow.connection!.stats().challengeAcks > 0, other.connection!.stats().challengeAcks > 0);
      });
      for (const counter of ['tcp-bad-checksum', 'tcp-malformed', 'tcp-no-flow']) {
        t.is(whole.counter(counter), single.counter(counter), counter);
      }
      // What both acknowledge in the end, and the window that they offer, is the same.
      for (const [key, { ours }] of at) {
        const [family, port] = key.split(' ').map(Number) as [4 | 6, number];
        const probe = () => segment({ family, port, flags: ack, seq: 4_990, ack: ours, window: 65_535 });
        const [one, two] = worlds.map((w) => w.give(probe()).map((p) => [p.tcp!.ack, p.tcp!.window, p.tcp!.sackCount]));
        t.deepEqual(one, two);
      }
    }),
    { numRuns: 300 },
  );
  t.true(merged > 500, `${merged} frames were merged`);
});

function readAll(flow: StackUnderTest['accepted'][number]): Buffer {
  const parts: Buffer[] = [];
  for (let b = flow.connection!.read(); b !== null; b = flow.connection!.read()) parts.push(b);
  return Buffer.concat(parts);
}

/** Something about a frame that keeps it from being merged. */
function spoil(frame: Uint8Array, fault: string, family: 4 | 6): Uint8Array {
  const ip = HEADER;
  switch (fault) {
    case 'checksum':
      // With a partial one nobody could notice.
      if (frame[1] !== Flag.partialChecksum) frame[frame.length - 1]! ^= 0x55;
      return frame;
    case 'ce':
      frame[ip + 1]! |= family === 4 ? 3 : 0x30;
      return frame;
    case 'ttl':
      frame[ip + (family === 4 ? 8 : 7)]!--;
      return frame;
    case 'partial':
      frame[1] = Flag.partialChecksum;
      return frame;
    case 'padded':
    case 'padded-partial': {
      // More in the frame than the IP packet says.
      const longer = new Uint8Array(frame.length + 6);
      longer.set(frame);
      putU16(longer, 6, lengthAt(frame, 0) + 6);
      if (fault === 'padded-partial') longer[1] = Flag.partialChecksum;
      return longer;
    }
    default:
      return frame;
  }
}

test('a run of full segments is one super-segment, which ends with the shorter one', (t) => {
  const sizes = [100, 100, 100, 60, 100];
  let at = 0;
  const batch = Buffer.concat(
    sizes.map((n) => {
      at += n;
      return segment({ flags: ack, seq: at - n, ack: 9, payload: stream.subarray(at - n, at) });
    }),
  );
  const s = new TcpSegment();
  t.true(s.parse(batch, 0));
  const next = gather(s, batch.length);
  t.is(next, 4 * (HEADER + 40) + 360);
  t.deepEqual([s.length, s.gsoSize, s.segments], [360, 100, 4]);
  t.deepEqual(Buffer.from(batch.subarray(s.payload, s.payload + s.length)), stream.subarray(0, 360));
});

test('a segment that offers another window is not merged: it has to be heard', (t) => {
  const two = (window: number) =>
    Buffer.concat([
      segment({ flags: ack, seq: 0, ack: 9, payload: stream.subarray(0, 100) }),
      segment({ flags: ack, seq: 100, ack: 9, window, payload: stream.subarray(100, 200) }),
    ]);
  for (const [window, length] of [
    [65_535, 200],
    [65_534, 100],
    [0, 100],
  ] as const) {
    const batch = two(window);
    const s = new TcpSegment();
    t.true(s.parse(batch, 0));
    gather(s, batch.length);
    t.is(s.length, length);
  }
});

test('what a path without offload gets is what its super-packet would be cut into', (t) => {
  const cases = fc.record({
    v4: fc.boolean(),
    length: fc.integer({ min: 1, max: 4_000 }),
    size: fc.integer({ min: 8, max: 1_500 }),
    flags: fc.constantFrom(ack, ack | psh, ack | psh | fin, ack | psh | TcpFlag.cwr),
    seq: fc.constantFrom(0, 0x7fffff00, -200),
    timestamps: fc.boolean(),
    partial: fc.boolean(),
  });
  fc.assert(
    fc.property(cases, ({ v4, length, size, flags, seq, timestamps, partial }) => {
      const family = v4 ? 4 : 6;
      const config = {
        localAddress: OURS[family],
        remoteAddress: THEIRS[family],
        localPort: 80,
        remotePort: 4_000,
      } as TcpConfig;
      const fields = () => {
        const f = new TcpFields();
        f.reset(seq, 77, flags, 1_000);
        if (timestamps) options(5)(f);
        return f;
      };
      const got: Buffer[] = [];
      const out = new FrameWriter((frame) => got.push(Buffer.from(frame)));
      const f = fields();
      out.bytes.set(stream.subarray(0, length), beginCut(out, config, f, length, size));
      const count = finishCut(out, config, f, partial, length, size);

      let whole: Buffer = Buffer.alloc(0);
      const one = new FrameWriter((frame) => {
        whole = Buffer.from(frame);
      });
      const g = fields();
      one.bytes.set(stream.subarray(0, length), beginTcp(one, config, g, length));
      finishTcp(one, config, true, size, length, (flags & TcpFlag.cwr) !== 0);
      const segmenter = new Segmenter();
      t.true(segmenter.begin(whole, 0, partial));
      const room = Buffer.alloc(segmenter.frameBytes);
      const expected: Buffer[] = [];
      for (let end = segmenter.next(room, 0); end > 0; end = segmenter.next(room, 0)) {
        // The segmenter counts the identification up; ours is 0 everywhere (RFC 6864 §4.1: anything goes with DF).
        expected.push(Buffer.from(room.subarray(0, end)));
      }
      t.is(count, expected.length);
      t.deepEqual(got.map(withoutId), expected.map(withoutId));
    }),
    { numRuns: 300 },
  );
});

/** Without the identification of an IPv4 header, and the header checksum that covers it. */
function withoutId(frame: Buffer): string {
  const copy = Buffer.from(frame);
  if (copy[HEADER]! >> 4 === 4) {
    putU16(copy, HEADER + 4, 0);
    putU16(copy, HEADER + 10, 0);
  }
  return copy.toString('hex');
}

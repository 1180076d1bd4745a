import test from 'ava';
import fc from 'fast-check';
import { HEADER, MAX_PACKET, putHeader } from '../../lib/core/index.js';
import { Framer } from '../../lib/l2/framer.js';
import { controlFrame, FrameType, MAX_CONTROL, MAX_HELLO, maxPayload } from '../../lib/l2/wire/frame.js';
import { numbered } from './support/frames.js';

/** Feeds `bytes` in the pieces given by `cuts`; what is not consumed is kept, as a connection does. */
function feed(bytes: Uint8Array, cuts: readonly number[], openAfter = 1) {
  const framer = new Framer();
  const seen: string[] = [];
  let control = 0;
  let rest = Buffer.alloc(0);
  const at = [0, ...cuts, bytes.length];
  for (let i = 1; i < at.length; i++) {
    const buf = Buffer.concat([rest, bytes.subarray(at[i - 1]!, at[i]!)]);
    const off = framer.parse(buf, 0, buf.length, () => control >= openAfter, {
      onPackets(start, end) {
        seen.push(`p:${buf.toString('hex', start, end)}`);
        return true;
      },
      onControlFrame(type, start, length) {
        control++;
        seen.push(`c${type}:${buf.toString('hex', start, start + length)}`);
        return true;
      },
    });
    rest = Buffer.from(buf.subarray(off));
    if (framer.error === null && rest.length > 0) {
      // What it says it needs is what is missing, as far as it can know.
      if (rest.length < HEADER && framer.needed !== HEADER) throw new Error('needs a header');
      if (rest.length >= HEADER && framer.needed <= rest.length)
        throw new Error(`needs ${framer.needed}, has ${rest.length}`);
    }
  }
  // Runs of packets may be cut anywhere between frames: join neighbours.
  const joined: string[] = [];
  for (const one of seen) {
    const last = joined.at(-1);
    if (one.startsWith('p:') && last?.startsWith('p:')) joined[joined.length - 1] = last + one.slice(2);
    else joined.push(one);
  }
  return { joined, rest, framer };
}

const hello = Buffer.from(controlFrame(FrameType.hello, Buffer.from('hello')));
const ping = Buffer.from(controlFrame(FrameType.ping, Buffer.alloc(0)));
const stream = Buffer.concat([
  hello,
  numbered(1, 1),
  numbered(2, 2, 200),
  ping,
  controlFrame(FrameType.control, Buffer.from([1, 2, 3])),
  numbered(3, 3),
]);

test('every split in two gives the same frames in the same order', (t) => {
  const whole = feed(stream, []);
  t.is(whole.joined.length, 5);
  t.is(whole.framer.frames, 6);
  for (let cut = 0; cut <= stream.length; cut++) t.deepEqual(feed(stream, [cut]).joined, whole.joined, `cut at ${cut}`);
});

test('byte by byte, and in any pieces', (t) => {
  const whole = feed(stream, []).joined;
  t.deepEqual(feed(stream, [...stream.keys()].slice(1)).joined, whole);
  fc.assert(
    fc.property(fc.uniqueArray(fc.integer({ min: 0, max: stream.length }), { maxLength: 20 }), (cuts) => {
      t.deepEqual(
        feed(
          stream,
          cuts.sort((a, b) => a - b),
        ).joined,
        whole,
      );
    }),
    { numRuns: 300 },
  );
});

test('a length above the bound is refused with the header alone, before there is room for it', (t) => {
  const header = (type: number, length: number) => {
    const buf = Buffer.alloc(HEADER);
    putHeader(buf, 0, type, 0, 0, length);
    return buf;
  };
  for (const [type, open, bound] of [
    [FrameType.hello, false, MAX_HELLO],
    [FrameType.goodbye, false, MAX_HELLO],
    [FrameType.packet, true, MAX_PACKET],
    [FrameType.control, true, MAX_CONTROL],
    [0x7f, true, MAX_CONTROL],
    [0xff, true, MAX_CONTROL],
  ] as const) {
    t.is(maxPayload(type, open), bound);
    const before = open ? 0 : 1;
    t.is(feed(header(type, bound), [], before).framer.error, null);
    t.is(feed(header(type, bound), [], before).framer.needed, HEADER + bound);
    for (const length of [bound + 1, 0x7fffffff, 0x80000000, 0xffffffff])
      t.is(feed(header(type, length), [], before).framer.error, 'ERR_FRAME_TOO_LONG');
  }
});

test('a packet before the hello is refused with its header', (t) => {
  t.is(feed(numbered(1, 1).subarray(0, HEADER), []).framer.error, 'ERR_FRAME_MALFORMED');
  t.deepEqual(feed(numbered(1, 1), []).joined, []);
});

test('nothing is delivered after the sink said stop', (t) => {
  for (const stopAt of ['packets', 'control']) {
    const seen: string[] = [];
    const framer = new Framer();
    const off = framer.parse(stream, 0, stream.length, () => true, {
      onPackets() {
        seen.push('packets');
        return stopAt !== 'packets';
      },
      onControlFrame() {
        seen.push('control');
        return stopAt !== 'control';
      },
    });
    t.deepEqual(seen, stopAt === 'control' ? ['control'] : ['control', 'packets']);
    t.true(off < stream.length);
  }
});

test('a frame without payload is whole with its header', (t) => {
  const empty = Buffer.alloc(HEADER);
  putHeader(empty, 0, FrameType.packet, 0, 0, 0);
  t.deepEqual(feed(Buffer.concat([hello, empty, ping]), []).rest.length, 0);
});

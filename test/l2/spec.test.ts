// docs/spec/frame.json, the test vectors of the wire, against this implementation: decoded, encoded, and sent at a hub.

import { readFileSync } from 'node:fs';
import test from 'ava';
import { getU32, gsoSizeAt, HEADER, lengthAt, putHeader, SECOND, Slab } from '../../lib/core/index.js';
import { ControlChannel } from '../../lib/l2/control-channel.js';
import { Framer } from '../../lib/l2/framer.js';
import { kubebus } from '../../lib/l2/gen/messages.js';
import type { ByteStream } from '../../lib/l2/index.js';
import { controlFrame, FrameType } from '../../lib/l2/wire/frame.js';
import { bye, World } from './support/world.js';

interface Valid {
  readonly name: string;
  readonly type: number;
  readonly hex: string;
  readonly fields: Readonly<Record<string, unknown>>;
}
const vectors = JSON.parse(readFileSync(new URL('../../docs/spec/frame.json', import.meta.url), 'utf8')) as {
  valid: Valid[];
  closing: { name: string; open: boolean; hex: string; code: string }[];
  ignored: { name: string; hex: string }[];
};
const CODECS = {
  [FrameType.hello]: kubebus.l2.Hello,
  [FrameType.ping]: kubebus.l2.Ping,
  [FrameType.pong]: kubebus.l2.Pong,
  [FrameType.goodbye]: kubebus.l2.Goodbye,
} as const;

for (const { name, type, hex, fields } of vectors.valid) {
  test(`vector: ${name}`, (t) => {
    const bytes = Buffer.from(hex, 'hex');
    t.is(bytes[0], type);
    t.is(lengthAt(bytes, 0), bytes.length - HEADER);
    const payload = bytes.subarray(HEADER);
    // Whole at any split, and only then.
    for (let cut = 0; cut <= bytes.length; cut++) {
      let frames = 0;
      const count = () => ++frames > 0;
      const open = type !== FrameType.hello;
      new Framer().parse(bytes, 0, cut, () => open, { onPackets: count, onControlFrame: count });
      t.is(frames, cut === bytes.length ? 1 : 0);
    }
    if (type === FrameType.packet) {
      t.is(bytes[1], fields.flags as number);
      t.is(gsoSizeAt(bytes, 0), fields.gsoSize as number);
      t.is(payload.toString('hex'), fields.packet as string);
      const made = Buffer.alloc(bytes.length);
      putHeader(made, 0, type, fields.flags as number, fields.gsoSize as number, payload.length);
      payload.copy(made, HEADER);
      t.is(made.toString('hex'), hex);
    } else if (type === FrameType.control) {
      t.is(getU32(payload, 0), fields.number as number);
      const message = new ControlChannel(false, 1000).handle(payload);
      t.is(Buffer.from(message!).toString('hex'), fields.message as string);
      t.is(Buffer.from(controlFrame(type, new ControlChannel(false, 1000).wrap(message!)!)).toString('hex'), hex);
    } else {
      const codec = CODECS[type as keyof typeof CODECS];
      const message = codec.decode(payload);
      const got = message as unknown as Readonly<Record<string, unknown>>;
      for (const [field, value] of Object.entries(fields)) {
        const one = got[field];
        t.deepEqual(one instanceof Uint8Array ? Buffer.from(one).toString('hex') : one, value, field);
      }
      if (name.includes('later version')) return;
      // What is 0 is not sent, so the bytes are the same again.
      const again = codec.encode(message as never).finish();
      t.is(Buffer.from(controlFrame(type, again)).toString('hex'), hex);
    }
  });
}

/** A hub, and somebody who sends it raw bytes; `open`: after a good hello. */
async function hubWith(hex: string, open: boolean) {
  const world = new World();
  const { acceptor, links } = await world.accept('hub-1');
  const stream: ByteStream = await world.transport.dial('hub-1', new AbortController().signal);
  const received: Buffer[] = [];
  let closed = false;
  const room = Buffer.alloc(64 * 1024);
  stream.open({
    room: () => room,
    hasPartial: false,
    onData: (n) => void received.push(Buffer.from(room.subarray(0, n))),
    onDrain() {},
    datagramRoom: () => room,
    onDatagram() {},
    onDatagramsDone() {},
    onClose: () => {
      closed = true;
    },
  });
  const hello = vectors.valid[0]!.hex;
  const bytes = Buffer.from(open ? hello + hex : hex, 'hex');
  stream.write(Slab.of(bytes), 0, bytes.length);
  await world.clock.run(2 * SECOND);
  const all = Buffer.concat(received);
  const frames: { type: number; payload: Buffer }[] = [];
  for (let off = 0; off < all.length; off += HEADER + lengthAt(all, off)) {
    frames.push({ type: all[off]!, payload: all.subarray(off + HEADER, off + HEADER + lengthAt(all, off)) });
  }
  const stats = acceptor.stats();
  const wasClosed = closed;
  await acceptor.close(bye);
  await world.clock.run(2 * SECOND);
  return { frames, closed: wasClosed, stats, links };
}

for (const { name, open, hex, code } of vectors.closing) {
  test(`vector that closes: ${name}`, async (t) => {
    const { frames, closed, stats } = await hubWith(hex, open);
    const last = frames.at(-1)!;
    t.is(last.type, FrameType.goodbye);
    t.is(kubebus.l2.Goodbye.decode(last.payload).code, code);
    t.true(closed);
    t.is(stats[`${open ? 'ended' : 'refused'}.${code}`], 1, 'counted by its reason');
  });
}

for (const { name, hex } of vectors.ignored) {
  test(`vector that is ignored: ${name}`, async (t) => {
    const { closed, frames, stats } = await hubWith(hex, true);
    t.false(closed);
    t.is(frames[0]!.type, FrameType.hello);
    t.is(kubebus.l2.Hello.decode(frames[0]!.payload).versions.join(), '1');
    t.is(stats.ignored, name === 'unknown type' ? 1 : 0);
  });
}

import test from 'ava';
import { seededRandom } from '../../lib/core/index.js';
import { ControlChannel } from '../../lib/l2/control-channel.js';

for (const seed of [1, 2, 3]) {
  test(`whatever connections lose, every message arrives once and in order (seed ${seed})`, (t) => {
    const random = seededRandom(seed);
    const below = (n: number) => random.u32() % n;
    const a = new ControlChannel(true, 1 << 20);
    const b = new ControlChannel(true, 1 << 20);
    let wire: Uint8Array[] = [];
    const got: number[] = [];
    let sent = 0;
    for (let step = 0; step < 20_000; step++) {
      const what = below(100);
      if (what < 50) wire.push(a.wrap(Buffer.from(`${sent++}`))!);
      else if (what < 90) {
        const payload = wire.shift();
        const message = payload && b.handle(payload);
        t.not(payload !== undefined && message === undefined, true, 'no gap');
        if (message) got.push(Number(Buffer.from(message).toString()));
      } else if (what < 97) t.true(a.handleAck(b.received));
      else {
        // The connection dies with a part of what is on its way; the rest may still arrive, before or after.
        const late = wire.slice(0, below(wire.length + 1));
        wire = [...late, ...a.unacknowledged()];
      }
    }
    for (const payload of wire) {
      const message = b.handle(payload);
      if (message) got.push(Number(Buffer.from(message).toString()));
    }
    t.deepEqual(
      got,
      Array.from({ length: sent }, (_, i) => i),
    );
    t.true(a.handleAck(b.received));
    t.is(a.unacknowledged().length, 0);
  });
}

test('what is not acknowledged is bounded; a link of one connection keeps nothing', (t) => {
  const a = new ControlChannel(true, 1000);
  for (let i = 0; i < 10; i++) t.not(a.wrap(new Uint8Array(100)), null);
  t.is(a.wrap(new Uint8Array(1)), null);
  t.true(a.handleAck(1));
  t.not(a.wrap(new Uint8Array(100)), null);
  const single = new ControlChannel(false, 1000);
  for (let i = 0; i < 100; i++) t.not(single.wrap(new Uint8Array(100)), null);
  t.is(single.unacknowledged().length, 0);
});

test('numbers that cannot be: a gap, a payload too short, an acknowledgement of the future', (t) => {
  const b = new ControlChannel(true, 1000);
  t.is(b.handle(Buffer.from('00000002', 'hex')), undefined);
  t.is(b.handle(Buffer.from('000000', 'hex')), undefined);
  t.is(b.handle(Buffer.from('00000000', 'hex')), null);
  t.is(b.handle(Buffer.from('ffffffff', 'hex')), null);
  t.is(b.handle(Buffer.from('00000001', 'hex'))!.length, 0);
  t.false(b.handleAck(1));
  t.true(b.handleAck(0));
});

test('a lot received asks for an acknowledgement of its own', (t) => {
  const a = new ControlChannel(true, 1 << 20);
  const b = new ControlChannel(true, 1 << 20);
  let n = 0;
  for (; !b.wantsAck; n++) b.handle(a.wrap(new Uint8Array(10_000))!);
  t.is(n, 7);
  b.told();
  t.false(b.wantsAck);
});

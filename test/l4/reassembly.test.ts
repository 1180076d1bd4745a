// Fragments: RFC 791, 8200 §4.5, 5722, 6946, and the bounds.

import test from 'ava';
import { seededRandom } from '../../lib/core/index.js';
import type { UdpBinding } from '../../lib/l4/udp.js';
import { datagram, fragment, StackUnderTest } from '../support/l4-frames.js';

class Listener implements UdpBinding {
  readonly address = null;
  readonly family = 0;
  readonly port = 53;
  readonly reuse = false;
  readonly peer = null;
  readonly ttl = 64;
  readonly got: Buffer[] = [];
  onDatagram(buf: Uint8Array, start: number, end: number): void {
    this.got.push(Buffer.from(buf.subarray(start, end)));
  }
  onIcmp(): void {}
}

function setUp(limits = {}) {
  const s = new StackUnderTest({ limits: { reassembly: limits } });
  const listener = new Listener();
  s.stack.udp.bind(listener);
  return { s, got: listener.got };
}

const data = (n: number) => Buffer.from(Array.from({ length: n }, (_, i) => (i * 7) & 0xff));
const FAMILIES = [4, 6] as const;

test('fragments in any order, with exact duplicates, make the datagram, once', (t) => {
  const random = seededRandom(9);
  for (const family of FAMILIES) {
    const { s, got } = setUp();
    for (let round = 0; round < 200; round++) {
      const wanted = data(1_500 + Math.floor(random.float() * 5_000));
      const payload = datagram(family, wanted);
      const frames: Uint8Array[] = [];
      for (let at = 0; at < payload.length; ) {
        const end = Math.min(payload.length, at + 8 * (1 + Math.floor(random.float() * 170)));
        const frame = fragment(family, round, payload, at, end);
        frames.push(frame);
        if (random.float() < 0.3) frames.push(frame);
        at = end;
      }
      frames.sort(() => random.float() - 0.5);
      // A duplicate of a fragment may come last: it begins a datagram that never ends, and that is bounded.
      for (const frame of frames) s.give(frame);
      // Twice, if every fragment came twice.
      t.true(got.length >= 1 && got.length <= 2);
      for (const whole of got.splice(0)) t.deepEqual(whole, wanted);
    }
    t.is(s.counter('fragments-overlapping'), 0);
    t.true(s.counter('fragments-held') < 64 * 5_000);
  }
});

test('overlapping fragments: the datagram is dropped with all that still comes of it (RFC 5722)', (t) => {
  for (const family of FAMILIES) {
    for (const [start, end] of [
      [96, 208],
      [104, 160],
      [0, 208],
      [8, 16],
    ] as const) {
      const { s, got } = setUp();
      const payload = datagram(family, data(300));
      s.give(fragment(family, 1, payload, 0, 104));
      s.give(fragment(family, 1, payload, 104, 200));
      s.give(fragment(family, 1, payload, start, end, true));
      s.give(fragment(family, 1, payload, 200, payload.length));
      s.give(fragment(family, 1, payload, 104, 200));
      t.is(got.length, 0, `IPv${family} ${start}-${end}`);
      t.is(s.counter('fragments-overlapping'), 1);
      t.is(s.counter('fragments-held'), 0);
      // The next datagram, with another number, is none the worse.
      s.give(fragment(family, 2, payload, 0, 104));
      s.give(fragment(family, 2, payload, 104, payload.length));
      t.is(got.length, 1);
    }
  }
});

test('two different ends, an end before what is there, lengths that are no multiple of eight, offsets beyond 64 KiB', (t) => {
  for (const family of FAMILIES) {
    const { s, got } = setUp();
    const payload = datagram(family, data(400));
    s.give(fragment(family, 1, payload, 200, 304, false));
    s.give(fragment(family, 1, payload, 304, 400, false));
    s.give(fragment(family, 2, payload, 200, 304, true));
    s.give(fragment(family, 2, payload, 8, 104, false));
    t.is(s.counter('fragments-overlapping'), 2);
    s.give(fragment(family, 3, payload, 0, 100, true));
    s.give(fragment(family, 3, new Uint8Array(65_528 + 8), 65_528, 65_536, false));
    t.is(s.counter('fragments-malformed'), 2);
    t.is(got.length, 0);
    t.is(s.counter('fragments-held'), 0);
  }
});

test('an atomic fragment is a packet of its own (RFC 6946)', (t) => {
  const { s, got } = setUp();
  const wanted = data(300);
  const payload = datagram(6, wanted);
  s.give(fragment(6, 5, payload, 0, 104));
  s.give(fragment(6, 5, datagram(6, data(50)), 0, 58));
  t.deepEqual(got.pop(), data(50));
  s.give(fragment(6, 5, payload, 104, payload.length));
  t.deepEqual(got.pop(), wanted);
});

test('a datagram that is not complete in time is forgotten', (t) => {
  const { s, got } = setUp({ timeout: 1_000_000 });
  const payload = datagram(4, data(300));
  s.give(fragment(4, 1, payload, 0, 104));
  s.advance(1_100_000);
  s.give(fragment(4, 1, payload, 104, payload.length));
  t.is(got.length, 0);
  t.is(s.counter('fragments-timed-out'), 1);
});

test('bounds: bytes, datagrams and fragments of one, each counted', (t) => {
  for (const family of FAMILIES) {
    const { s } = setUp({ bytes: 20_000, datagrams: 16, fragments: 10 });
    const payload = datagram(family, data(4_000));
    for (let id = 0; id < 2_000; id++) {
      s.give(fragment(family, id, payload, 1_000, 2_000, true));
      t.true(s.counter('fragments-held') <= 20_000);
      t.true(s.stack.reassembly.size <= 16);
    }
    t.true(s.counter('fragments-over-limit') >= 1_980);
    const before = s.counter('fragments-over-limit');
    for (let at = 0; at < 3_000; at += 16) s.give(fragment(family, 9_999, payload, at, at + 8, true));
    t.true(s.counter('fragments-over-limit') > before, 'a hole behind every eight bytes');
  }
});

test('any fragments: no throw, and the bounds hold', (t) => {
  const random = seededRandom(17);
  const { s } = setUp({ bytes: 50_000 });
  for (let i = 0; i < 20_000; i++) {
    const family = random.float() < 0.5 ? 4 : 6;
    const start = 8 * Math.floor(random.float() * 900);
    const end = start + Math.floor(random.float() * 1_300);
    const frame = fragment(
      family,
      Math.floor(random.float() * 4),
      new Uint8Array(end),
      start,
      end,
      random.float() < 0.8,
    );
    if (random.float() < 0.2) frame[8 + Math.floor(random.float() * 48)] = random.u32();
    // L3 has checked the version and that the headers fit; nothing else is promised.
    frame[8] = family === 4 ? 0x45 : 0x60;
    s.now += 20_000;
    s.give(frame);
    if (s.counter('fragments-held') > 50_000 || s.counter('fragments-held') < 0)
      t.fail(`${s.counter('fragments-held')} held`);
  }
  t.true(s.counter('fragments-overlapping') > 100);
});

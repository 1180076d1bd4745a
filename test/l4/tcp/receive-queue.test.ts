import test from 'ava';
import fc from 'fast-check';
import { giveBack, ReceiveQueue } from '../../../lib/l4/tcp/receive-queue.js';

/** Byte `n` of the stream of queue `q`. */
const byte = (q: number, n: number) => (q * 31 + n * 7 + (n >> 8) * 13) & 0xff;

const QUEUES = 3;
const size = fc.oneof(fc.integer({ min: 1, max: 3_000 }), fc.integer({ min: 8_000, max: 70_000 }));
const step = fc.record({
  queue: fc.nat(QUEUES - 1),
  append: size,
  read: fc.oneof(fc.constant(0), size),
  /** Which of the pieces that are held is given back. */
  back: fc.option(fc.nat(1_000), { freq: 1 }),
});

test('what was read stays as it was until it is given back, however the memory is used again', (t) => {
  fc.assert(
    fc.property(fc.array(step, { minLength: 1, maxLength: 80 }), (steps) => {
      const queues = Array.from({ length: QUEUES }, () => ({ queue: new ReceiveQueue(), written: 0, read: 0 }));
      const held: { q: number; from: number; bytes: Buffer }[] = [];
      for (const { queue: q, append, read, back } of steps) {
        const at = queues[q]!;
        const { written } = at;
        at.queue.append(
          Uint8Array.from({ length: append }, (_, i) => byte(q, written + i)),
          0,
          append,
        );
        at.written += append;
        const bytes = read === 0 ? null : at.queue.read(read);
        if (bytes !== null) {
          held.push({ q, from: at.read, bytes });
          at.read += bytes.length;
        }
        if (back !== null && held.length > 0) giveBack(held.splice(back % held.length, 1)[0]!.bytes);
      }
      for (const { q, from, bytes } of held) {
        for (let i = 0; i < bytes.length; i++) if (bytes[i] !== byte(q, from + i)) return false;
      }
      return queues.every(({ queue, written, read }) => queue.length === written - read);
    }),
    { numRuns: 100 },
  );
  t.pass();
});

test('memory that comes back is used again; what is kept, or comes from elsewhere, never is', (t) => {
  const queue = new ReceiveQueue();
  const segment = new Uint8Array(60_000);
  const seen = new Set<ArrayBufferLike>();
  for (let i = 0; i < 200; i++) {
    queue.append(segment, 0, segment.length);
    const bytes = queue.read(65_536)!;
    t.is(bytes.length, segment.length);
    seen.add(bytes.buffer);
    giveBack(bytes);
  }
  t.true(seen.size < 10, `${seen.size} pieces of memory for 200 reads`);
  const kept = new Set<ArrayBufferLike>();
  for (let i = 0; i < 50; i++) {
    queue.append(segment, 0, segment.length);
    kept.add(queue.read(65_536)!.buffer);
    giveBack(Buffer.alloc(65_536));
  }
  t.is(kept.size, 50);
});

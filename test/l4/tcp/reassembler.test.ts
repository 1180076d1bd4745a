import test from 'ava';
import fc from 'fast-check';
import { MAX_RANGES, Reassembler } from '../../../lib/l4/tcp/reassembler.js';
import { ReceiveQueue } from '../../../lib/l4/tcp/receive-queue.js';
import { seqDiff } from '../../../lib/l4/tcp/seq.js';
import { ByteMap } from '../../support/model-ranges.js';

const SIZE = 400;
const source = Uint8Array.from({ length: SIZE }, (_, i) => (i * 7) ^ (i >> 3));

test('holds, reports and gives back what a bitmap would, at any place of the sequence space', (t) => {
  const segment = fc.tuple(fc.nat(SIZE - 1), fc.integer({ min: 1, max: 60 }));
  fc.assert(
    fc.property(fc.array(segment, { maxLength: 60 }), fc.integer(), (segments, base) => {
      const at = (n: number) => (base + n) | 0;
      const fast = new Reassembler();
      const queue = new ReceiveQueue();
      const slow = new ByteMap<boolean>(SIZE);
      let nxt = 0;
      for (const [start, length] of segments) {
        const end = Math.min(start + length, SIZE);
        if (end <= nxt) continue;
        slow.fill(start, end, true);
        const from = Math.max(start, nxt);
        if (from === nxt) {
          queue.append(source, from, end - from);
          nxt = seqDiff(fast.take(at(end), queue), at(0));
        } else fast.insert(at(from), source, from, end - from);
        const missing = slow.runs((b) => b !== true)[0]?.[0] ?? SIZE;
        t.is(nxt, Math.max(missing, 0));
        const expected = slow.runs((b) => b === true).filter(([s]) => s > nxt);
        const blocks = new Int32Array(2 * 64);
        const n = fast.writeSack(blocks, 0, 64);
        const reported = Array.from({ length: n }, (_, i) => [
          seqDiff(blocks[2 * i]!, at(0)),
          seqDiff(blocks[2 * i + 1]!, at(0)),
        ]);
        // RFC 2018 §4: the first block is the one that the last segment is in.
        if (from > nxt) t.true(reported[0]![0]! <= from && from < reported[0]![1]!);
        t.deepEqual(
          reported.sort((a, b) => a[0]! - b[0]!),
          expected,
        );
        t.is(
          fast.length,
          expected.reduce((sum, [s, e]) => sum + e - s, 0),
        );
        for (let i = 0; i < SIZE - 5; i += 11)
          t.is(
            fast.covers(at(i), at(i + 5)),
            expected.some(([s, e]) => s <= i && i + 5 <= e),
          );
      }
      const bytes: number[] = [];
      for (let b = queue.read(1_000); b !== null; b = queue.read(1_000)) bytes.push(...b);
      t.deepEqual(bytes, [...source.subarray(0, nxt)]);
    }),
    { numRuns: 300 },
  );
});

test('a peer that leaves a hole behind every byte is stopped at the bound', (t) => {
  const r = new Reassembler();
  const one = Uint8Array.of(1);
  for (let i = 0; i < MAX_RANGES + 500; i++) r.insert(2 * i, one, 0, 1);
  t.is(r.rangeCount, MAX_RANGES);
  t.is(r.length, MAX_RANGES);
  t.is(r.refused, 500);
});

test('the queue gives the same bytes whatever the sizes of appends and reads', (t) => {
  const sizes = fc.array(
    fc.tuple(fc.integer({ min: 1, max: 70_000 }), fc.integer({ min: 0, max: 90_000 }), fc.boolean()),
    { maxLength: 30 },
  );
  fc.assert(
    fc.property(sizes, (steps) => {
      const big = new Uint8Array(70_000);
      const queue = new ReceiveQueue();
      let written = 0;
      let read = 0;
      const check = (bytes: Uint8Array) => {
        for (const b of bytes) if (b !== (read++ * 31) % 251) return false;
        return true;
      };
      for (const [n, max, side] of steps) {
        for (let i = 0; i < n; i++) big[i] = ((written + i) * 31) % 251;
        if (side) {
          const other = new ReceiveQueue();
          other.append(big, 0, n);
          // A range may have lost its front before it is taken over.
          const cut = other.read(1)!;
          queue.append(cut, 0, cut.length);
          queue.concat(other);
        } else queue.append(big, 0, n);
        written += n;
        const target = new Uint8Array(max >> 1);
        if (!check(target.subarray(0, queue.readInto(target)))) return false;
        const bytes = queue.read(max);
        if (bytes !== null && !check(bytes)) return false;
        if (queue.length !== written - read) return false;
      }
      return true;
    }),
    { numRuns: 100 },
  );
  t.pass();
});

import test from 'ava';
import fc from 'fast-check';
import { checksum, fold, pseudoSum4, pseudoSum6, sumOf, updateChecksum } from '../../lib/l3/wire/checksum.js';
import { checksumOk4, decrementTtl4, putIpv4 } from '../../lib/l3/wire/ipv4.js';

/** RFC 1071 §4.1, word by word with big numbers. */
function slowSum(bytes: Uint8Array): number {
  let sum = 0n;
  for (let i = 0; i < bytes.length; i += 2) sum += BigInt((bytes[i]! << 8) | (bytes[i + 1] ?? 0));
  while (sum > 0xffffn) sum = (sum & 0xffffn) + (sum >> 16n);
  return Number(sum);
}

test('the example of RFC 1071 §3', (t) => {
  t.is(sumOf(Uint8Array.of(0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7), 0, 8), 0xddf2);
});

test('any range of any length at any alignment agrees with the slow sum', (t) => {
  const backing = new Uint8Array(70_000);
  for (let i = 0; i < backing.length; i++) backing[i] = (i * 2654435761) >>> 13;
  const view = backing.subarray(3); // a byteOffset that is not a multiple of 4
  fc.assert(
    fc.property(fc.nat(40), fc.oneof(fc.nat(300), fc.nat(66_000)), (start, length) => {
      return sumOf(view, start, start + length) === slowSum(view.subarray(start, start + length));
    }),
    { numRuns: 2_000 },
  );
  t.is(sumOf(new Uint8Array(65_535).fill(0xff), 0, 65_535), slowSum(new Uint8Array(65_535).fill(0xff)), 'no overflow');
});

test('an incremental update equals the sum done anew (RFC 1624)', (t) => {
  fc.assert(
    fc.property(fc.uint8Array({ minLength: 20, maxLength: 20 }), fc.nat(8), fc.nat(0xffff), (bytes, word, after) => {
      const header = Uint8Array.from(bytes);
      header[0] = 0x45; // never all zero: for that one's complement has two results
      header[10] = header[11] = 0;
      const at = (word === 5 ? 6 : word === 0 ? 1 : word) * 2;
      const field = checksum(header, 0, 20);
      const before = (header[at]! << 8) | header[at + 1]!;
      header[at] = after >>> 8;
      header[at + 1] = after;
      return updateChecksum(field, before, after) === checksum(header, 0, 20);
    }),
    { numRuns: 5_000 },
  );
  // RFC 1624 §4: the case that equation 2 of RFC 1141 gets wrong.
  t.is(updateChecksum(0xdd2f, 0x5555, 0x3285), 0x0000);
});

test('decrementing a TTL keeps the header valid for every TTL and protocol', (t) => {
  const header = new Uint8Array(20);
  for (let ttl = 1; ttl < 256; ttl++) {
    for (const protocol of [0, 1, 6, 17, 255]) {
      putIpv4(header, 0, protocol, 20, Uint8Array.of(10, 0, 0, ttl), Uint8Array.of(10, 1, protocol, 2), ttl);
      t.true(checksumOk4(header, 0));
      decrementTtl4(header, 0);
      if (header[8] !== ttl - 1 || !checksumOk4(header, 0)) t.fail(`TTL ${ttl}, protocol ${protocol}`);
      header[17]! ^= 1;
      if (checksumOk4(header, 0)) t.fail('a changed header passes');
    }
  }
});

test('pseudo-headers agree with their definition (RFC 9293 §3.1, RFC 8200 §8.1)', (t) => {
  const packet = Uint8Array.from({ length: 60 }, (_, i) => i * 37);
  const v4 = Uint8Array.of(...packet.subarray(12, 20), 0, 17, 0x12, 0x34);
  t.is(pseudoSum4(packet, 0, 17, 0x1234), slowSum(v4));
  const v6 = Uint8Array.of(...packet.subarray(8, 40), 0, 1, 0x12, 0x34, 0, 0, 0, 58);
  t.is(pseudoSum6(packet, 0, 58, 0x11234), slowSum(v6));
  t.is(fold(0x1fffe), 0xffff);
});

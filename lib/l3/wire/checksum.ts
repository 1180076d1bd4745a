// The Internet checksum: RFC 1071 for whole ranges, RFC 1624 for a changed word, and the pseudo-headers.
//
// Sums are kept as 16-bit one's complement sums in network order ("folded"), not inverted; only `checksum` inverts.
// Measured on Node 20 (bench/micro/l3-checksum.bench.ts): byte pairs 0.9 GB/s at any length, four pairs a turn 1.5,
// 32-bit words of the slab 4.3 at 1,400 bytes and 5.9 at 64 KB. So short ranges go by pairs and long ones by words.

/** Below this many bytes the words do not pay for finding their alignment. */
const WORDS_FROM = 128;

const littleEndian = new Uint8Array(new Uint16Array([1]).buffer)[0] === 1;

// A typed array is dear to make, and packets come from few slabs: the view on the last one is kept.
let viewed: ArrayBufferLike | null = null;
let words: Uint32Array = new Uint32Array(0);

/** Folds a sum of up to 2^31 to 16 bits. */
export function fold(sum: number): number {
  sum = (sum & 0xffff) + (sum >>> 16);
  return (sum & 0xffff) + (sum >>> 16);
}

/** Folded sum of buf[start, end), padded with a zero byte when odd (RFC 1071 §1). */
export function sumOf(buf: Uint8Array, start: number, end: number): number {
  return end - start < WORDS_FROM || !littleEndian ? sumPairs(buf, start, end) : sumWords(buf, start, end);
}

/** The checksum field for buf[start, end), given a folded sum of what else it covers (a pseudo-header). */
export function checksum(buf: Uint8Array, start: number, end: number, initial = 0): number {
  return ~fold(sumOf(buf, start, end) + initial) & 0xffff;
}

/** The new checksum field after a 16-bit word changed from `before` to `after` (RFC 1624 §3, equation 3). */
export function updateChecksum(field: number, before: number, after: number): number {
  return ~fold((~field & 0xffff) + (~before & 0xffff) + after) & 0xffff;
}

/** Folded sum of the IPv4 pseudo-header (RFC 9293 §3.1) of the packet at `p`. */
export function pseudoSum4(buf: Uint8Array, p: number, protocol: number, length: number): number {
  return fold(sumPairs(buf, p + 12, p + 20) + protocol + length);
}

/** Folded sum of the IPv6 pseudo-header (RFC 8200 §8.1) of the packet at `p`. */
export function pseudoSum6(buf: Uint8Array, p: number, protocol: number, length: number): number {
  return fold(sumPairs(buf, p + 8, p + 40) + protocol + (length & 0xffff) + (length >>> 16));
}

function sumPairs(buf: Uint8Array, start: number, end: number): number {
  let sum = 0;
  let i = start;
  for (const last = end - 8; i <= last; i += 8) {
    sum +=
      ((buf[i]! << 8) | buf[i + 1]!) +
      ((buf[i + 2]! << 8) | buf[i + 3]!) +
      ((buf[i + 4]! << 8) | buf[i + 5]!) +
      ((buf[i + 6]! << 8) | buf[i + 7]!);
  }
  for (; i < end - 1; i += 2) sum += (buf[i]! << 8) | buf[i + 1]!;
  if (i < end) sum += buf[i]! << 8;
  return fold(sum);
}

/** RFC 1071 §2 (B): the sum is the same in either byte order, so it is taken in the machine's and swapped at the end. */
function sumWords(buf: Uint8Array, start: number, end: number): number {
  if (buf.buffer !== viewed) {
    viewed = buf.buffer;
    words = new Uint32Array(viewed, 0, viewed.byteLength >>> 2);
  }
  const base = buf.byteOffset;
  // A range that starts at an odd address is summed with its bytes in each other's place, which one more swap mends.
  const odd = (base + start) & 1;
  let edges = 0;
  let i = start;
  for (; ((base + i) & 3) !== 0; i++) edges += ((base + i) & 1) === 0 ? buf[i]! : buf[i]! << 8;
  // 64 KiB is 16,384 words: neither half can pass 2^31, and the sums stay small integers.
  let low = 0;
  let high = 0;
  let w = (base + i) >>> 2;
  const lastWord = (base + end) >>> 2;
  for (const last = lastWord - 4; w <= last; w += 4) {
    const a = words[w]!;
    const b = words[w + 1]!;
    const c = words[w + 2]!;
    const d = words[w + 3]!;
    low += (a & 0xffff) + (b & 0xffff) + (c & 0xffff) + (d & 0xffff);
    high += (a >>> 16) + (b >>> 16) + (c >>> 16) + (d >>> 16);
  }
  for (; w < lastWord; w++) {
    low += words[w]! & 0xffff;
    high += words[w]! >>> 16;
  }
  for (i = (w << 2) - base; i < end; i++) edges += ((base + i) & 1) === 0 ? buf[i]! : buf[i]! << 8;
  const sum = fold(fold(low) + fold(high) + fold(edges));
  return odd === 1 ? sum : ((sum & 0xff) << 8) | (sum >>> 8);
}

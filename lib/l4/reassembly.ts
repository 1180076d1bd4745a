// Fragments to whole packets: RFC 791 §3.2, RFC 8200 §4.5, with the rule of RFC 5722 (and RFC 8200) for both families: a
// datagram with overlapping fragments is dropped, with all that comes of it. Exact duplicates are forgiven (RFC 8200).

import { getU16, getU32, HEADER, lengthAt, type Micros, putHeader, putU16, SECOND } from '../core/index.js';
import { headerLength4, putChecksum4 } from '../l3/wire/ipv4.js';
import { Protocol } from '../l3/wire/protocol.js';
import { copyOf } from './bytes.js';

export interface ReassemblyLimits {
  /** Bytes held in all; the oldest datagram goes first. **Default:** 1 MiB. */
  readonly bytes: number;
  /** Unfinished datagrams. **Default:** 64. */
  readonly datagrams: number;
  /** Fragments of one datagram. **Default:** 128. */
  readonly fragments: number;
  /** How long a datagram may take. **Default:** 30 s, as Linux (RFC 8200 says 60). */
  readonly timeout: Micros;
}

export const DEFAULT_REASSEMBLY_LIMITS: ReassemblyLimits = {
  bytes: 1024 * 1024,
  datagrams: 64,
  fragments: 128,
  timeout: 30 * SECOND,
};

interface Piece {
  start: number;
  end: number;
  bytes: Uint8Array;
}

interface Datagram {
  readonly until: Micros;
  /** Sorted, never overlapping. */
  readonly pieces: Piece[];
  /** Headers in front of the fragmented part, from the first fragment. */
  head: Uint8Array | null;
  /** Length of the fragmented part; -1 until the last fragment is here. */
  total: number;
  have: number;
  /** Overlapped: what else comes is dropped until the timeout (RFC 5722 §3). */
  poisoned: boolean;
}

export class Reassembly {
  readonly counters = {
    reassembled: 0,
    'fragments-overlapping': 0,
    'fragments-malformed': 0,
    'fragments-timed-out': 0,
    'fragments-over-limit': 0,
  };
  private readonly datagrams = new Map<string, Datagram>();
  /** Keys of `expect`, until the fragment is here. */
  private readonly expected = new Set<string>();
  private bytes = 0;

  constructor(private readonly limits: ReassemblyLimits = DEFAULT_REASSEMBLY_LIMITS) {}

  get size(): number {
    return this.datagrams.size;
  }

  /** Bytes held. */
  get held(): number {
    return this.bytes;
  }

  /** Whether the fragment belongs to a datagram of which we have a part, or expect one. */
  knows(buf: Uint8Array, off: number): boolean {
    const f = place(buf, off);
    return f !== null && (this.datagrams.has(f.key) || this.expected.has(f.key));
  }

  /** The fragment is for us and will be handled soon: those that follow it in the same batch are ours as well. */
  expect(buf: Uint8Array, off: number): void {
    const f = place(buf, off);
    if (f === null) return;
    if (this.expected.size >= this.limits.datagrams) this.expected.clear();
    this.expected.add(f.key);
  }

  /** Takes the fragment of the frame at `off`; returns the frame of the whole packet once it is complete. */
  handle(now: Micros, buf: Uint8Array, off: number): Uint8Array | null {
    this.expire(now);
    const f = place(buf, off);
    const multiple = f !== null && (!f.more || (f.end - f.start) % 8 === 0);
    if (f === null || !multiple || f.end <= f.start || f.end + f.headLength > 65_535) {
      this.counters['fragments-malformed']++;
      return null;
    }
    if (this.expected.size > 0) this.expected.delete(f.key);
    if (f.start === 0 && !f.more) {
      // RFC 6946 §4: an atomic fragment is a packet of its own, whatever other fragments say with the same numbers.
      const piece = { start: 0, end: f.end, bytes: copyOf(buf, f.payload, f.payload + f.end) };
      const head = copyOf(buf, off + HEADER, off + HEADER + f.headLength);
      return whole({ ...this.begin(now), pieces: [piece], total: f.end }, head, f.next);
    }
    let d = this.datagrams.get(f.key);
    if (d === undefined) {
      d = this.begin(now);
      this.makeRoom(0);
      this.datagrams.set(f.key, d);
    }
    if (d.poisoned) return null;
    if (!insert(d, f, buf)) {
      this.counters['fragments-overlapping']++;
      this.empty(d);
      d.poisoned = true;
      return null;
    }
    const added = sumOfPieces(d) - d.have;
    d.have += added;
    this.bytes += added;
    if (d.pieces.length > this.limits.fragments) {
      this.counters['fragments-over-limit']++;
      this.forget(f.key, d);
      return null;
    }
    if (f.start === 0 && d.head === null) d.head = copyOf(buf, off + HEADER, off + HEADER + f.headLength);
    if (d.total < 0 || d.head === null || d.have < d.total) {
      this.makeRoom(1);
      return null;
    }
    this.forget(f.key, d);
    this.counters.reassembled++;
    return whole(d, d.head, f.next);
  }

  private begin(now: Micros): Datagram {
    return { until: now + this.limits.timeout, pieces: [], head: null, total: -1, have: 0, poisoned: false };
  }

  /** Oldest first until the bounds hold; `keep`: the newest is there already. */
  private makeRoom(keep: 0 | 1): void {
    const most = this.limits.datagrams - 1 + keep;
    while (this.datagrams.size > most || this.bytes > this.limits.bytes) {
      const oldest = this.datagrams.entries().next();
      if (oldest.done === true) return;
      this.counters['fragments-over-limit']++;
      this.forget(oldest.value[0], oldest.value[1]);
    }
  }

  private expire(now: Micros): void {
    // Insertion order is the order of deadlines.
    for (const [key, d] of this.datagrams) {
      if (d.until > now) return;
      this.counters['fragments-timed-out']++;
      this.forget(key, d);
    }
  }

  private empty(d: Datagram): void {
    this.bytes -= d.have;
    d.have = 0;
    d.pieces.length = 0;
  }

  private forget(key: string, d: Datagram): void {
    this.bytes -= d.have;
    this.datagrams.delete(key);
  }
}

interface Place {
  key: string;
  /** Of the payload, in the fragmented part. */
  start: number;
  end: number;
  more: boolean;
  /** Offset of the payload, length of the headers in front of the fragment header, next header. */
  payload: number;
  headLength: number;
  next: number;
}

/** Whether the packet at `p` is a fragment. */
export function isFragment(buf: Uint8Array, p: number): boolean {
  if (buf[p]! >>> 4 === 4) return (getU16(buf, p + 6) & 0x3fff) !== 0;
  // A fragment header behind other extension headers is not looked for: nobody sends that, and it is dropped later.
  return buf[p + 6] === Protocol.fragment;
}

function place(buf: Uint8Array, off: number): Place | null {
  const p = off + HEADER;
  const end = p + lengthAt(buf, off);
  if (buf[p]! >>> 4 === 4) {
    const headLength = headerLength4(buf, p);
    const field = getU16(buf, p + 6);
    const start = (field & 0x1fff) << 3;
    const payload = p + headLength;
    const key = `4${getU32(buf, p + 12)}.${getU32(buf, p + 16)}.${getU16(buf, p + 4)}.${buf[p + 9]!}`;
    const more = (field & 0x2000) !== 0;
    return { key, start, end: start + end - payload, more, payload, headLength, next: buf[p + 9]! };
  }
  if (buf[p + 6] !== Protocol.fragment || p + 48 > end) return null;
  const field = getU16(buf, p + 42);
  const start = field & 0xfff8;
  let key = `6${getU32(buf, p + 44)}`;
  for (let i = 8; i < 40; i += 4) key += `.${getU32(buf, p + i)}`;
  const payload = p + 48;
  const more = (field & 1) !== 0;
  return { key, start, end: start + end - payload, more, payload, headLength: 40, next: buf[p + 40]! };
}

/** False: it overlaps, or contradicts the length. */
function insert(d: Datagram, f: Place, buf: Uint8Array): boolean {
  const last = d.pieces[d.pieces.length - 1];
  if (!f.more) {
    if ((d.total >= 0 && d.total !== f.end) || (last !== undefined && last.end > f.end)) return false;
    d.total = f.end;
  } else if (d.total >= 0 && f.end > d.total) return false;
  let i = d.pieces.length;
  while (i > 0 && d.pieces[i - 1]!.start >= f.end) i--;
  const before = d.pieces[i - 1];
  if (before !== undefined && before.end > f.start) return before.start === f.start && before.end === f.end;
  d.pieces.splice(i, 0, {
    start: f.start,
    end: f.end,
    bytes: copyOf(buf, f.payload, f.payload + f.end - f.start),
  });
  return true;
}

function sumOfPieces(d: Datagram): number {
  let n = 0;
  for (const piece of d.pieces) n += piece.end - piece.start;
  return n;
}

function whole(d: Datagram, head: Uint8Array, next: number): Uint8Array {
  const length = head.length + d.total;
  const frame = new Uint8Array(HEADER + length);
  putHeader(frame, 0, 0, 0, 0, length);
  frame.set(head, HEADER);
  for (const piece of d.pieces) frame.set(piece.bytes, HEADER + head.length + piece.start);
  if (head[0]! >>> 4 === 4) {
    putU16(frame, HEADER + 2, length);
    putU16(frame, HEADER + 6, 0);
    putChecksum4(frame, HEADER);
  } else {
    putU16(frame, HEADER + 4, length - 40);
    frame[HEADER + 6] = next;
  }
  return frame;
}

// IPv4 fragmentation (RFC 791 §3.2, RFC 6864): for packets without DF that are larger than the next hop's MTU.

import { getU16, HEADER, lengthAt, putHeader, putU16 } from '../core/index.js';
import { headerLength4, putChecksum4 } from './wire/ipv4.js';

const MORE_FRAGMENTS = 0x2000;

/** Cuts one packet after the other; holds no bytes of its own. */
export class Fragmenter {
  private from: Buffer = Buffer.alloc(0);
  private p = 0;
  private header = 0;
  private chunk = 0;
  private payload = 0;
  private done = 0;

  /** Starts on the plain IPv4 packet of the frame at `off`. False when `mtu` has no room for 8 bytes of payload. */
  begin(from: Buffer, off: number, mtu: number): boolean {
    this.from = from;
    this.p = off + HEADER;
    this.header = headerLength4(from, this.p);
    // All fragments but the last carry a multiple of 8 bytes.
    this.chunk = (mtu - this.header) & ~7;
    this.payload = lengthAt(from, off) - this.header;
    this.done = 0;
    return this.chunk >= 8;
  }

  /** Room that `next` needs. */
  get frameBytes(): number {
    return HEADER + this.header + this.chunk;
  }

  /** Writes the next fragment's frame at `at`; returns where it ends, or 0 when there is none left. */
  next(to: Buffer, at: number): number {
    if (this.done >= this.payload) return 0;
    const bytes = Math.min(this.chunk, this.payload - this.done);
    const p = at + HEADER;
    putHeader(to, at, 0, 0, 0, this.header + bytes);
    this.from.copy(to, p, this.p, this.p + this.header);
    const data = this.p + this.header + this.done;
    this.from.copy(to, p + this.header, data, data + bytes);
    if (this.done > 0) dropUncopiedOptions(to, p + 20, p + this.header);
    // The packet may be a fragment itself: offsets add up, and its last piece keeps its own "more" bit.
    const field = getU16(to, p + 6);
    const more = this.done + bytes < this.payload ? MORE_FRAGMENTS : 0;
    putU16(to, p + 6, (field + (this.done >>> 3)) | more);
    putU16(to, p + 2, this.header + bytes);
    putChecksum4(to, p);
    this.done += bytes;
    return p + this.header + bytes;
  }
}

/** RFC 791 §3.1: options without the copied bit stay in the first fragment; here they become no-operations. */
function dropUncopiedOptions(buf: Uint8Array, start: number, end: number): void {
  for (let i = start; i < end; ) {
    const type = buf[i]!;
    if (type === 0) return;
    const length = type === 1 ? 1 : Math.max(2, buf[i + 1] ?? 2);
    if ((type & 0x80) === 0) buf.fill(1, i, Math.min(end, i + length));
    i += length;
  }
}

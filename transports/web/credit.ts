// Core: flow control for streams that have none on the receiving side. Both ends speak in records:
//
//   0, length (u24), bytes          data
//   1, count (u32)                  credit: that many more bytes may be sent
//
// Each end may send WINDOW bytes ahead of what the other has consumed, so a receiver that is not read holds WINDOW bytes
// and no more; a sender beyond its credit is cut off.

/** Bytes in flight or unread, per direction. */
export const WINDOW = 1024 * 1024;
const DATA = 0;
const CREDIT = 1;
const HEADER = 4;
/** Credit goes back in pieces of at least this. */
const CREDIT_STEP = WINDOW / 8;
export const MAX_RECORD = 64 * 1024;

export class CreditFlow {
  /** Bytes that may be sent now. */
  credit = WINDOW;
  /** Why the peer is to be cut off, or null. */
  error: string | null = null;
  private allowed = WINDOW;
  private owed = 0;
  private partial: Buffer = Buffer.alloc(0);
  private inRecord = 0;

  /** Bytes from the wire; `onData` gets what they carry, in order (views, valid until it returns). */
  handleBytes(chunk: Uint8Array, onData: (bytes: Uint8Array) => void): void {
    let bytes = chunk;
    if (this.partial.length > 0) {
      bytes = Buffer.concat([this.partial, chunk]);
      this.partial = Buffer.alloc(0);
    }
    let off = 0;
    while (off < bytes.length && this.error === null) {
      if (this.inRecord > 0) {
        const n = Math.min(this.inRecord, bytes.length - off);
        this.inRecord -= n;
        onData(bytes.subarray(off, off + n));
        off += n;
        continue;
      }
      const type = bytes[off]!;
      const size = type === CREDIT ? 1 + 4 : HEADER;
      if (type !== DATA && type !== CREDIT) {
        this.error = `a record of unknown type ${type}`;
      } else if (bytes.length - off < size) {
        this.partial = Buffer.from(bytes.subarray(off));
        return;
      } else {
        if (type === DATA) this.beginData((bytes[off + 1]! << 16) | (bytes[off + 2]! << 8) | bytes[off + 3]!);
        else this.addCredit(Buffer.from(bytes.buffer, bytes.byteOffset + off + 1, 4).readUInt32BE(0));
        off += size;
      }
    }
  }

  /** The application has taken n bytes. Returns the record that gives them back, when it is due. */
  consumed(n: number): Uint8Array | null {
    this.owed += n;
    if (this.owed < CREDIT_STEP) return null;
    const record = Buffer.alloc(5);
    record[0] = CREDIT;
    record.writeUInt32BE(this.owed, 1);
    this.allowed += this.owed;
    this.owed = 0;
    return record;
  }

  /** Header of a data record of n bytes, which has to be within `credit` and MAX_RECORD. */
  record(n: number): Uint8Array {
    this.credit -= n;
    return Uint8Array.of(DATA, n >>> 16, n >>> 8, n);
  }

  private beginData(length: number): void {
    this.inRecord = length;
    this.allowed -= length;
    if (this.allowed < 0) this.error = 'the peer sent more than it was allowed to';
    if (length > MAX_RECORD) this.error = 'a record longer than allowed';
  }

  private addCredit(n: number): void {
    this.credit += n;
    if (this.credit > WINDOW) this.error = 'more credit than was ever used';
  }
}

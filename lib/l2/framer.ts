// Core: received bytes in a slab -> whole frames. Tolerant of any split; the length is checked before room is made for it.

import { HEADER, type L2ErrorCode, lengthAt } from '../core/index.js';
import { FrameType, maxPayload } from './wire/frame.js';

export interface FrameSink {
  /** A run of whole packet frames, back to back. Returns false to stop parsing (the connection is over). */
  onPackets(start: number, end: number): boolean;
  /** One whole control frame at `off`. Returns false to stop parsing. */
  onControlFrame(type: number, off: number, length: number): boolean;
}

/** Parses buf[start, end). Keeps only what has to outlive a call: what is missing of the frame at the end. */
export class Framer {
  /** Why parsing stopped for good, or null. */
  error: L2ErrorCode | null = null;
  /** Bytes that the frame at the end needs in all, its header included; HEADER while the header itself is cut. */
  needed = HEADER;
  frames = 0;

  /** Delivers every whole frame and returns the offset of the first byte not consumed. `open`: the hello is done. */
  parse(buf: Uint8Array, start: number, end: number, isOpen: () => boolean, sink: FrameSink): number {
    let off = start;
    let runStart = start;
    this.needed = HEADER;
    let open = isOpen();
    while (this.error === null && end - off >= HEADER) {
      const type = buf[off]!;
      const length = lengthAt(buf, off);
      if (length > maxPayload(type, open)) {
        this.error = 'ERR_FRAME_TOO_LONG';
        break;
      }
      if (type === FrameType.packet && !open) {
        this.error = 'ERR_FRAME_MALFORMED'; // packets before the hello
        break;
      }
      if (end - off - HEADER < length) {
        this.needed = HEADER + length;
        break;
      }
      this.frames++;
      if (type === FrameType.packet) {
        off += HEADER + length;
        continue;
      }
      // Order between packets and control is kept: the run so far goes first.
      if (off > runStart && !sink.onPackets(runStart, off)) return off;
      const more = sink.onControlFrame(type, off + HEADER, length);
      off += HEADER + length;
      runStart = off;
      if (!more) return off;
      open = isOpen();
    }
    if (off > runStart) sink.onPackets(runStart, off);
    return off;
  }
}

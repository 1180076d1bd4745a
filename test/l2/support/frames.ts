// Frames for tests of links: small UDP packets that carry their flow and a number.

import { getU32, HEADER, lengthAt, putHeader, putU16, putU32, Slab } from '../../../lib/core/index.js';

const IP_UDP = 28;

/** A frame with a UDP packet of flow `flow` (its source port) and number `number`; `length` is the packet's. */
export function numbered(flow: number, number: number, length = IP_UDP + 4): Buffer {
  const frame = Buffer.alloc(HEADER + length);
  putHeader(frame, 0, 0, 0, 0, length);
  const p = HEADER;
  frame[p] = 0x45;
  putU16(frame, p + 2, length);
  frame[p + 8] = 64;
  frame[p + 9] = 17;
  putU32(frame, p + 12, 0x0a500001);
  putU32(frame, p + 16, 0x0a500002);
  putU16(frame, p + 20, flow);
  putU16(frame, p + 22, 9);
  putU32(frame, p + IP_UDP, number);
  return frame;
}

export const slabOf = (...frames: Uint8Array[]) => Slab.of(Buffer.concat(frames));

/** [flow, number] of every packet of a run. */
export function readNumbered(buf: Uint8Array, start: number, end: number): [number, number][] {
  const found: [number, number][] = [];
  for (let off = start; off < end; off += HEADER + lengthAt(buf, off)) {
    const p = off + HEADER;
    found.push([(buf[p + 20]! << 8) | buf[p + 21]!, getU32(buf, p + IP_UDP)]);
  }
  return found;
}

// What makes lost datagrams repairable (docs/spec/frame.md §8.1). None of it ever travels on a stream.
//
//     number   after the packets of a datagram        report   from the receiver                 probe    from the sender
//     0     type 0x06                                 0     type 0x07                            0     type 0x08
//     1     lane                                      1     ranges that follow                   1..3  0
//     2..3  order, of the datagrams of the lane       2..3  0                                    4..7  next number to be sent
//     4..7  number, of all such datagrams             4..7  floor: all below is settled
//                                                     8..   ranges missing: first (u32), length (u16)

import { getU16, getU32, putU16, putU32 } from '../../core/index.js';

export const RepairType = { number: 0x06, report: 0x07, probe: 0x08 } as const;

/** Bytes of a number, of a probe, and of the head of a report. */
export const REPAIR_HEAD = 8;
const RANGE = 6;
export const MAX_RANGES = 100;
/** Largest report. */
export const REPORT_BYTES = REPAIR_HEAD + MAX_RANGES * RANGE;

export function putNumber(buf: Uint8Array, off: number, lane: number, order: number, number: number): void {
  buf[off] = RepairType.number;
  buf[off + 1] = lane;
  putU16(buf, off + 2, order);
  putU32(buf, off + 4, number);
}

export function putProbe(buf: Uint8Array, off: number, next: number): void {
  putU32(buf, off, RepairType.probe << 24);
  putU32(buf, off + 4, next);
}

/** Writes the head of a report; the ranges have been written with `putRange`. Returns its length. */
export function putReport(buf: Uint8Array, off: number, ranges: number, floor: number): number {
  putU32(buf, off, (RepairType.report << 24) | (ranges << 16));
  putU32(buf, off + 4, floor);
  return REPAIR_HEAD + ranges * RANGE;
}

export function putRange(buf: Uint8Array, off: number, index: number, first: number, length: number): void {
  const at = off + REPAIR_HEAD + index * RANGE;
  putU32(buf, at, first);
  putU16(buf, at + 4, length);
}

/** Number of ranges of a report of `length` bytes; -1: it is none. */
export function rangesOf(buf: Uint8Array, off: number, length: number): number {
  const ranges = buf[off + 1]!;
  return ranges <= MAX_RANGES && length === REPAIR_HEAD + ranges * RANGE ? ranges : -1;
}

export const getLane = (buf: Uint8Array, off: number) => buf[off + 1]!;
export const getOrder = (buf: Uint8Array, off: number) => getU16(buf, off + 2);
/** The number; of a report its floor, of a probe the next number. */
export const getNumber = (buf: Uint8Array, off: number) => getU32(buf, off + 4);
export const rangeFirst = (buf: Uint8Array, off: number, index: number) =>
  getU32(buf, off + REPAIR_HEAD + index * RANGE);
export const rangeLength = (buf: Uint8Array, off: number, index: number) =>
  getU16(buf, off + REPAIR_HEAD + index * RANGE + 4);

/** Distance from b to a in numbers mod 2^32 (RFC 1982). */
export const numberDiff = (a: number, b: number) => (a - b) | 0;
/** The same of orders, mod 2^16. */
export const orderDiff = (a: number, b: number) => ((a - b) << 16) >> 16;

// Frame types and bounds; the header itself is the packet header of core/packet.ts. Specified in docs/spec/frame.md.

import { HEADER, MAX_PACKET, putHeader, TYPE_PACKET } from '../../core/index.js';

export const FrameType = {
  packet: TYPE_PACKET,
  hello: 0x01,
  ping: 0x02,
  pong: 0x03,
  goodbye: 0x04,
  /** A message of the layer above, opaque here. */
  control: 0x05,
} as const;

/** Set in a type: a receiver that does not know the type must close. */
export const CRITICAL = 0x80;

/** Largest payload of a control frame once the hello is done, and before. */
export const MAX_CONTROL = 64 * 1024;
export const MAX_HELLO = 4 * 1024;

/** Largest payload of a frame of `type`. */
export function maxPayload(type: number, open: boolean): number {
  if (!open) return MAX_HELLO;
  return type === FrameType.packet ? MAX_PACKET : MAX_CONTROL;
}

/** A whole control frame. */
export function controlFrame(type: number, payload: Uint8Array): Uint8Array {
  const frame = new Uint8Array(HEADER + payload.length);
  putHeader(frame, 0, type, 0, 0, payload.length);
  frame.set(payload, HEADER);
  return frame;
}

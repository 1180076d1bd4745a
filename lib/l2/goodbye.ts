// Core: the last frame of a connection. It says why, for the user of the other side; so its text is bounded and, since
// it ends in logs and on terminals, printable.

import type { ErrorCode } from '../core/index.js';
import { kubebus } from './gen/messages.js';
import { controlFrame, FrameType } from './wire/frame.js';

export interface GoodbyeInfo {
  readonly retryAfterMs: number;
  readonly permanent: boolean;
  /** Where to dial from now on, before the addresses that were configured. */
  readonly addresses: readonly string[];
}

/** Characters of the message; in UTF-8 it fits a frame before the hello. */
export const MAX_GOODBYE_TEXT = 1000;
/** Addresses that are taken from a goodbye, and characters of one. */
export const MAX_GOODBYE_ADDRESSES = 8;
export const MAX_ADDRESS_TEXT = 300;
/** A peer cannot send a node away for longer. */
export const MAX_RETRY_AFTER_MS = 300_000;

export function goodbyePayload(code: ErrorCode, message: string, info: Partial<GoodbyeInfo> = {}): Uint8Array {
  const { addresses = [], ...rest } = info;
  const text = printable(message, MAX_GOODBYE_TEXT);
  return kubebus.l2.Goodbye.encode({ code, message: text, addresses: [...addresses], ...rest }).finish();
}

/** A whole frame, for a peer that is refused before there is a connection. */
export function goodbyeFrame(code: ErrorCode, message: string, info: Partial<GoodbyeInfo> = {}): Uint8Array {
  return controlFrame(FrameType.goodbye, goodbyePayload(code, message, info));
}

/** Text of a peer, without what a terminal would obey. */
export function printable(text: string, max: number): string {
  return text.slice(0, max).replace(/[\p{Cc}\p{Cf}\p{Cs}\u2028\u2029]/gu, '\ufffd');
}

// What the two shapes of an addon's socket, ByteStream and Duplex, need of it.

import type { NativeStream } from '../../native/loader.mjs';

/** Events of the addon. */
export const READABLE = 1;
export const DRAINED = 2;
export const SECURED = 3;
export const FAILED = 4;

/** Added to what a read returns when the next one has some at once. */
export const MORE = 2 ** 30;

/** A connected socket whose events somebody wants. */
export interface OpenSocket {
  readonly handle: NativeStream;
  /** Events go to `listener` from now on; READABLE comes at least once. */
  open(listener: (event: number) => void): void;
  destroy(): void;
  onClosed(closed: () => void): void;
}

export function nativeError(handle: NativeStream): Error {
  const [code, message] = handle.error ?? ['ECONNRESET', 'the connection was lost'];
  return Object.assign(new Error(message), { code });
}

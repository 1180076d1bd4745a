// Edge: an address for the name that a datagram socket is given.

import { isIP } from 'node:net';
import type { LookupFunction } from './connect.js';
import { resolve, type SocketContext } from './context.js';
import { notFound } from './errors.js';

export type Found = (error: Error | null, address: string) => void;

/** Of the socket's family. Addresses come back in the same tick's end, like lookups of libuv do. */
export function findAddress(
  context: SocketContext,
  text: string,
  family: 4 | 6,
  lookup: LookupFunction | undefined,
  done: Found,
): void {
  if (lookup !== undefined) {
    lookup(text, { family, hints: 0, all: false }, (error, address) => {
      if (error) done(error, '');
      else done(null, String(address));
    });
    return;
  }
  const kind = isIP(text);
  if (kind === family) {
    process.nextTick(done, null, text);
    return;
  }
  if (kind !== 0) {
    // What getaddrinfo says to an address of the other family.
    process.nextTick(done, notFound(text), '');
    return;
  }
  resolve(context, text, family).then(
    (found) => (found[0] === undefined ? done(notFound(text), '') : done(null, found[0])),
    (error: unknown) => done(error instanceof Error ? error : notFound(text), ''),
  );
}

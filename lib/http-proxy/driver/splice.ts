// Edge: a connection of the cloud's proxy and one to a local service made one. The bytes are HTTP that the cloud's proxy has written or will
// read, so nothing is looked at here; back-pressure, ends and breaks pass through.

import type { Duplex } from 'node:stream';

interface Connection extends Duplex {
  setTimeout?(ms: number, callback?: () => void): unknown;
  resetAndDestroy?(): unknown;
}

/** How long the far side may take to close a connection that the service has ended. */
const CLOSE_MS = 10_000;

export function splice(overlay: Connection, local: Connection, idleMs: number): void {
  // One timer for both: whatever passes is seen by the local side.
  overlay.setTimeout?.(0);
  local.setTimeout?.(idleMs, () => reset());
  const reset = () => {
    local.destroy();
    if (overlay.resetAndDestroy === undefined) overlay.destroy();
    else overlay.resetAndDestroy();
  };
  overlay.on('data', (chunk: Buffer) => {
    if (local.writable && !local.write(chunk)) overlay.pause();
  });
  local.on('drain', () => overlay.resume());
  // The proxy never half-closes: whose side is at an end has gone, and the service is told at once.
  overlay.on('end', () => local.destroy());
  overlay.on('error', () => {});
  overlay.on('close', () => local.destroy());

  local.on('data', (chunk: Buffer) => {
    if (!overlay.write(chunk)) local.pause();
  });
  overlay.on('drain', () => local.resume());
  local.on('end', () => overlay.end());
  // An answer without a length ends with its connection: a broken one must not look whole.
  local.on('error', reset);
  local.on('close', () => {
    overlay.end();
    overlay.setTimeout?.(CLOSE_MS, () => overlay.destroy());
    overlay.resume();
  });
  if (overlay.destroyed) local.destroy();
}

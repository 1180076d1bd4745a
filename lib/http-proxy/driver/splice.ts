// Edge: a connection of the cloud's proxy and one to a local service made one. The bytes are HTTP that the cloud's proxy has written or will
// read, so nothing is looked at here; back-pressure, ends and breaks pass through.

import type { Duplex } from 'node:stream';
import { giveBack } from '../../l4/index.js';
import type { OnRead } from './upstream.js';

interface Connection extends Duplex {
  setTimeout?(ms: number, callback?: () => void): unknown;
  resetAndDestroy?(): unknown;
  tryWrite?(bytes: Uint8Array): number;
}

/** How long the far side may take to close a connection that the service has ended. */
const CLOSE_MS = 10_000;

/** What services send is read to here, for all connections: what the overlay does not take at once is copied. Node reads as much at a time. */
let shared: Buffer | null = null;

export class Splice {
  /** For the connection to the service. */
  readonly onread: OnRead;
  private local: Connection | null = null;

  constructor(private readonly overlay: Connection) {
    shared ??= Buffer.allocUnsafeSlow(65_536);
    // A buffer for each read would be collected, and 64 KiB for each KiB read set off a collection of everything.
    this.onread = { buffer: shared, callback: (bytes) => this.forth(shared!.subarray(0, bytes), true) };
  }

  join(local: Connection, idleMs: number): void {
    const { overlay } = this;
    this.local = local;
    const reset = () => {
      local.destroy();
      if (overlay.resetAndDestroy === undefined) overlay.destroy();
      else overlay.resetAndDestroy();
    };
    // One timer for both: whatever passes is seen by the local side.
    overlay.setTimeout?.(0);
    local.setTimeout?.(idleMs, reset);
    overlay.on('data', (chunk: Buffer) => {
      if (!local.writable) return;
      if (!local.write(chunk)) overlay.pause();
      // The system has taken it all.
      if (local.writableLength === 0) giveBack(chunk);
    });
    local.on('drain', () => overlay.resume());
    // The proxy never half-closes: whose side is at an end has gone, and the service is told at once.
    overlay.on('end', () => local.destroy());
    overlay.on('error', () => {});
    overlay.on('close', () => local.destroy());

    // Silent where `onread` is used.
    local.on('data', (chunk: Buffer) => this.forth(chunk, false));
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

  /** From the service to the overlay; false: no more until 'drain'. `lent`: the bytes are another's after this call. */
  private forth(chunk: Buffer, lent: boolean): boolean {
    const { overlay } = this;
    const taken = overlay.tryWrite?.(chunk) ?? 0;
    if (taken === chunk.length) return true;
    const rest = chunk.subarray(taken);
    if (overlay.write(lent ? Buffer.from(rest) : rest)) return true;
    this.local?.pause();
    return false;
  }
}

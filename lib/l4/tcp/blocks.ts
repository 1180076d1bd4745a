// Blocks of 64 KiB for what waits to be sent and to be read, used again: memory outside of the collector's heap makes it collect everything
// when enough of it was taken, at 200 MB/s several times a second.

export const BLOCK = 65_536;
/** As many as a handful of busy connections hold at once: 8 MiB. */
const MAX_FREE = 128;
const free: Buffer[] = [];

export function takeBlock(): Buffer {
  return free.pop() ?? Buffer.allocUnsafeSlow(BLOCK);
}

/** Nobody uses it any more, nor any view of it. */
export function putBlock(block: Buffer): void {
  if (free.length < MAX_FREE) free.push(block);
}

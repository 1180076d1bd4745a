// Bytes from one buffer to another. JavaScript has no call for that without a view of the source, which is an allocation and costs
// as much time as a kilobyte of bytes (measured on Node 20; Buffer.copy makes one too, and takes twice as long): so small pieces go byte by
// byte, and callers put what they can into one large piece.

/** Up to this many bytes a loop is faster than a view. */
const FEW = 32;

/** Copies source[start, start + length) to target[at...]. */
export function copyBytes(source: Uint8Array, start: number, length: number, target: Uint8Array, at: number): void {
  if (length <= FEW) {
    for (let i = 0; i < length; i++) target[at + i] = source[start + i]!;
    return;
  }
  // Not `subarray`: that of a Buffer costs half as much again.
  target.set(new Uint8Array(source.buffer, source.byteOffset + start, length), at);
}

/** A copy of buf[start, end). Not `slice`: that of a Buffer shares memory. */
export function copyOf(buf: Uint8Array, start: number, end: number): Uint8Array {
  return new Uint8Array(buf.subarray(start, end));
}

// Sequence numbers: RFC 9293 §3.4. Read first: nothing.
//
// A Seq is kept as a signed 32-bit integer: V8 stores those inline, while an unsigned value above 2^31 would be a heap
// number per field. Never compare two of them with < or >: the functions below are the only arithmetic.

/** A sequence number modulo 2^32, stored as a signed 32-bit integer. */
export type Seq = number & { readonly __seq?: never };

export function seq(value: number): Seq {
  return value | 0;
}

export function seqAdd(a: Seq, n: number): Seq {
  return (a + n) | 0;
}

/** How far `a` lies after `b`: negative when it lies before. Exact within +-2^31. */
export function seqDiff(a: Seq, b: Seq): number {
  return (a - b) | 0;
}

export function seqLt(a: Seq, b: Seq): boolean {
  return ((a - b) | 0) < 0;
}

export function seqLe(a: Seq, b: Seq): boolean {
  return ((a - b) | 0) <= 0;
}

export function seqGt(a: Seq, b: Seq): boolean {
  return ((a - b) | 0) > 0;
}

export function seqGe(a: Seq, b: Seq): boolean {
  return ((a - b) | 0) >= 0;
}

export function seqMax(a: Seq, b: Seq): Seq {
  return ((a - b) | 0) >= 0 ? a : b;
}

export function seqMin(a: Seq, b: Seq): Seq {
  return ((a - b) | 0) <= 0 ? a : b;
}

/** start <= a < start + length. */
export function seqIn(a: Seq, start: Seq, length: number): boolean {
  const d = (a - start) | 0;
  return d >= 0 && d < length;
}

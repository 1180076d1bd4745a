// A body that both sides can make, and its hash.

import { createHash } from 'node:crypto';

export function body(bytes: number): Buffer {
  const out = Buffer.alloc(bytes);
  for (let i = 0; i < bytes; i++) out[i] = (i * 131) ^ (i >>> 9);
  return out;
}

export const hash = (data: Uint8Array): string => createHash('sha256').update(data).digest('hex');

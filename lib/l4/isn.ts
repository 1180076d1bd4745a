// Initial sequence numbers and timestamp offsets: RFC 6528, RFC 7323 §5.4.

import type { Micros, Random } from '../core/index.js';
import { type SipKey, sipHash, sipKey } from './siphash.js';

/** The addresses and ports of a connection as words for a keyed hash; returns how many words were written. */
export function tupleWords(
  out: Int32Array,
  local: Uint8Array,
  localPort: number,
  remote: Uint8Array,
  remotePort: number,
): number {
  let n = 0;
  out[n++] = (localPort << 16) | remotePort;
  for (let i = 0; i < local.length; i += 4) out[n++] = word(local, i);
  for (let i = 0; i < remote.length; i += 4) out[n++] = word(remote, i);
  return n;
}

/** Room for the words of an IPv6 tuple and two more. */
export const TUPLE_WORDS = 11;

function word(b: Uint8Array, i: number): number {
  return (b[i]! << 24) | (b[i + 1]! << 16) | (b[i + 2]! << 8) | b[i + 3]!;
}

export class IsnGenerator {
  private readonly key: SipKey;
  private readonly words = new Int32Array(TUPLE_WORDS);
  private readonly out = new Int32Array(2);

  constructor(random: Random) {
    this.key = sipKey(random);
  }

  /** RFC 6528 §3: ISN = M + F(tuple, secret), M one step every 4 microseconds. */
  isn(now: Micros, local: Uint8Array, localPort: number, remote: Uint8Array, remotePort: number): number {
    this.hash(local, localPort, remote, remotePort);
    return (Math.floor(now / 4) + this.out[0]!) | 0;
  }

  /** RFC 7323 §5.4: a random offset per tuple, so that timestamps tell neither uptime nor that two flows share a host. */
  tsOffset(local: Uint8Array, localPort: number, remote: Uint8Array, remotePort: number): number {
    this.hash(local, localPort, remote, remotePort);
    return this.out[1]!;
  }

  private hash(local: Uint8Array, localPort: number, remote: Uint8Array, remotePort: number): void {
    sipHash(this.key, this.words, tupleWords(this.words, local, localPort, remote, remotePort), this.out);
  }
}

// Ephemeral ports: RFC 6056 §3.3.4, "double-hash port selection". A port is never the next one after the last for
// somebody who sees only his own connections, and ports are reused as late as possible per destination.

import type { Random } from '../core/index.js';
import { TUPLE_WORDS, tupleWords } from './isn.js';
import { type SipKey, sipHash, sipKey } from './siphash.js';

/** RFC 6335 §6. Deviation: RFC 6056 §3.2 asks for 1024 up; below 49152 live the servers of this world, and 16,384 per destination suffice. */
export const EPHEMERAL_FIRST = 49_152;
export const EPHEMERAL_LAST = 65_535;

const COUNTERS = 64;

export class EphemeralPorts {
  private readonly key: SipKey;
  private readonly table = new Uint16Array(COUNTERS);
  private readonly words = new Int32Array(TUPLE_WORDS);
  private readonly out = new Int32Array(2);

  constructor(
    private readonly random: Random,
    readonly first = EPHEMERAL_FIRST,
    readonly last = EPHEMERAL_LAST,
  ) {
    this.key = sipKey(random);
    for (let i = 0; i < COUNTERS; i++) this.table[i] = random.u32();
  }

  /** A port for a connection to `remote`; `free` says whether a candidate may be used. 0: all are taken. */
  forConnection(local: Uint8Array, remote: Uint8Array, remotePort: number, free: (port: number) => boolean): number {
    sipHash(this.key, this.words, tupleWords(this.words, local, 0, remote, remotePort), this.out);
    const count = this.last - this.first + 1;
    const offset = this.out[0]! >>> 0;
    const index = this.out[1]! & (COUNTERS - 1);
    for (let i = 0; i < count; i++) {
      const port = this.first + ((offset + this.table[index]!++) % count);
      if (free(port)) return port;
    }
    return 0;
  }

  /** A port for a listener or a datagram socket: random (RFC 6056 §3.3.1). 0: all are taken. */
  forBinding(free: (port: number) => boolean): number {
    const count = this.last - this.first + 1;
    const start = this.random.u32() % count;
    for (let i = 0; i < count; i++) {
      const port = this.first + ((start + i) % count);
      if (free(port)) return port;
    }
    return 0;
  }
}

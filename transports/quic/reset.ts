// Core: stateless resets (RFC 9000 §10.3). A listener that was restarted does not know the connections of before; a reset is
// all that it can say to their packets, and it ends them at once instead of after the dead-peer time.

import { createHmac, randomFillSync } from 'node:crypto';

/** Bytes of a connection id, and of a token. */
const ID = 20;
const TOKEN = 16;
/** A receiver takes it for a short packet at first: header byte, id, packet number and the sample of header protection must be there. */
const MIN_LENGTH = 1 + ID + 4 + TOKEN;
const MAX_LENGTH = MIN_LENGTH + 8;
const PER_SECOND = 1_000;

export class StatelessResets {
  private readonly key: Buffer;
  private second = 0;
  private sent = 0;

  /** The tokens have to be the same after a restart, so they are made from a secret that stays: the listener's private key (RFC 9000 §10.3.2). */
  constructor(secret: string) {
    this.key = createHmac('sha256', secret).update('kubebus quic stateless reset').digest();
  }

  token(id: Uint8Array): bigint {
    return BigInt(`0x${this.mac(id).toString('hex')}`);
  }

  /** The answer to a packet of `length` bytes for a connection that is not known, or null. `now` in milliseconds. */
  answer(now: number, id: Uint8Array, length: number): Buffer | null {
    // RFC 9000 §10.3.3: smaller than what it answers, so two who do not know each other fall silent.
    const size = Math.min(length - 1, MAX_LENGTH);
    const second = Math.floor(now / 1_000);
    if (second !== this.second) {
      this.second = second;
      this.sent = 0;
    }
    if (size < MIN_LENGTH || this.sent >= PER_SECOND) return null;
    this.sent++;
    const packet = Buffer.allocUnsafe(size);
    randomFillSync(packet, 0, size - TOKEN);
    packet[0] = 0x40 | (packet[0]! & 0x3f);
    this.mac(id).copy(packet, size - TOKEN);
    return packet;
  }

  private mac(id: Uint8Array): Buffer {
    return createHmac('sha256', this.key).update(id).digest().subarray(0, TOKEN);
  }
}

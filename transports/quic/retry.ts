// Core: tokens of RETRY packets (RFC 9000 §8.1.2). While many handshakes are open, a client has to show that it receives
// at its address before anything is kept for it: the token carries what would have been kept, and its authenticator.

import { createHmac, randomBytes, timingSafeEqual } from 'node:crypto';

const MAC = 16;
/** Milliseconds: the answer to a RETRY comes at once. */
const LIFETIME = 10_000;

export class RetryTokens {
  private readonly key = randomBytes(32);

  /** For a client at `address` whose first packet had the destination id `odcid`. `now` in milliseconds. */
  make(now: number, address: string, odcid: Uint8Array): Uint8Array {
    const body = Buffer.alloc(8 + odcid.length);
    body.writeDoubleBE(now + LIFETIME, 0);
    body.set(odcid, 8);
    return Buffer.concat([this.mac(body, address), body]);
  }

  /** The original destination id, or null: not ours, expired, or for another address. */
  open(now: number, address: string, token: Uint8Array): Uint8Array | null {
    if (token.length < MAC + 8 || token.length > MAC + 8 + 20) return null;
    const body = Buffer.from(token.subarray(MAC));
    if (!timingSafeEqual(this.mac(body, address), token.subarray(0, MAC))) return null;
    return now > body.readDoubleBE(0) ? null : Uint8Array.from(body.subarray(8));
  }

  private mac(body: Uint8Array, address: string): Buffer {
    return createHmac('sha256', this.key).update(address).update('\0').update(body).digest().subarray(0, MAC);
  }
}

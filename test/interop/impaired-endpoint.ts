// A bad network between our sockets and the rest of a real overlay: seeded loss, reordering, duplication, corruption, and a
// narrow path, which either says so (ICMP) or swallows what is too big (a black hole). On the real clock.

import { HEADER, lengthAt, MS, type Random, Slab, seededRandom, systemClock } from '../../lib/core/index.js';
import { TOO_BIG, writeError } from '../../lib/l3/icmp.js';
import type { IpEndpoint, IpEndpointHandler } from '../../lib/l3/index.js';

export interface Impairment {
  readonly loss?: number;
  readonly reorder?: number;
  readonly duplicate?: number;
  readonly corrupt?: number;
  /** Largest packet that passes. */
  readonly narrow?: number;
  /** What is too big is dropped without a word. */
  readonly blackHole?: boolean;
}

export function impairedEndpoint(inner: IpEndpoint, impairment: Impairment, seed: number, mtu: number): IpEndpoint {
  const random = seededRandom(seed);
  return {
    get addresses() {
      return inner.addresses;
    },
    mtuTo: (destination) => inner.mtuTo(destination),
    offloadTo: () => false,
    partialChecksumsTo: () => false,
    send(slab, start, end) {
      each(slab, start, end, (frame) =>
        pass(
          frame,
          impairment,
          random,
          mtu,
          (f) => inner.send(Slab.of(f), 0, f.length),
          (error) => deliver(error),
        ),
      );
    },
    attach(handler: IpEndpointHandler) {
      deliver = (frame) => handler.onPackets(Slab.of(frame), 0, frame.length);
      inner.attach({
        claims: (buf, off) => handler.claims(buf, off),
        onChange: () => handler.onChange(),
        onPackets(slab, start, end) {
          each(slab, start, end, (frame) =>
            pass(
              frame,
              impairment,
              random,
              mtu,
              (f) => deliver(f),
              (error) => inner.send(Slab.of(error), 0, error.length),
            ),
          );
        },
      });
    },
  };
}

let deliver: (frame: Uint8Array) => void = () => {};

function each(slab: Slab, start: number, end: number, fn: (frame: Uint8Array) => void): void {
  for (let off = start; off < end; ) {
    const next = off + HEADER + lengthAt(slab.bytes, off);
    fn(Uint8Array.from(slab.bytes.subarray(off, next)));
    off = next;
  }
}

function pass(
  frame: Uint8Array,
  im: Impairment,
  random: Random,
  mtu: number,
  on: (frame: Uint8Array) => void,
  back: (error: Uint8Array) => void,
): void {
  if (im.narrow !== undefined && frame.length - HEADER > im.narrow) {
    if (im.blackHole !== true) back(tooBig(frame, im.narrow, mtu));
    return;
  }
  if (random.float() < (im.loss ?? 0)) return;
  if (random.float() < (im.duplicate ?? 0)) on(Uint8Array.from(frame));
  if (random.float() < (im.corrupt ?? 0)) frame[frame.length - 1]! ^= 0x10;
  if (random.float() < (im.reorder ?? 0)) systemClock.at(systemClock.now() + 3 * MS, () => on(frame));
  else on(frame);
}

/** As a router on the way would say it; in the name of the destination, which the overlay's source checks let pass. */
function tooBig(frame: Uint8Array, narrow: number, mtu: number): Uint8Array {
  const v4 = frame[HEADER]! >>> 4 === 4;
  const destination = v4 ? frame.slice(HEADER + 16, HEADER + 20) : frame.slice(HEADER + 24, HEADER + 40);
  const out = new Uint8Array(2_000);
  return out.subarray(0, writeError(out, 0, TOO_BIG, narrow, destination, frame, HEADER, frame.length - HEADER, mtu));
}

// Chance, injected: systemRandom in production, seededRandom in tests and the simulator.
import { randomFillSync } from 'node:crypto';

export interface Random {
  /** Uniform in [0, 2^32). */
  u32(): number;
  /** Uniform in [0, 1). */
  float(): number;
  fill(bytes: Uint8Array): void;
}

const pool = new Uint32Array(256);
let used = pool.length;

/** Cryptographically strong. */
export const systemRandom: Random = {
  u32() {
    if (used === pool.length) {
      randomFillSync(pool);
      used = 0;
    }
    return pool[used++]!;
  },
  float() {
    return systemRandom.u32() / 0x1_0000_0000;
  },
  fill(bytes) {
    randomFillSync(bytes);
  },
};

/** Deterministic (xoshiro128**, Blackman and Vigna 2018); never for secrets. */
export function seededRandom(seed: number): Random {
  // splitmix32 spreads a small seed over the whole state.
  let s = seed >>> 0;
  const next = () => {
    s = (s + 0x9e3779b9) >>> 0;
    let z = s;
    z = Math.imul(z ^ (z >>> 16), 0x21f0aaad);
    z = Math.imul(z ^ (z >>> 15), 0x735a2d97);
    return (z ^ (z >>> 15)) >>> 0;
  };
  let a = next();
  let b = next();
  let c = next();
  let d = next();
  const u32 = () => {
    const m = Math.imul(b, 5);
    const result = Math.imul((m << 7) | (m >>> 25), 9) >>> 0;
    const t = b << 9;
    c ^= a;
    d ^= b;
    b ^= c;
    a ^= d;
    c ^= t;
    d = (d << 11) | (d >>> 21);
    return result;
  };
  return {
    u32,
    float: () => u32() / 0x1_0000_0000,
    fill(bytes) {
      for (let i = 0; i < bytes.length; i++) bytes[i] = u32();
    },
  };
}

// Edge: several ways to the same thing, tried one after the other without waiting for the one before to fail
// (RFC 8305 §5, "Happy Eyeballs"). The first that succeeds wins; the others are aborted.

import type { Clock, Micros } from './clock.js';

export interface Attempt<T> {
  /** Rejects when aborted. A result that comes too late all the same is handed to `discard`. */
  start(signal: AbortSignal): Promise<T>;
  /** Head start before the next one begins; it begins at once when this one fails. */
  readonly headStart: Micros;
}

export interface RaceResult<T> {
  readonly value: T;
  /** Index of the attempt that won. */
  readonly winner: number;
  /** Why those before it in the order did not win; undefined for one that had simply not finished. */
  readonly failures: readonly (Error | undefined)[];
}

/** All attempts failed; `errors` in their order. */
export class RaceError extends Error {
  constructor(readonly errors: readonly Error[]) {
    super(errors.map((e) => e.message).join('; '));
  }
}

/** Rejects with RaceError, or with the reason of `signal`. */
export function race<T>(
  attempts: readonly Attempt<T>[],
  clock: Clock,
  signal: AbortSignal,
  discard: (late: T) => void,
): Promise<RaceResult<T>> {
  return new Promise((resolve, reject) => {
    const running = new Map<number, AbortController>();
    const failures: (Error | undefined)[] = attempts.map(() => undefined);
    let next = 0;
    let over = false;
    let timer = clock.at(clock.now(), () => {});
    const finish = () => {
      over = true;
      timer.cancel();
      signal.removeEventListener('abort', aborted);
      for (const controller of running.values()) controller.abort();
    };
    const aborted = () => {
      finish();
      reject(signal.reason as Error);
    };
    const begin = () => {
      timer.cancel();
      if (over || next >= attempts.length) return;
      const index = next++;
      const controller = new AbortController();
      running.set(index, controller);
      attempts[index]!.start(controller.signal).then(
        (value) => {
          running.delete(index);
          if (over) return discard(value);
          finish();
          resolve({ value, winner: index, failures: failures.slice(0, index) });
        },
        (cause: unknown) => {
          running.delete(index);
          failures[index] = cause instanceof Error ? cause : new Error(String(cause));
          if (over) return;
          if (next < attempts.length) return begin();
          if (running.size > 0) return;
          finish();
          reject(new RaceError(failures as Error[]));
        },
      );
      timer = clock.at(clock.now() + attempts[index]!.headStart, begin);
    };
    if (signal.aborted) return aborted();
    signal.addEventListener('abort', aborted, { once: true });
    begin();
  });
}

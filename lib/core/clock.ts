// Time, injected. Cores get `now` as an argument; only drivers hold a Clock.

/** Microseconds on a clock that never goes back; the zero point is arbitrary. */
export type Micros = number & { readonly __micros?: never };

export interface Timer {
  cancel(): void;
}

export interface Clock {
  now(): Micros;
  /** Calls `fn` once, not before `at`. Never keeps the process alive by itself. */
  at(at: Micros, fn: () => void): Timer;
}

export const NEVER: Micros = Number.POSITIVE_INFINITY;
export const MS = 1_000;
export const SECOND = 1_000_000;

/** The real clock. */
export const systemClock: Clock = {
  now: () => performance.now() * 1_000,
  at(at, fn) {
    const delay = Math.max(0, Math.ceil((at - performance.now() * 1_000) / 1_000));
    // setTimeout fires at once above 2^31-1 ms; the caller re-arms on a spurious wake-up.
    const handle = setTimeout(fn, Math.min(delay, 0x7fffffff));
    handle.unref();
    return { cancel: () => clearTimeout(handle) };
  },
};

/** Longest delay of Node's timers. */
const HOLD_MS = 0x7fffffff;

/** Keeps the process alive while held, as an open socket or a listening server does. Idempotent both ways. */
export class Hold {
  private handle: ReturnType<typeof setInterval> | null = null;

  ref(): void {
    this.handle ??= setInterval(() => {}, HOLD_MS);
  }

  unref(): void {
    if (this.handle !== null) clearInterval(this.handle);
    this.handle = null;
  }
}

/** Rounds by microtask before the event loop gets a turn. */
const ROUNDS = 16;

/**
 * Runs functions soon, in order, each outside the call that asked for it: as microtasks, but every 16th round by way of the
 * event loop, so that two ends that keep each other busy do not starve the process' timers and sockets.
 */
export function turnTaking(): (fn: () => void) => void {
  let waiting: (() => void)[] = [];
  let spare: (() => void)[] = [];
  let scheduled = false;
  let rounds = 0;
  const schedule = () => {
    if (scheduled) return;
    scheduled = true;
    if (++rounds % ROUNDS === 0) setImmediate(run);
    else queueMicrotask(run);
  };
  const run = () => {
    scheduled = false;
    const now = waiting;
    waiting = spare;
    let done = 0;
    try {
      while (done < now.length) now[done++]!();
    } finally {
      // One that threw takes only itself along.
      if (done < now.length) {
        waiting.unshift(...now.slice(done));
        schedule();
      }
      now.length = 0;
      spare = now;
    }
  };
  return (fn) => {
    waiting.push(fn);
    schedule();
  };
}

// Edge: a small JSON document on disk that survives a crash at any instant: it has the old content or the new one.

import { constants } from 'node:fs';
import { mkdir, open, rename, unlink } from 'node:fs/promises';
import { dirname } from 'node:path';
import { type Clock, KubeBusError, type Logger, MS, silentLogger, systemClock, type Timer } from '../core/index.js';

export interface StateFileOptions {
  readonly path: string;
  /** Changes within this time are written once. Milliseconds. **Default:** 50. */
  readonly delayMs?: number;
  /** After a failed write (disk full) the next attempt. Milliseconds. **Default:** 5000. */
  readonly retryMs?: number;
  /** Largest file that is read. **Default:** 64 MiB. */
  readonly maxBytes?: number;
  /** What a damaged file does: stop the start, or step aside (renamed to PATH.damaged). **Default:** 'fail'. */
  readonly damaged?: 'fail' | 'setAside';
  readonly clock?: Clock;
  readonly logger?: Logger;
}

export class StateFile {
  /** What was in the file when it was opened; null if there was none. */
  readonly initial: unknown;
  /** Writes that failed so far; the content stays in memory and is tried again. */
  failures = 0;
  private readonly o: Required<StateFileOptions>;
  private content: (() => unknown) | null = null;
  private timer: Timer | null = null;
  private writing: Promise<void> = Promise.resolve();

  private constructor(options: Required<StateFileOptions>, initial: unknown) {
    this.o = options;
    this.initial = initial;
  }

  get path(): string {
    return this.o.path;
  }

  /** Opens and reads. Throws ERR_STATE when there is a file that cannot be read; a damaged one is never overwritten. */
  static async open(options: StateFileOptions): Promise<StateFile> {
    const full: Required<StateFileOptions> = {
      damaged: 'fail',
      delayMs: 50,
      retryMs: 5_000,
      maxBytes: 64 << 20,
      clock: systemClock,
      logger: silentLogger,
      ...options,
    };
    const fail = (what: string, cause: unknown) =>
      new KubeBusError('ERR_STATE', `${what} ${options.path}: ${(cause as Error).message}`, { cause });
    try {
      await mkdir(dirname(options.path), { recursive: true, mode: 0o700 });
    } catch (cause) {
      throw fail('cannot make the folder of', cause);
    }
    // A crash between writing and renaming leaves this behind.
    await unlink(`${options.path}.new`).catch(() => {});
    let text: string;
    try {
      text = await readBounded(options.path, full.maxBytes);
    } catch (cause) {
      if ((cause as NodeJS.ErrnoException).code === 'ENOENT') return new StateFile(full, null);
      throw fail('cannot read', cause);
    }
    try {
      return new StateFile(full, JSON.parse(text));
    } catch (cause) {
      if (full.damaged === 'fail') throw fail('damaged (restore it, or move it away to start anew):', cause);
      full.logger.warn({ path: options.path }, `damaged: set aside as ${options.path}.damaged`);
      await rename(options.path, `${options.path}.damaged`).catch(() => {});
      return new StateFile(full, null);
    }
  }

  /** Writes what `content` returns, soon; the last call within the delay wins. */
  save(content: () => unknown): void {
    this.content = content;
    this.arm(this.o.delayMs);
  }

  /** Writes now what waits. Rejects with ERR_STATE if that fails. */
  async flush(): Promise<void> {
    this.timer?.cancel();
    this.timer = null;
    const attempt = this.writing.then(() => this.write());
    this.writing = attempt.catch(() => {});
    await attempt;
  }

  private arm(delayMs: number): void {
    this.timer ??= this.o.clock.at(this.o.clock.now() + delayMs * MS, () => {
      this.timer = null;
      this.flush().catch((error: KubeBusError) => {
        // The process goes on without: a full disk is no reason to take the network away.
        this.o.logger.error(
          { err: error, path: this.o.path, retryMs: this.o.retryMs },
          'state not saved, will try again',
        );
        this.arm(this.o.retryMs);
      });
    });
  }

  private async write(): Promise<void> {
    const content = this.content;
    if (content === null) return;
    this.content = null;
    const fresh = `${this.o.path}.new`;
    try {
      // A file of our own making, with the mode that it is made with.
      const file = await open(fresh, constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL, 0o600);
      try {
        await file.writeFile(`${JSON.stringify(content())}\n`);
        await file.sync();
      } finally {
        await file.close();
      }
      await rename(fresh, this.o.path);
      await syncFolder(dirname(this.o.path));
    } catch (cause) {
      this.failures++;
      this.content ??= content;
      await unlink(fresh).catch(() => {});
      throw new KubeBusError('ERR_STATE', `cannot write ${this.o.path}: ${(cause as Error).message}`, { cause });
    }
  }
}

async function readBounded(path: string, maxBytes: number): Promise<string> {
  const file = await open(path, 'r');
  try {
    const { size } = await file.stat();
    if (size > maxBytes) throw new Error(`${size} bytes are more than ${maxBytes}`);
    return await file.readFile('utf8');
  } finally {
    await file.close();
  }
}

/** The new name is on disk only when the folder is. */
async function syncFolder(path: string): Promise<void> {
  const folder = await open(path, 'r');
  try {
    await folder.sync();
  } finally {
    await folder.close();
  }
}

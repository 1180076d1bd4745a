// The command `kubebus` as a process of its own; its log as objects.

import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

const command = fileURLToPath(new URL('../../../examples/kubebus.ts', import.meta.url));

export interface Line {
  readonly level: number;
  readonly msg: string;
  readonly code?: string;
  readonly side?: string;
  readonly [key: string]: unknown;
}

export class Kubebus {
  readonly lines: Line[] = [];
  err = '';
  private readonly child: ChildProcess;
  /** Resolves when the process has ended. */
  readonly stopped: Promise<unknown>;
  private waiting: (() => void)[] = [];
  /** Nothing more can come: it has ended, and its output has been read. */
  private over = false;

  constructor(...argv: string[]) {
    const args = ['--import', import.meta.resolve('tsx'), command, ...argv];
    this.child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'pipe'] });
    this.stopped = once(this.child, 'close').then(() => {
      this.over = true;
      this.wake();
    });
    createInterface({ input: this.child.stdout! }).on('line', (text) => {
      this.lines.push(JSON.parse(text) as Line);
      this.wake();
    });
    this.child.stderr!.setEncoding('utf8').on('data', (text: string) => {
      this.err += text;
    });
  }

  /** The first line of the log that matches; throws when the process ends without one, or goes on without it for ever. */
  async line(what: (line: Line) => boolean): Promise<Line> {
    const patience = AbortSignal.timeout(45_000);
    patience.addEventListener('abort', () => this.wake());
    for (;;) {
      const found = this.lines.find(what);
      if (found !== undefined) return found;
      if (this.over || patience.aborted) {
        const log = this.lines.map((l) => `${l.code ?? ''} ${l.msg}`).join('\n');
        throw new Error(`${patience.aborted ? 'still runs' : 'ended'} without the line: ${this.err}\n${log}`);
      }
      await new Promise<void>((resolve) => this.waiting.push(resolve));
    }
  }

  get pid(): number {
    return this.child.pid!;
  }

  says(text: RegExp): Promise<Line> {
    return this.line((line) => text.test(line.msg));
  }

  /** Sends the signal and resolves with the exit code. */
  async stop(signal: NodeJS.Signals = 'SIGTERM'): Promise<number | null> {
    this.child.kill(signal);
    await this.stopped;
    return this.child.exitCode;
  }

  private wake(): void {
    const { waiting } = this;
    this.waiting = [];
    for (const resolve of waiting) resolve();
  }
}

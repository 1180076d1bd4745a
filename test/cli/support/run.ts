// Runs the command line in this process: arguments in; exit code, output and errors out.

import { Writable } from 'node:stream';
import type { ExecutionContext } from 'ava';
import { main } from '../../../examples/cli/main.js';

export interface Outcome {
  readonly code: number;
  readonly out: string;
  readonly err: string;
}

/** What starts is told to stop at once: a command line that should have been refused ends with 0. */
export async function run(...argv: string[]): Promise<Outcome> {
  const [out, err] = [new Sink(), new Sink()];
  const code = await main(argv, { out, err, stop: AbortSignal.abort() });
  return { code, out: out.text, err: err.text };
}

/** Exit code 2, nothing on standard output, exactly one line on standard error. */
export async function refused(t: ExecutionContext, argv: readonly string[], expected: RegExp): Promise<void> {
  const { code, out, err } = await run(...argv);
  const what = argv.join(' ');
  t.is(code, 2, `${what}: ${err}`);
  t.is(out, '', what);
  t.regex(err, /^kubebus: [^\n]+\n$/, what);
  t.regex(err, expected, what);
}

class Sink extends Writable {
  text = '';

  override _write(chunk: Buffer, _encoding: string, done: () => void): void {
    this.text += chunk.toString();
    done();
  }
}

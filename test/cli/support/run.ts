// Runs the command line in this process: arguments in; exit code, output and errors out.

import { Writable } from 'node:stream';
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

class Sink extends Writable {
  text = '';

  override _write(chunk: Buffer, _encoding: string, done: () => void): void {
    this.text += chunk.toString();
    done();
  }
}

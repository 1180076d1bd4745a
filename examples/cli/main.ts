// The command line as a function: arguments in, exit code out. kubebus.ts binds it to the process.

import { readFileSync } from 'node:fs';
import { Command, CommanderError } from 'commander';
import { KubeBusError } from '../../lib/core/index.js';
import { caCommand } from './ca.js';
import { cloudCommand } from './cloud.js';
import { type Io, message, UsageError } from './common.js';
import { expandConfig } from './config.js';
import { nodeCommand } from './edge.js';
import { servicesCommand } from './services.js';
import { statusCommand } from './status.js';
import { drainCommand, nodesCommand, tokenCommand } from './token.js';

/** Runs one command to its end, or until `io.stop` is aborted. Resolves with the exit code; says on `io.err` why it is not 0. */
export async function main(argv: readonly string[], io: Io): Promise<number> {
  const program = new Command('kubebus')
    .description('overlay network of an edge computing system')
    .version(version())
    .addCommand(cloudCommand(io))
    .addCommand(nodeCommand('edge', io))
    .addCommand(nodeCommand('router', io))
    .addCommand(statusCommand(io))
    .addCommand(tokenCommand(io))
    .addCommand(nodesCommand(io))
    .addCommand(drainCommand(io))
    .addCommand(servicesCommand(io))
    .addCommand(caCommand(io));
  quiet(program, io);
  try {
    await program.parseAsync(await expandConfig(argv, program.commands), { from: 'user' });
    return 0;
  } catch (error) {
    if (error instanceof CommanderError && error.exitCode === 0) return 0;
    io.err.write(`kubebus: ${textOf(error)}\n`);
    return isUsage(error) ? 2 : 1;
  }
}

/** Mistakes of the user, as opposed to failures. */
function isUsage(error: unknown): boolean {
  if (error instanceof CommanderError || error instanceof UsageError) return true;
  return error instanceof KubeBusError && (error.code === 'ERR_INVALID_ARGUMENT' || error.code === 'ERR_ADDRESS');
}

function textOf(error: unknown): string {
  const text =
    error instanceof CommanderError && error.code === 'commander.help'
      ? 'name a command; see kubebus --help'
      : message(error);
  return text.replace(/^error: /, '').replace(/\s*\n\s*/g, ' ');
}

/** commander neither exits nor writes errors: one line of ours says what is wrong. */
function quiet(command: Command, io: Io): void {
  command
    .exitOverride()
    .configureOutput({ writeOut: (text) => io.out.write(text), writeErr() {} })
    .showHelpAfterError(false);
  for (const sub of command.commands) quiet(sub, io);
}

function version(): string {
  // Compiled, this file lies one folder deeper.
  for (const up of ['../../package.json', '../../../package.json']) {
    try {
      return (JSON.parse(readFileSync(new URL(up, import.meta.url), 'utf8')) as { version: string }).version;
    } catch {
      // the other one
    }
  }
  return 'unknown';
}

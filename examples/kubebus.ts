#!/usr/bin/env node
// The command `kubebus`. Exit codes: 0 stopped in order, 1 failure, 2 mistake in the command line or configuration.

import { readFileSync } from 'node:fs';
import { Command, CommanderError } from 'commander';
import { KubeBusError } from '../lib/core/index.js';
import { caCommand } from './cli/ca.js';
import { cloudCommand } from './cli/cloud.js';
import { message, UsageError } from './cli/common.js';
import { expandConfig } from './cli/config.js';
import { nodeCommand } from './cli/edge.js';
import { readStatus } from './cli/status.js';

function version(): string {
  for (const up of ['../package.json', '../../package.json']) {
    try {
      return (JSON.parse(readFileSync(new URL(up, import.meta.url), 'utf8')) as { version: string }).version;
    } catch {
      // compiled, the file lies one folder deeper
    }
  }
  return 'unknown';
}

const program = new Command('kubebus')
  .description('overlay network of an edge computing system')
  .version(version())
  .addCommand(cloudCommand())
  .addCommand(nodeCommand('edge'))
  .addCommand(nodeCommand('router'))
  .addCommand(caCommand());
program
  .command('status')
  .description('show the state of a running cloud, edge or router')
  .requiredOption('--socket <path>', 'its --status-socket')
  .action(async ({ socket }: { socket: string }) => {
    const document: unknown = JSON.parse(await readStatus(socket));
    process.stdout.write(`${JSON.stringify(document, null, 2)}\n`);
  });

function quiet(command: Command): void {
  command
    .exitOverride()
    .configureOutput({ writeErr() {} })
    .showHelpAfterError(false);
  for (const sub of command.commands) quiet(sub);
}
quiet(program);

try {
  await program.parseAsync(await expandConfig(process.argv.slice(2), program.commands), { from: 'user' });
} catch (error) {
  if (error instanceof CommanderError && error.exitCode === 0) process.exit(0);
  const usage =
    error instanceof CommanderError ||
    error instanceof UsageError ||
    (error instanceof KubeBusError && (error.code === 'ERR_INVALID_ARGUMENT' || error.code === 'ERR_ADDRESS'));
  const text =
    error instanceof CommanderError && error.code === 'commander.help'
      ? 'name a command; see kubebus --help'
      : message(error);
  process.stderr.write(`kubebus: ${text.replace(/^error: /, '').replace(/\s*\n\s*/g, ' ')}\n`);
  process.exit(usage ? 2 : 1);
}

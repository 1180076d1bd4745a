// --config: a YAML file with the options of the command line, under their long names.

import { readFileSync } from 'node:fs';
import type { Command } from 'commander';
import { UsageError } from './common.js';

/** Turns `--config FILE` in argv into the options it holds, in front of the others, so that the command line wins. */
export async function expandConfig(argv: readonly string[], commands: readonly Command[]): Promise<string[]> {
  const at = argv.findIndex((arg) => arg === '--config' || arg.startsWith('--config='));
  const command = commands.find((c) => c.name() === argv[0]);
  if (at < 0 || command === undefined) return [...argv];
  const inline = argv[at]!.startsWith('--config=');
  const path = inline ? argv[at]!.slice('--config='.length) : argv[at + 1];
  if (path === undefined || path === '') throw new UsageError("option '--config' needs a file");
  const rest = [...argv.slice(1, at), ...argv.slice(at + (inline ? 1 : 2))];
  return [argv[0]!, ...(await readConfig(path, command, rest)), ...rest];
}

async function readConfig(path: string, command: Command, given: readonly string[]): Promise<string[]> {
  const [{ parse }, { z }] = await Promise.all([import('yaml'), import('zod')]);
  const scalar = z.union([z.string(), z.number()]);
  const schema = z.record(z.string(), z.union([scalar, z.boolean(), z.array(scalar)]));
  let document: unknown;
  try {
    document = parse(readFileSync(path, 'utf8'));
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    throw new UsageError(`option '--config': cannot read ${path}: ${code ?? message.split('\n')[0]}`);
  }
  const result = schema.safeParse(document ?? {});
  if (!result.success) {
    const issue = result.error.issues[0]!;
    throw new UsageError(
      `option '--config': ${path}: '${issue.path.join('.')}' must be a text, a number, true or false, or a list`,
    );
  }
  return Object.entries(result.data).flatMap(([key, value]) => {
    const option = command.options.find((o) => o.long === `--${key}`);
    if (option === undefined || key === 'config')
      throw new UsageError(`option '--config': ${path}: unknown option '${key}'`);
    // A repeatable option on the command line replaces the file's list instead of adding to it.
    if (given.some((arg) => arg === `--${key}` || arg.startsWith(`--${key}=`))) return [];
    if (value === false) return [];
    if (value === true) return [`--${key}`];
    return (Array.isArray(value) ? value : [value]).flatMap((v) => [`--${key}`, String(v)]);
  });
}

// --config: a YAML file with the options of the command line, under their long names.

import { readFileSync } from 'node:fs';
import type { Command, Option } from 'commander';
import { isList, UsageError } from './common.js';

/** Turns `--config FILE` in argv into the options it holds, in front of the others, so that the command line wins. */
export async function expandConfig(argv: readonly string[], commands: readonly Command[]): Promise<string[]> {
  const command = commands.find((c) => c.name() === argv[0]);
  if (command === undefined || !command.options.some((o) => o.long === '--config')) return [...argv];
  const found = argv.flatMap((arg, i) => (arg === '--config' || arg.startsWith('--config=') ? [i] : []));
  if (found.length === 0) return [...argv];
  if (found.length > 1) throw new UsageError("option '--config' is there twice");
  const at = found[0]!;
  const inline = argv[at]!.startsWith('--config=');
  const path = inline ? argv[at]!.slice('--config='.length) : argv[at + 1];
  if (path === undefined || path === '') throw new UsageError("option '--config' needs a file");
  const rest = [...argv.slice(1, at), ...argv.slice(at + (inline ? 1 : 2))];
  return [argv[0]!, ...(await readConfig(path, command, rest)), ...rest];
}

async function readConfig(path: string, command: Command, given: readonly string[]): Promise<string[]> {
  const [{ parse }, { z }] = await Promise.all([import('yaml'), import('zod')]);
  const wrong = (what: string) => new UsageError(`option '--config': ${path}: ${what}`);
  let document: unknown;
  try {
    document = parse(readFileSync(path, 'utf8'), { prettyErrors: true });
  } catch (error) {
    const { code = '', message } = error as NodeJS.ErrnoException;
    if (/^E[A-Z]+$/.test(code)) throw new UsageError(`option '--config': cannot read ${path}: ${code}`);
    throw wrong(`no YAML: ${message.split('\n')[0]!.replace(/:$/, '')}`);
  }
  const scalar = z.union([z.string(), z.number()]);
  const schema = z.record(z.string(), z.union([scalar, z.boolean(), z.array(scalar)]));
  const result = schema.safeParse(document ?? {});
  if (!result.success) {
    const key = result.error.issues[0]!.path[0];
    if (key === undefined) throw wrong('not a list of options such as `mtu: 1400`');
    throw wrong(`option '${String(key)}' must be a text, a number, true or false, or a list of texts`);
  }
  return Object.entries(result.data).flatMap(([key, value]) => {
    const option = command.options.find((o) => o.long === `--${key}`);
    if (option === undefined || key === 'config') throw wrong(`unknown option '${key}'`);
    const problem = mismatch(option, value);
    if (problem !== null) throw wrong(`option '${key}' ${problem}`);
    // A repeatable option on the command line replaces the file's list instead of adding to it.
    if (given.some((arg) => arg === `--${key}` || arg.startsWith(`--${key}=`))) return [];
    if (value === false) return [];
    if (value === true) return [`--${key}`];
    return (Array.isArray(value) ? value : [value]).map((v) => `--${key}=${v}`);
  });
}

/** Why the option cannot have this kind of value, or null. */
function mismatch(option: Option, value: unknown): string | null {
  if (typeof value === 'boolean') return option.required ? 'needs a value, not true or false' : null;
  if (!option.required && !option.optional) return 'is true or false';
  if (Array.isArray(value) && !isList(option.parseArg)) return 'takes one value, not a list';
  return null;
}

// What the commands share: errors with an exit code, option parsers, the log, clean stops.

import { readFileSync } from 'node:fs';
import { InvalidArgumentError } from 'commander';
import { pino } from 'pino';
import { KubeBusError } from '../../lib/core/index.js';
import { isName } from '../../lib/l2/index.js';
import { parsePrefix } from '../../lib/l3/index.js';
import { parseHostPort } from '../../transports/tcp.js';

/** A mistake in the command line or configuration: one line on stderr, exit code 2. */
export class UsageError extends Error {}

export function prefix(text: string): string {
  try {
    parsePrefix(text);
  } catch {
    throw new InvalidArgumentError(`not a prefix such as 10.80.0.0/16: ${text}`);
  }
  return text;
}

export function name(text: string): string {
  if (!isName(text)) throw new InvalidArgumentError(`not a name (lower-case letters, digits and '-'): ${text}`);
  return text;
}

export function integer(min: number, max: number) {
  return (text: string): number => {
    const value = Number(text);
    if (!/^\d+$/.test(text) || value < min || value > max) {
      throw new InvalidArgumentError(`not a whole number from ${min} to ${max}: ${text}`);
    }
    return value;
  };
}

/** For options that may be given more than once. */
export function list<T>(parse: (text: string) => T) {
  return (text: string, before: readonly T[] | undefined): T[] => [...(before ?? []), parse(text)];
}

export function cloudAddress(text: string): string {
  try {
    parseHostPort(text);
  } catch {
    throw new InvalidArgumentError(`not an address such as kubebus://hub.example:7443: ${text}`);
  }
  return text;
}

export function hostPort(text: string): { host: string; port: number } {
  const match = /^(?:\[([^\]]+)\]|([^:]*)):(\d{1,5})$/.exec(text);
  if (match === null || Number(match[3]) > 65_535) throw new InvalidArgumentError(`not host:port: ${text}`);
  return { host: match[1] ?? (match[2] || '0.0.0.0'), port: Number(match[3]) };
}

export function logLevel(text: string): string {
  if (!['debug', 'info', 'warn', 'error', 'silent'].includes(text)) {
    throw new InvalidArgumentError(`not one of debug, info, warn, error, silent: ${text}`);
  }
  return text;
}

export interface TlsFiles {
  readonly cert?: string;
  readonly key?: string;
  readonly ca?: string;
  readonly insecure?: boolean;
}

/** The transport's security from --cert, --key, --ca or --insecure. */
export function security(o: TlsFiles): { insecure: true } | { tls: { cert: string; key: string; ca: string } } {
  if (o.insecure === true) {
    const given = (['cert', 'key', 'ca'] as const).find((option) => o[option] !== undefined);
    if (given !== undefined) throw new UsageError(`option '--${given}' makes no sense with '--insecure'`);
    return { insecure: true };
  }
  const read = (option: 'cert' | 'key' | 'ca'): string => {
    const path = o[option];
    if (path === undefined)
      throw new UsageError(`option '--${option}' is missing (or say '--insecure' to go without encryption)`);
    try {
      return readFileSync(path, 'utf8');
    } catch (error) {
      throw new UsageError(`option '--${option}': cannot read ${path}: ${(error as NodeJS.ErrnoException).code}`);
    }
  };
  return { tls: { cert: read('cert'), key: read('key'), ca: read('ca') } };
}

export function makeLogger(level: string) {
  return pino({ level, base: null, timestamp: pino.stdTimeFunctions.isoTime });
}

/** Stops once on SIGINT or SIGTERM and exits 0; a second signal exits at once. */
export function stopOnSignal(stop: () => Promise<void>): void {
  let stopping = false;
  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    process.on(signal, () => {
      if (stopping) process.exit(1);
      stopping = true;
      stop().then(
        () => process.exit(0),
        (error: unknown) => {
          process.stderr.write(`kubebus: ${message(error)}\n`);
          process.exit(1);
        },
      );
    });
  }
}

/** Keeps the process alive: links and timers alone do not. */
export function stayAlive(): void {
  setInterval(() => {}, 0x7fffffff);
}

export function message(error: unknown): string {
  if (error instanceof KubeBusError) return `${error.message} (${error.code})`;
  return error instanceof Error ? error.message : String(error);
}

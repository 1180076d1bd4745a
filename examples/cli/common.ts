// What the commands share: errors with an exit code, option parsers, the log, running until told to stop.

import { once } from 'node:events';
import { isIP } from 'node:net';
import { InvalidArgumentError } from 'commander';
import { pino } from 'pino';
import { KubeBusError } from '../../lib/core/index.js';
import { isName } from '../../lib/l2/index.js';
import { formatPrefix, parsePrefix } from '../../lib/l3/index.js';
import { parseHostPort } from '../../transports/tcp.js';

/** What a command has of the process that it runs in. */
export interface Io {
  readonly out: NodeJS.WritableStream;
  readonly err: NodeJS.WritableStream;
  /** For `--join -`. */
  readonly in?: NodeJS.ReadableStream;
  /** Aborted: stop in order. */
  readonly stop: AbortSignal;
  /** Sets the nice level of the process; throws without the right. */
  readonly setNice?: (level: number) => void;
  /** Lets the process run before all programs that are not real-time, or as one of them. 0, or an error number. */
  readonly setRealtime?: (on: boolean) => number;
}

/** A mistake in the command line or configuration: one line on stderr, exit code 2. */
export class UsageError extends Error {}

/** A prefix with its length, and without host bits: 10.80.0.1/16 is more likely a slip than a wish for 10.80.0.0/16. */
export function prefix(text: string): string {
  let clean: string;
  try {
    if (!text.includes('/')) throw new Error('no length');
    clean = formatPrefix(parsePrefix(text));
  } catch {
    throw new InvalidArgumentError(`not a prefix such as 10.80.0.0/16: ${text}`);
  }
  if (formatPrefix({ ...parsePrefix(text.split('/')[0]!), length: parsePrefix(text).length }) !== clean) {
    throw new InvalidArgumentError(`${text} has bits set behind its length: ${clean}?`);
  }
  return clean;
}

export function name(text: string): string {
  if (!isName(text)) throw new InvalidArgumentError(`not a name (lower-case letters, digits and '-'): ${text}`);
  return text;
}

/** A host as it stands in certificates: a DNS name or an IP address. */
export function host(text: string): string {
  const label = '[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?';
  if (isIP(text) !== 0 || (text.length <= 253 && new RegExp(`^${label}(\\.${label})*$`, 'i').test(text))) return text;
  throw new InvalidArgumentError(`not a host name or IP address: ${text}`);
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

/** The first value that is there twice. */
export function twice(values: readonly string[]): string | undefined {
  return values.find((value, i) => values.indexOf(value) < i);
}

/** A text that must not be empty: a path, mostly. */
export function text(value: string): string {
  if (value === '') throw new InvalidArgumentError('it is empty');
  return value;
}

/** The name of a network device. */
export function device(value: string): string {
  if (!/^[^\s/:]{1,15}$/.test(value) || value === '.' || value === '..') {
    throw new InvalidArgumentError(`not a device name of at most 15 characters: ${value}`);
  }
  return value;
}

const repeatable = new WeakSet<object>();

/** For options that may be given more than once. */
export function list<T>(parse: (text: string) => T) {
  const parser = (text: string, before: readonly T[] | undefined): T[] => [...(before ?? []), parse(text)];
  repeatable.add(parser);
  return parser;
}

export function isList(parser: unknown): boolean {
  return typeof parser === 'function' && repeatable.has(parser);
}

export function cloudAddress(text: string): string {
  const wrong = new InvalidArgumentError(`not an address such as kubebus://hub.example:7443: ${text}`);
  let port: number;
  try {
    ({ port } = parseHostPort(text));
  } catch {
    throw wrong;
  }
  const { username, password, pathname, search, hash } = new URL(text.includes('://') ? text : `kubebus://${text}`);
  const plain = username + password + hash === '' && /^\/?$/.test(pathname);
  if (port === 0 || !plain || !/^(\?transport=(tcp|quic|webtransport|websocket))?$/.test(search)) throw wrong;
  return text;
}

export function hostPort(text: string): { host: string; port: number } {
  const match = /^(?:\[([^\]]+)\]|([^:]*)):(\d{1,5})$/.exec(text);
  if (match === null || Number(match[3]) > 65_535 || (match[1] !== undefined && isIP(match[1]) !== 6)) {
    throw new InvalidArgumentError(`not host:port such as 0.0.0.0:7443 or [::]:7443: ${text}`);
  }
  return { host: match[1] ?? (match[2] || '0.0.0.0'), port: Number(match[3]) };
}

export function logLevel(text: string): string {
  if (!['debug', 'info', 'warn', 'error', 'silent'].includes(text)) {
    throw new InvalidArgumentError(`not one of debug, info, warn, error, silent: ${text}`);
  }
  return text;
}

export function makeLogger(level: string, out: NodeJS.WritableStream) {
  const options = { level, base: null, timestamp: pino.stdTimeFunctions.isoTime };
  // Straight to the descriptor, at once: nothing is lost when the process ends.
  return out === process.stdout ? pino(options) : pino(options, out);
}

/** Until told to stop. Links and timers alone do not keep a process alive: this does. */
export async function untilStopped(stop: AbortSignal): Promise<void> {
  const alive = setInterval(() => {}, 0x7fffffff);
  if (!stop.aborted) await once(stop, 'abort');
  clearInterval(alive);
}

export function message(error: unknown): string {
  if (error instanceof KubeBusError) return `${error.message} (${error.code})`;
  return error instanceof Error ? error.message : String(error);
}

/** Columns side by side, each as wide as its widest cell. */
export function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const all = [head, ...rows];
  const widths = head.map((_, i) => Math.max(...all.map((row) => row[i]!.length)));
  return all
    .map(
      (row) =>
        `${row
          .map((cell, i) => cell.padEnd(widths[i]!))
          .join('  ')
          .trimEnd()}\n`,
    )
    .join('');
}

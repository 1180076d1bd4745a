// Edge: errors as Node's sockets give them: the same codes, names, messages and fields.

import { getSystemErrorMap } from 'node:util';
import type { TcpReason } from '../tcp/types.js';

/** Fields of the errors of system calls. */
export interface SystemError extends Error {
  code: string;
  errno: number;
  syscall: string;
  address?: string;
  port?: number;
  localAddress?: string;
  localPort?: number;
  hostname?: string;
}

const errnos = new Map<string, { errno: number; message: string }>();
for (const [errno, [name, message]] of getSystemErrorMap()) errnos.set(name, { errno, message });

export function errnoOf(code: string): number {
  return errnos.get(code)?.errno ?? -1;
}

/** `read ECONNRESET`. */
export function errnoException(code: string, syscall: string): SystemError {
  return Object.assign(new Error(`${syscall} ${code}`), { errno: errnoOf(code), code, syscall });
}

/** `connect ECONNREFUSED 10.80.0.9:80 - Local (10.80.0.2:40000)`. */
export function hostPortException(
  code: string,
  syscall: string,
  address: string,
  port: number,
  local?: string,
): SystemError {
  const where = port > 0 ? `${address}:${port}` : address;
  const text = `${syscall} ${code} ${where}${local === undefined ? '' : ` - Local (${local})`}`;
  const error: SystemError = Object.assign(new Error(text), { errno: errnoOf(code), code, syscall, address });
  if (port > 0) error.port = port;
  return error;
}

/** `listen EADDRINUSE: address already in use 10.80.0.2:80`. */
export function listenException(code: string, syscall: string, address: string, port?: number): SystemError {
  const known = errnos.get(code);
  const where = port !== undefined && port > 0 ? `${address}:${port}` : address;
  const error: SystemError = Object.assign(new Error(`${syscall} ${code}: ${known?.message ?? code} ${where}`), {
    code,
    errno: known?.errno ?? -1,
    syscall,
    address,
  });
  if (port !== undefined) error.port = port;
  return error;
}

/** What getaddrinfo says of a name that does not exist; -3008 is libuv's number for it. */
export function notFound(hostname: string): SystemError {
  return Object.assign(new Error(`getaddrinfo ENOTFOUND ${hostname}`), {
    errno: -3008,
    code: 'ENOTFOUND',
    syscall: 'getaddrinfo',
    hostname,
  });
}

type ErrorClass = new (message: string) => Error;

/** An error of Node's own family (ERR_...): name, code, and `Name [CODE]: message` in the stack. */
export function nodeError(code: string, message: string, Base: ErrorClass = Error): Error & { code: string } {
  const error = Object.assign(new Base(message), { code });
  const { name } = error;
  // Node puts the code into the stack by naming the error so while the stack is made.
  Object.defineProperty(error, 'name', { value: `${name} [${code}]`, configurable: true, writable: true });
  if (error.stack !== undefined) error.stack = error.stack.replace(name, `${name} [${code}]`);
  Reflect.deleteProperty(error, 'name');
  return error;
}

export const socketClosed = (): Error => nodeError('ERR_SOCKET_CLOSED', 'Socket is closed');

export function abortError(cause?: unknown): Error {
  const error = new Error('The operation was aborted', cause === undefined ? undefined : { cause });
  error.name = 'AbortError';
  return Object.assign(error, { code: 'ABORT_ERR' });
}

function describe(value: unknown): string {
  if (value === null || value === undefined) return ` Received ${value}`;
  if (typeof value === 'function') return ` Received function ${value.name}`;
  if (typeof value === 'object') {
    const name = value.constructor?.name;
    return name ? ` Received an instance of ${name}` : ' Received an object';
  }
  const text =
    typeof value === 'string' ? `'${value.length > 28 ? `${value.slice(0, 25)}...` : value}'` : String(value);
  return ` Received type ${typeof value} (${text})`;
}

/** TypeError ERR_INVALID_ARG_TYPE; `expected` completes "must be ...". */
export function argType(name: string, expected: string, value: unknown): Error {
  const what = name.includes('.') ? 'property' : 'argument';
  return nodeError('ERR_INVALID_ARG_TYPE', `The "${name}" ${what} must be ${expected}.${describe(value)}`, TypeError);
}

export function argValue(name: string, reason: string, value: unknown): Error {
  const what = name.includes('.') ? 'property' : 'argument';
  return nodeError(
    'ERR_INVALID_ARG_VALUE',
    `The ${what} '${name}' ${reason}. Received ${typeof value === 'string' ? `'${value}'` : String(value)}`,
    TypeError,
  );
}

export function validateFunction(value: unknown, name: string): asserts value is (...args: never[]) => unknown {
  if (typeof value !== 'function') throw argType(name, 'of type function', value);
}

export function validateNumber(value: unknown, name: string): asserts value is number {
  if (typeof value !== 'number') throw argType(name, 'of type number', value);
}

export function validateString(value: unknown, name: string): asserts value is string {
  if (typeof value !== 'string') throw argType(name, 'of type string', value);
}

export function validateAbortSignal(value: unknown, name: string): asserts value is AbortSignal {
  if (value === null || typeof value !== 'object' || !('aborted' in value)) {
    throw argType(name, 'an instance of AbortSignal', value);
  }
}

/** A port as Node takes it: a number, or a string that says one; RangeError ERR_SOCKET_BAD_PORT. */
export function validatePort(port: unknown, name = 'Port', allowZero = true): number {
  const text = typeof port === 'string' ? port.trim() : port;
  const n = typeof port === 'number' ? port : typeof text === 'string' && text !== '' ? Number(text) : Number.NaN;
  if (!Number.isInteger(n) || n < 0 || n > 65_535 || (n === 0 && !allowZero)) {
    throw nodeError(
      'ERR_SOCKET_BAD_PORT',
      `${name} should be ${allowZero ? '>=' : '>'} 0 and < 65536.${describe(port)}.`,
      RangeError,
    );
  }
  return n;
}

/** Milliseconds of a timer. */
export function validateTimeout(value: unknown, name: string): number {
  validateNumber(value, name);
  if (value < 0 || !Number.isFinite(value)) {
    throw nodeError(
      'ERR_OUT_OF_RANGE',
      `The value of "${name}" is out of range. It must be a non-negative finite number. Received ${value}`,
      RangeError,
    );
  }
  return Math.min(value, 0x7fffffff);
}

/** The code that a connection's end has at the socket. */
export function codeOfReason(reason: TcpReason): string {
  switch (reason) {
    case 'refused':
      return 'ECONNREFUSED';
    case 'reset':
      return 'ECONNRESET';
    case 'timeout':
      return 'ETIMEDOUT';
    case 'host-unreachable':
      return 'EHOSTUNREACH';
    case 'network-unreachable':
      return 'ENETUNREACH';
    default:
      return 'ECONNABORTED';
  }
}

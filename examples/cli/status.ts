// The status socket: one JSON document per connection, for `kubebus status` and for monitoring.

import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { lstat, rm } from 'node:fs/promises';
import { connect, createServer, type Server } from 'node:net';
import { dirname } from 'node:path';
import { Command } from 'commander';
import { type Io, text, UsageError } from './common.js';

/** Readers at once; a document may be large, and who does not read it must not fill our memory. */
const MAX_READERS = 8;
const READ_TIMEOUT_MS = 5_000;

export function statusCommand(io: Io): Command {
  return new Command('status')
    .description('show the state of a running cloud, edge or router as JSON')
    .requiredOption('--socket <path>', 'its --status-socket', text)
    .action(async ({ socket }: { socket: string }) => {
      io.out.write(`${JSON.stringify(await readStatus(socket), null, 2)}\n`);
    });
}

/** Serves `stats` on a unix socket with mode 0600; closing the server removes the socket. */
export async function serveStatus(path: string, stats: () => unknown): Promise<Server> {
  const server = createServer((socket) => {
    socket.on('error', () => {});
    socket.setTimeout(READ_TIMEOUT_MS, () => socket.destroy());
    socket.end(`${JSON.stringify(stats())}\n`);
  });
  server.maxConnections = MAX_READERS;
  await listenPrivately(server, path, '--status-socket');
  return server;
}

/** Makes `server` listen on a unix socket for this user alone. Throws UsageError, which names the option. */
export async function listenPrivately(server: Server, path: string, option: string): Promise<void> {
  const wrong = (what: string) => new UsageError(`option '${option}': ${path} ${what}`);
  // Node cuts it off silently (sun_path, unix(7)).
  if (Buffer.byteLength(path) > 107) throw wrong('is longer than the 107 bytes that a socket may have');
  // What a killed process left behind must not keep its successor from starting; a living one's must.
  if (await answers(path)) throw wrong('is in use by another process');
  // (bind() gives EACCES for it.)
  if (!existsSync(dirname(path))) throw wrong('cannot be made: its folder is not there');
  const there = await lstat(path).catch(() => null);
  if (there !== null && !there.isSocket()) throw wrong('is there already and is no socket');
  if (there !== null) await rm(path, { force: true }).catch(() => {});
  // The socket is made inside listen(): for this user alone from its first instant.
  const mask = process.umask(0o177);
  server.listen(path);
  process.umask(mask);
  try {
    await once(server, 'listening');
  } catch (error) {
    throw wrong(`cannot be made: ${(error as NodeJS.ErrnoException).code}`);
  }
  server.unref();
}

/** Reads the document from the socket at `path`. */
export async function readStatus(path: string): Promise<unknown> {
  const socket = connect(path).setEncoding('utf8');
  socket.setTimeout(READ_TIMEOUT_MS, () => socket.destroy(new Error(`no answer within ${READ_TIMEOUT_MS / 1000} s`)));
  let document = '';
  try {
    for await (const chunk of socket) document += chunk;
    return JSON.parse(document);
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    const gone = code === 'ENOENT' || code === 'ECONNREFUSED' || code === 'ENOTSOCK';
    const why = gone ? `no kubebus process serves it (${code}): start one with --status-socket` : (code ?? message);
    throw new Error(`option '--socket': ${path}: ${why}`);
  }
}

function answers(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(path);
    socket.on('connect', () => {
      socket.destroy();
      resolve(true);
    });
    socket.on('error', () => resolve(false));
  });
}

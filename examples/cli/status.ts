// The status socket: one JSON document per connection, for `kubebus status` and for monitoring.

import { once } from 'node:events';
import { chmod, rm } from 'node:fs/promises';
import { connect, createServer, type Server } from 'node:net';
import { UsageError } from './common.js';

/** Serves `stats` on a unix socket with mode 0600. */
export async function serveStatus(path: string, stats: () => unknown): Promise<Server> {
  // What a killed process left behind must not keep its successor from starting; a living one's must.
  if (await answers(path)) throw new UsageError(`option '--status-socket': ${path} is in use`);
  await rm(path, { force: true });
  const server = createServer((socket) => {
    socket.on('error', () => {});
    socket.end(`${JSON.stringify(stats())}\n`);
  });
  server.listen(path);
  await once(server, 'listening');
  await chmod(path, 0o600);
  server.unref();
  return server;
}

/** Reads the document from the socket at `path`. */
export async function readStatus(path: string): Promise<string> {
  const socket = connect(path).setEncoding('utf8');
  let text = '';
  for await (const chunk of socket) text += chunk;
  return text;
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

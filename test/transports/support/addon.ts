// What tests of the addon's sockets share.

import { spawnSync } from 'node:child_process';
import { once } from 'node:events';
import net from 'node:net';
import test, { type ExecutionContext } from 'ava';
import { nativeSockets } from '../../../transports/tcp/native-socket.js';

export const native = nativeSockets(true);
export const never: AbortSignal = new AbortController().signal;

/** Tests that cannot run without the addon, or the program. */
export function withAddon(title: string, body: (t: ExecutionContext) => Promise<void>, program?: string): void {
  const missing =
    native === null ? 'the addon' : program !== undefined && spawnSync(program, ['version']).error ? program : null;
  if (missing === null) test(title, body);
  else if (process.env.KUBEBUS_REQUIRE_ALL === '1') test(title, (t) => t.fail(`needs ${missing}`));
  else test.skip(`${title} (needs ${missing})`, body);
}

/** A socket of Node's that is connected and not read. */
export async function connected(port: number): Promise<net.Socket> {
  const socket = net.connect({ port, host: '127.0.0.1' });
  socket.pause();
  await once(socket, 'connect');
  return socket;
}

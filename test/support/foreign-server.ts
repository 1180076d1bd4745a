// Servers that are programs of others and want to be told their port: a port that was free a moment ago may be taken by then, so it is
// tried until the program itself listens. And a port on which nobody can listen.
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdir, readFile, readlink } from 'node:fs/promises';
import net from 'node:net';
import type { ExecutionContext } from 'ava';

const TRIES = 5;

/** Starts `program` with the arguments that `prepare` gives for a port of 127.0.0.1; resolves with the port once it listens there. Linux. */
export async function foreignServer(
  t: ExecutionContext,
  program: string,
  prepare: (port: number) => Promise<string[]> | string[],
): Promise<number> {
  for (let i = 0; i < TRIES; i++) {
    const port = await freeJustNow();
    const child = spawn(program, await prepare(port), { stdio: 'ignore' });
    const gone = once(child, 'exit');
    t.teardown(async () => {
      // In order, where it can: a killed nginx leaves its worker behind.
      child.kill('SIGTERM');
      const late = setTimeout(() => child.kill('SIGKILL'), 5_000);
      await gone;
      clearTimeout(late);
    });
    if (await listens(child, port)) return port;
  }
  throw new Error(`${program} ended ${TRIES} times before it listened`);
}

/** A port of 127.0.0.1 that refuses connections, and goes on to: it is the client's end of a connection. */
export async function refusingPort(t: ExecutionContext): Promise<number> {
  const server = net.createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const client = net.connect((server.address() as net.AddressInfo).port, '127.0.0.1');
  const [[front]] = await Promise.all([once(server, 'connection'), once(client, 'connect')]);
  t.teardown(() => {
    client.destroy();
    (front as net.Socket).destroy();
    server.close();
  });
  return client.localPort!;
}

async function freeJustNow(): Promise<number> {
  const server = net.createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as net.AddressInfo;
  server.close();
  await once(server, 'close');
  return port;
}

/** False: it ended. */
async function listens(child: ChildProcess, port: number): Promise<boolean> {
  while (child.exitCode === null && child.signalCode === null) {
    const socket = net.connect(port, '127.0.0.1');
    const up = await new Promise<boolean>((resolve) => {
      socket.once('connect', () => resolve(true)).once('error', () => resolve(false));
    });
    socket.destroy();
    if (up && (await owns(child.pid!, port))) return true;
  }
  return false;
}

/** The process has the socket that listens on the port (proc(5): /proc/net/tcp, state 0A). */
async function owns(pid: number, port: number): Promise<boolean> {
  const local = `:${port.toString(16).toUpperCase().padStart(4, '0')}`;
  const lines = (await readFile('/proc/net/tcp', 'latin1')).split('\n').map((line) => line.trim().split(/\s+/));
  const found = lines.find((fields) => fields[1]?.endsWith(local) && fields[3] === '0A');
  if (found === undefined) return false;
  const fds = await readdir(`/proc/${pid}/fd`).catch(() => []);
  const links = await Promise.all(fds.map((fd) => readlink(`/proc/${pid}/fd/${fd}`).catch(() => '')));
  return links.includes(`socket:[${found[9]}]`);
}

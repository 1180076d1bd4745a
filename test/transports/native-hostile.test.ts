// The addon's sockets against peers and callers that mean ill: floods of TLS messages, resets behind the last words, buffers that
// are gone, sockets in threads that end.

import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import net from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setImmediate as turn } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { Worker } from 'node:worker_threads';
import type { ExecutionContext } from 'ava';
import { cloudNames, createAuthority, nodeNames } from '../../lib/join/driver/pki.js';
import { descriptorOf } from '../../transports/tcp/descriptor.js';
import { NativeDuplex } from '../../transports/tcp/native-duplex.js';
import { FAILED, type OpenSocket, READABLE } from '../../transports/tcp/native-events.js';
import { NativeSocket, secureContext } from '../../transports/tcp/native-socket.js';
import { connected, native, never, withAddon } from './support/addon.js';

const authority = await createAuthority('Test CA', 1);
const cloud = await authority.issue({ name: 'hub', days: 1, names: cloudNames('hub', ['127.0.0.1']), server: true });
const node = await authority.issue({ name: 'acme/e1', days: 1, names: nodeNames('acme', 'e1', []) });

const SOL_SOCKET = 1;
const SO_SNDBUF = 7;

/** A server whose connections are not read, and its port. */
async function server(t: ExecutionContext): Promise<{ port: number; next(): Promise<net.Socket> }> {
  const listening = net.createServer({ pauseOnConnect: true });
  listening.listen(0, '127.0.0.1');
  await once(listening, 'listening');
  t.teardown(() => void listening.close());
  const { port } = listening.address() as net.AddressInfo;
  return { port, next: async () => ((await once(listening, 'connection')) as [net.Socket])[0] };
}

/** All that a socket brings, as events come: its bytes and how it ends. */
function read(socket: OpenSocket): Promise<{ text: string; end: string }> {
  return new Promise((resolve) => {
    let text = '';
    const buf = Buffer.alloc(64 * 1024);
    const done = (end: string) => {
      socket.destroy();
      resolve({ text, end });
    };
    socket.open((event) => {
      if (event === FAILED) return done(socket.handle.error![0]);
      if (event !== READABLE) return;
      const n = socket.handle.read(buf, 0);
      if (n === -1) done('end');
      else if (n === -2) done(socket.handle.error![0]);
      else text += buf.toString('latin1', 0, n & 0xffff);
    });
  });
}

withAddon('the last words of a peer that resets are read before the reset', async (t) => {
  const { port, next } = await server(t);
  const accepted = next();
  const peer = await connected(port);
  const socket = NativeSocket.take(native!, await accepted, null, { server: true });
  const outcome = read(socket);
  await turn();
  // Both are in the system's hands before this process looks again.
  peer.write('goodbye');
  peer.resetAndDestroy();
  t.deepEqual(await outcome, { text: 'goodbye', end: 'ECONNRESET' });
});

withAddon('the alert of a peer that resets is read before the reset', async (t) => {
  const { port, next } = await server(t);
  const accepted = next();
  const context = secureContext(native!, { ...node, ca: authority.cert });
  const socket = NativeSocket.take(native!, await connected(port), context, { server: false });
  const secured = socket.handshake(never);
  const peer = await accepted;
  // What a server says that is at its limits; it has read nothing, so its end is a reset (RFC 8446 §6.2: internal_error).
  peer.write(Buffer.from('15030300020250', 'hex'));
  peer.resetAndDestroy();
  await t.throwsAsync(secured, { code: 'ERR_SSL_TLSV1_ALERT_INTERNAL_ERROR' });
});

/** `openssl s_client`, connected to `port`; `said` waits for a text behind the last one that was waited for. */
function openssl(t: ExecutionContext, port: number): { child: ChildProcess; said(text: string): Promise<void> } {
  const dir = mkdtempSync(join(tmpdir(), 'kubebus-openssl-'));
  t.teardown(() => rmSync(dir, { recursive: true }));
  for (const [name, text] of Object.entries({ ...node, ca: authority.cert })) writeFileSync(join(dir, name), text);
  const args = [
    's_client',
    '-connect',
    `127.0.0.1:${port}`,
    '-cert',
    'cert',
    '-key',
    'key',
    '-CAfile',
    'ca',
    '-tls1_3',
  ];
  const child = spawn('openssl', args, { cwd: dir });
  t.teardown(() => void child.kill());
  child.stdin.on('error', () => {});
  let output = '';
  let over = false;
  let look = () => {};
  const hear = (chunk: Buffer) => {
    output += chunk;
    look();
  };
  child.stdout.on('data', hear);
  child.stderr.on('data', hear);
  child.on('close', () => {
    over = true;
    look();
  });
  const said = (text: string) =>
    new Promise<void>((resolve) => {
      look = () => {
        const at = output.indexOf(text);
        if (at < 0 && !over) return;
        output = output.slice(at + text.length);
        look = () => {};
        resolve();
      };
      look();
    });
  return { child, said };
}

/** Passes bytes on between a caller and the socket `path`; what the server says is held back from the moment of `deaf` on. */
async function relay(
  t: ExecutionContext,
  path: string,
): Promise<{ port: number; deaf(): void; passed(): Promise<void> }> {
  let back: net.Socket | undefined;
  let heard = () => {};
  const listening = net.createServer({ noDelay: true }, (caller) => {
    const to = net.connect({ path });
    caller.on('close', () => to.destroy());
    back = to;
    for (const socket of [caller, to]) socket.on('error', () => {});
    caller.on('data', (chunk) => {
      to.write(chunk);
      heard();
    });
    to.on('data', (chunk) => caller.write(chunk));
    t.teardown(() => void caller.destroy());
    t.teardown(() => void to.destroy());
  });
  listening.listen(0, '127.0.0.1');
  await once(listening, 'listening');
  t.teardown(() => void listening.close());
  const passed = () =>
    new Promise<void>((resolve) => {
      heard = resolve;
    });
  return { port: (listening.address() as net.AddressInfo).port, deaf: () => back!.pause(), passed };
}

/** A caller asks for new keys again and again, with `between` in between: how often until it is cut off, and what for. */
async function rekeys(
  t: ExecutionContext,
  { between, deaf, most }: { between: string | null; deaf: boolean; most: number },
): Promise<{ count: number; end: string; waiting: number }> {
  // A socket of the file system holds as much as it was told to, where TCP finds room for megabytes.
  const dir = mkdtempSync(join(tmpdir(), 'kubebus-rekeys-'));
  const listening = net.createServer({ pauseOnConnect: true }).listen(join(dir, 'socket'));
  t.teardown(() => {
    listening.close();
    rmSync(dir, { recursive: true });
  });
  await once(listening, 'listening');
  const middle = await relay(t, join(dir, 'socket'));
  const accepted = once(listening, 'connection');
  const { child, said } = openssl(t, middle.port);
  const [raw] = (await accepted) as [net.Socket];
  native!.setSocketOption(descriptorOf(raw), SOL_SOCKET, SO_SNDBUF, 4096);
  const context = secureContext(native!, { ...cloud, ca: authority.cert });
  const socket = NativeSocket.take(native!, raw, context, { server: true });
  await socket.handshake(never);
  await said('Verify return code');
  if (deaf) middle.deaf();
  const outcome = read(socket);
  let over = false;
  void outcome.then(() => {
    over = true;
  });
  let count = 0;
  for (; count < most && !over; count++) {
    // openssl sends the KeyUpdate and the data by themselves: each is waited for, and the end.
    for (const line of between === null ? ['K\n'] : ['K\n', between]) {
      const passed = middle.passed();
      child.stdin!.write(line);
      await Promise.race([passed, outcome]);
      await turn();
    }
  }
  const waiting = socket.handle.pending;
  if (!over) child.kill();
  return { count, end: (await outcome).end, waiting };
}

withAddon(
  'a peer that asks for new keys without end is cut off; with data in between it is not',
  async (t) => {
    const flood = await rekeys(t, { between: null, deaf: false, most: 200 });
    t.is(flood.end, 'ERR_SSL_TOO_MANY_KEY_UPDATES');
    t.true(flood.count > 30 && flood.count < 60, `after ${flood.count}`);
  },
  'openssl',
);

withAddon(
  'a peer that does not read the answers to its requests for new keys is cut off, where each is answered',
  async (t) => {
    const { count, end, waiting } = await rekeys(t, { between: 'x\n', deaf: true, most: 2_000 });
    // OpenSSL 3.5 answers with what is written next, 3.0 at once.
    if (end === 'end') t.is(waiting, 0, 'there are no answers that could wait');
    else t.is(end, 'ERR_SSL_TOO_MANY_KEY_UPDATES');
    t.true(count > 150, `after ${count}`);
  },
  'openssl',
);

withAddon('a duplex that nobody reads does not keep the event loop busy', async (t) => {
  const { port, next } = await server(t);
  const accepted = next();
  const peer = await connected(port);
  t.teardown(() => void peer.destroy());
  const socket = NativeSocket.take(native!, await accepted, null, { server: true });
  let events = 0;
  const duplex = new NativeDuplex({
    handle: socket.handle,
    destroy: () => socket.destroy(),
    onClosed: (closed) => socket.onClosed(closed),
    open: (listener) =>
      socket.open((event) => {
        events++;
        listener(event);
      }),
  });
  t.teardown(() => void duplex.destroy());
  peer.write('hello');
  for (let i = 0; i < 50; i++) await turn();
  t.true(events <= 3, `${events} events`);
  t.is(String((await once(duplex, 'data'))[0]), 'hello', 'it is there when somebody reads');
});

withAddon('lengths, buffers and contexts that cannot be, and calls after the end, harm nobody', async (t) => {
  const { port, next } = await server(t);
  const accepted = next();
  const raw = await connected(port);
  const peer = await accepted;
  t.teardown(() => void peer.destroy());
  const { handle } = NativeSocket.take(native!, raw, null, { server: false });
  const gone = new Uint8Array(64);
  structuredClone(gone, { transfer: [gone.buffer] });
  const small = Buffer.alloc(8);
  peer.write('0123456789');
  while (handle.read(gone, 0) === 0 && handle.read(small, 0) === 0) await turn();
  t.is(handle.read(small, 8), 0);
  t.is(handle.read(small, 2 ** 32 - 1), 0);
  t.is(handle.write(gone, 0, 64), 0);
  small.fill('x');
  t.is(handle.write(small, 5, 2), 0, 'nothing from a start behind the end');
  t.is(handle.write(small, 0, 2 ** 32 - 1), 0, 'cut to the buffer');
  peer.resume();
  t.is(String((await once(peer, 'data'))[0]), 'xxxxxxxx');
  t.throws(() => new native!.Stream(0, {}, false, ''));
  t.throws(() => new native!.Stream(-1, null, false, ''), { code: 'EBADF' });
  handle.start(() => t.fail('nothing is told after the end'));
  handle.close();
  handle.close();
  handle.start(() => t.fail('nothing starts after the end'));
  handle.pause();
  handle.resume();
  handle.end();
  t.is(handle.read(small, 0), 0);
  t.is(handle.write(small, 0, 8), -2);
  t.is(handle.pending, 0);
  await turn();
});

withAddon('a thread that ends, in order or by force, takes its sockets along', async (t) => {
  const { port, next } = await server(t);
  const loader = fileURLToPath(new URL('../../native/loader.mjs', import.meta.url));
  const body = `
    const { parentPort, workerData } = require('node:worker_threads');
    const net = require('node:net');
    import(workerData.loader).then(({ loadNative }) => {
      const native = loadNative();
      const { cert, key, ca, port } = workerData;
      const context = new native.SecureContext(cert, key, ca, 'TLS_AES_128_GCM_SHA256', '', 8e6);
      const list = net.createServer({ pauseOnConnect: true }, (raw) => take(raw, true));
      const buf = Buffer.alloc(65536);
      let secured = 0;
      const take = (raw, server) => {
        const stream = new native.Stream(raw._handle.fd, context, server, '');
        raw.destroy();
        stream.start((event) => {
          if (event === 3) stream.write(buf, 0, buf.length), ++secured === 2 && parentPort.postMessage('busy');
          else if (event === 1 && stream.read(buf, 0) > 0) stream.write(buf, 0, buf.length);
        });
      };
      const dial = (port) => {
        const raw = net.connect({ port, host: '127.0.0.1' });
        raw.pause();
        raw.on('connect', () => take(raw, false));
      };
      list.listen(0, '127.0.0.1', () => { dial(list.address().port); dial(port); });
      if (workerData.exit) parentPort.once('message', () => process.exit(0));
    });`;
  for (let i = 0; i < 6; i++) {
    const exit = i % 2 === 0;
    const workerData = { loader, port, exit, ...cloud, ca: authority.cert };
    const accepted = next();
    const worker = new Worker(body, { eval: true, workerData });
    await once(worker, 'message');
    const exited = once(worker, 'exit');
    if (exit) worker.postMessage('exit');
    else await worker.terminate();
    await exited;
    // The other end of the one that was in its handshake.
    const other = (await accepted).on('error', () => {}).resume();
    if (!other.closed) await once(other, 'close');
  }
  t.pass();
});

// A WebTransport dial when the other side, or the way to it, falls silent at any point.
import { once } from 'node:events';
import net from 'node:net';
import test, { type ExecutionContext } from 'ava';
import { cloudNames, createAuthority, nodeNames } from '../../lib/join/driver/pki.js';
import { webTransport } from '../../transports/webtransport.js';

const ca = await createAuthority('test CA');
const cloudTls = {
  ca: ca.cert,
  ...(await ca.issue({ name: 'cloud', days: 1, names: cloudNames('cloud', ['127.0.0.1']), server: true })),
};
const nodeTls = { ca: ca.cert, ...(await ca.issue({ name: 'a', days: 1, names: nodeNames('acme', 'a', []) })) };

async function listener(t: ExecutionContext): Promise<number> {
  const opened = await webTransport({ listen: { host: '127.0.0.1', port: 0 }, tls: cloudTls }).listen({
    onStream: (stream) => stream.destroy(),
    onRefused: () => {},
  });
  t.teardown(() => opened.close());
  return Number(new URL(opened.address).port);
}

async function open(t: ExecutionContext, server: net.Server): Promise<string> {
  const sockets = new Set<net.Socket>();
  server.on('connection', (socket: net.Socket) => sockets.add(socket));
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.teardown(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  return `kubebus://127.0.0.1:${(server.address() as net.AddressInfo).port}`;
}

// Bytes that come back on the second connection before it falls silent: before TLS, within it, before the settings, after the settings, and after the session.
for (const silentAfter of [0, 100, 1_000, 1_500, 1_600]) {
  test(`silent after ${silentAfter} bytes: a dial that is aborted ends then and there`, async (t) => {
    const port = await listener(t);
    let connections = 0;
    const silent = { now: () => {} };
    const reached = new Promise<void>((resolve) => {
      silent.now = resolve;
    });
    const server = net.createServer((front) => {
      const back = net.connect(port, '127.0.0.1');
      for (const socket of [front, back]) socket.on('error', () => {});
      front.on('close', () => back.destroy());
      // The first one asks for the certificate.
      if (++connections === 1) return void front.pipe(back).pipe(front);
      let left = silentAfter;
      const fallSilent = () => {
        back.pause();
        silent.now();
      };
      if (left === 0) return fallSilent();
      front.pipe(back);
      back.on('data', (bytes: Buffer) => {
        if (left > 0) front.write(bytes.subarray(0, left));
        left -= bytes.length;
        if (left <= 0) fallSilent();
      });
    });
    const abort = new AbortController();
    const dial = webTransport({ tls: nodeTls }).dial(await open(t, server), abort.signal);
    let over = false;
    const ended = t.throwsAsync(dial, { message: /no answer in time/ }).finally(() => {
      over = true;
    });
    await reached;
    // What has come is taken in.
    for (let i = 0; i < 20; i++) await new Promise((resolve) => setImmediate(resolve));
    t.false(over);
    abort.abort();
    for (let i = 0; i < 20; i++) await new Promise((resolve) => setImmediate(resolve));
    t.true(over, 'not only when a time limit of the package has passed');
    await ended;
  });
}

// The addon's sockets where the compliance suite does not look: against the openssl program, and against peers that mean ill.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import net from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import tls from 'node:tls';
import { cloudNames, createAuthority, nodeNames } from '../../lib/join/driver/pki.js';
import { NativeSocket, secureContext } from '../../transports/tcp/native-socket.js';
import { connected, native, never, withAddon } from './support/addon.js';

const authority = await createAuthority('Test CA', 1);
const cloud = await authority.issue({ name: 'hub', days: 1, names: cloudNames('hub', ['127.0.0.1']), server: true });
const node = await authority.issue({ name: 'acme/e1', days: 1, names: nodeNames('acme', 'e1', []) });
withAddon(
  'keys are renewed: openssl sees the KeyUpdate and reads on',
  async (t) => {
    const dir = mkdtempSync(join(tmpdir(), 'kubebus-rekey-'));
    t.teardown(() => rmSync(dir, { recursive: true }));
    for (const [name, text] of Object.entries({ ...cloud, ca: authority.cert })) writeFileSync(join(dir, name), text);
    const server = spawn(
      'openssl',
      ['s_server', '-accept', '127.0.0.1:0', '-cert', 'cert', '-key', 'key', '-CAfile', 'ca', '-msg', '-rev'],
      { cwd: dir },
    );
    t.teardown(() => void server.kill());
    let said = '';
    server.stdout.setEncoding('utf8').on('data', (text: string) => {
      said += text;
    });
    const told = async (pattern: RegExp) => {
      for (;;) {
        const match = pattern.exec(said);
        if (match !== null) return match;
        await once(server.stdout, 'data');
      }
    };
    const port = Number((await told(/ACCEPT 127\.0\.0\.1:(\d+)/))[1]);
    const context = secureContext(native!, { ...node, ca: authority.cert }, [], 4);
    const socket = NativeSocket.take(native!, await connected(port), context, { server: false });
    await socket.handshake(never);
    const duplex = socket.duplex();
    t.teardown(() => void duplex.destroy());
    let back = '';
    duplex.setEncoding('utf8').on('data', (text: string) => {
      back += text;
    });
    for (let i = 0; i < 12; i++) {
      duplex.write(`line ${i}\n`);
      while (!back.includes(`${[...`line ${i}`].reverse().join('')}\n`)) await once(duplex, 'data');
    }
    const updates = said.match(/<<< TLS 1\.3, Handshake \[length 0005\], KeyUpdate/g) ?? [];
    // Every write is counted as a record and a bit.
    t.true(updates.length >= 2 && updates.length <= 6, `${updates.length} updates`);
  },
  'openssl',
);

withAddon(
  'a caller that ends, resets or talks nonsense in the middle of the handshake is told from one that is slow',
  async (t) => {
    const context = secureContext(native!, { ...cloud, ca: authority.cert });
    const outcomes: Promise<string>[] = [];
    const server = net.createServer({ pauseOnConnect: true }, (raw) => {
      const stop = AbortSignal.timeout(300);
      const socket = NativeSocket.take(native!, raw, context, { server: true });
      outcomes.push(
        socket.handshake(stop).then(
          () => 'secured',
          (error: NodeJS.ErrnoException) => String(error.code),
        ),
      );
    });
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    t.teardown(() => server.close());
    const { port } = server.address() as net.AddressInfo;
    const open = async () => {
      const socket = net.connect({ port, host: '127.0.0.1' });
      socket.on('error', () => {});
      await Promise.all([once(socket, 'connect'), once(server, 'connection')]);
      return socket;
    };
    (await open()).end();
    (await open()).resetAndDestroy();
    (await open()).write('GET / HTTP/1.1\r\n\r\n');
    (await open()).write(Buffer.alloc(70_000, 0x16));
    const slow = await open();
    t.deepEqual((await Promise.all(outcomes)).slice(0, 4), [
      'ECONNRESET',
      'ECONNRESET',
      'ERR_SSL_HTTP_REQUEST',
      'ERR_SSL_WRONG_VERSION_NUMBER',
    ]);
    t.is(await outcomes[4], '23', 'the code of a TimeoutError of DOMException');
    slow.destroy();
  },
);

withAddon(
  "a certificate that is not good is shown with OpenSSL's reason, by Node's name for it; the handshake goes on",
  async (t) => {
    const stranger = await createAuthority('Test CA', 1);
    const expired = await authority.issue({
      name: 'x',
      days: -0.001,
      names: cloudNames('hub', ['127.0.0.1']),
      server: true,
    });
    const foreign = await stranger.issue({ name: 'x', days: 1, names: cloudNames('hub', ['127.0.0.1']), server: true });
    for (const [material, code] of [
      [expired, 'CERT_HAS_EXPIRED'],
      [foreign, 'UNABLE_TO_VERIFY_LEAF_SIGNATURE'],
      [cloud, null],
    ] as const) {
      const server = tls.createServer({ ...material, minVersion: 'TLSv1.3' });
      server.listen(0, '127.0.0.1');
      await once(server, 'listening');
      const { port } = server.address() as net.AddressInfo;
      const context = secureContext(native!, { ...node, ca: authority.cert });
      const socket = NativeSocket.take(native!, await connected(port), context, { server: false });
      await socket.handshake(never);
      const other = tls.connect({ port, host: '127.0.0.1', ca: authority.cert, rejectUnauthorized: false });
      await once(other, 'secureConnect');
      t.is(socket.shown!.fault, code);
      t.is(other.authorizationError ?? null, code as never, "Node's own client says the same");
      t.deepEqual(Buffer.from(socket.shown!.raw!), other.getPeerCertificate().raw);
      other.destroy();
      socket.destroy();
      server.close();
    }
  },
);

withAddon('texts that are no certificate, key or CA are refused', async (t) => {
  const good = { ...node, ca: authority.cert };
  for (const part of ['cert', 'key', 'ca'] as const) {
    t.throws(() => secureContext(native!, { ...good, [part]: 'nonsense' }), undefined, part);
  }
  t.throws(() => secureContext(native!, { ...good, key: cloud.key }), { message: /key values mismatch/i });
  // What OpenSSL said stays here: the next handshake of Node's does not trip over it.
  const server = tls.createServer({ ...cloud }, (socket) => socket.end('fine'));
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.teardown(() => server.close());
  secureContext(native!, good);
  const socket = tls.connect({
    port: (server.address() as net.AddressInfo).port,
    host: '127.0.0.1',
    ca: authority.cert,
  });
  t.is(String((await once(socket, 'data'))[0]), 'fine');
});

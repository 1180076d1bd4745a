// One port, two protocols: a service behind ALPN that takes callers without certificates, and links that do not.

import { X509Certificate } from 'node:crypto';
import { once } from 'node:events';
import tls from 'node:tls';
import test from 'ava';
import { cloudNames, createAuthority, nodeNames } from '../../lib/join/driver/pki.js';
import type { AcceptHandler, ByteStream, Listener, PortService, ServicePeer } from '../../lib/l2/transport.js';
import { loadNative } from '../../native/loader.mjs';
import { parseHostPort, tcpTransport } from '../../transports/tcp.js';

const authority = await createAuthority('Test CA', 1);
const stranger = await createAuthority('Test CA', 1);
const server = await authority.issue({
  name: 'cloud',
  days: 1,
  names: cloudNames('cloud', ['127.0.0.1']),
  server: true,
});
const nodeCertificate = (ca: typeof authority) =>
  ca.issue({ name: 'acme/edge-1', days: 1, names: nodeNames('acme', 'edge-1', []) });
const PROTOCOL = 'test-service/1';

interface Seen {
  readonly streams: ByteStream[];
  readonly refused: string[];
  readonly callers: ServicePeer[];
}

async function listen(native = true): Promise<{ seen: Seen; listener: Listener; port: number }> {
  const seen: Seen = { streams: [], refused: [], callers: [] };
  const service: PortService = {
    protocol: PROTOCOL,
    onSocket(socket, peer) {
      seen.callers.push(peer);
      socket.end('served');
    },
  };
  const handler: AcceptHandler = {
    onStream: (stream) => seen.streams.push(stream),
    onRefused: (_code, message, _remote, goodbye) => {
      seen.refused.push(message);
      goodbye?.destroy();
    },
  };
  const transport = tcpTransport({
    listen: { host: '127.0.0.1', port: 0 },
    tls: { cert: server.cert, key: server.key, ca: authority.cert },
    services: [service],
    native,
  });
  const listener = await transport.listen(handler);
  return { seen, listener, port: parseHostPort(listener.address).port };
}

/** Connects, reads to the end; the server decides what it is. */
async function call(
  port: number,
  options: tls.ConnectionOptions,
): Promise<{ text: string; session: Buffer | undefined }> {
  const socket = tls.connect({ port, host: '127.0.0.1', servername: '', ca: authority.cert, ...options });
  let session: Buffer | undefined;
  let text = '';
  socket.on('session', (s: Buffer) => {
    session = s;
  });
  socket.on('error', () => {});
  socket.setEncoding('utf8').on('data', (chunk: string) => {
    text += chunk;
  });
  await once(socket, 'close').catch(() => {});
  return { text, session };
}

// By the addon, where it is, and by Node's own sockets.
for (const native of [true, false]) {
  const by = native ? '' : ", by Node's sockets";
  test(`a service takes callers with and without a certificate, and they never become links${by}`, async (t) => {
    const { seen, listener, port } = await listen(native);
    t.teardown(() => listener.close());
    t.is((await call(port, { ALPNProtocols: [PROTOCOL] })).text, 'served');
    t.is((await call(port, { ALPNProtocols: [PROTOCOL], ...(await nodeCertificate(authority)) })).text, 'served');
    t.deepEqual(
      seen.callers.map((c) => c.certificate !== null),
      [false, true],
    );
    t.is(seen.streams.length, 0);
  });

  test(`a link needs a certificate of the CA: none, a foreign one and one without a node are refused with the reason${by}`, async (t) => {
    const { seen, listener, port } = await listen(native);
    t.teardown(() => listener.close());
    await call(port, {});
    await call(port, await nodeCertificate(stranger));
    const nobody = await authority.issue({ name: 'x', days: 1, names: [{ type: 'url', value: 'urn:x' }] });
    await call(port, nobody);
    // A server's certificate is not a node's, though the CA signed it.
    await call(port, server);
    const old = await authority.certify(
      // Certified for a key that the caller has: only the dates are wrong.
      ownKey(nobody.cert),
      { name: 'x', names: nodeNames('acme', 'edge-1', []), lifetime: -1000 },
    );
    await call(port, { cert: new X509Certificate(old.der).toString(), key: nobody.key });
    t.is(seen.streams.length, 0);
    t.is(seen.callers.length, 0);
    t.deepEqual(seen.refused, [
      'the peer sent no certificate',
      'certificate refused: it is not signed by our CA',
      'the certificate names no node (URI kubebus://tenant/node)',
      'certificate refused: it is not made for this side (key usage)',
      'certificate refused: it has expired: renew it',
    ]);
  });

  test(`a session resumed from the service opens no link${by}`, async (t) => {
    const { seen, listener, port } = await listen(native);
    t.teardown(() => listener.close());
    const { session } = await call(port, { ALPNProtocols: [PROTOCOL] });
    if (native && loadNative()?.SecureContext !== undefined) {
      t.is(session, undefined, 'the server hands out no sessions, so the attack is not possible');
      return;
    }
    t.truthy(session, 'the server hands out sessions, so the attack is possible');
    await call(port, { session });
    t.is(seen.streams.length, 0);
    t.regex(seen.refused.join(), /resumed|no certificate/);
  });

  test(`TLS 1.2 and unknown protocols are refused${by}`, async (t) => {
    const { seen, listener, port } = await listen(native);
    t.teardown(() => listener.close());
    const node = await nodeCertificate(authority);
    await call(port, { ...node, maxVersion: 'TLSv1.2' });
    await call(port, { ALPNProtocols: [PROTOCOL], maxVersion: 'TLSv1.2' });
    await call(port, { ...node, ALPNProtocols: ['test-service/0'] });
    t.is(seen.streams.length + seen.callers.length, 0);
    t.is(seen.refused.length, 3);
  });
}

test('a new certificate of the listener is used at once', async (t) => {
  const first = { ...server, ca: authority.cert };
  const second = await authority.issue({
    name: 'second',
    days: 1,
    names: cloudNames('cloud', ['127.0.0.1']),
    server: true,
  });
  let now = first;
  let changed = () => {};
  const transport = tcpTransport({
    listen: { host: '127.0.0.1', port: 0 },
    tls: {
      current: () => now,
      onChange(listener) {
        changed = listener;
        return () => {};
      },
    },
  });
  const listener = await transport.listen({ onStream: (s) => s.destroy(), onRefused: (_c, _m, _r, g) => g?.destroy() });
  t.teardown(() => listener.close());
  const { port } = parseHostPort(listener.address);
  const subject = async () => {
    const socket = tls.connect({ port, host: '127.0.0.1', servername: '', ca: authority.cert });
    socket.on('error', () => {});
    await once(socket, 'secureConnect');
    const { CN } = socket.getPeerCertificate().subject;
    socket.destroy();
    return CN;
  };
  t.is(await subject(), 'cloud');
  now = { ...second, ca: authority.cert };
  changed();
  t.is(await subject(), 'second');
});

function ownKey(pem: string): Uint8Array {
  return new X509Certificate(pem).publicKey.export({ type: 'spki', format: 'der' });
}

// While a CA is replaced both sides trust two: each transport takes a certificate of either, and of no third.
import test from 'ava';
import { Slab } from '../../lib/core/index.js';
import { type Authority, cloudNames, createAuthority, nodeNames } from '../../lib/join/driver/pki.js';
import type { StreamHandler, Transport } from '../../lib/l2/transport.js';
import { quicTransport } from '../../transports/quic.js';
import { tcpTransport } from '../../transports/tcp.js';
import { webSocketTransport } from '../../transports/websocket.js';
import { webTransport } from '../../transports/webtransport.js';

const [first, second, third] = [
  await createAuthority('CA', 1),
  await createAuthority('CA of tomorrow', 1),
  await createAuthority('Other', 1),
];
const ca = first.cert + second.cert;
const cloudOf = async (by: Authority) => ({
  ca,
  ...(await by.issue({ name: 'cloud', days: 1, names: cloudNames('cloud', ['127.0.0.1']), server: true })),
});
const nodeOf = async (by: Authority) => ({
  ca,
  ...(await by.issue({ name: 'a', days: 1, names: nodeNames('acme', 'a', []) })),
});
type Credentials = { readonly ca: string; readonly cert: string; readonly key: string };
const listenAt = { host: '127.0.0.1', port: 0 };
const made: Readonly<Record<string, (tls: Credentials) => Transport>> = {
  tcp: (tls) => tcpTransport({ tls, listen: listenAt }),
  'tcp by the sockets of Node': (tls) => tcpTransport({ tls, listen: listenAt, native: false }),
  quic: (tls) => quicTransport({ tls, listen: listenAt }),
  webtransport: (tls) => webTransport({ tls, listen: listenAt }),
  websocket: (tls) => webSocketTransport({ tls, listen: listenAt }),
};

const room = () => Buffer.alloc(64 * 1024);
const handler: StreamHandler = {
  room,
  hasPartial: false,
  onData() {},
  onDrain() {},
  datagramRoom: room,
  onDatagram() {},
  onDatagramsDone() {},
  onClose() {},
};

for (const [name, transport] of Object.entries(made)) {
  test(`${name}: two CAs`, async (t) => {
    for (const [cloud, node] of [
      [first, second],
      [second, first],
    ] as const) {
      let accepted = (_node: string) => {};
      const seen = new Promise<string>((resolve) => {
        accepted = resolve;
      });
      const listener = await transport(await cloudOf(cloud)).listen({
        onStream: (stream) => accepted(stream.identity.node),
        onRefused: (_code, message) => accepted(message),
      });
      t.teardown(() => listener.close());
      const stream = await transport(await nodeOf(node)).dial(listener.address, AbortSignal.timeout(30_000));
      // A QUIC stream is there for the other side with its first byte.
      stream.open(handler);
      stream.write(Slab.of(Uint8Array.of(1)), 0, 1);
      t.is(await seen, 'a');
      stream.destroy();
    }
    const stranger = await transport(await cloudOf(third)).listen({
      onStream: (stream) => stream.destroy(),
      onRefused: () => {},
    });
    t.teardown(() => stranger.close());
    const dial = transport(await nodeOf(first)).dial(stranger.address, AbortSignal.timeout(30_000));
    await t.throwsAsync(dial, { code: 'ERR_CERTIFICATE' });
  });
}

// WebTransport in the form that is installed here (HTTP/2; HTTP/3 too where the native part is): an overlay on it, refusals
// with their reasons, somebody in between, a peer that does not read.
import { once } from 'node:events';
import test, { type ExecutionContext } from 'ava';
import { Slab } from '../../lib/core/index.js';
import { KubeBusCloud, KubeBusNode } from '../../lib/index.js';
import { type Authority, cloudNames, createAuthority, nodeNames } from '../../lib/join/driver/pki.js';
import type { ByteStream, StreamHandler } from '../../lib/l2/transport.js';
import { WINDOW } from '../../transports/web/credit.js';
import { chooseReliability, loadWebTransport } from '../../transports/web/webtransport-engine.js';
import { webTransport } from '../../transports/webtransport.js';
import { refusingPort } from '../support/foreign-server.js';
import { tlsMiddle } from '../support/tls-middle.js';
import { transfer } from '../support/transfer.js';

const ca = await createAuthority('test CA');
const other = await createAuthority('another CA');
const cloudTls = async (authority: Authority = ca, host = '127.0.0.1') => ({
  ca: ca.cert,
  ...(await authority.issue({ name: 'cloud', days: 1, names: cloudNames('cloud', [host]), server: true })),
});
const nodeTls = async (node: string, authority: Authority = ca, days = 1) => ({
  ca: ca.cert,
  ...(await authority.issue({ name: node, days, names: nodeNames('acme', node, []) })),
});

test('an overlay over WebTransport', async (t) => {
  const cloud = await KubeBusCloud.start({
    transports: [webTransport({ listen: { host: '127.0.0.1', port: 0 }, tls: await cloudTls() })],
    tenants: { acme: { pools: ['10.80.0.0/16', 'fd80::/64'] } },
  });
  t.teardown(() => cloud.stop());
  const join = async (node: string) => {
    const tls = await nodeTls(node);
    const joined = await KubeBusNode.join({
      cloud: cloud.addresses,
      transport: webTransport({ tls }),
      tenant: 'acme',
      node,
    });
    t.teardown(() => joined.stop());
    return joined;
  };
  const [a, b] = [await join('a'), await join('b')];
  for (const address of b.addresses) t.is((await a.ping(address, { count: 3, intervalMs: 0 })).lost, 0);
  t.true(await transfer(a, b, 8 * 1024 * 1024));
  t.true(await transfer(b, a, 8 * 1024 * 1024));
  const gone = once(a, 'down');
  await cloud.stop();
  const [reason] = await gone;
  t.is((reason as { code?: string }).code, 'ERR_PEER_GOODBYE');
});

/** A listener, and what it was told. */
async function listener(t: ExecutionContext, credentials: Awaited<ReturnType<typeof cloudTls>>) {
  const streams: ByteStream[] = [];
  let onStream: (stream: ByteStream) => void = () => {};
  let onRefused: (reason: string) => void = () => {};
  const refused = new Promise<string>((resolve) => {
    onRefused = resolve;
  });
  const accepted = new Promise<ByteStream>((resolve) => {
    onStream = resolve;
  });
  const listening = await webTransport({ listen: { host: '127.0.0.1', port: 0 }, tls: credentials }).listen({
    onStream(stream) {
      streams.push(stream);
      onStream(stream);
    },
    onRefused: (code, message) => onRefused(`${code}: ${message}`),
  });
  t.teardown(async () => {
    for (const stream of streams) stream.destroy();
    await listening.close();
  });
  return { address: listening.address, accepted, refused };
}

const cases: Record<
  string,
  { cloud: () => ReturnType<typeof cloudTls>; node: () => ReturnType<typeof nodeTls>; reason: RegExp; told: boolean }
> = {
  'a node of another CA': {
    cloud: () => cloudTls(),
    node: () => nodeTls('a', other),
    reason: /not signed by our CA/,
    told: true,
  },
  'an expired node certificate': {
    cloud: () => cloudTls(),
    node: () => nodeTls('a', ca, -1),
    reason: /expired/,
    told: true,
  },
  'a cloud of another CA': {
    cloud: () => cloudTls(other),
    node: () => nodeTls('a'),
    reason: /not signed by our CA/,
    told: false,
  },
  'a cloud certificate for another address': {
    cloud: () => cloudTls(ca, '192.0.2.1'),
    node: () => nodeTls('a'),
    reason: /another host name or address/,
    told: false,
  },
  'a node that poses as a cloud': {
    cloud: () => nodeTls('x'),
    node: () => nodeTls('a'),
    reason: /not made for this side/,
    told: false,
  },
};
for (const [what, { cloud, node, reason, told }] of Object.entries(cases)) {
  test(`refused with the reason: ${what}`, async (t) => {
    const { address, refused } = await listener(t, await cloud());
    const dialling = webTransport({ tls: await node() }).dial(address, AbortSignal.timeout(30_000));
    const error = await t.throwsAsync(dialling);
    t.is((error as { code?: string }).code, 'ERR_CERTIFICATE', error!.message);
    t.regex(error!.message, reason);
    const line = await refused;
    if (told) t.regex(line, reason);
  });
}

test('somebody in between who ends the TLS on both sides is found out', async (t) => {
  const { address } = await listener(t, await cloudTls());
  const port = Number(new URL(address).port);
  const through = await tlsMiddle(t, port, 'h2');
  const error = await t.throwsAsync(
    webTransport({ tls: await nodeTls('a') }).dial(through, AbortSignal.timeout(30_000)),
  );
  t.regex(error!.message, /in between/);
});

test('a peer that does not read holds one window of bytes, and gets the rest when it reads', async (t) => {
  const { address, accepted } = await listener(t, await cloudTls());
  const dialled = await webTransport({ tls: await nodeTls('a') }).dial(address, AbortSignal.timeout(30_000));
  t.teardown(() => dialled.destroy());
  const server = await accepted;
  const total = 8 * WINDOW;
  let got = 0;
  let sum = 0;
  let enough = () => {};
  const room = Buffer.alloc(64 * 1024);
  const handler = (onData: (n: number) => void): StreamHandler => ({
    room: () => room,
    hasPartial: false,
    onData,
    datagramRoom: () => room,
    onDatagram() {},
    onDatagramsDone() {},
    onDrain() {},
    onClose() {},
  });
  server.open(
    handler((n) => {
      for (let i = 0; i < n; i += 4096) sum = (sum + room[i]!) | 0;
      got += n;
      enough();
    }),
  );
  server.pause();
  dialled.open(handler(() => {}));
  const block = Slab.of(Buffer.alloc(64 * 1024, 7));
  for (let sent = 0; sent < total; sent += block.bytes.length) dialled.write(block, 0, block.bytes.length);
  // Everything that may leave has left once the sender is stuck: it then holds the rest.
  await new Promise<void>((resolve) => {
    let before = -1;
    const look = () => {
      if (dialled.pending === before) return resolve();
      before = dialled.pending;
      setTimeout(look, 100);
    };
    look();
  });
  t.true(dialled.pending >= total - WINDOW - 1024, `${dialled.pending}`);
  t.is(got, 0);
  const all = new Promise<void>((resolve) => {
    enough = () => {
      if (got === total) resolve();
    };
  });
  server.resume();
  await all;
  t.is(got, total);
});

test('nobody listens: the reason comes at once', async (t) => {
  const dialling = webTransport({ tls: await nodeTls('a') }).dial(
    `kubebus://127.0.0.1:${await refusingPort(t)}`,
    AbortSignal.timeout(30_000),
  );
  const error = await t.throwsAsync(dialling);
  t.regex(error!.message, /ECONNREFUSED/);
});

test('which form: both where the native part loads, HTTP/2 alone where not', async (t) => {
  t.is(chooseReliability(true), 'both');
  t.is(chooseReliability(false), 'reliableOnly');
  const { http3 } = await loadWebTransport();
  t.log(http3 ? 'HTTP/3 is here' : 'HTTP/3 is not here: the native part is not installed; HTTP/2 was tested');
});

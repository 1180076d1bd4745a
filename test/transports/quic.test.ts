// QUIC over real UDP on loopback: an overlay on it, refusals with their reasons, rebinding, loss, silence.
import dgram from 'node:dgram';
import { once } from 'node:events';
import test, { type ExecutionContext } from 'ava';
import { KubeBusCloud, KubeBusNode } from '../../lib/index.js';
import { type Authority, cloudNames, createAuthority, nodeNames } from '../../lib/join/driver/pki.js';
import { RetryTokens } from '../../transports/quic/retry.js';
import { quicTransport } from '../../transports/quic.js';
import { transfer } from '../support/transfer.js';
import { udpRelay } from '../support/udp-relay.js';

const SECOND = 1_000_000;
const ca = await createAuthority('test CA');
const cloudTls = async (authority: Authority = ca, host = '127.0.0.1') => {
  const issued = await authority.issue({ name: 'cloud', days: 1, names: cloudNames('cloud', [host]), server: true });
  return { ca: ca.cert, cert: issued.cert, key: issued.key };
};
const nodeTls = async (node: string, authority: Authority = ca, trust: Authority = ca) => {
  const issued = await authority.issue({ name: node, days: 1, names: nodeNames('acme', node, []) });
  return { ca: trust.cert, cert: issued.cert, key: issued.key };
};

async function startCloud(t: ExecutionContext, tls?: Awaited<ReturnType<typeof cloudTls>>, handshakes?: number) {
  const refused: string[] = [];
  let told = () => {};
  const firstRefusal = new Promise<void>((resolve) => {
    told = resolve;
  });
  const logger = {
    debug() {},
    info() {},
    error() {},
    warn(fields: { code?: string }, text: string) {
      refused.push(`${fields.code}: ${text}`);
      told();
    },
  };
  const cloud = await KubeBusCloud.start({
    transports: [
      quicTransport({
        listen: { host: '127.0.0.1', port: 0 },
        tls: tls ?? (await cloudTls()),
        ...(handshakes === undefined ? {} : { handshakes, handshakeTimeout: SECOND }),
      }),
    ],
    tenants: { acme: { pools: ['10.80.0.0/16', 'fd80::/64'] } },
    logger: logger as never,
  });
  t.teardown(() => cloud.stop());
  const port = Number(new URL(cloud.addresses[0]!).port);
  return { cloud, port, refused, firstRefusal };
}

async function startNode(
  t: ExecutionContext,
  port: number,
  node: string,
  options: Partial<Parameters<typeof KubeBusNode.join>[0]> = {},
) {
  const joined = await KubeBusNode.join({
    cloud: [`kubebus://127.0.0.1:${port}`],
    transport: quicTransport({ tls: await nodeTls(node) }),
    tenant: 'acme',
    node,
    ...options,
  });
  t.teardown(() => joined.stop());
  return joined;
}

test('an overlay over QUIC: packets go as datagrams, the link says it is lossy, its MTU is that of a datagram', async (t) => {
  const { port } = await startCloud(t);
  const [a, b] = [await startNode(t, port, 'a'), await startNode(t, port, 'b')];
  t.is(a.link.medium, 'lossy');
  t.is(a.link.mtu, 1290);
  for (const address of b.addresses) t.is((await a.ping(address, { count: 3, intervalMs: 0 })).lost, 0);
  t.true(await transfer(a, b, 4 * 1024 * 1024));
  t.is(a.link.stats().datagramMalformed, 0);
});

test('what fits no datagram goes on the stream', async (t) => {
  const { port } = await startCloud(t);
  // The smallest QUIC packets leave less room than the smallest IPv6 MTU, 1280.
  const small = quicTransport({ tls: await nodeTls('a'), udpPayload: 1200 });
  const a = await startNode(t, port, 'a', { transport: small });
  const b = await startNode(t, port, 'b');
  t.is(a.link.mtu, 1280);
  t.is((await a.ping(b.addresses[0]!, { count: 3, intervalMs: 0, size: 1252 })).lost, 0);
});

const refusals = {
  'a node of another CA': async (other: Authority) => ({
    node: await nodeTls('a', other),
    cloud: await cloudTls(),
    who: 'peer',
  }),
  'a cloud of another CA': async (other: Authority) => ({
    node: await nodeTls('a'),
    cloud: await cloudTls(other),
    who: 'own',
  }),
  'a cloud certificate for another address': async () => ({
    node: await nodeTls('a'),
    cloud: await cloudTls(ca, '192.0.2.1'),
    who: 'own',
  }),
  'a node certificate presented by a cloud': async () => ({
    node: await nodeTls('a'),
    cloud: await nodeTls('x'),
    who: 'own',
  }),
  'an expired node certificate': async () => ({
    node: await (async () => {
      const issued = await ca.issue({ name: 'a', days: -1, names: nodeNames('acme', 'a', []) });
      return { ca: ca.cert, cert: issued.cert, key: issued.key };
    })(),
    cloud: await cloudTls(),
    who: 'peer',
  }),
};
for (const [what, make] of Object.entries(refusals)) {
  test(`refused with the reason on both sides: ${what}`, async (t) => {
    const { node, cloud } = await make(await createAuthority('another CA'));
    const { port, refused, firstRefusal } = await startCloud(t, cloud);
    const error = await t.throwsAsync(quicDialThrough(t, port, node));
    t.is((error as { code?: string }).code, 'ERR_CERTIFICATE', error?.message);
    t.regex(error!.message, /certificate/);
    await firstRefusal;
    t.true(
      refused.some((line) => /certificate/i.test(line)),
      refused.join('\n'),
    );
  });
}

test('loss on the path is repaired, unless it is switched off', async (t) => {
  const { cloud, port } = await startCloud(t);
  const relay = await udpRelay(port);
  t.teardown(() => relay.close());
  let count = 0;
  relay.pass = (_up, index, bytes) => index < 20 || bytes < 1_000 || ++count % 40 !== 0;
  const a = await startNode(t, relay.port, 'a');
  const b = await startNode(t, port, 'b');
  t.true(await transfer(a, b, 2 * 1024 * 1024));
  t.true(await transfer(b, a, 2 * 1024 * 1024));
  const { datagramsRepeated, repaired, repairsGivenUp, datagramMalformed } = a.link.stats();
  t.true(datagramsRepeated! > 0);
  t.true(repaired! > 0);
  t.is(repairsGivenUp, 0);
  t.is(datagramMalformed, 0);
  const plain = await startNode(t, relay.port, 'plain', { link: { repair: false } });
  t.true(await transfer(plain, b, 256 * 1024));
  t.is(plain.link.stats().datagramsRepeated, 0);
  t.is(cloud.nodes().find((n) => n.node === 'plain')!.stats.datagramsRepeated, 0);
});

/** The first refusal or loss that a node's user is shown. */
async function quicDialThrough(
  t: ExecutionContext,
  port: number,
  tls: Awaited<ReturnType<typeof nodeTls>>,
): Promise<never> {
  const abort = new AbortController();
  t.teardown(() => abort.abort());
  return new Promise((_, reject) => {
    const logger = {
      debug() {},
      info() {},
      error(fields: { code?: string }, text: string) {
        reject(Object.assign(new Error(text), { code: fields.code }));
        abort.abort();
      },
      warn(fields: { code?: string }, text: string) {
        reject(Object.assign(new Error(text), { code: fields.code }));
        abort.abort();
      },
    };
    KubeBusNode.join({
      cloud: [`kubebus://127.0.0.1:${port}`],
      transport: quicTransport({ tls }),
      tenant: 'acme',
      node: 'a',
      logger: logger as never,
      signal: abort.signal,
    }).catch(reject);
  });
}

test('nobody listens: the reason comes at once, not after a timeout', async (t) => {
  const socket = dgram.createSocket('udp4').bind(0, '127.0.0.1');
  await once(socket, 'listening');
  const { port } = socket.address();
  socket.close();
  await once(socket, 'close');
  const error = await t.throwsAsync(
    quicTransport({ tls: await nodeTls('a') }).dial(`kubebus://127.0.0.1:${port}`, AbortSignal.timeout(60_000)),
  );
  t.regex(error!.message, /ECONNREFUSED/);
});

test('a NAT that rebinds: the connection and its flows go on from the new port', async (t) => {
  const { cloud, port } = await startCloud(t);
  const relay = await udpRelay(port);
  t.teardown(() => relay.close());
  const a = await startNode(t, relay.port, 'a');
  const b = await startNode(t, port, 'b');
  t.true(await transfer(a, b, 256 * 1024));
  const up = cloud.nodes().find((n) => n.node === 'a')!;
  let downs = 0;
  a.on('down', () => downs++);
  const moving = transfer(a, b, 2 * 1024 * 1024);
  relay.rebind();
  t.true(await moving);
  t.true(await transfer(b, a, 256 * 1024), 'and in the other direction');
  t.is(relay.seen.size, 2);
  t.is(downs, 0);
  t.is(cloud.nodes().filter((n) => n.node === 'a').length, 1);
  t.true(cloud.nodes().find((n) => n.node === 'a')!.upSeconds >= up.upSeconds, 'the same link');
});

test('one packet in ten lost: every byte arrives', async (t) => {
  const { port } = await startCloud(t);
  const relay = await udpRelay(port);
  t.teardown(() => relay.close());
  const a = await startNode(t, relay.port, 'a');
  const b = await startNode(t, port, 'b');
  relay.pass = (_up, index) => index % 10 !== 3;
  t.true(await transfer(a, b, 512 * 1024));
  t.true(await transfer(b, a, 512 * 1024));
});

test('garbage and foreign packets on the port are ignored, and the rest goes on', async (t) => {
  const { port } = await startCloud(t);
  const a = await startNode(t, port, 'a');
  const socket = dgram.createSocket('udp4');
  t.teardown(() => socket.close());
  for (let i = 0; i < 500; i++) {
    const junk = Buffer.from(Uint8Array.from({ length: 1 + ((i * 37) % 1400) }, (_, k) => (k * i * 31 + 17) & 255));
    if (i % 3 === 0) junk[0] = 0xc0 | (i & 0x3f); // long headers
    await new Promise((done) => socket.send(junk, port, '127.0.0.1', done));
  }
  t.is((await a.ping(a.gateway[0]!, { count: 3, intervalMs: 0 })).lost, 0);
});

test('more clients than handshakes allow at once: addresses are validated first, and all come in', async (t) => {
  const { cloud, port } = await startCloud(t, undefined, 8);
  const nodes = await Promise.all(Array.from({ length: 6 }, (_, i) => startNode(t, port, `n${i}`)));
  t.is(cloud.nodes().length, nodes.length);
});

test('RETRY tokens: for one address, for ten seconds, and only ours', (t) => {
  const [ours, theirs] = [new RetryTokens(), new RetryTokens()];
  const odcid = Uint8Array.from({ length: 20 }, (_, i) => i);
  const token = ours.make(1_000, '192.0.2.1', odcid);
  t.deepEqual(ours.open(2_000, '192.0.2.1', token), odcid);
  t.is(ours.open(2_000, '192.0.2.2', token), null);
  t.is(ours.open(12_000, '192.0.2.1', token), null);
  t.is(theirs.open(2_000, '192.0.2.1', token), null);
  for (let i = 0; i < token.length; i++) {
    const broken = Uint8Array.from(token);
    broken[i]! ^= 1;
    t.is(ours.open(2_000, '192.0.2.1', broken), null);
    t.is(ours.open(2_000, '192.0.2.1', token.subarray(0, i)), null);
  }
});

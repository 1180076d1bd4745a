// A QUIC hub that went without a word: its nodes learn it from the first packet that they send, not from the dead-peer time.

import { once } from 'node:events';
import test, { type ExecutionContext } from 'ava';
import { KubeBusCloud, KubeBusNode } from '../../lib/index.js';
import { cloudNames, createAuthority, nodeNames } from '../../lib/join/driver/pki.js';
import { StatelessResets } from '../../transports/quic/reset.js';
import { quicTransport } from '../../transports/quic.js';
import { udpRelay } from '../support/udp-relay.js';

const ca = await createAuthority('test CA');
const cloudNames127 = cloudNames('cloud', ['127.0.0.1']);
const { cert, key } = await ca.issue({ name: 'cloud', days: 1, names: cloudNames127, server: true });
const edge = await ca.issue({ name: 'a', days: 1, names: nodeNames('acme', 'a', []) });

/** The same hub, each time as another process would have it: nothing is known but certificate and key. */
async function startCloud(t: ExecutionContext): Promise<{ cloud: KubeBusCloud; port: number }> {
  const cloud = await KubeBusCloud.start({
    transports: [quicTransport({ listen: { host: '127.0.0.1', port: 0 }, tls: { ca: ca.cert, cert, key } })],
    tenants: { acme: { pools: ['10.80.0.0/16'] } },
  });
  t.teardown(() => cloud.stop());
  return { cloud, port: Number(new URL(cloud.addresses[0]!).port) };
}

async function startNode(t: ExecutionContext, port: number): Promise<KubeBusNode> {
  const node = await KubeBusNode.join({
    cloud: [`kubebus://127.0.0.1:${port}`],
    transport: quicTransport({ tls: { ca: ca.cert, cert: edge.cert, key: edge.key } }),
    tenant: 'acme',
    node: 'a',
  });
  t.teardown(() => node.stop());
  return node;
}

test('a hub that was restarted answers packets of before with a stateless reset, and the node is back', async (t) => {
  const before = await startCloud(t);
  const relay = await udpRelay(before.port);
  t.teardown(() => relay.close());
  const node = await startNode(t, relay.port);
  const after = await startCloud(t);
  const [down, up] = [once(node, 'down'), once(node, 'up')];
  relay.target = after.port;
  node.ping(node.gateway[0]!, { count: 1 }).catch(() => {}); // traffic; the node may stop before an answer
  const [reason] = (await down) as [Error];
  t.regex(reason.message, /does not know this connection any more: it was restarted/);
  await up;
  t.is(after.cloud.nodes().length, 1);
  // The link is up before its addresses are assigned anew.
  t.true((await node.ping(node.gateway[0]!, { count: 20, intervalMs: 50 })).lost < 20);
});

test('nobody listens any more: believed when the peer stays silent too', async (t) => {
  const { port } = await startCloud(t);
  const relay = await udpRelay(port);
  const node = await startNode(t, relay.port);
  const down = once(node, 'down');
  relay.close();
  node.ping(node.gateway[0]!, { count: 1 }).catch(() => {}); // traffic; the node may stop before an answer
  const [reason] = (await down) as [Error];
  t.regex(reason.message, /nobody listens there any more/);
});

test('resets: smaller than what they answer, the same after a restart, another for each id, so many a second', (t) => {
  const [ours, restarted, other] = [new StatelessResets('a'), new StatelessResets('a'), new StatelessResets('b')];
  const id = Uint8Array.from({ length: 20 }, (_, i) => i);
  const token = (packet: Buffer | null) => BigInt(`0x${packet!.subarray(-16).toString('hex')}`);
  for (const length of [42, 43, 60, 1350]) {
    const packet = restarted.answer(0, id, length)!;
    t.true(packet.length < length);
    t.is(packet[0]! & 0xc0, 0x40, 'looks like a packet with a short header');
    t.is(token(packet), ours.token(id));
  }
  t.is(ours.answer(0, id, 41), null, 'two resets do not answer each other for ever');
  t.not(ours.token(id), ours.token(id.map((b) => b ^ 1)));
  t.not(ours.token(id), other.token(id));
  let answers = 0;
  while (ours.answer(1_000, id, 100) !== null) answers++;
  t.is(answers, 1_000);
  t.not(ours.answer(2_000, id, 100), null);
});

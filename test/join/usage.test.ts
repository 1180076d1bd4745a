// Bytes accounted per node and tenant, against what the nodes count themselves; limits of a node and of its tenant.

import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { silentLogger } from '../../lib/core/index.js';
import { type CloudOptions, KubeBusCloud, KubeBusNode } from '../../lib/index.js';
import { UsageBook } from '../../lib/usage.js';
import { tcpTransport } from '../../transports/tcp.js';
import { folder } from './support.js';

async function start(t: ExecutionContext, more: Partial<CloudOptions>) {
  const listen = { host: '127.0.0.1', port: 0 };
  const cloud = await KubeBusCloud.start({
    transports: [tcpTransport({ listen, insecure: true })],
    tenants: { acme: { pools: ['10.80.0.0/16'] }, blue: { pools: ['10.80.0.0/16'] } },
    ...more,
  });
  t.teardown(() => cloud.stop());
  const dial = async (node: string, tenant = 'acme') => {
    const joined = await KubeBusNode.join({
      cloud: cloud.addresses,
      transport: tcpTransport({ insecure: true }),
      tenant,
      node,
    });
    t.teardown(() => joined.stop());
    return joined;
  };
  return { cloud, dial };
}

/** Sends `bytes` from a to b over the overlay and resolves when all have arrived. */
async function transfer(a: KubeBusNode, b: KubeBusNode, bytes: number): Promise<void> {
  const received = new Promise<number>((resolve, reject) => {
    const server = b.net.createServer((socket) => {
      let n = 0;
      socket.on('data', (chunk: Buffer) => {
        n += chunk.length;
      });
      socket.on('error', reject);
      socket.on('end', () => {
        socket.end();
        server.close();
        resolve(n);
      });
    });
    server.listen(7, () => {
      const socket = a.net.connect({ host: b.addresses[0]!, port: 7 });
      socket.on('error', reject);
      socket.end(Buffer.alloc(bytes));
    });
  });
  if ((await received) !== bytes) throw new Error('not all arrived');
}

interface TenantUsage {
  readonly bytesIn: number;
  readonly bytesOut: number;
  readonly nodes: Record<string, { bytesIn: number; bytesOut: number }>;
}
const usageOf = (cloud: KubeBusCloud, tenant: string) =>
  (cloud.stats() as { tenants: Record<string, { usage: TenantUsage }> }).tenants[tenant]!.usage;

test('what a node counts is what it is accounted, over reconnections and a restart of the cloud', async (t) => {
  const stateDir = await folder(t);
  let left = 0;
  let seen = () => {};
  const logger = {
    ...silentLogger,
    info(_fields: object, message: string) {
      if (!message.startsWith('node left')) return;
      left++;
      seen();
    },
  };
  /** The cloud has heard the goodbyes of so many nodes. */
  const goodbyes = async (n: number) => {
    while (left < n)
      await new Promise<void>((resolve) => {
        seen = resolve;
      });
  };
  const first = await start(t, { stateDir, logger });
  const [a, b] = [await first.dial('a'), await first.dial('b')];
  await first.dial('c', 'blue');
  await transfer(a, b, 300_000);
  await a.stop();
  const again = await first.dial('a');
  await transfer(again, b, 200_000);
  await again.stop();
  await b.stop();
  await goodbyes(3);
  await first.cloud.stop();
  const sent = (list: KubeBusNode[]) => list.reduce((sum, n) => sum + n.link.stats().bytesOut!, 0);
  const usage = usageOf(first.cloud, 'acme');
  t.is(usage.nodes.a!.bytesIn, sent([a, again]));
  t.true(usage.nodes.a!.bytesIn > 500_000);
  t.is(usage.nodes.b!.bytesIn, sent([b]));
  t.true(usage.nodes.b!.bytesOut > 500_000);
  t.is(usage.bytesIn, usage.nodes.a!.bytesIn + usage.nodes.b!.bytesIn);
  t.deepEqual(Object.keys(usageOf(first.cloud, 'blue').nodes), ['c']);

  const stored = JSON.parse(await readFile(join(stateDir, 'usage.json'), 'utf8'));
  t.deepEqual(stored.acme, usage.nodes);
  const second = await start(t, { stateDir });
  t.deepEqual(usageOf(second.cloud, 'acme'), usage);
  const back = await second.dial('a');
  await transfer(back, await second.dial('b'), 100_000);
  t.true(usageOf(second.cloud, 'acme').nodes.a!.bytesIn > usage.nodes.a!.bytesIn + 100_000);
  const shown = second.cloud.nodes().find((n) => n.node === 'a')!.usage;
  t.deepEqual(shown, usageOf(second.cloud, 'acme').nodes.a);
});

test('a limited node gets everything through, slower; the drops are its own and counted', async (t) => {
  const acme = { pools: ['10.80.0.0/16'], nodes: { a: { rate: { up: 2_000_000 } } } };
  const { cloud, dial } = await start(t, { tenants: { acme } });
  const [a, b] = [await dial('a'), await dial('b')];
  await transfer(b, a, 1_000_000);
  const stats = (node: string) => cloud.nodes().find((n) => n.node === node)!.stats;
  t.is(stats('a').droppedRateUp, 0);
  t.is(stats('b').droppedRateUp, undefined, 'no limit, no cost');
  await transfer(a, b, 3_000_000);
  t.true(stats('a').droppedRateUp! > 0);
  t.is(stats('a').droppedRateDown, 0);
});

test('damaged counts are left out; forgetting a node forgets its bytes', (t) => {
  const book = new UsageBook();
  for (const wrong of [
    null,
    1,
    [],
    'x',
    { acme: 1 },
    { acme: { a: {} } },
    { acme: { a: { bytesIn: -1, bytesOut: 0 } } },
  ])
    book.restore(wrong);
  t.deepEqual(book.snapshot(), {});
  book.restore({ acme: { a: { bytesIn: 1, bytesOut: 2 }, b: { bytesIn: 10, bytesOut: 20 } } });
  t.deepEqual(book.total('acme'), { bytesIn: 11, bytesOut: 22 });
  book.forget('acme', 'a');
  t.deepEqual(book.total('acme'), { bytesIn: 10, bytesOut: 20 });
  t.deepEqual(book.of('acme', 'a'), { bytesIn: 0, bytesOut: 0 });
});

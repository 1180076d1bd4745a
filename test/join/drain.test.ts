// A hub that stops tells its nodes when and where to come back.

import { once } from 'node:events';
import test from 'ava';
import { type KubeBusError, silentLogger } from '../../lib/core/index.js';
import { KubeBusCloud, KubeBusNode } from '../../lib/index.js';
import { tcpTransport } from '../../transports/tcp.js';
import { Kubebus } from '../cli/support/process.js';
import { run } from '../cli/support/run.js';
import { folder } from './support.js';

const startCloud = (name: string) =>
  KubeBusCloud.start({
    name,
    transports: [tcpTransport({ listen: { host: '127.0.0.1', port: 0 }, insecure: true })],
    tenants: { acme: { pools: ['10.80.0.0/16'] } },
  });

test('nodes go where they are sent, keep their addresses, and know both places from then on', async (t) => {
  const [one, two] = [await startCloud('one'), await startCloud('two')];
  const node = await KubeBusNode.join({
    cloud: one.addresses,
    transport: tcpTransport({ insecure: true }),
    tenant: 'acme',
    node: 'a',
    logger: silentLogger,
  });
  t.teardown(() => Promise.all([node.stop(), two.stop()]));
  const { addresses } = node;
  const down = once(node, 'down') as Promise<[KubeBusError]>;
  const up = once(node, 'up');
  await one.stop('maintenance until noon', 0, two.addresses);
  const [reason] = await down;
  t.is(`${reason.code} ${reason.message}`, 'ERR_PEER_GOODBYE maintenance until noon');
  await up;
  t.is(node.link.peer.node, 'two');
  t.deepEqual(node.addresses, addresses);
  // Sent to where nobody is: the configured place is still known, but nobody is there either; so it goes on trying.
  const back = await KubeBusCloud.start({
    name: 'three',
    transports: [
      tcpTransport({ listen: { host: '127.0.0.1', port: Number(one.addresses[0]!.split(':').pop()) }, insecure: true }),
    ],
    tenants: { acme: { pools: ['10.80.0.0/16'] } },
  });
  t.teardown(() => back.stop());
  const again = once(node, 'up');
  await two.stop('gone for good', 0, ['kubebus://127.0.0.1:1']);
  await again;
  t.is(node.link.peer.node, 'three');
});

test('kubebus drain: the cloud ends with 0, the node comes to the other one', async (t) => {
  const flags = ['--insecure', '--listen', '127.0.0.1:0', '--tenant', 'acme=10.80.0.0/16'];
  const state = await folder(t);
  const start = (...argv: string[]) => {
    const process = new Kubebus(...argv);
    t.teardown(() => process.stop('SIGKILL'));
    return process;
  };
  const [one, two] = [
    start('cloud', '--state', state, '--name', 'one', ...flags),
    start('cloud', '--name', 'two', ...flags),
  ];
  const address = async (cloud: Kubebus) => ((await cloud.says(/^cloud up$/)).addresses as string[])[0]!;
  const [first, second] = [await address(one), await address(two)];
  const edge = start('edge', '--insecure', '--cloud', first, '--tenant', 'acme', '--node', 'a');
  await edge.says(/^edge up$/);
  const { out, code } = await run('drain', '--state', state, '--to', second, '--retry-after', '1s');
  t.is(code, 0);
  t.is(out, 'the cloud stops; 1 nodes are told\n');
  t.is((await edge.line((l) => l.cloud === 'two')).msg, 'link up');
  await one.stopped;
  t.is(await one.stop(), 0, one.err);
});

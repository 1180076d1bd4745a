// Two hubs of one overlay, one at a time: the second takes over the first one's state folder, and nodes that know both find it,
// with their addresses and their flows.
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import net from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { MS } from '../../lib/core/index.js';
import { KubeBusCloud, KubeBusNode } from '../../lib/index.js';
import { cloudNames, createAuthority, nodeNames } from '../../lib/join/driver/pki.js';
import { tcpTransport } from '../../transports/tcp.js';

test('the second hub takes over the state of the first: same addresses, and a connection on the overlay goes on', async (t) => {
  const ca = await createAuthority('test CA');
  const stateDir = await mkdtemp(join(tmpdir(), 'kubebus-standby-'));
  t.teardown(() => rm(stateDir, { recursive: true, force: true }));
  const start = async () => {
    const names = cloudNames('cloud', ['127.0.0.1']);
    const tls = { ca: ca.cert, ...(await ca.issue({ name: 'cloud', days: 1, names, server: true })) };
    const cloud = await KubeBusCloud.start({
      transports: [tcpTransport({ listen: { host: '127.0.0.1', port: 0 }, tls })],
      tenants: { acme: { pools: ['10.80.0.0/16'] } },
      stateDir,
    });
    t.teardown(() => cloud.stop());
    return cloud;
  };
  // The second hub's host: nobody is behind it until that hub runs.
  let behind: number | null = null;
  const standby = net.createServer((front) => {
    front.on('error', () => {});
    if (behind === null) return void front.resetAndDestroy();
    const back = net.connect(behind, '127.0.0.1').on('error', () => {});
    front.on('close', () => back.destroy());
    back.on('close', () => front.destroy());
    front.pipe(back).pipe(front);
  });
  standby.listen(0, '127.0.0.1');
  await once(standby, 'listening');
  t.teardown(() => standby.close());
  const first = await start();
  const second = `kubebus://127.0.0.1:${(standby.address() as net.AddressInfo).port}`;
  const node = async (name: string) => {
    const tls = { ca: ca.cert, ...(await ca.issue({ name, days: 1, names: nodeNames('acme', name, []) })) };
    const joined = await KubeBusNode.join({
      cloud: [...first.addresses, second],
      transport: tcpTransport({ tls }),
      tenant: 'acme',
      node: name,
      link: { backoff: { first: 50 * MS, cap: 200 * MS } },
    });
    t.teardown(() => joined.stop());
    return joined;
  };
  // In this order: a new hub that gave addresses anew would give them the other way round.
  const [a, b] = [await node('a'), await node('b')];
  const before = [a.addresses, b.addresses];
  const server = b.net.createServer((socket) => socket.pipe(socket)).listen(7000);
  await once(server, 'listening');
  const socket = a.net.connect({ host: b.addresses[0]!, port: 7000 });
  await Promise.all([once(socket, 'connect'), once(server, 'connection')]);

  const ups = [b, a].map((n) => once(n, 'up'));
  await first.stop();
  const next = await start();
  behind = Number(new URL(next.addresses[0]!).port);
  await Promise.all(ups);
  socket.write('still here');
  const [echo] = (await once(socket, 'data')) as [Buffer];
  t.is(String(echo), 'still here');
  t.deepEqual([a.addresses, b.addresses], before);
  t.deepEqual(
    next
      .nodes()
      .map((n) => n.node)
      .sort(),
    ['a', 'b'],
  );
  socket.destroy();
  server.close();
});

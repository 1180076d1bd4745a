// The composed overlay: a cloud and two nodes in one process, joined in memory. With tcpTransport() instead of memoryTransport()
// each can be a process on a host of its own. Run: node --import tsx examples/layers/overlay.ts

import { once } from 'node:events';
import { pathToFileURL } from 'node:url';
import { KubeBusCloud, KubeBusNode } from '../../lib/index.js';
import { memoryTransport } from '../../transports/memory.js';

export async function main(print: (line: string) => void = console.log): Promise<void> {
  const transport = memoryTransport();
  const cloud = await KubeBusCloud.start({
    transports: [transport],
    tenants: { acme: { pools: ['10.80.0.0/16', 'fd80::/64'] } },
  });
  const join = (node: string) => KubeBusNode.join({ cloud: cloud.addresses, transport, tenant: 'acme', node });
  const [edge, router] = [await join('edge'), await join('router')];
  print(`edge ${edge.addresses.join(' ')}, router ${router.addresses.join(' ')}`);

  const { rtts } = await edge.ping(router.addresses[0]!, { count: 1 });
  print(`ping: ${rtts.length} answered`);

  // A subnet behind the router becomes known to everybody at once.
  const subnets = () => edge.routes().filter((r) => r.kind !== 'edge');
  router.advertise([{ prefix: '10.1.0.0/24', kind: 'vm' }]);
  while (subnets().length === 0) await once(edge, 'routes');
  print(`edge knows ${subnets()[0]!.prefix} behind ${subnets()[0]!.node}`);

  for (const one of [edge, router, cloud]) await one.stop();
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) await main();

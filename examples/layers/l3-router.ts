// L3 alone: one router between two nodes, over links in memory. Nobody assigns addresses and no cloud is there: route tables
// and links are all that IP needs. Run: node --import tsx examples/layers/l3-router.ts

import { pathToFileURL } from 'node:url';
import { memoryLinks } from '../../lib/l2/index.js';
import { attachLink, PingDriver, parseAddress, parsePrefix, Router } from '../../lib/l3/index.js';

export async function main(print: (line: string) => void = console.log): Promise<void> {
  const [left, leftEnd] = memoryLinks({ mtu: 1400 });
  const [right, rightEnd] = memoryLinks({ mtu: 1280 });

  // The router in the middle: a route for each side. Sources are checked too: each link may send from its own subnet only.
  const router = new Router().addVrf('lab');
  const any = { onControl() {} };
  for (const [link, subnet, own] of [
    [leftEnd, '10.1.0.0/24', '10.1.0.1'],
    [rightEnd, '10.2.0.0/24', '10.2.0.1'],
  ] as const) {
    const port = attachLink({ vrf: router, link, sources: [parsePrefix(subnet)], ...any });
    router.addStaticRoute(parsePrefix(subnet), port);
    router.setAddresses([...router.addresses, parseAddress(own)]);
  }

  // A node on each side: its own address, and everything else by way of the router.
  const node = (link: typeof left, address: string) => {
    const vrf = new Router().addVrf('lab');
    const port = attachLink({ vrf, link, sources: null, ...any });
    vrf.setAddresses([parseAddress(address)]);
    vrf.addStaticRoute(parsePrefix('0.0.0.0/0'), port);
    return new PingDriver(vrf);
  };
  const a = node(left, '10.1.0.7');
  const b = node(right, '10.2.0.7');

  const tell = async (what: string, ping: ReturnType<PingDriver['ping']>) => {
    const [result] = (await ping).results;
    print(`${what}: ${result?.ok ? 'answered' : JSON.stringify(result)}`);
  };
  await tell('10.1.0.7 -> 10.2.0.7', a.ping('10.2.0.7', { count: 1 }));
  await tell('10.2.0.7 -> 10.1.0.1 (the router)', b.ping('10.1.0.1', { count: 1 }));
  await tell('ttl 1', a.ping('10.2.0.7', { count: 1, ttl: 1 }));
  await tell('no route', a.ping('10.3.0.7', { count: 1 }));
  for (const driver of [a, b]) driver.close();
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) await main();

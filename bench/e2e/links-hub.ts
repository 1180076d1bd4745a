// The hub of links.ts and links-fleet.ts, in a process of its own: links-hub.ts PORT STATEDIR [PKIDIR|join]. With a folder: the
// certificates in it; with `join`: a CA of its own, nodes come by token; without: insecure. Answers `memory` with its memory, after
// collection, `cpu` with what it has used, and { tokens: n } with as many tokens.

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { KubeBusCloud } from '../../lib/index.js';
import { openJoinAuthority } from '../../lib/join/index.js';
import { tcpTransport } from '../../transports/tcp.js';
import { hubCpu } from './links-cpu.js';

const [port, stateDir, how] = process.argv.slice(2);
const pem = (file: string) => readFileSync(join(how!, file), 'utf8');
const authority =
  how === 'join'
    ? await openJoinAuthority({
        stateDir: stateDir!,
        hosts: ['127.0.0.1'],
        addresses: () => [`kubebus://127.0.0.1:${port}`],
        tenants: ['acme'],
      })
    : undefined;
const security =
  authority !== undefined
    ? { tls: authority.tls, services: [authority.service] }
    : how === undefined
      ? { insecure: true }
      : { tls: { ca: pem('ca.crt'), cert: pem('cloud.crt'), key: pem('cloud.key') } };
const cloud = await KubeBusCloud.start({
  transports: [tcpTransport({ listen: { host: '127.0.0.1', port: Number(port) }, ...security })],
  tenants: { acme: { pools: ['10.80.0.0/16', 'fd80::/64'] } },
  stateDir: stateDir!,
  ...(authority === undefined ? {} : { authority }),
});
process.on('disconnect', () => process.exit(0));
process.on('message', (order: string | { tokens: number }) => {
  if (typeof order !== 'string') void tokens(order.tokens);
  else if (order === 'cpu') process.send?.(hubCpu());
  else memory();
});
process.send?.('up');

async function tokens(count: number): Promise<void> {
  const made: string[] = [];
  for (let i = 0; i < count; i++) made.push((await authority!.createToken({ tenant: 'acme', node: `t${i}` })).text);
  process.send?.(made);
}

function memory(): void {
  globalThis.gc?.();
  globalThis.gc?.();
  const { heapUsed, external, rss } = process.memoryUsage();
  process.send?.({
    heap: heapUsed + external,
    rss,
    addresses: Object.fromEntries(cloud.nodes().map((n) => [n.node, n.addresses.join()])),
  });
}

// The hub of links.ts, in a process of its own: links-hub.ts PORT STATEDIR [PKIDIR]. Without PKIDIR: insecure. Answers every
// message with its memory, after collection.

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { KubeBusCloud } from '../../lib/index.js';
import { tcpTransport } from '../../transports/tcp.js';

const [port, stateDir, pkiDir] = process.argv.slice(2);
const pem = (file: string) => readFileSync(join(pkiDir!, file), 'utf8');
const security =
  pkiDir === undefined
    ? { insecure: true }
    : { tls: { ca: pem('ca.crt'), cert: pem('cloud.crt'), key: pem('cloud.key') } };
const cloud = await KubeBusCloud.start({
  transports: [tcpTransport({ listen: { host: '127.0.0.1', port: Number(port) }, ...security })],
  tenants: { acme: { pools: ['10.80.0.0/16', 'fd80::/64'] } },
  stateDir: stateDir!,
});
process.on('disconnect', () => process.exit(0));
process.on('message', () => {
  globalThis.gc?.();
  globalThis.gc?.();
  const { heapUsed, external, rss } = process.memoryUsage();
  process.send?.({
    heap: heapUsed + external,
    rss,
    addresses: Object.fromEntries(cloud.nodes().map((n) => [n.node, n.addresses.join()])),
  });
});
process.send?.('up');

// The hub of links.ts, in a process of its own: links-hub.ts PORT STATEDIR. Answers 'memory'.

import { KubeBusCloud } from '../../lib/index.js';
import { tcpTransport } from '../../transports/tcp.js';

const [port, stateDir] = process.argv.slice(2);
await KubeBusCloud.start({
  transports: [tcpTransport({ listen: { host: '127.0.0.1', port: Number(port) }, insecure: true })],
  tenants: { acme: { pools: ['10.80.0.0/16', 'fd80::/64'] } },
  stateDir: stateDir!,
});
process.on('disconnect', () => process.exit(0));
process.on('message', () => {
  globalThis.gc?.();
  globalThis.gc?.();
  const { heapUsed, external, rss } = process.memoryUsage();
  process.send?.({ heap: heapUsed + external, rss });
});
process.send?.('up');

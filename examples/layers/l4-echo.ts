// L4: an echo server and its client on the overlay, with the API of node:net. The name of the node is its host name.
// Run: node --import tsx examples/layers/l4-echo.ts

import { once } from 'node:events';
import { pathToFileURL } from 'node:url';
import { KubeBusCloud, KubeBusNode } from '../../lib/index.js';
import { memoryTransport } from '../../transports/memory.js';

export async function main(print: (line: string) => void = console.log): Promise<void> {
  const transport = memoryTransport();
  const cloud = await KubeBusCloud.start({ transports: [transport], tenants: { acme: { pools: ['10.80.0.0/16'] } } });
  const join = (node: string) => KubeBusNode.join({ cloud: cloud.addresses, transport, tenant: 'acme', node });
  const [server, client] = [await join('server'), await join('client')];

  const echo = server.net.createServer((socket) => socket.pipe(socket)).listen(7);
  await once(echo, 'listening');

  const socket = client.net.connect({ host: 'server', port: 7 });
  await once(socket, 'connect');
  print(`connected to ${socket.remoteAddress}`);
  socket.setEncoding('utf8').end('hello over the overlay');
  let text = '';
  for await (const part of socket) text += part;
  print(`echoed: ${text}`);

  echo.close();
  for (const one of [client, server, cloud]) await one.stop();
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) await main();

// HTTP on the overlay with Node's own http module: its server on one node, its client with the agent of another.
// Run: node --import tsx examples/layers/http.ts

import { once } from 'node:events';
import http from 'node:http';
import { pathToFileURL } from 'node:url';
import { KubeBusCloud, KubeBusNode } from '../../lib/index.js';
import { memoryTransport } from '../../transports/memory.js';

export async function main(print: (line: string) => void = console.log): Promise<void> {
  const transport = memoryTransport();
  const cloud = await KubeBusCloud.start({ transports: [transport], tenants: { acme: { pools: ['10.80.0.0/16'] } } });
  const join = (node: string) => KubeBusNode.join({ cloud: cloud.addresses, transport, tenant: 'acme', node });
  const [camera, viewer] = [await join('camera'), await join('viewer')];

  const web = camera.sockets.http.createServer((request, response) => response.end(`picture of ${request.url}`));
  await once(web.listen(80), 'listening');

  const request = http.get({ host: 'camera', path: '/door', agent: viewer.sockets.httpAgent() });
  const [response] = (await once(request, 'response')) as [http.IncomingMessage];
  let body = '';
  for await (const part of response.setEncoding('utf8')) body += part;
  print(`${response.statusCode} ${body}`);

  web.close();
  for (const one of [viewer, camera, cloud]) await one.stop();
}

if (import.meta.url === pathToFileURL(process.argv[1] ?? '').href) await main();

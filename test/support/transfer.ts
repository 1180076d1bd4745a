// A checked transfer over the sockets of two nodes.
import { once } from 'node:events';
import type { KubeBusNode } from '../../lib/index.js';

/** Sends `bytes` of a known pattern from a to b over TCP of the overlay; true when every one arrived as it was. */
export async function transfer(a: KubeBusNode, b: KubeBusNode, bytes: number): Promise<boolean> {
  const pattern = Buffer.from(Uint8Array.from({ length: 4096 }, (_, i) => (i * 7 + (i >> 8)) & 255));
  const data = Buffer.alloc(bytes, pattern);
  const server = b.net.createServer((socket) => {
    const chunks: Buffer[] = [];
    socket.on('data', (chunk: Buffer) => chunks.push(chunk));
    socket.on('end', () => socket.end(Buffer.concat(chunks).equals(data) ? 'same' : 'different'));
  });
  server.listen(0);
  await once(server, 'listening');
  const { port } = server.address() as { port: number };
  const socket = a.net.connect({ host: b.addresses[0]!, port });
  socket.end(data);
  let verdict = '';
  for await (const part of socket) verdict += String(part);
  server.close();
  return verdict === 'same';
}

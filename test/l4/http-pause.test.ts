// Node's HTTP server on our sockets stops and starts their reading by hand (it sets `_handle.reading`): what waits meanwhile must not be lost,
// also when so much waits that the other end may send nothing more.

import { once } from 'node:events';
import type { IncomingMessage, ServerResponse } from 'node:http';
import test from 'ava';
import { makeWorld } from '../http-proxy/support/world.js';

const SIZE = 16 * 1024 * 1024;

test('a request that is paused until the window is full goes on', async (t) => {
  const world = await makeWorld(['acme/edge-1', 'acme/edge-2']);
  t.teardown(() => world.close());
  const server = world.node('acme/edge-1').http.createServer();
  server.listen(8080);
  await once(server, 'listening');
  const socket = world.node('acme/edge-2').net.connect({ host: 'edge-1', port: 8080 });
  await once(socket, 'connect');
  socket.write(`POST / HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: ${SIZE}\r\n\r\n`);
  socket.write(Buffer.alloc(SIZE));
  const [req, res] = (await once(server, 'request')) as [IncomingMessage, ServerResponse];
  let bytes = 0;
  req.on('data', (chunk: Buffer) => {
    bytes += chunk.length;
  });
  /** Nothing moves any more: a hundred turns of the event loop without a byte. */
  const full = async () => {
    let before = -1;
    for (let still = 0; still < 100; still++) {
      if (socket.bytesWritten - socket.writableLength !== before) still = 0;
      before = socket.bytesWritten - socket.writableLength;
      await new Promise((resolve) => setImmediate(resolve));
    }
  };
  req.pause();
  await full();
  t.true(bytes < SIZE, 'the sender is held up');
  req.resume();
  await once(req, 'end');
  t.is(bytes, SIZE);
  res.end('all');
  let text = '';
  for await (const part of socket.setEncoding('latin1')) text += part;
  t.regex(text, /all/);
  server.close();
});

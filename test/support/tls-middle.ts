// Somebody in between: ends the TLS of both sides with a certificate of its own, and passes on what they say.
import { once } from 'node:events';
import type net from 'node:net';
import tls from 'node:tls';
import type { ExecutionContext } from 'ava';
import { shortLived } from '../../transports/web/short-lived.js';

/** Address under which the server on `port` of 127.0.0.1 is reached through it; `protocol`: in ALPN, to both sides. */
export async function tlsMiddle(t: ExecutionContext, port: number, protocol: string): Promise<string> {
  const { cert, key } = await shortLived();
  const ALPNProtocols = [protocol];
  const middle = tls.createServer({ cert, key, ALPNProtocols }, (front) => {
    const back = tls.connect({ host: '127.0.0.1', port, rejectUnauthorized: false, ALPNProtocols });
    const over = () => {
      front.destroy();
      back.destroy();
    };
    for (const socket of [front, back]) socket.on('error', () => {}).on('close', over);
    front.pipe(back).pipe(front);
  });
  middle.listen(0, '127.0.0.1');
  await once(middle, 'listening');
  t.teardown(() => middle.close());
  return `kubebus://127.0.0.1:${(middle.address() as net.AddressInfo).port}`;
}

// A link over a real TCP connection whose sender is faster than the network: what waits in the fair queue gets out again.
// A plain socket passes some writes on at once, a TLS socket none: both ways of draining are met here.

import test from 'ava';
import { HEADER, KubeBusError, putHeader, SECOND, Slab } from '../../lib/core/index.js';
import { acceptLinks, dialLink, type Link } from '../../lib/l2/index.js';
import { putIpv4 } from '../../lib/l3/wire/ipv4.js';
import { tcpTransport } from '../../transports/tcp.js';

const PACKET = 60_000;
const FRAME = HEADER + PACKET;
const PER_SLAB = 4;
const TOTAL = 1_000 * PER_SLAB;

test('a sender that stops while the link is not writable gets every packet through over plain TCP', async (t) => {
  const closing = new KubeBusError('ERR_CLOSED', 'end of the test');
  let done: (packets: number) => void;
  const received = new Promise<number>((resolve) => {
    done = resolve;
  });
  let packets = 0;
  const acceptor = await acceptLinks({
    transports: [tcpTransport({ insecure: true, listen: { host: '127.0.0.1', port: 0 } })],
    node: 'cloud',
    authorize: () => null,
    onLink: (link) =>
      link.attach({
        onPackets(_slab, start, end) {
          packets += (end - start) / FRAME;
          if (packets >= TOTAL) done(packets);
        },
        onControl() {},
        onState() {},
        onWritable() {},
      }),
  });
  const slab = Slab.of(Buffer.alloc(PER_SLAB * FRAME));
  for (let i = 0; i < PER_SLAB; i++) {
    putHeader(slab.bytes, i * FRAME, 0, 0, 0, PACKET);
    putIpv4(slab.bytes, i * FRAME + HEADER, 17, PACKET, Uint8Array.of(10, 0, 0, 1), Uint8Array.of(10, 0, 0, 2), 64);
  }
  let sent = 0;
  const more = (link: Link) => {
    for (; sent < TOTAL && link.writable; sent += PER_SLAB) link.send(slab, 0, slab.bytes.length);
  };
  const link = dialLink({
    transport: tcpTransport({ insecure: true }),
    addresses: acceptor.addresses,
    tenant: 'acme',
    node: 'a',
    egress: { target: 60 * SECOND }, // a busy machine is no reason to drop here
  });
  link.attach({
    onPackets() {},
    onControl() {},
    onState: (state) => state === 'up' && more(link),
    onWritable: () => more(link),
  });
  t.is(await received, TOTAL);
  link.close(closing);
  await acceptor.close(closing);
});

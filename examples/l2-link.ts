// Two peers, one framed link over TCP: what lib/l2 does alone. Run: npx tsx examples/l2-link.ts
//
// L2 carries packets and does not look into them but for their flow: to send them anywhere else than to the peer is L3's part.

import { HEADER, KubeBusError, lengthAt, putHeader, Slab } from '../lib/core/index.js';
import { acceptLinks, dialLink, type Link, type LinkHandler } from '../lib/l2/index.js';
import { tcpTransport } from '../transports/tcp.js';

const print = (line: string) => process.stdout.write(`${line}\n`);

/** A frame around one small packet; the first byte says IP version 4. */
function frame(text: string): Slab {
  const packet = Buffer.concat([Buffer.from([0x45]), Buffer.alloc(27), Buffer.from(text)]);
  const bytes = Buffer.alloc(HEADER + packet.length);
  putHeader(bytes, 0, 0, 0, 0, packet.length);
  packet.copy(bytes, HEADER);
  return Slab.of(bytes);
}

/** Frames lie back to back in the slab; they are ours until we return. */
const handler = (name: string, onText: (text: string) => void, onClosed = () => {}): LinkHandler => ({
  onPackets({ bytes }, start, end) {
    for (let off = start; off < end; off += HEADER + lengthAt(bytes, off)) {
      onText(bytes.toString('utf8', off + HEADER + 28, off + HEADER + lengthAt(bytes, off)));
    }
  },
  onControl: (message) => print(`${name}: control message '${Buffer.from(message).toString()}'`),
  onState(state, reason) {
    print(`${name}: ${state}${reason ? `, ${reason.code}: ${reason.message}` : ''}`);
    if (state === 'closed') onClosed();
  },
  onWritable() {},
});
const send = (link: Link, text: string) => {
  const slab = frame(text);
  link.send(slab, 0, slab.bytes.length);
};

let hubIsAlone = () => {};
const closed = new Promise<void>((resolve) => {
  hubIsAlone = resolve;
});
const hub = await acceptLinks({
  transports: [tcpTransport({ insecure: true, listen: { host: '127.0.0.1', port: 0 } })],
  node: 'hub',
  authorize: ({ tenant }) => (tenant === 'acme' ? null : new KubeBusError('ERR_TENANT_UNKNOWN', `no tenant ${tenant}`)),
  onLink: (link) => link.attach(handler('hub', (text) => send(link, `${text}, and back`), hubIsAlone)),
});

const transport = tcpTransport({ insecure: true });
const link = dialLink({ transport, addresses: hub.addresses, tenant: 'acme', node: 'edge-1', connections: 2 });
const echo = new Promise<string>((resolve) => link.attach(handler('edge-1', resolve)));
while (link.state !== 'up') await new Promise((resolve) => setTimeout(resolve, 10));
link.sendControl(Buffer.from('hello'));
send(link, 'over the link');
print(`edge-1: '${await echo}', RTT ${(link.rtt / 1000).toFixed(2)} ms`);
link.close(new KubeBusError('ERR_PEER_GOODBYE', 'that was all'));
await closed;
await hub.close(new KubeBusError('ERR_PEER_GOODBYE', 'the hub stops'));

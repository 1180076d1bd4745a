// Bulk over one libp2p stream (TCP, yamux, plaintext): `serve HOST` prints the address and then the received Gbit/s; `send ADDRESS SECONDS`.
// Copied by l4-compare.ts to where the packages are installed.
import { yamux } from '@chainsafe/libp2p-yamux';
import { plaintext } from '@libp2p/plaintext';
import { tcp } from '@libp2p/tcp';
import { multiaddr } from '@multiformats/multiaddr';
import { createLibp2p } from 'libp2p';

// It is used by libp2p, and Node 20 has it not.
Promise.withResolvers ??= () => {
  const out = {};
  out.promise = new Promise((resolve, reject) => Object.assign(out, { resolve, reject }));
  return out;
};

const PROTOCOL = '/bulk/1';
const [mode, where, seconds = '2'] = process.argv.slice(2);
const node = await createLibp2p({
  addresses: { listen: mode === 'serve' ? [`/ip4/${where}/tcp/0`] : [] },
  transports: [tcp()],
  streamMuxers: [yamux({ maxStreamWindowSize: 16 * 1024 * 1024, initialStreamWindowSize: 1024 * 1024 })],
  connectionEncrypters: [plaintext()],
});

if (mode === 'serve') {
  await node.handle(PROTOCOL, async ({ stream }) => {
    let bytes = 0;
    let start = 0;
    for await (const chunk of stream.source) {
      if (start === 0) start = performance.now();
      bytes += chunk.byteLength;
    }
    console.log((bytes * 8) / 1e6 / (performance.now() - start));
    process.exit(0);
  });
  console.log(node.getMultiaddrs()[0].toString());
} else {
  const stream = await node.dialProtocol(multiaddr(where), PROTOCOL);
  const chunk = new Uint8Array(65_536);
  const end = performance.now() + Number(seconds) * 1000;
  await stream.sink(
    (async function* () {
      while (performance.now() < end) yield chunk;
    })(),
  );
  await stream.close();
  setTimeout(() => process.exit(0), 500);
}

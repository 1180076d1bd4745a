// The application of the soak: soak-peer.mjs echo ADDRESS PORT, or soak-peer.mjs send ADDRESS PORT SEED. The sender keeps one TCP
// connection for the whole run, sends bytes that follow from the seed, and compares every byte that comes back. It prints a
// line of JSON four times a second; on SIGTERM it ends the stream, waits for the rest, and prints {"done":true,...}.
import { createHash } from 'node:crypto';
import net from 'node:net';

const [mode, host, port, seed = '1'] = process.argv.slice(2);
const BLOCK = 16 * 1024;
/** Bytes on their way, there and back; and how many blocks a second at most: the soak is about faults, not about speed. */
const WINDOW = 16 * BLOCK;
const EVERY_MS = 50;

/** Block `i` of the stream. */
function block(i) {
  const out = Buffer.allocUnsafe(BLOCK);
  for (let off = 0; off < BLOCK; off += 64) {
    createHash('sha512').update(`${seed}/${i}/${off}`).digest().copy(out, off);
  }
  return out;
}

if (mode === 'echo') {
  net
    .createServer((socket) => {
      socket.on('error', () => {});
      socket.pipe(socket);
    })
    .listen(Number(port), host);
} else {
  const say = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);
  const socket = net.connect({ host, port: Number(port) });
  let [sent, received, ending] = [0, 0, false];
  const expected = [];
  const fail = (what) => {
    say({ failed: what, sent, received });
    process.exit(1);
  };
  socket.on('error', (error) => fail(error.code ?? error.message));
  socket.on('data', (chunk) => {
    let off = 0;
    while (off < chunk.length) {
      if (expected.length === 0) fail('more bytes than were sent');
      const want = expected[0].subarray(received % BLOCK, (received % BLOCK) + chunk.length - off);
      if (!want.equals(chunk.subarray(off, off + want.length))) fail(`wrong bytes at ${received}`);
      off += want.length;
      received += want.length;
      if (received % BLOCK === 0) expected.shift();
    }
  });
  socket.on('end', () => {
    if (!ending || received !== sent) fail('ended early');
    say({ done: true, received });
    process.exit(0);
  });
  setInterval(() => {
    if (ending || sent - received >= WINDOW) return;
    const next = block(sent / BLOCK);
    expected.push(next);
    sent += BLOCK;
    socket.write(next);
  }, EVERY_MS);
  setInterval(() => say({ sent, received }), 250);
  process.on('SIGTERM', () => {
    ending = true;
    socket.end();
  });
}

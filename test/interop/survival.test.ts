// What a connection between the kernel behind a TUN device and our sockets outlives, over two hops and real links: both links
// cut in the middle of it, and the hub gone and back without a memory. Both roles, both families.

import { once } from 'node:events';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import test from 'ava';
import { countPackets } from '../support/tshark.js';
import { Interop, missing, skipped } from './interop.js';

const absent = missing(['ip', 'tshark']);
const PEER = fileURLToPath(new URL('../l4/tcp/kernel-peer.mjs', import.meta.url));
const BYTES = 4_000_000;

for (const how of ['links', 'hub'] as const) {
  const what = how === 'links' ? 'the loss and return of its links' : 'a restart of the hub';
  test.serial(`edge, hub, edge with a kernel: a connection survives ${what}`, async (t) => {
    if (skipped(t, absent)) return;
    const world = await Interop.start(t, { relayed: true });
    const { kernel, rootless } = world.ready;
    await once(world.spawn([process.execPath, PEER, 'echo', '7']).stdout!, 'data');
    for (const [i, host] of kernel.entries()) {
      // The kernel connects, and its program checks every byte of the echo.
      const port = 100 + i;
      const command = [process.execPath, PEER, 'client', rootless[i]!, String(port), String(BYTES)];
      const inward = await world.askAll([
        { do: 'disturbed-echo', port, bytes: BYTES, how },
        { do: 'program', command },
      ]);
      t.deepEqual(inward, [true, 'good']);
      // We connect, to the kernel's echo.
      t.is(await world.ask({ do: 'disturbed-exchange', host, port: 7, bytes: BYTES, how }), 'same');
    }
    // One connection each, from start to end: nobody has connected again.
    await world.stopCapture();
    const file = join(world.directory, 'run.pcapng');
    t.is(
      countPackets(file, 'tcp.flags.syn == 1 && tcp.flags.ack == 1 && !tcp.analysis.retransmission'),
      2 * kernel.length,
    );
  });
}

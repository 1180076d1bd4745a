// A node with a TUN device: our sockets and the kernel's have the same address, and share it by port. Neither answers what is
// the other's, and the capture shows no reset that nobody asked for.

import { once } from 'node:events';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import test from 'ava';
import { countPackets } from '../support/tshark.js';
import { Interop, missing, skipped } from './interop.js';

const absent = missing(['ip', 'ss', 'tshark']);
const PEER = fileURLToPath(new URL('../l4/tcp/kernel-peer.mjs', import.meta.url));
const BYTES = 2_000_000;

test.serial(
  'listeners of ours and of the kernel on one address, TCP and UDP, both families, at the same time',
  async (t) => {
    if (skipped(t, absent)) return;
    const world = await Interop.start(t);
    const { kernel, rootless } = world.ready;
    // On the shared address: 7 is the kernel's, 8 is ours; 53 (UDP) is the kernel's, 54 ours.
    await once(world.spawn([process.execPath, PEER, 'echo', '7']).stdout!, 'data');
    await once(world.spawn([process.execPath, PEER, 'udp-echo', '53']).stdout!, 'data');
    await world.ask({ do: 'echo', port: 8, on: 'shared' });
    await world.ask({ do: 'udp-echo', port: 54, on: 'shared' });
    await world.ask({ do: 'echo', port: 9, on: 'rootless' });
    for (const [i, host] of kernel.entries()) {
      // All at once: to the kernel and to us from the other node, and out again from both of us to it.
      const exchanges = await world.askAll([
        { do: 'exchange', host, port: 7, bytes: BYTES, on: 'rootless' },
        { do: 'exchange', host, port: 8, bytes: BYTES, on: 'rootless' },
        { do: 'exchange', host: rootless[i]!, port: 9, bytes: BYTES, on: 'shared' },
        { do: 'program', command: [process.execPath, PEER, 'client', rootless[i]!, '9', String(BYTES)] },
      ]);
      t.deepEqual(exchanges, ['same', 'same', 'same', 'good']);
      // With fragments: 4,000 bytes do not fit the device.
      const sizes = [1, 1_200, 4_000, 20_000];
      const datagrams = await world.askAll([
        { do: 'udp-exchange', host, port: 53, sizes, on: 'rootless' },
        { do: 'udp-exchange', host, port: 54, sizes, on: 'rootless' },
      ]);
      t.deepEqual(datagrams, [sizes, sizes]);
      // Ports that nobody has are answered by the kernel; ICMP echo too.
      t.is(await world.ask({ do: 'connect-error', host, port: 99, on: 'rootless' }), 'ECONNREFUSED');
      t.is(await world.ask({ do: 'udp-error', host, port: 99, on: 'rootless' }), 'ECONNREFUSED');
      t.is(await world.ask({ do: 'ping', host }), 0);
      // And what goes out is answered to whoever asked: our datagram socket, and the kernel's ping.
      t.is(await world.ask({ do: 'udp-error', host: rootless[i]!, port: 99, on: 'shared' }), 'ECONNREFUSED');
      t.is(await world.ask({ do: 'connect-error', host: rootless[i]!, port: 99, on: 'shared' }), 'ECONNREFUSED');
      await world.run(['ping', '-c', '2', '-i', '0.01', rootless[i]!]);
    }
    // A port that a program has is in use; on another address of the host it is not.
    t.is(await world.ask({ do: 'listen-error', port: 7, on: 'shared' }), 'EADDRINUSE');
    t.is(await world.ask({ do: 'udp-bind-error', port: 53, on: 'shared' }), 'EADDRINUSE');
    await once(world.spawn([process.execPath, PEER, 'echo', '70', '127.0.0.1']).stdout!, 'data');
    await world.ask({ do: 'echo', port: 70, on: 'shared' });
    // Ports of our connections are none that the kernel gives out: it could take the same one towards the same peer.
    const [low, high] = String(await world.run(['cat', '/proc/sys/net/ipv4/ip_local_port_range']))
      .trim()
      .split(/\s+/)
      .map(Number) as [number, number];
    for (let i = 0; i < 20; i++) {
      const port = (await world.ask({ do: 'local-port', host: rootless[0]!, port: 9, on: 'shared' })) as number;
      t.true(port < low || port > high, `${port}`);
    }
    // A closed listener of ours: the port is the kernel's again; a connection that was up has ended in order before.
    await world.ask({ do: 'unlisten', port: 8, on: 'shared' });
    t.is(await world.ask({ do: 'connect-error', host: kernel[0]!, port: 8, on: 'rootless' }), 'ECONNREFUSED');
    await once(world.spawn([process.execPath, PEER, 'echo', '8']).stdout!, 'data');
    t.is(await world.ask({ do: 'exchange', host: kernel[0]!, port: 8, bytes: 1_000, on: 'rootless' }), 'same');
    await world.stopCapture();
    // Resets answer what was refused, and nothing else: neither stack has reset a connection of the other's.
    const file = join(world.directory, 'run.pcapng');
    t.is(countPackets(file, 'tcp.flags.reset == 1 && tcp.port != 99 && tcp.port != 8'), 0);
    t.true(countPackets(file, 'tcp.flags.reset == 1 && tcp.port == 8') <= 1);
  },
);

// Real programs behind a TUN device against our sockets, both ways and both families: iperf3, curl, nginx, OpenSSH; and the
// kernel's TCP over bad paths. Every run is captured, and tshark's expert analysis may find no error in it.

import { once } from 'node:events';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import test from 'ava';
import { body, hash } from './body.js';
import type { Impairment } from './impaired-endpoint.js';
import { Interop, missing, skipped } from './interop.js';

const absent = missing(['ip', 'ss', 'tshark', 'iperf3', 'curl', 'nginx', 'ssh', 'sshd', 'ssh-keygen']);
const PEER = fileURLToPath(new URL('../l4/tcp/kernel-peer.mjs', import.meta.url));
const SIZE = 3_000_000;
const url = (address: string) => (address.includes(':') ? `[${address}]` : address);

test.serial('iperf3, kernel to us and us to kernel, one and four streams, both directions', async (t) => {
  if (skipped(t, absent)) return;
  const world = await Interop.start(t);
  const { kernel, rootless } = world.ready;
  // iperf3 has its own protocol: it speaks for us through a port of the namespace's loopback.
  world.spawn(['iperf3', '-s', '-p', '5300']);
  await world.listening(5300);
  await world.ask({ do: 'forward-in', port: 5201, to: 5300, on: 'rootless' });
  // What its server has received when the client ends may still be on its way through our port; what the receiving client has
  // is all there is.
  const bytes = async (...args: string[]) => {
    const report = JSON.parse(String(await world.run(['iperf3', '-J', '-n', '8M', ...args]))) as {
      end: Record<'sum_received' | 'sum_sent', { bytes: number }>;
    };
    return report.end[args.includes('-R') ? 'sum_received' : 'sum_sent'].bytes;
  };
  for (const address of rootless) {
    for (const args of [[], ['-R'], ['-P', '4']]) {
      t.true((await bytes('-c', address, '-p', '5201', ...args)) >= 8_000_000, `to us ${address} ${args.join(' ')}`);
    }
  }
  for (const host of kernel) {
    const port = await world.ask({ do: 'forward-out', host, port: 5300 });
    for (const args of [[], ['-R'], ['-P', '4']]) {
      t.true(
        (await bytes('-c', '127.0.0.1', '-p', String(port), ...args)) >= 8_000_000,
        `to the kernel ${host} ${args.join(' ')}`,
      );
    }
  }
});

test.serial('curl fetches from our http server, and posts to it', async (t) => {
  if (skipped(t, absent)) return;
  const world = await Interop.start(t);
  const wanted = await world.ask({ do: 'web', port: 80, bytes: SIZE });
  const upload = join(world.directory, 'upload');
  writeFileSync(upload, body(SIZE));
  for (const address of world.ready.rootless) {
    const page = await world.run(['curl', '-sS', '--fail', `http://${url(address)}/`]);
    t.is(hash(page), wanted as string);
    // HTTP/1.1 keep-alive: both over one connection.
    const twice = await world.run(
      ['curl', '-sS', '-w', '%{num_connects}', '-o', '/dev/null', '-o', '/dev/null'].concat([
        `http://${url(address)}/a`,
        `http://${url(address)}/b`,
      ]),
    );
    t.is(String(twice), '10');
    const back = await world.run(['curl', '-sS', '--fail', '--data-binary', `@${upload}`, `http://${url(address)}/`]);
    t.is(hash(back), wanted as string);
  }
});

test.serial('our http client fetches from nginx', async (t) => {
  if (skipped(t, absent)) return;
  const world = await Interop.start(t);
  const dir = world.directory;
  mkdirSync(join(dir, 'www'));
  writeFileSync(join(dir, 'www', 'file'), body(SIZE));
  writeFileSync(
    join(dir, 'nginx.conf'),
    `daemon off; worker_processes 1; pid ${dir}/pid; error_log /dev/null; user root;
     events {} http { access_log off; server { listen 80; listen [::]:80; root ${dir}/www; } }`,
  );
  world.spawn(['nginx', '-p', dir, '-c', join(dir, 'nginx.conf'), '-e', '/dev/null']);
  await world.listening(80);
  for (const host of world.ready.kernel) {
    t.deepEqual(await world.ask({ do: 'get', host, port: 80, path: '/file' }), [200, hash(body(SIZE))]);
    t.like(await world.ask({ do: 'get', host, port: 80, path: '/none' }), { 0: 404 });
  }
});

test.serial(
  'OpenSSH: a session to the kernel through our client, and one of the kernel through our server',
  async (t) => {
    if (skipped(t, absent)) return;
    const world = await Interop.start(t);
    const dir = world.directory;
    for (const key of ['host', 'user']) {
      await world.run(['ssh-keygen', '-q', '-t', 'ed25519', '-N', '', '-f', join(dir, key)]);
    }
    mkdirSync('/run/sshd', { recursive: true });
    writeFileSync(
      join(dir, 'sshd_config'),
      `Port 2222
HostKey ${dir}/host
AuthorizedKeysFile ${dir}/user.pub
StrictModes no
UsePAM no
PasswordAuthentication no
PidFile none
PermitRootLogin yes
`,
    );
    world.spawn(['/usr/sbin/sshd', '-D', '-e', '-q', '-f', join(dir, 'sshd_config')]);
    await world.listening(2222);
    await world.ask({ do: 'forward-in', port: 22, to: 2222, on: 'rootless' });
    const ssh = (host: string, port: number) =>
      world.run(
        ['ssh', '-F', 'none', '-q', '-o', 'StrictHostKeyChecking=no', '-o', 'UserKnownHostsFile=/dev/null']
          .concat(['-o', 'BatchMode=yes', '-i', join(dir, 'user'), '-p', String(port), host])
          .concat(['echo hello; cat']),
        body(200_000),
      );
    const wanted = hash(Buffer.concat([Buffer.from('hello\n'), body(200_000)]));
    for (const host of world.ready.kernel) {
      const port = (await world.ask({ do: 'forward-out', host, port: 2222 })) as number;
      t.is(hash(await ssh('127.0.0.1', port)), wanted, `node to kernel ${host}`);
    }
    for (const host of world.ready.rootless) t.is(hash(await ssh(host, 22)), wanted, `kernel to node ${host}`);
  },
);

const ROUGH: Impairment = { loss: 0.02, reorder: 0.05, duplicate: 0.02, corrupt: 0.01 };
const paths: [string, Impairment][] = [
  ['2 % loss, 5 % reordering, 2 % duplicates, 1 % corrupted', ROUGH],
  ['a path of 576 bytes that says so (IPv4)', { narrow: 576 }],
  ['a narrow path that says so, and loses', { narrow: 1_280, loss: 0.02 }],
  ['a black hole', { narrow: 1_280, blackHole: true }],
];
for (const [name, impairment] of paths) {
  test.serial(`the kernel's TCP over ${name}: both roles`, async (t) => {
    if (skipped(t, absent)) return;
    const world = await Interop.start(t, { offload: false, impairment, seed: 7 });
    const { kernel, rootless } = world.ready;
    // The kernel's own search for black holes, which is off by default.
    await world.run([
      'sysctl',
      '-qw',
      'net.ipv4.tcp_mtu_probing=1',
      'net.ipv4.tcp_base_mss=1000',
      'net.ipv4.tcp_retries1=1',
    ]);
    const echo = world.spawn([process.execPath, PEER, 'echo', '7']);
    await once(echo.stdout!, 'data');
    await world.ask({ do: 'echo', port: 99, on: 'rootless' });
    // Every search of a black hole waits for timeouts, the kernel's too: one family per role is enough. Below 1280 there is no IPv6.
    const few = impairment.blackHole === true;
    const only4 = (impairment.narrow ?? 1_280) < 1_280;
    for (const host of few || only4 ? kernel.slice(0, 1) : kernel)
      t.is(await world.ask({ do: 'exchange', host, port: 7, bytes: 300_000, on: 'rootless' }), 'same');
    for (const host of only4 ? rootless.slice(0, 1) : few ? rootless.slice(1) : rootless) {
      t.is(String(await world.run([process.execPath, PEER, 'client', host, '99', '300000'])).trim(), 'good');
    }
  });
}

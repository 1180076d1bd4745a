// The addon against the kernel: two TUN devices in two namespaces, joined in this process. What one kernel sends by one
// device the other receives by the other, and passes it on to a third namespace over a link without checksum offload, so
// that the receiver verifies every checksum itself.
//
//     a (TUN) === this process === (TUN) b --veth-- c
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync } from 'node:fs';
import { setImmediate } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { Worker } from 'node:worker_threads';
import test from 'ava';
import { Lab, must, run, until } from '../../examples/lab/netns.js';
import { Flag, HEADER, KubeBusError, lengthAt, putHeader, Slab, seededRandom } from '../../lib/core/index.js';
import { systemEnvironment } from '../../lib/l3/index.js';
import { openTun, type TunDevice } from '../../lib/l3/tun.js';
import { loadNative } from '../../native/loader.mjs';
import { kernelTest, missing, unique } from '../support/kernel.js';

const check = kernelTest(missing('python3', 'ethtool', 'iperf3'));
const A4 = '10.98.1.1';
const C4 = '10.98.3.2';
const C6 = 'fd98:3::2';

interface Net {
  readonly lab: Lab;
  readonly a: TunDevice;
  readonly b: TunDevice;
  down(): Promise<void>;
}

/** `wire`: what happens to frames between the devices, by default nothing. */
async function net(options: { offload?: boolean; plain?: boolean } = {}): Promise<Net> {
  const lab = new Lab(unique('-'));
  for (const ns of ['a', 'b', 'c']) await lab.ns(ns, { forward: ns === 'b' });
  await lab.veth('b', 'veth', ['10.98.3.1/24', 'fd98:3::1/64'], 'c', 'veth', [`${C4}/24`, `${C6}/64`]);
  for (const ns of ['b', 'c']) {
    await lab.must(ns, 'ethtool', ['-K', 'veth', ...['tx', 'rx', 'tso', 'gso', 'gro'].flatMap((o) => [o, 'off'])]);
  }
  const device = async (ns: string, addresses: string[]) => {
    const tun = openTun({ name: unique(ns), offload: options.offload ?? true });
    await must('ip', ['link', 'set', 'dev', tun.name, 'netns', lab.full(ns)]);
    await lab.ip(ns, 'link', 'set', 'dev', tun.name, 'mtu', '1400', 'up');
    await lab.address(ns, tun.name, ...addresses);
    return tun;
  };
  const a = await device('a', [`${A4}/32`, 'fd98:1::1/128']);
  const b = await device('b', ['10.98.2.1/32', 'fd98:2::1/128']);
  for (const route of ['10.98.0.0/16', 'fd98::/16']) await lab.ip('a', 'route', 'add', route, 'dev', a.name);
  for (const route of ['10.98.1.0/24', 'fd98:1::/64']) {
    await lab.ip('b', 'route', 'add', route, 'dev', b.name);
    await lab.ip('c', 'route', 'add', route, 'via', route.includes(':') ? 'fd98:3::1' : '10.98.3.1');
  }
  a.open({ onPackets: (slab, start, end) => b.send(slab, start, end), onClose() {} });
  b.open({ onPackets: (slab, start, end) => a.send(slab, start, end), onClose() {} });
  return {
    lab,
    a,
    b,
    async down() {
      a.close();
      b.close();
      await lab.down();
    },
  };
}

const PYTHON_RECEIVE = `
import socket, sys, hashlib
family = socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET
s = socket.socket(family, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
s.bind((sys.argv[1], 5001))
print('ready', flush=True)
sizes, h = [], hashlib.sha256()
while len(sizes) < int(sys.argv[2]):
    d = s.recv(65536)
    sizes.append(len(d))
    h.update(d)
print(','.join(map(str, sizes)), h.hexdigest(), flush=True)
`;

/** Sends the bytes 0, 1, ... in datagrams; a size of segment hands them to the kernel as one UDP super-packet (UDP_SEGMENT). */
const PYTHON_SEND = `
import socket, sys
address, count, size, segment = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
family = socket.AF_INET6 if ':' in address else socket.AF_INET
s = socket.socket(family, socket.SOCK_DGRAM)
if segment: s.setsockopt(17, 103, segment)
s.connect((address, 5001))
for i in range(count):
    s.send(bytes((i * size + k) % 251 for k in range(size)))
`;

async function receiver(
  lab: Lab,
  address: string,
  count: number,
): Promise<{ child: ChildProcess; result: Promise<string> }> {
  const args = ['netns', 'exec', lab.full('c'), 'python3', '-c', PYTHON_RECEIVE, address, String(count)];
  const child = spawn('ip', args, { stdio: ['ignore', 'pipe', 'inherit'], env: systemEnvironment() });
  let text = '';
  child.stdout!.setEncoding('utf8').on('data', (chunk: string) => (text += chunk));
  await until('the receiver', 5_000, () => text.includes('ready'), 10);
  const result = until(
    `${count} datagrams at the receiver`,
    10_000,
    () => text.split('\n').length > 2 && text.split('\n')[1],
    10,
  );
  return { child, result };
}

async function expected(sizes: readonly number[], count: number, size: number): Promise<string> {
  const { createHash } = await import('node:crypto');
  const hash = createHash('sha256');
  for (let i = 0; i < count; i++) hash.update(Uint8Array.from({ length: size }, (_, k) => (i * size + k) % 251));
  return `${sizes.join(',')} ${hash.digest('hex')}`;
}

for (const [family, address] of [
  ['IPv4', C4],
  ['IPv6', C6],
] as const) {
  for (const plain of [false, true]) {
    const how = plain ? 'is split for a kernel without USO' : 'arrives whole by USO';
    check(`a UDP super-packet ${how}, ${family}`, async (t) => {
      const { lab, a, b, down } = await net();
      try {
        t.true(a.offload.uso, 'this kernel has USO');
        if (plain) (b as unknown as { queues: { plain(): void }[] }).queues[0]!.plain();
        const { result } = await receiver(lab, address, 11);
        await lab.must('a', 'python3', ['-c', PYTHON_SEND, address, '1', '10500', '1000']);
        t.is(await result, await expected([...Array(10).fill(1000), 500], 1, 10_500));
        t.is(b.stats().split, plain ? 1 : 0);
        t.is(b.stats().rejected, 0);
      } finally {
        await down();
      }
    });
  }

  check(`datagrams of one flow leave as super-packets and arrive as they were sent, ${family}`, async (t) => {
    const { lab, a, b, down } = await net();
    try {
      const { result } = await receiver(lab, address, 100);
      // While the device is paused the kernel queues; then one read has them all, and one write merges them.
      a.pause();
      await lab.must('a', 'python3', ['-c', PYTHON_SEND, address, '100', '64', '0']);
      a.resume();
      t.is(await result, await expected(Array(100).fill(64), 100, 64));
      t.true(b.stats().coalesced! >= 64, JSON.stringify(b.stats()));
    } finally {
      await down();
    }
  });
}

check('TCP crosses as super-packets, and as segments on a device without offload', async (t) => {
  for (const offload of [true, false]) {
    const { lab, a, b, down } = await net({ offload });
    try {
      t.is(a.takesOffload, offload);
      lab.spawn('c', 'iperf3', ['-s', '-1', '-p', '5201']);
      await lab.waitListen('c', 5201);
      const json = await lab.must('a', 'iperf3', ['-c', C4, '-n', '20M', '-J', '-p', '5201']);
      const bytes = (JSON.parse(json) as { end: { sum_received: { bytes: number } } }).end.sum_received.bytes;
      t.true(bytes > 15_000_000, `${bytes} bytes`);
      const perPacket = bytes / a.stats().read!;
      if (offload) t.true(perPacket > 5_000, `${perPacket} bytes a packet`);
      else t.true(perPacket < 1_400, `${perPacket} bytes a packet`);
      t.is(b.stats().rejected! + b.stats().invalid!, 0);
    } finally {
      await down();
    }
  }
});

check('hostile frames are counted, and the device lives on', async (t) => {
  const { lab, a, b, down } = await net();
  try {
    const random = seededRandom(7);
    const byte = () => Math.floor(random.float() * 256);
    // Valid packets of both families and protocols as the seed of what is bent.
    const udp4 = '45000024000140004011000ac0a80001c0a8000213880050001000000102030405060708';
    const tcp6 = `6000000000200640${'fd98'.padEnd(32, '0')}${'fd99'.padEnd(32, '0')}1388005000000001000000025010ffff0000000061626364656667686162636465`;
    const seeds = [udp4, tcp6].map((hex) => Buffer.from(hex, 'hex'));
    a.pause();
    const before = Object.values(b.stats()).reduce((sum, n) => sum + n) - b.stats().read!;
    let frames = 0;
    const slab = Slab.of(Buffer.alloc(256 * 1024));
    for (let round = 0; round < 300; round++) {
      let end = 0;
      for (let i = 0; i < 200; i++) {
        const seed = seeds[byte() & 1]!;
        const packet = byte() < 40 ? Buffer.from(Array.from({ length: byte() * 4 }, byte)) : Buffer.from(seed);
        for (let bent = byte() & 3; bent > 0 && packet.length > 0; bent--) packet[byte() % packet.length] = byte();
        putHeader(
          slab.bytes,
          end,
          byte() < 8 ? byte() : 0,
          byte(),
          byte() < 128 ? byte() : byte() * 257,
          packet.length,
        );
        slab.bytes.set(packet, end + HEADER);
        end += HEADER + packet.length;
        frames++;
      }
      b.send(slab, 0, end);
      if (round % 50 === 0) await setImmediate();
    }
    const { invalid, full, rejected, written } = b.stats();
    t.is(invalid! + full! + rejected! + written! - before, frames, 'every frame is in one counter');
    t.true(invalid! > 10_000 && written! > 0);
    // A length beyond the end, a header that is cut: nothing is read there.
    putHeader(slab.bytes, 0, 0, 0, 0, 0xffff_ffff);
    b.send(slab, 0, 100);
    b.send(slab, 0, HEADER - 1);
    t.is(b.stats().invalid, invalid! + 1);
    a.resume();
    t.is((await lab.run('a', 'ping', ['-c1', '-W2', C4])).code, 0, 'the device still works');
  } finally {
    await down();
  }
});

check('a read stays inside its part of the buffer and ends with the last whole packet', async (t) => {
  const native = loadNative()!;
  const lab = new Lab(unique('-'));
  const tun = new native.Tun(unique('r'), 1);
  try {
    await lab.ns('a', { ipv6: false });
    await must('ip', ['link', 'set', 'dev', tun.name, 'netns', lab.full('a')]);
    await lab.ip('a', 'link', 'set', 'dev', tun.name, 'up');
    await lab.address('a', tun.name, '10.98.1.1/24');
    for (let i = 0; i < 5; i++) await lab.run('a', 'ping', ['-c1', '-W0.01', '-s', '100', '10.98.1.2']);
    const size = HEADER + 128;
    const room = HEADER + 40 + 65_535;
    const buf = Buffer.alloc(4 * room, 0xaa);
    t.is(tun.readBatch(buf, 0, room - 1, 99), 0, 'no room for the largest packet: nothing is read');
    t.is(tun.readBatch(buf, 64, buf.length, 2), 64 + 2 * size, 'as many packets as asked for');
    t.is(lengthAt(buf, 64), 128);
    t.true(buf.subarray(0, 64).every((byte) => byte === 0xaa));
    t.is(tun.readBatch(buf, 0, room + size, 99), 2 * size, 'while the largest packet fits');
    t.is(tun.readBatch(buf, 0, 1e9, 99), size, 'a limit beyond the buffer is cut to it');
    t.is(tun.readBatch(buf, 0, buf.length, 99), 0, 'empty: at once');
    tun.close();
    t.is(tun.readBatch(buf, 0, buf.length, 99), 0);
    t.is(tun.writeBatch(buf, 0, size), 0);
  } finally {
    tun.close();
    await lab.down();
  }
});

check('a device that somebody deletes is reported, once', async (t) => {
  const tun = openTun({ name: unique('d') });
  const closed: (KubeBusError | undefined)[] = [];
  tun.open({ onPackets() {}, onClose: (error) => closed.push(error) });
  await must('ip', ['link', 'del', tun.name]);
  await until('the report', 5_000, () => closed.length > 0);
  t.is(closed[0]?.code, 'ERR_TUN_LOST');
  t.regex(closed[0]!.message, /deleted/);
  tun.close();
  tun.send(Slab.of(Buffer.alloc(64)), 0, 64);
  t.is(closed.length, 1);
});

check('a callback may close its device', async (t) => {
  const tun = openTun({ name: unique('e') });
  const gone = new Promise<void>((resolve) => {
    tun.open({ onPackets: () => tun.close(), onClose: () => resolve() });
  });
  await must('ip', ['addr', 'add', '10.98.9.1/24', 'dev', tun.name]);
  await must('ip', ['link', 'set', 'dev', tun.name, 'up']); // the kernel announces itself: there is a packet to read
  await run('ping', ['-c1', '-W0.1', '10.98.9.2']);
  await gone;
  t.is((await run('ip', ['link', 'show', tun.name])).code, 1);
});

check('several queues share a device', async (t) => {
  const lab = new Lab(unique('-'));
  const tun = openTun({ name: unique('q'), queues: 4 });
  try {
    t.regex(await must('ip', ['-d', 'link', 'show', tun.name]), /multi_queue/);
    await lab.ns('a', { ipv6: false });
    await must('ip', ['link', 'set', 'dev', tun.name, 'netns', lab.full('a')]);
    await lab.ip('a', 'link', 'set', 'dev', tun.name, 'up');
    await lab.address('a', tun.name, '10.98.1.1/24');
    let packets = 0;
    tun.open({
      onPackets(slab, start, end) {
        for (let off = start; off < end; off += HEADER + lengthAt(slab.bytes, off)) packets++;
      },
      onClose() {},
    });
    const flows = `import socket\nfor i in range(64):\n  socket.socket(2, 2).sendto(b'x', ('10.98.1.2', 1000 + i))`;
    await lab.must('a', 'python3', ['-c', flows]);
    await until('64 flows', 5_000, () => packets >= 64);
    t.is(packets, 64);
    const queues = (tun as unknown as { queues: { counters: Float64Array }[] }).queues;
    t.true(queues.filter((queue) => queue.counters[5]! > 0).length > 1, 'more than one queue has packets');
  } finally {
    tun.close();
    await lab.down();
  }
});

check('a worker that ends, in order or by force, takes its device along', async (t) => {
  const fds = () => readdirSync('/proc/self/fd').length;
  const loader = fileURLToPath(new URL('../../native/loader.mjs', import.meta.url));
  const body = `
    const { parentPort, workerData } = require('node:worker_threads');
    import(workerData.loader).then(({ loadNative }) => {
      const { Tun } = loadNative();
      const unstarted = new Tun(workerData.name + 'u', 1);
      const tun = new Tun(workerData.name, 1);
      const buf = new Uint8Array(1 << 18);
      tun.start(() => { tun.readBatch(buf, 0, buf.length, 256); parentPort.postMessage('packet'); });
      parentPort.postMessage('open');
      if (workerData.exit) parentPort.once('message', () => process.exit(0));
    });`;
  const before = fds();
  for (let i = 0; i < 6; i++) {
    const name = unique(`w${i}`);
    const exit = i % 2 === 0;
    const worker = new Worker(body, { eval: true, workerData: { loader, name, exit } });
    await once(worker, 'message');
    await must('ip', ['addr', 'add', '10.98.9.1/24', 'dev', name]);
    await must('ip', ['link', 'set', 'dev', name, 'up']);
    const packet = once(worker, 'message');
    const flood = run('ping', ['-f', '-c', '20', '-W0.1', '10.98.9.2']);
    await packet;
    const exited = once(worker, 'exit');
    if (exit) worker.postMessage('exit');
    else await worker.terminate();
    await exited;
    await flood;
    t.is((await run('ip', ['link', 'show', name])).code, 1, `${name} is gone`);
    t.is((await run('ip', ['link', 'show', `${name}u`])).code, 1);
  }
  t.true(fds() <= before + 2, `${before} descriptors before, ${fds()} after`);
});

test('a name that the kernel would cut is refused before anything is opened', (t) => {
  if (loadNative() === null) {
    if (process.env.KUBEBUS_REQUIRE_ALL === '1') t.fail('needs the addon');
    t.log('skipped: needs the addon');
    t.pass();
    return;
  }
  const error = t.throws(() => openTun({ name: 'kubebus-edge-one' }), { instanceOf: KubeBusError })!;
  t.is((error as KubeBusError).code, 'ERR_TUN');
  t.regex(error.message, /at most 15 characters: kubebus-edge-one/);
  t.throws(() => openTun({ queues: 17 }), { code: 'ERR_INVALID_ARGUMENT' });
  t.is(Flag.partialChecksum, 8, 'the flags of native/src/frame.h');
});

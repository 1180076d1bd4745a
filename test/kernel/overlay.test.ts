// Figure 7 with its containers, carried by the real processes and judged by the kernels' own tools.
import { createHash } from 'node:crypto';
import { copyFileSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import test, { type ExecutionContext } from 'ava';
import { readStatus } from '../../examples/cli/status.js';
import {
  DEVICE,
  type Figure7,
  figure7,
  type Host,
  startCloud,
  startEdge,
  startRouter,
  statusSocket,
} from '../../examples/lab/figure7.js';
import { measure } from '../../examples/lab/matrix.js';
import { type Daemon, Lab, must, until } from '../../examples/lab/netns.js';
import { systemEnvironment } from '../../lib/l3/index.js';
import { kernelTest, missing, unique } from '../support/kernel.js';

const absent = missing(
  'iperf3',
  'tshark',
  'nft',
  'bridge',
  'traceroute',
  'tracepath',
  'curl',
  'ssh',
  'sshd',
  'python3',
  'gcc',
);
const check = kernelTest(absent);
const VM2_PREFIXES = ['10.3.0.0/24', '10.1.0.0/25'];

let lab: Lab;
let net: Figure7;
const daemons: Record<string, Daemon> = {};
let shim = '';
let withdrawn = 0;

const host = (name: string): Host => net.hosts.find((h) => h.name === name)!;

interface Status {
  readonly addresses: string[];
  readonly router: Record<string, number>;
  readonly tun: Record<string, number>;
  readonly routes: { prefix: string; node: string }[];
}

const status = async (node: string): Promise<Status> => (await readStatus(statusSocket(lab, node))) as Status;

const routes = (ns: string) => lab.ip(ns, 'route', 'show', 'dev', DEVICE);

const FILE = Buffer.from(Array.from({ length: 3_000_000 }, (_, i) => (i * 7 + (i >> 9)) & 255));
const DIGEST = createHash('sha256').update(FILE).digest('hex');
/** GET: the file; PUT: the digest of what came. */
const SERVER = `const fs = require('fs'), { createHash } = require('crypto');
require('http').createServer((q, s) => {
  if (q.method === 'GET') return fs.createReadStream(process.argv[1]).pipe(s);
  const hash = createHash('sha256');
  q.on('data', (d) => hash.update(d)).on('end', () => s.end(hash.digest('hex')));
}).listen(80, '::');`;

async function serveFile(ns: string): Promise<void> {
  lab.spawn(ns, process.execPath, ['-e', SERVER, join(lab.work, 'file')]);
  await lab.waitListen(ns, 80);
}

/** The file both ways by curl, compared. */
async function fetchAndPut(t: ExecutionContext, ns: string, address: string): Promise<void> {
  const [file, got] = [join(lab.work, 'file'), join(lab.work, 'got')];
  await lab.must(ns, 'curl', ['-sf', '-m20', '-o', got, `http://${address}/`]);
  t.true(readFileSync(got).equals(FILE));
  t.is(await lab.must(ns, 'curl', ['-sf', '-m20', '-T', file, `http://${address}/`]), DIGEST);
}

test.before(async (t) => {
  t.timeout(120_000);
  if (absent !== null) return;
  lab = new Lab(unique('o-'));
  net = await figure7(lab, { nodes: [{ node: 'vm2', prefixes: VM2_PREFIXES }] });
  Object.assign(daemons, { cloud: net.cloud, edge1: net.edge1, edge2: net.edge2, router: net.router });
  writeFileSync(join(lab.work, 'file'), FILE);
  shim = join(lab.work, 'refuse.so');
  const source = fileURLToPath(new URL('../support/refuse-offload.c', import.meta.url));
  await must('gcc', ['-shared', '-fPIC', '-O1', '-o', shim, source, '-ldl']);
});
test.after.always(async () => {
  await lab?.down();
});

check('every pair of cloud, edges, VMs and containers answers ping, over IPv4 and IPv6', async (t) => {
  const { rtt, ipv6 } = await measure(lab, net.hosts, 1);
  const silent = Object.entries(rtt).flatMap(([from, row]) =>
    Object.entries(row).flatMap(([to, ms]) => (ms === null ? [`${from} ${to}`] : [])),
  );
  t.deepEqual(silent, []);
  t.deepEqual(ipv6, { answered: 56, pairs: 56 });
});

check("the NATs let nobody in, so what reached the edges came by KubeBus' own connections", async (t) => {
  for (const nat of ['203.0.113.11', '203.0.113.12', '203.0.113.13']) {
    t.not((await lab.run('cloud', 'ping', ['-c1', '-W0.3', nat])).code, 0);
  }
  t.regex((await lab.run('cloud', 'ping', ['-c1', '-W0.3', '192.168.1.2'])).stderr, /unreachable/);
});

check(
  'a router that comes makes its subnet known to all kernels; an overlapping prefix is refused with the reason',
  async (t) => {
    t.notRegex(await routes('edge1'), /10\.3\.0\.0/);
    await lab.address('vm2', 'lo', '10.3.0.1/32');
    const router = startRouter(lab, [], 'vm2', VM2_PREFIXES);
    await router.logged(/router up/, 30_000);
    for (const ns of ['edge1', 'edge2', 'vm1', 'cloud']) {
      await until(`the route in ${ns}`, 5_000, async () => /^10\.3\.0\.0\/24/m.test(await routes(ns)));
    }
    await lab.waitPing('edge1', '10.3.0.1', 5_000);
    const told = await router.logged(/"code":"ERR_ROUTE_OVERLAP".*"msg":"refused: [^"]*"/, 5_000);
    t.regex(told[0], /10\.1\.0\.0\/25.*10\.1\.0\.0\/24.*vm1/);
    t.regex(daemons.cloud!.log, /"node":"vm2","code":"ERR_ROUTE_OVERLAP"/);
    // What stood there before is untouched.
    await lab.waitPing('edge1', '10.1.0.11', 5_000);
    t.is(await router.stop(), 0);
    withdrawn = performance.now();
  },
);

check('traceroute shows every hop, tracepath the MTU', async (t) => {
  const hops = async (from: string, to: string) => {
    const out = await lab.must(from, 'traceroute', ['-n', '-q1', '-w2', ...(to.includes(':') ? ['-6'] : []), to]);
    return out
      .split('\n')
      .slice(1, -1)
      .map((line) => line.trim().split(/\s+/)[1]);
  };
  const vm1 = (await lab.addresses('vm1', DEVICE))[0];
  const toPod = await hops('edge1', host('pod2').v4);
  t.is(toPod.length, 4, toPod.join(' '));
  t.is(toPod[0], '10.80.0.1', 'the cloud');
  t.true(toPod[1] === vm1 || toPod[1] === '10.1.0.11', `the router: ${toPod[1]}`);
  t.is(toPod[3], host('pod2').v4);
  t.deepEqual(await hops('edge1', host('edge2').v4), ['10.80.0.1', host('edge2').v4]);
  t.deepEqual(await hops('edge1', host('edge2').v6), ['fd80::1', host('edge2').v6]);
  const fromPod = await hops('pod2', host('edge1').v4);
  t.deepEqual([fromPod[0], fromPod.at(-1)], ['10.2.2.1', host('edge1').v4]);
  t.true(fromPod.includes('10.80.0.1'), fromPod.join(' '));
  for (const to of [host('pod2').v4, host('pod2').v6]) {
    const path = await lab.must('edge1', 'tracepath', ['-n', to]);
    t.regex(path, /pmtu 1400/);
    t.regex(path, /reached/);
  }
});

check("ICMP errors arrive as the kernel's own tools show them", async (t) => {
  const ping = async (...args: string[]) => (await lab.run('edge1', 'ping', ['-n', '-c1', '-W2', ...args])).stdout;
  t.regex(await ping('10.80.77.77'), /From 10\.80\.0\.1 .*Destination (Net|Host) Unreachable/);
  t.regex(await ping('fd80::7777'), /From fd80::1 .*Destination unreachable: (No route|Address unreachable)/);
  t.regex(await ping('-t1', host('edge2').v4), /From 10\.80\.0\.1 .*Time to live exceeded/);
  t.regex(await ping('-t1', host('edge2').v6), /From fd80::1 .*Time exceeded: Hop limit/);
  // The far kernel's own: a closed UDP port, told to the socket.
  const udp = `import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.settimeout(3); s.connect(('${host('edge2').v4}', 9)); s.send(b'x')
try: s.recv(1)
except ConnectionRefusedError: print('refused')`;
  t.is((await lab.must('edge1', 'python3', ['-c', udp])).trim(), 'refused');
});

check('iperf3 TCP both ways and UDP between edge, VM and container', async (t) => {
  interface Report {
    readonly end: { sum_received?: { bytes: number }; sum?: { packets: number; lost_packets: number } };
  }
  const iperf = async (from: string, to: Host, v6: boolean, ...args: string[]) => {
    lab.spawn(to.name, 'iperf3', ['-s', '-1']);
    await lab.waitListen(to.name, 5201);
    const json = await lab.must(from, 'iperf3', ['-J', '-t1', '-c', v6 ? to.v6 : to.v4, ...args]);
    return (JSON.parse(json) as Report).end;
  };
  for (const [from, to, v6, args] of [
    ['edge1', 'edge2', false, []],
    ['edge1', 'pod2', true, ['-R']],
    ['vm2', 'edge2', false, []],
  ] as const) {
    const { sum_received } = await iperf(from, host(to), v6, ...args);
    t.true(sum_received!.bytes > 1_000_000, `${from} ${to}: ${sum_received!.bytes}`);
  }
  const { sum } = await iperf('edge1', host('pod2'), false, '-u', '-b5M');
  t.true(sum!.packets > 100 && sum!.lost_packets <= sum!.packets / 20, JSON.stringify(sum));
});

check('curl fetches a file from a container, ssh runs a command on a VM and on an edge', async (t) => {
  await serveFile('pod2');
  for (const address of [host('pod2').v4, `[${host('pod2').v6}]`]) await fetchAndPut(t, 'edge1', address);
  const key = join(lab.work, 'key');
  await must('ssh-keygen', ['-q', '-t', 'ed25519', '-N', '', '-f', key]);
  copyFileSync(`${key}.pub`, join(lab.work, 'authorized'));
  mkdirSync('/run/sshd', { recursive: true });
  const options = [
    `HostKey=${key}`,
    `AuthorizedKeysFile=${join(lab.work, 'authorized')}`,
    'StrictModes=no',
    'UsePAM=no',
    'PidFile=none',
  ];
  for (const [from, to] of [
    ['edge1', 'vm2'],
    ['pod1', 'edge2'],
  ] as const) {
    // sshd insists on its absolute path.
    lab.spawn(to, '/usr/sbin/sshd', [
      '-D',
      '-e',
      '-f',
      '/dev/null',
      '-p',
      '2222',
      ...options.flatMap((o) => ['-o', o]),
    ]);
    await lab.waitListen(to, 2222);
    const client = [
      '-i',
      key,
      '-p2222',
      '-oBatchMode=yes',
      '-oStrictHostKeyChecking=no',
      '-oUserKnownHostsFile=/dev/null',
    ];
    const out = await lab.must(from, 'ssh', ['-q', ...client, `root@${host(to).v4}`, 'echo $SSH_CONNECTION']);
    t.is(out.trim().split(' ')[2], host(to).v4);
  }
});

check('a foreign source address is dropped at the first hop and counted', async (t) => {
  const before = (await status('edge1')).router['drop-spoofed-source'] ?? 0;
  await lab.address('edge1', 'lo', '10.99.99.99/32', 'fd99::99/128');
  for (const [source, to] of [
    ['10.99.99.99', host('edge2').v4],
    ['fd99::99', host('edge2').v6],
  ] as const) {
    t.not((await lab.run('edge1', 'ping', ['-n', '-c3', '-i0.01', '-W0.3', '-I', source, to])).code, 0);
  }
  const after = (await status('edge1')).router['drop-spoofed-source'] ?? 0;
  t.is(after - before, 6);
});

check('path MTU: a smaller link in the middle makes packet-too-big, and the TCP of the kernel follows', async (t) => {
  await daemons.router!.stop();
  daemons.router = startRouter(lab, ['--mtu', '1280']);
  await daemons.router.logged(/router up/, 30_000);
  await lab.waitPing('edge1', host('pod1').v4);
  const big = async (to: string, size: number) =>
    (await lab.run('edge1', 'ping', ['-n', '-c1', '-W2', '-M', 'do', '-s', String(size), to])).stdout;
  t.regex(await big(host('pod1').v4, 1372), /From 10\.80\.0\.1 .*Frag needed and DF set \(mtu = 1280\)/);
  t.regex(await big(host('pod1').v6, 1352), /From fd80::1 .*Packet too big: mtu=1280/);
  for (const to of [host('pod1').v4, host('pod1').v6]) {
    t.regex(await lab.ip('edge1', 'route', 'get', to), /mtu 1280/, 'the kernel remembers it');
    await lab.ip('edge1', ...(to.includes(':') ? ['-6'] : []), 'route', 'flush', 'cache');
    lab.spawn('pod1', 'iperf3', ['-s', '-1']);
    await lab.waitListen('pod1', 5201);
    // Segments of 1360 bytes at first, since nothing on the way has told the two ends otherwise.
    const json = await lab.must('edge1', 'iperf3', ['-J', '-n', '3M', '-c', to]);
    const { end } = JSON.parse(json) as { end: { sum_received: { bytes: number } } };
    t.true(end.sum_received.bytes > 500_000, json);
    t.regex(await lab.ip('edge1', 'route', 'get', to), /mtu 1280/, 'learnt again by TCP alone');
  }
});

for (const refuse of ['all', 'uso', 'write']) {
  check(
    `a kernel that refuses ${refuse === 'write' ? 'super-packets late' : `offload (${refuse})`}: plain packets, checksums right by tshark`,
    async (t) => {
      t.is(await daemons.edge2!.stop(), 0);
      const env = { ...systemEnvironment(), LD_PRELOAD: shim, KUBEBUS_TEST_REFUSE: refuse };
      const edge2 = startEdge(lab, 'edge2', [], { env });
      daemons.edge2 = edge2;
      await edge2.logged(/edge up/, 30_000);
      const file = join(lab.work, `${refuse}.pcapng`);
      const tshark = lab.spawn('edge2', 'tshark', ['-q', '-i', DEVICE, '-w', file, '-s', '2000']);
      await tshark.logged(/Capturing/, 20_000);
      // TCP both ways, IPv4 and IPv6, and UDP in super-packets, from an edge with offload.
      if (refuse === 'all') await serveFile('edge2');
      for (const address of [host('edge2').v4, `[${host('edge2').v6}]`]) await fetchAndPut(t, 'edge1', address);
      const udp = `import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.setsockopt(17, 103, 1000); s.sendto(bytes(9500), ('${host('edge2').v4}', 9))`;
      await lab.must('edge1', 'python3', ['-c', udp]);
      await lab.waitPing('edge1', host('edge2').v4);
      await tshark.stop('SIGINT');
      const { tun } = await status('edge2');
      t.is(tun.invalid, 0);
      if (refuse === 'write') {
        t.is(edge2.log.match(/the kernel refuses super-packets/g)?.length, 1, 'told once');
        t.true(tun.rejected! >= 4);
      } else t.is(tun.rejected, 0);
      if (refuse === 'uso') t.true(tun.split! > 0);
      // Only where the kernel does no checksum offload does the capture hold what is on the wire.
      const checksums = refuse === 'all' ? 'TRUE' : 'FALSE';
      const preferences = ['tcp', 'udp', 'ip'].flatMap((p) => [
        '-o',
        `${p}.check_checksum:${p === 'ip' ? 'TRUE' : checksums}`,
      ]);
      const expert = await must('tshark', ['-r', file, ...preferences, '-q', '-z', 'expert,error']);
      t.deepEqual(
        expert.split('\n').filter((line) => /^\s+\d+\s/.test(line)),
        [],
      );
      const bad = [
        '-Y',
        `_ws.malformed || ip.checksum.status == "Bad" || tcp.checksum.status == "Bad" || udp.checksum.status == "Bad"`,
      ];
      t.is(await must('tshark', ['-r', file, ...preferences, ...bad]), '');
      const counts = await must('tshark', ['-r', file, ...preferences, '-q', '-z', 'io,phs']);
      t.regex(counts, /tcp +frames:[1-9]/);
      if (refuse === 'all') {
        const good = await must('tshark', [
          '-r',
          file,
          ...preferences,
          '-Y',
          'tcp.checksum.status == "Good" && frame.len > 1000',
        ]);
        t.true(good.split('\n').length > 1_000, 'they were verified');
        t.is(await must('tshark', ['-r', file, '-Y', 'frame.len > 1400']), '', 'and nothing is larger than the MTU');
      }
    },
  );
}

check('kill -9 leaves neither device nor routes, and the same node comes back under the same address', async (t) => {
  const before = host('edge2');
  // Deleted under the running process: it says so and ends, for its supervisor to start it again.
  await lab.ip('edge2', 'link', 'del', DEVICE);
  t.is(await daemons.edge2!.exited(5_000), 1);
  t.regex(daemons.edge2!.log, /kb0 was deleted.*ERR_TUN_LOST/);
  daemons.edge2 = startEdge(lab, 'edge2');
  await daemons.edge2.logged(/edge up/, 30_000);
  t.regex(await lab.ip('edge2', 'route'), /kb0/);
  await daemons.edge2!.stop('SIGKILL');
  t.false(lab.hasDevice('edge2', DEVICE));
  t.notRegex(await lab.ip('edge2', 'route'), /kb0|10\.80/);
  daemons.edge2 = startEdge(lab, 'edge2');
  await daemons.edge2.logged(/edge up/, 30_000);
  t.deepEqual(await lab.addresses('edge2', DEVICE), [before.v4, before.v6]);
  await lab.waitPing('edge1', before.v4);
});

check('a cloud that is killed and started again: every node is back by itself, under the same addresses', async (t) => {
  const before = await Promise.all(['edge1', 'edge2', 'vm1'].map((ns) => lab.addresses(ns, DEVICE)));
  await daemons.cloud!.stop('SIGKILL');
  t.false(lab.hasDevice('cloud', DEVICE));
  daemons.cloud = startCloud(lab);
  await daemons.cloud.logged(/cloud up/, 30_000);
  for (const from of ['edge1', 'edge2', 'vm2', 'pod2', 'cloud']) await lab.waitPing(from, host('edge1').v4);
  for (const from of ['edge1', 'cloud']) await lab.waitPing(from, host('pod2').v6);
  const after = await Promise.all(['edge1', 'edge2', 'vm1'].map((ns) => lab.addresses(ns, DEVICE)));
  t.deepEqual(after, before);
  t.true(daemons.edge1!.running && daemons.edge2!.running && daemons.router!.running);
});

check('source NAT: its table is there, and gone after kill -9', async (t) => {
  await daemons.router!.stop();
  daemons.router = startRouter(lab, ['--snat']);
  await daemons.router.logged(/router up/, 30_000);
  await lab.waitPing('edge1', host('vm2').v4);
  const tables = () => lab.must('vm1', 'nft', ['list', 'tables']);
  t.regex(await tables(), /kubebus/);
  await daemons.router.stop('SIGKILL');
  await until('the table to be gone', 5_000, async () => !/kubebus/.test(await tables()));
  t.false(lab.hasDevice('vm1', DEVICE));
  daemons.router = startRouter(lab, ['--snat']);
  await daemons.router.logged(/router up/, 30_000);
  t.is(await daemons.router.stop(), 0);
  t.notRegex(await tables(), /kubebus/);
});

check('what a router withdrew is gone from every kernel', async (t) => {
  t.true(withdrawn > 0);
  for (const ns of ['edge1', 'edge2', 'cloud']) {
    await until(`the route to leave ${ns}`, 20_000, async () => !/^10\.3\.0\.0\/24/m.test(await routes(ns)));
  }
});

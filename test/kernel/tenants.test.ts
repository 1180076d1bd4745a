// Two tenants with the same prefixes on one cloud: the same addresses, two worlds.
//
//     red1, red2, blue1, blue2 --- cloud          pools 10.80.0.0/16 and fd80::/64 of both
import { join } from 'node:path';
import test from 'ava';
import { kubebus } from '../../examples/lab/command.js';
import { Lab } from '../../examples/lab/netns.js';
import { kernelTest, missing, unique } from '../support/kernel.js';

const absent = missing('curl');
const check = kernelTest(absent);
const NODES = ['red1', 'red2', 'blue1', 'blue2'] as const;
const DEVICE = 'kb0';

let lab: Lab;
test.before(async (t) => {
  t.timeout(60_000);
  if (absent !== null) return;
  lab = new Lab(unique('t-'));
  await lab.ns('cloud');
  for (const [i, node] of NODES.entries()) {
    await lab.ns(node);
    await lab.veth(node, 'eth0', [`192.168.${i}.2/24`], 'cloud', node, [`192.168.${i}.1/24`]);
  }
  const pools = '10.80.0.0/16,fd80::/64';
  const cloud = kubebus(lab, 'cloud', [
    ...['cloud', '--insecure', '--tenant', `red=${pools}`, '--tenant', `blue=${pools}`],
    ...['--state', join(lab.work, 'state')],
  ]);
  await cloud.logged(/cloud up/, 30_000);
  // One after the other, so that the first of each tenant gets the first address.
  for (const pair of [
    ['red1', 'blue1'],
    ['red2', 'blue2'],
  ]) {
    const started = pair.map((node) => {
      const advertise = node.endsWith('2') ? ['--advertise', '10.1.0.0/24:vm'] : [];
      return kubebus(lab, node, [
        ...[advertise.length > 0 ? 'router' : 'edge', '--insecure', '--tenant', node.slice(0, -1), '--node', node],
        ...['--cloud', `kubebus://192.168.${NODES.indexOf(node as 'red1')}.1:7443`, '--tun', DEVICE, ...advertise],
      ]);
    });
    for (const daemon of started) await daemon.logged(/(edge|router) up/, 30_000);
  }
  for (const node of NODES) {
    // Every host says its name, on its overlay address and on one of the subnet that both tenants advertise.
    if (node.endsWith('2')) await lab.address(node, 'lo', '10.1.0.1/32');
    const serve = `require('http').createServer((q, s) => s.end(process.argv[1] + ' ' + q.socket.remoteAddress)).listen(80, '::')`;
    lab.spawn(node, process.execPath, ['-e', serve, node]);
    await lab.waitListen(node, 80);
  }
});
test.after.always(async () => {
  await lab?.down();
});

check('both tenants have the same addresses, and each reaches only its own', async (t) => {
  const addresses = await Promise.all(NODES.map((node) => lab.addresses(node, DEVICE)));
  t.deepEqual(addresses[0], addresses[2]);
  t.deepEqual(addresses[1], addresses[3]);
  for (const [from, to] of [
    ['red1', 'red2'],
    ['blue1', 'blue2'],
  ] as const) {
    const [v4, v6] = addresses[NODES.indexOf(to)]!;
    const [own4, own6] = addresses[NODES.indexOf(from)]!;
    t.is(await lab.must(from, 'curl', ['-sfm5', `http://${v4}/`]), `${to} ::ffff:${own4}`);
    t.is(await lab.must(from, 'curl', ['-sfm5', `http://[${v6}]/`]), `${to} ${own6}`);
    t.is(await lab.must(from, 'curl', ['-sfm5', 'http://10.1.0.1/']), `${to} ::ffff:${own4}`);
  }
});

check('the tenant is the link, not the packet: an address that only the other tenant has is unreachable', async (t) => {
  // A third red node would get 10.80.0.4; blue has none, and no address in any packet leads there.
  const third = kubebus(lab, 'cloud', [
    ...[
      'edge',
      '--insecure',
      '--tenant',
      'red',
      '--node',
      'red3',
      '--cloud',
      'kubebus://127.0.0.1:7443',
      '--tun',
      DEVICE,
    ],
  ]);
  await third.logged(/edge up/, 30_000);
  const [v4, v6] = await lab.addresses('cloud', DEVICE);
  await lab.waitPing('red1', v4!);
  await lab.waitPing('red1', v6!);
  for (const address of [v4!, v6!]) {
    const { code, stdout } = await lab.run('blue1', 'ping', ['-nc1', '-W1', address]);
    t.not(code, 0);
    t.regex(stdout, /[Uu]nreachable/);
  }
  t.is(await third.stop(), 0);
});

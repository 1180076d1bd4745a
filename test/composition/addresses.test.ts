// Addresses as a user sees them: the same after reconnections and restarts, from a book on disk that survives what disks do.

import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import { SECOND } from '../../lib/core/index.js';
import { KubeBusNode } from '../../lib/index.js';
import { folder, Overlay } from './support/overlay.js';

const book = async (dir: string) => JSON.parse(await readFile(join(dir, 'addresses.json'), 'utf8'));

test('a node keeps its addresses over reconnections, its own restart and the cloud’s restart; the cloud’s record wins', async (t) => {
  const dir = await folder(t);
  const net = new Overlay(t);
  const first = await net.cloud({ stateDir: dir });
  const a = await net.join('a');
  const b = await net.join('b');
  t.deepEqual(
    [a.addresses, b.addresses],
    [
      ['10.80.0.2', 'fd80::2'],
      ['10.80.0.3', 'fd80::3'],
    ],
  );
  t.deepEqual(a.gateway, ['10.80.0.1', 'fd80::1']);
  const said: unknown[] = [];
  a.on('addresses', (all) => said.push(all));
  await net.settle(a.stop());
  await net.settle(first.stop());
  t.deepEqual(await book(dir), { acme: { a: a.addresses, b: b.addresses } });
  // In another order, and while b dials again by itself.
  const second = await net.cloud({ stateDir: dir });
  const c = await net.join('c');
  const again = await net.join('a');
  await net.until(() => second.nodes().length === 3 && second.nodes().every((n) => n.addresses.length > 0));
  t.deepEqual(again.addresses, a.addresses);
  t.deepEqual(c.addresses, ['10.80.0.4', 'fd80::4']);
  t.deepEqual(Object.fromEntries(second.nodes().map((n) => [n.node, n.addresses])).b, b.addresses);
  t.deepEqual(said, [], 'nothing changed for who stayed');
  for (const to of [...a.addresses, ...c.addresses]) t.true(await net.ping(b, to), to);
});

test('a cloud that is killed and restarted tells nodes that come back no names that they know', async (t) => {
  const dir = await folder(t);
  const net = new Overlay(t);
  const first = await net.cloud({ stateDir: dir });
  const nodes: KubeBusNode[] = [];
  for (let i = 0; i < 40; i++) nodes.push(await net.join(`n${i}`));
  await net.until(() => nodes.every((node) => node.routes().length === 2 * 39));
  // Files are real.
  const written = async () => Object.keys((await book(dir).catch(() => ({ acme: {} }))).acme).length;
  while ((await written()) < 40) await net.pass(10_000);
  const messages = (node: KubeBusNode) => (node.stats().control as { messages: number }).messages;
  const before = nodes.map(messages);
  // The book as it is on disk while the first one runs.
  const copy = await folder(t);
  await writeFile(join(copy, 'addresses.json'), await readFile(join(dir, 'addresses.json')));
  await net.settle(first.stop());
  const second = await net.cloud({ stateDir: copy });
  await net.until(() => second.nodes().length === 40 && second.nodes().every((n) => n.addresses.length > 0));
  await net.pass(SECOND);
  for (const [i, node] of nodes.entries()) t.is(messages(node) - before[i]!, 2, 'Assign and Routes');
});

test('up means usable: after a restart it comes when the addresses are assigned, and a link without an answer is none', async (t) => {
  const net = new Overlay(t);
  const tenants = (pool: string) => ({ acme: { pools: [pool] } });
  const first = await net.cloud({ tenants: tenants('10.80.0.0/16') });
  const node = await net.join('a');
  const seen: string[] = [];
  node.on('up', () => seen.push(`up ${node.addresses}`));
  node.on('down', () => seen.push('down'));
  await net.settle(first.stop());
  // This one has no room: the link is up, and there is no address.
  const full = await net.cloud({ tenants: tenants('10.81.0.0/30'), controlLimits: { nodesPerTenant: 0 } });
  await net.until(() => full.nodes().length === 1);
  await net.pass(SECOND);
  t.deepEqual(seen, ['down']);
  await net.settle(full.stop());
  await net.cloud({ tenants: tenants('10.82.0.0/16') });
  await net.until(() => seen.length > 1);
  t.deepEqual(seen, ['down', 'up 10.82.0.2']);
  t.true(await net.ping(node, node.gateway[0]!));
});

test('a cloud without a book gives nodes what they remember, where that is free', async (t) => {
  const [dirA, dirB] = [await folder(t), await folder(t)];
  const net = new Overlay(t);
  const first = await net.cloud();
  const a = await net.join('a', { stateDir: dirA });
  const b = await net.join('b', { stateDir: dirB });
  for (const one of [a, b, first]) await net.settle(one.stop());
  await net.cloud();
  const b2 = await net.join('b', { stateDir: dirB });
  const stranger = await net.join('stranger');
  const a2 = await net.join('a', { stateDir: dirA });
  t.deepEqual(b2.addresses, b.addresses);
  t.deepEqual(stranger.addresses, a.addresses, 'first come');
  t.notDeepEqual(a2.addresses, a.addresses);
  t.is(new Set([...b2.addresses, ...stranger.addresses, ...a2.addresses]).size, 6);
});

test('a damaged book stops the start and stays as it is; a half-written new one beside it does not matter', async (t) => {
  const dir = await folder(t);
  const net = new Overlay(t);
  const path = join(dir, 'addresses.json');
  for (const text of [
    '',
    '{"acme": {"a": ["10.80',
    '[]',
    '7',
    '{"acme": [1]}',
    '{"acme": {"a": ["nonsense"]}}',
    '\0\0\0\0',
  ]) {
    await writeFile(path, text);
    await t.throwsAsync(net.cloud({ stateDir: dir }), { code: 'ERR_STATE' }, text);
    t.is(await readFile(path, 'utf8'), text);
  }
  await writeFile(path, '{"acme": {"a": ["10.80.0.77", "fd80::77"]}}');
  await writeFile(`${path}.new`, '{"acme": {"a": [');
  await net.cloud({ stateDir: dir });
  t.deepEqual((await net.join('a')).addresses, ['10.80.0.77', 'fd80::77']);
  t.deepEqual(await readdir(dir), ['addresses.json']);
});

test('a node whose own memory is damaged joins all the same: the file is set aside', async (t) => {
  const dir = await folder(t);
  const net = new Overlay(t);
  await net.cloud();
  const name = 'node-acme-a.json';
  for (const text of ['', '{"addresses": ["10.8', '{"addresses": ["nonsense", 5]}', '7']) {
    await writeFile(join(dir, name), text);
    const a = await net.join('a', { stateDir: dir });
    t.deepEqual(a.addresses, ['10.80.0.2', 'fd80::2'], text);
    await net.settle(a.stop());
    t.deepEqual(JSON.parse(await readFile(join(dir, name), 'utf8')), { addresses: a.addresses }, text);
  }
  t.is(await readFile(join(dir, `${name}.damaged`), 'utf8'), '{"addresses": ["10.8');
});

test('the book keeps tenants that are not served at the moment, and addresses that still fit changed pools', async (t) => {
  const dir = await folder(t);
  const net = new Overlay(t);
  const both = { acme: { pools: ['10.80.0.0/16'] }, blue: { pools: ['10.80.0.0/16'] } };
  const first = await net.cloud({ stateDir: dir, tenants: both });
  const [x, y] = [await net.join('x'), await net.join('x', { tenant: 'blue' })];
  for (const one of [x, y, first]) await net.settle(one.stop());
  const second = await net.cloud({ stateDir: dir, tenants: { acme: { pools: ['10.80.0.0/24', 'fd80::/64'] } } });
  const wider = await net.join('x');
  t.deepEqual(wider.addresses, ['10.80.0.2', 'fd80::2']);
  for (const one of [wider, second]) await net.settle(one.stop());
  t.deepEqual(await book(dir), { acme: { x: wider.addresses }, blue: { x: y.addresses } });
  await net.cloud({ stateDir: dir, tenants: { acme: { pools: ['10.9.0.0/24'] }, blue: both.blue } });
  t.deepEqual((await net.join('x')).addresses, ['10.9.0.2'], 'the old one is in no pool any more');
  t.true(net.log.some((line) => line.includes('no longer fit the pools')));
});

test('a full disk: the overlay goes on and says so; the book is written when there is room again', async (t) => {
  const dir = join(await folder(t), 'small');
  await mkdir(dir);
  if (spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=64k', 'kubebus-test', dir]).status !== 0) {
    if (process.env.KUBEBUS_REQUIRE_ALL === '1') t.fail('cannot mount a tmpfs');
    else t.log('skipped: needs the right to mount a tmpfs');
    t.pass();
    return;
  }
  t.teardown(() => execFileSync('umount', [dir]));
  const net = new Overlay(t);
  const cloud = await net.cloud({ stateDir: dir });
  await t.throwsAsync(writeFile(join(dir, 'filler'), Buffer.alloc(1 << 20)), { code: 'ENOSPC' });
  const [a, b] = [await net.join('a'), await net.join('b')];
  await net.until(() => net.log.some((line) => /^error .*not saved.*ENOSPC/.test(line)));
  t.true(await net.ping(a, b.addresses[0]!));
  t.true((cloud.stats().state as { failures: number }).failures > 0);
  await rm(join(dir, 'filler'));
  await net.pass(6 * SECOND);
  await net.until(() => existsSync(join(dir, 'addresses.json')));
  t.deepEqual(await book(dir), { acme: { a: a.addresses, b: b.addresses } });
});

test('bounds: a pool that is used up, and the limit of nodes: refused with a code, and let in when somebody is forgotten', async (t) => {
  for (const [tenant, limits, code] of [
    [{ pools: ['10.80.0.0/29'] }, {}, 'ERR_POOL_EXHAUSTED'],
    [{ pools: ['fd80::/64'] }, { nodesPerTenant: 5 }, 'ERR_NODE_LIMIT'],
  ] as const) {
    const net = new Overlay(t);
    const cloud = await net.cloud({ tenants: { acme: tenant }, controlLimits: limits });
    const nodes = [];
    for (const name of ['a', 'b', 'c', 'd', 'e']) nodes.push(await net.join(name));
    const late = KubeBusNode.join(net.nodeOptions('late'));
    await net.until(() => net.log.some((line) => line.startsWith(`error ${code} refused`)));
    t.true(
      net.log.some((line) => line.startsWith(`warn ${code}`)),
      'on the side of the cloud too',
    );
    t.false(cloud.forget('acme', 'c'), 'not while it is connected');
    await net.settle(nodes[2]!.stop());
    await net.until(() => cloud.nodes().every((n) => n.node !== 'c'));
    t.true(cloud.forget('acme', 'c'));
    t.false(cloud.forget('acme', 'c'));
    const joined = await net.settle(late);
    t.is(joined.addresses.length, 1);
    await net.settle(joined.stop());
  }
});

test('options that cannot be are refused before anything is opened', async (t) => {
  const net = new Overlay(t);
  const invalid = { code: 'ERR_INVALID_ARGUMENT' };
  for (const options of [
    { transports: [] },
    { mtu: 1279 },
    { mtu: 65_536 },
    { tenants: { Acme: { pools: ['10.80.0.0/16'] } } },
    { tenants: { acme: { pools: ['10.80.0.0/16', '10.80.1.0/24'] } } },
    { tenants: { acme: { pools: ['10.80.0.0/30'], nodes: { a: { address: ['10.9.0.1'] } } } } },
    { tenants: { acme: { pools: ['169.254.0.0/24'] } } },
  ]) {
    await t.throwsAsync(net.cloud(options), invalid, JSON.stringify(options));
  }
  await t.throwsAsync(net.cloud({ tenants: { acme: { pools: ['nonsense'] } } }), { code: 'ERR_ADDRESS' });
  for (const options of [
    { node: 'a b' },
    { tenant: '' },
    { mtu: 100 },
    { connections: 0 },
    { cloud: [] },
    { cloud: 'kubebus://a:1' as never },
  ]) {
    await t.throwsAsync(KubeBusNode.join(net.nodeOptions('a', options)), invalid, JSON.stringify(options));
  }
});

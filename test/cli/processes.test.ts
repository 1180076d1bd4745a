// The commands as real processes over TLS on loopback: they start, show their state, stop in order; and who is refused
// reads the reason, on both sides.

import { existsSync, readFileSync, statSync } from 'node:fs';
import test, { type ExecutionContext } from 'ava';
import { createAuthority, nodeNames, save } from '../../lib/join/driver/pki.js';
import { makePki, type Pki } from './support/pki.js';
import { Kubebus, type Line } from './support/process.js';
import { run } from './support/run.js';

let pki: Pki;

test.before(async () => {
  pki = await makePki();
  const other = await createAuthority('another CA');
  await save(pki.dir, 'other-ca', other);
  for (const node of ['e1', 'e2', 'twin', 'plain']) await pki.node('acme', node);
  await pki.node('acme', 'r1', ['10.1.0.0/16']);
  await pki.node('acme', 'r2', ['10.1.0.0/16']);
  await pki.node('stranger', 'e1');
  // 86 seconds ago.
  await pki.node('acme', 'expired', [], -0.001);
  await pki.node('acme', 'early', [], 2, Date.now() + 24 * 60 * 60 * 1000);
  const names = nodeNames('acme', 'forged', []);
  await save(pki.dir, 'acme-forged', await other.issue({ name: 'forged', days: 1, names }));
});

test.after.always(() => pki.remove());

function start(t: ExecutionContext, ...argv: string[]): Kubebus {
  const process = new Kubebus(...argv);
  t.teardown(() => process.stop('SIGKILL'));
  return process;
}

async function startCloud(t: ExecutionContext, ...more: string[]): Promise<{ cloud: Kubebus; address: string }> {
  const listen = ['--listen', '127.0.0.1:0', '--tenant', 'acme=10.80.0.0/16,fd80::/64'];
  const cloud = start(t, 'cloud', ...listen, ...pki.flags('cloud'), ...more);
  const up = await cloud.says(/^cloud up$/);
  return { cloud, address: (up.addresses as string[])[0]! };
}

test('a cloud and two edges: up, asked for their state, stopped by SIGTERM and SIGINT with exit code 0 and nothing left', async (t) => {
  const [state, cloudSocket, edgeSocket] = [pki.file('state'), pki.file('c.sock'), pki.file('e.sock')];
  const { cloud, address } = await startCloud(t, '--state', state, '--status-socket', cloudSocket);
  const edge = (name: string, ...more: string[]) =>
    start(t, 'edge', '--cloud', address, ...pki.flags(`acme-${name}`), ...more);
  const [e1, e2] = [edge('e1', '--status-socket', edgeSocket), edge('e2')];
  const ups = await Promise.all([e1, e2].map((e) => e.says(/^edge up$/)));
  const addresses = ups.map((up) => up.addresses as string[]);
  t.deepEqual(addresses.flat().sort(), ['10.80.0.2', '10.80.0.3', 'fd80::2', 'fd80::3']);
  t.is(statSync(edgeSocket).mode & 0o777, 0o600);

  const asked = JSON.parse((await run('status', '--socket', cloudSocket)).out);
  t.deepEqual(asked.nodes.map((n: { node: string }) => n.node).sort(), ['e1', 'e2']);
  t.deepEqual(asked.addresses, [address]);
  const own = JSON.parse((await run('status', '--socket', edgeSocket)).out);
  t.is(own.state, 'up');
  t.deepEqual(own.addresses, addresses[0]);
  // Its name is taken as long as it lives.
  const second = await run(
    'cloud',
    '--insecure',
    '--tenant',
    'a=10.0.0.0/8',
    '--listen',
    '127.0.0.1:0',
    '--status-socket',
    edgeSocket,
  );
  t.is(second.code, 2);
  t.regex(second.err, /'--status-socket': .*e\.sock is in use by another process/);

  t.is(await e1.stop('SIGTERM'), 0, e1.err);
  t.is((await cloud.line((l) => l.msg.startsWith('node left') && l.node === 'e1')).code, 'ERR_PEER_GOODBYE');
  t.false(existsSync(edgeSocket));
  t.is(await cloud.stop('SIGINT'), 0, cloud.err);
  t.false(existsSync(cloudSocket));
  t.is((await e2.says(/^link down/)).code, 'ERR_PEER_GOODBYE');
  const book = JSON.parse(readFileSync(`${state}/addresses.json`, 'utf8'));
  t.deepEqual(book.acme, { e1: addresses[0], e2: addresses[1] });
  t.is(await e2.stop('SIGINT'), 0, 'also while its cloud is away');
  for (const process of [cloud, e1, e2]) t.is(process.err, '');
});

test('an edge whose cloud is away says so once, shows its state, and stops in order', async (t) => {
  const socket = pki.file('lonely.sock');
  // Port 9 (discard) of loopback: nobody there.
  const edge = start(t, 'edge', '--cloud', 'kubebus://127.0.0.1:9', ...pki.flags('acme-e1'), '--status-socket', socket);
  t.regex(
    (await edge.says(/^link down/)).msg,
    /cannot connect to 127\.0\.0\.1:9: .*ECONNREFUSED.* \(will go on trying\)/,
  );
  t.deepEqual(JSON.parse((await run('status', '--socket', socket)).out), {
    tenant: 'acme',
    node: 'e1',
    state: 'connecting',
  });
  t.is(await edge.stop('SIGTERM'), 0);
  t.is(edge.lines.filter((l) => l.msg.startsWith('link down')).length, 1);
});

test('who is refused reads the reason, and so does the cloud', async (t) => {
  const { cloud, address } = await startCloud(t);
  const node = (kind: string, name: string, ...more: string[]) =>
    start(t, kind, '--cloud', address, ...pki.flags(name), ...more);
  const twin = node('edge', 'acme-twin');
  const r1 = node('router', 'acme-r1', '--advertise', '10.1.0.0/16:vm');
  await Promise.all([twin.says(/^edge up$/), r1.says(/^router up$/), cloud.line((l) => l.node === 'r1')]);
  const refusal = (line: Line) => line.level >= 40 && line.code !== undefined;
  const both = async (what: string, process: Kubebus, own: [string, RegExp], seen: [string, RegExp]) => {
    const [code, text] = own;
    const line = await process.line((l) => refusal(l) && l.code === code && text.test(l.msg));
    t.truthy(line, what);
    const [cloudCode, cloudText] = seen;
    t.truthy(await cloud.line((l) => l.code === cloudCode && cloudText.test(l.msg)), what);
  };
  const wrongCa = start(t, 'edge', '--cloud', address, ...pki.flags('acme-e1', 'other-ca'));
  const plainText = start(t, 'edge', '--cloud', address, '--insecure', '--tenant', 'acme', '--node', 'open');
  await Promise.all([
    wrongCa.line(
      (l) => l.code === 'ERR_CERTIFICATE' && /^refused: certificate of 127.*another CA than ours/.test(l.msg),
    ),
    cloud.line((l) => l.code === 'ERR_CERTIFICATE' && /the node refused the cloud's certificate/.test(l.msg)),
    both(
      'a certificate of another CA',
      node('edge', 'acme-forged'),
      ['ERR_CERTIFICATE', /^refused: .*not signed by our CA/],
      ['ERR_CERTIFICATE', /^connection refused: .*not signed by our CA/],
    ),
    both(
      'an expired certificate',
      node('edge', 'acme-expired'),
      ['ERR_CERTIFICATE', /^refused: .*expired/],
      ['ERR_CERTIFICATE', /^connection refused: .*expired/],
    ),
    both(
      'a certificate that is not valid yet',
      node('edge', 'acme-early'),
      ['ERR_CERTIFICATE', /^refused: .*not valid yet: check the clocks/],
      ['ERR_CERTIFICATE', /^connection refused: .*not valid yet/],
    ),
    both(
      'a tenant that is not served',
      node('edge', 'stranger-e1'),
      ['ERR_TENANT_UNKNOWN', /^refused: .*stranger/],
      ['ERR_TENANT_UNKNOWN', /stranger/],
    ),
    both(
      'a second node of the same name',
      node('edge', 'acme-twin'),
      ['ERR_DUPLICATE_NODE', /^refused: a node named acme\/twin is connected/],
      ['ERR_DUPLICATE_NODE', /acme\/twin/],
    ),
    both(
      'a route inside another node’s',
      node('router', 'acme-r2', '--advertise', '10.1.2.0/24'),
      ['ERR_ROUTE_OVERLAP', /^refused: 10\.1\.2\.0\/24 is inside 10\.1\.0\.0\/16 of r1/],
      ['ERR_ROUTE_OVERLAP', /10\.1\.2\.0\/24 is inside/],
    ),
    both(
      'a route that the certificate does not allow',
      node('edge', 'acme-plain', '--advertise', '10.7.0.0/24'),
      ['ERR_ROUTE_NOT_ALLOWED', /^refused: 10\.7\.0\.0\/24 is not among the allowed prefixes of plain/],
      ['ERR_ROUTE_NOT_ALLOWED', /10\.7\.0\.0\/24 is not among/],
    ),
    both(
      'a plain-text node at a cloud with TLS',
      plainText,
      ['ERR_TRANSPORT', /ended/],
      ['ERR_TRANSPORT', /does not speak TLS/],
    ),
  ]);
  t.regex(
    (await cloud.line((l) => l.code === 'ERR_CERTIFICATE' && /expired/.test(l.msg))).remote as string,
    /127\.0\.0\.1/,
  );
  t.is(twin.lines.filter((l) => l.level >= 40).length, 0, 'the one that was there first is not disturbed');
});

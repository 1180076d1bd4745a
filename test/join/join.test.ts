// A node joins with a token, against a real cloud over TLS.

import { X509Certificate } from 'node:crypto';
import { once } from 'node:events';
import { readdir, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import test from 'ava';
import type { KubeBusError } from '../../lib/core/index.js';
import { KubeBusNode } from '../../lib/index.js';
import { parseToken } from '../../lib/join/index.js';
import { folder, LogLines, startCloud } from './support.js';

test('one token, one command: a node joins, and starts again without the token', async (t) => {
  const log = new LogLines();
  const { authority } = await startCloud(t, await folder(t), { logger: log });
  const { text } = await authority.createToken({ tenant: 'acme', node: 'edge-1', routes: ['10.2.0.0/16'] });
  const stateDir = await folder(t);
  const node = await KubeBusNode.join({ token: text, stateDir, logger: log });
  t.is(`${node.tenant}/${node.node}`, 'acme/edge-1');
  t.is((await node.ping(node.gateway[0]!, { count: 1 })).lost, 0);
  const addresses = node.addresses;
  await node.stop();

  const path = join(stateDir, 'identity.json');
  t.is((await stat(path)).mode & 0o777, 0o600);
  t.false((await readdir(stateDir)).includes('joining.json'), 'nothing of the join is left over');
  const { certificate } = JSON.parse(await readFile(path, 'utf8')) as { certificate: string };
  t.is(new X509Certificate(certificate).subjectAltName, 'URI:kubebus://acme/edge-1, URI:kubebus-prefix:10.2.0.0/16');

  const again = await KubeBusNode.join({ stateDir });
  t.deepEqual(again.addresses, addresses);
  await again.stop();
  t.is(authority.stats().issued, 1);

  const { secret } = parseToken(text);
  const stored = await readFile(
    join((authority as unknown as { options: { stateDir: string } }).options.stateDir, 'joins.json'),
    'utf8',
  );
  for (const [what, written] of [
    ['the log', log.lines.join('\n')],
    ['the disk', stored],
  ] as const) {
    t.true(written.includes(authority.tokens()[0]!.id), `${what} names the token`);
    for (const encoding of ['hex', 'base64', 'base64url', 'latin1'] as const)
      t.false(written.includes(Buffer.from(secret).toString(encoding)), `${what} has the secret in ${encoding}`);
    t.false(written.includes('PRIVATE KEY'), `${what} has a key`);
  }
});

test('the route that the token grants may be advertised, another not', async (t) => {
  const { authority } = await startCloud(t, await folder(t));
  const { text } = await authority.createToken({ tenant: 'acme', routes: ['10.2.0.0/16'] });
  const node = await KubeBusNode.join({
    token: text,
    stateDir: await folder(t),
    node: 'vm1',
    advertise: [
      { prefix: '10.2.3.0/24', kind: 'vm' },
      { prefix: '10.3.0.0/24', kind: 'vm' },
    ],
  });
  t.teardown(() => node.stop());
  const [refused] = (await once(node, 'refused')) as [KubeBusError];
  t.is(refused.code, 'ERR_ROUTE_NOT_ALLOWED');
  t.regex(refused.message, /10\.3\.0\.0|allow/);
});

test('a revoked node is out at once, and stays out after the cloud restarts; allowed again it comes back', async (t) => {
  const dir = await folder(t);
  const first = await startCloud(t, dir);
  const { text } = await first.authority.createToken({ tenant: 'acme', node: 'edge-1' });
  const node = await KubeBusNode.join({ token: text, stateDir: await folder(t) });
  t.teardown(() => node.stop());
  const refused = once(node, 'refused') as Promise<[KubeBusError]>;
  await first.authority.revokeNode('acme', 'edge-1');
  const [reason] = await refused;
  t.is(reason.code, 'ERR_REVOKED');
  t.is(reason.side, 'remote');
  t.deepEqual(first.cloud.nodes(), []);

  const port = Number(new URL(first.address.replace('kubebus', 'http')).port);
  await first.stop();
  const second = await startCloud(t, dir, { port });
  const stillRefused = once(node, 'refused') as Promise<[KubeBusError]>;
  t.is((await stillRefused)[0].code, 'ERR_REVOKED');
  t.deepEqual(second.cloud.nodes(), []);

  const up = once(node, 'up');
  t.true(await second.authority.allowNode('acme', 'edge-1'));
  await up;
  t.is(second.cloud.nodes().length, 1);
});

test('a token for its name replaces a device: the old one is out at once', async (t) => {
  const { authority, cloud } = await startCloud(t, await folder(t));
  const first = await authority.createToken({ tenant: 'acme', node: 'edge-1' });
  const old = await KubeBusNode.join({ token: first.text, stateDir: await folder(t) });
  t.teardown(() => old.stop());
  const refused = once(old, 'refused') as Promise<[KubeBusError]>;
  const second = await authority.createToken({ tenant: 'acme', node: 'edge-1' });
  const fresh = await KubeBusNode.join({ token: second.text, stateDir: await folder(t) });
  t.teardown(() => fresh.stop());
  t.is((await refused)[0].code, 'ERR_CERTIFICATE');
  t.regex((await refused)[0].message, /another device/);
  t.is(cloud.nodes().length, 1);
});

// Certificates renew themselves: in time, after weeks offline, and the cloud's own too.

import { generateKeyPairSync, X509Certificate } from 'node:crypto';
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import tls from 'node:tls';
import test from 'ava';
import { type KubeBusError, MS } from '../../lib/core/index.js';
import { KubeBusNode } from '../../lib/index.js';
import { NodeIdentity } from '../../lib/join/index.js';
import { dialService, parseHostPort } from '../../transports/tcp.js';
import { VirtualClock } from '../l2/support/virtual.js';
import { folder, LogLines, startCloud } from './support.js';

const DAY = 24 * 3600_000;
const port = (address: string) => parseHostPort(address).port;

/** Resolves with the next change. */
function changed(source: { onChange(listener: () => void): () => void }): Promise<void> {
  return new Promise((resolve) => {
    const end = source.onChange(() => {
      end();
      resolve();
    });
  });
}

test('a running node renews after two thirds of the life, for the same key, and what is on disk is the new one', async (t) => {
  const { authority } = await startCloud(t, await folder(t));
  const { text } = await authority.createToken({ tenant: 'acme', node: 'edge-1', routes: ['10.2.0.0/16'] });
  const stateDir = await folder(t);
  // The node's days pass as the test says.
  const clock = new VirtualClock();
  const begin = Date.now();
  const date = () => begin + clock.now() / MS;
  let dials = 0;
  const dial: typeof dialService = (...args) => {
    dials++;
    return dialService(...args);
  };
  const identity = await NodeIdentity.open({ stateDir, token: text, dial, clock, date });
  t.teardown(() => identity.stop());
  t.is(dials, 1, 'one connection for the whole of joining');
  const first = new X509Certificate(identity.tls.current().cert);
  const renewal = changed(identity.tls);
  t.false(await clock.run(4 * DAY * MS, () => dials > 1), 'not before 60 % of the life');
  t.true(await clock.run(DAY * MS, () => dials > 1));
  await renewal;
  const second = new X509Certificate(identity.tls.current().cert);
  t.true(date() < Date.parse(first.validTo), 'before the old one ended');
  t.not(second.serialNumber, first.serialNumber);
  t.true(second.publicKey.equals(first.publicKey));
  t.is(second.subjectAltName, first.subjectAltName);
  t.true(Date.parse(second.validTo) >= Date.parse(first.validTo));
  const stored = JSON.parse(await readFile(join(stateDir, 'identity.json'), 'utf8'));
  t.is(new X509Certificate(stored.certificate).serialNumber, second.serialNumber);
  t.is(authority.stats().renewed, 1);
});

test('a link outlives the certificate that it began with, while the node renews; and ends when it does not', async (t) => {
  const log = new LogLines();
  const { authority, cloud } = await startCloud(t, await folder(t), { nodeLifetimeMs: 2_000, expiryCheckMs: 50 });
  const { text } = await authority.createToken({ tenant: 'acme', node: 'edge-1' });
  const stateDir = await folder(t);
  const node = await KubeBusNode.join({ token: text, stateDir, logger: log });
  t.teardown(() => node.stop());
  let downs = 0;
  node.on('down', () => downs++);
  const first = authority.certifiedUntil('acme', 'edge-1');
  const { identity } = node as unknown as { identity: NodeIdentity };
  while (Date.now() < first + 500) await changed(identity.tls);
  t.is(downs, 0);
  t.is(cloud.nodes().length, 1);
  identity.stop();
  const [reason] = (await once(node, 'down')) as [KubeBusError];
  t.is(reason.code, 'ERR_CERTIFICATE');
  t.regex(reason.message, /has ended/);
});

test('weeks offline: the certificate has ended, its holder renews it; after the grace time it needs a token', async (t) => {
  const hub = await folder(t);
  const offlineFor = async (days: number, name: string) => {
    // A certificate that ended so long ago, as it was issued then.
    const then = await startCloud(t, hub, { nodeLifetimeMs: -days * DAY });
    const { text } = await then.authority.createToken({ tenant: 'acme', node: name });
    const stateDir = await folder(t);
    const identity = await NodeIdentity.open({ stateDir, token: text, dial: dialService });
    identity.stop();
    await then.stop();
    const now = await startCloud(t, hub, { port: port(then.address) });
    return { now, stateDir };
  };
  const weeks = await offlineFor(30, 'edge-1');
  const node = await KubeBusNode.join({ stateDir: weeks.stateDir });
  t.is(node.addresses.length, 1);
  await node.stop();
  t.is(weeks.now.authority.stats().renewed, 1);
  await weeks.now.stop();

  const months = await offlineFor(91, 'edge-2');
  await t.throwsAsync(KubeBusNode.join({ stateDir: months.stateDir }), {
    code: 'ERR_CERTIFICATE',
    message: /more than 90 days ago: join again with a token/,
  });
  const { text } = await months.now.authority.createToken({ tenant: 'acme', node: 'edge-2' });
  const again = await KubeBusNode.join({ stateDir: months.stateDir, token: text });
  t.is(again.node, 'edge-2');
  await again.stop();
});

test('revoked while offline: it cannot renew', async (t) => {
  const { authority } = await startCloud(t, await folder(t), { nodeLifetimeMs: -DAY });
  const { text } = await authority.createToken({ tenant: 'acme', node: 'edge-1' });
  const stateDir = await folder(t);
  (await NodeIdentity.open({ stateDir, token: text, dial: dialService })).stop();
  await authority.revokeNode('acme', 'edge-1');
  await t.throwsAsync(NodeIdentity.open({ stateDir, dial: dialService }), { code: 'ERR_REVOKED' });
});

test('an old token in the start script does no harm; a new one joins anew; a damaged identity is named', async (t) => {
  const log = new LogLines();
  const { authority } = await startCloud(t, await folder(t));
  const first = await authority.createToken({ tenant: 'acme', node: 'edge-1' });
  const stateDir = await folder(t);
  const open = async (token?: string, more = {}) => {
    const identity = await NodeIdentity.open({
      stateDir,
      dial: dialService,
      logger: log,
      ...(token && { token }),
      ...more,
    });
    identity.stop();
    return identity;
  };
  await open(first.text);
  await open(first.text);
  t.is(authority.stats().issued, 1);
  const revoked = await authority.createToken({ tenant: 'acme' });
  await authority.revokeToken(revoked.record.id);
  t.is((await open(revoked.text)).node, 'edge-1');
  t.true(log.lines.some((l) => l.includes('going on as before') && l.includes('ERR_TOKEN_REVOKED')));
  await t.throwsAsync(open(undefined, { node: 'edge-2' }), { code: 'ERR_INVALID_ARGUMENT' });
  const second = await authority.createToken({ tenant: 'blue', node: 'edge-9' });
  t.is((await open(second.text)).tenant, 'blue');
  t.is((await open()).tenant, 'blue');
  const { writeFile } = await import('node:fs/promises');
  await writeFile(join(stateDir, 'identity.json'), '{"version":1}');
  await t.throwsAsync(open(), { code: 'ERR_STATE', message: /damaged/ });
});

test("the cloud's own certificate is replaced in time, and new connections see the new one", async (t) => {
  const { authority, address } = await startCloud(t, await folder(t), { cloudLifetimeMs: 2_000 });
  const serial = async () => {
    const socket = tls.connect({ port: port(address), host: '127.0.0.1', servername: '', ca: authority.certificate });
    socket.on('error', () => {});
    await once(socket, 'secureConnect');
    const { serialNumber } = socket.getPeerCertificate();
    socket.destroy();
    return serialNumber;
  };
  const before = await serial();
  await changed(authority.tls);
  t.not(await serial(), before);
});

test('a CA whose key is gone, or that is damaged, is never replaced silently', async (t) => {
  const dir = await folder(t);
  await (await startCloud(t, dir)).stop();
  const { rename, writeFile } = await import('node:fs/promises');
  await rename(join(dir, 'ca.key'), join(dir, 'ca.key.away'));
  await t.throwsAsync(startCloud(t, dir), { code: 'ERR_STATE', message: /ca\.key is missing/ });
  await writeFile(join(dir, 'ca.key'), 'nonsense');
  await t.throwsAsync(startCloud(t, dir), { code: 'ERR_STATE' });
  const keys = { spki: { type: 'spki', format: 'pem' }, pkcs8: { type: 'pkcs8', format: 'pem' } } as const;
  for (const namedCurve of ['P-256', 'P-384']) {
    const { privateKey } = generateKeyPairSync('ec', {
      namedCurve,
      publicKeyEncoding: keys.spki,
      privateKeyEncoding: keys.pkcs8,
    });
    await writeFile(join(dir, 'ca.key'), privateKey);
    await t.throwsAsync(startCloud(t, dir), { code: 'ERR_STATE', message: /does not belong|no P-256 key/ }, namedCurve);
  }
});

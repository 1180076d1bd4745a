// Replacing the CA of a hub that signs its nodes, while they go on: `kubebus ca rotate`, each step with a restart of the hub.

import { X509Certificate } from 'node:crypto';
import { access, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { type KubeBusError, MS } from '../../lib/core/index.js';
import { KubeBusNode } from '../../lib/index.js';
import { rotateAuthority } from '../../lib/join/driver/authorities.js';
import { NodeIdentity } from '../../lib/join/index.js';
import { dialService, parseHostPort, tcpTransport } from '../../transports/tcp.js';
import { VirtualClock } from '../l2/support/virtual.js';
import { folder, LogLines, startCloud, type TestCloud } from './support.js';

const DAY = 24 * 3600_000;

/** A hub that is stopped, has a step done in its folder, and is started again at the same address. */
async function hub(t: ExecutionContext) {
  const dir = await folder(t);
  let running: TestCloud = await startCloud(t, dir);
  const port = parseHostPort(running.address).port;
  const restart = async (change: () => Promise<void>) => {
    await running.stop();
    await change();
    running = await startCloud(t, dir, { port });
    return running;
  };
  return { dir, now: () => running, restart };
}

async function joined(t: ExecutionContext, cloud: TestCloud, node: string): Promise<string> {
  const stateDir = await folder(t);
  const { text } = await cloud.authority.createToken({ tenant: 'acme', node });
  (await NodeIdentity.open({ stateDir, token: text, dial: dialService })).stop();
  return stateDir;
}

/** The node's days pass until it has a new certificate. */
async function renewed(t: ExecutionContext, stateDir: string): Promise<void> {
  const clock = new VirtualClock();
  const begin = Date.now();
  let dials = 0;
  const identity = await NodeIdentity.open({
    stateDir,
    clock,
    date: () => begin + clock.now() / MS,
    dial: (...args) => {
      dials++;
      return dialService(...args);
    },
  });
  const changed = new Promise<void>((resolve) => identity.tls.onChange(resolve));
  t.true(await clock.run(12 * DAY * MS, () => dials > 0));
  await changed;
  identity.stop();
}

async function comesUp(t: ExecutionContext, stateDir: string, native: boolean): Promise<void> {
  const node = await KubeBusNode.join({ stateDir, transport: (tls) => tcpTransport({ tls, native }) });
  t.is(node.link.state, 'up');
  await node.stop();
}

const text = (dir: string, file: string) => readFile(join(dir, file), 'utf8');

test('begin, renewals, switch, finish: nodes that have renewed go on; who has not is named, and needs a token', async (t) => {
  const { dir, now, restart } = await hub(t);
  const first = await text(dir, 'ca.crt');
  const [edge, late] = [await joined(t, now(), 'edge-1'), await joined(t, now(), 'late')];

  await restart(() => rotateAuthority(dir, 'begin'));
  t.is(await text(dir, 'ca.crt'), first, 'nothing is changed for who knows the first one only');
  await comesUp(t, late, true);
  const behind = await t.throwsAsync(rotateAuthority(dir, 'switch'), { code: 'ERR_STATE' });
  t.regex(behind!.message, /2 nodes have not renewed .*acme\/edge-1, acme\/late/);
  await renewed(t, edge);
  const { certificate, authority } = JSON.parse(await text(edge, 'identity.json'));
  const next = new X509Certificate(await text(dir, 'ca-next.crt'));
  t.true(new X509Certificate(certificate).verify(next.publicKey), 'signed by the next one');
  t.true(authority.includes(first.trim()) && authority.includes(next.toString().trim()), 'and both are trusted');
  for (const native of [true, false]) await comesUp(t, edge, native);
  // Who joins now pins the first one, and is told of both.
  await comesUp(t, await joined(t, now(), 'edge-2'), true);

  await now().authority.revokeNode('acme', 'late');
  await restart(() => rotateAuthority(dir, 'switch'));
  t.is(await text(dir, 'ca.crt'), next.toString());
  for (const native of [true, false]) await comesUp(t, edge, native);
  await comesUp(t, await joined(t, now(), 'edge-3'), true);
  await renewed(t, edge);

  await restart(() => rotateAuthority(dir, 'finish'));
  await t.throwsAsync(access(join(dir, 'ca-old.crt')));
  await comesUp(t, edge, true);
  // It knows the first one only: the hub is nobody to it.
  const log = new LogLines();
  const told = new Promise<string>((resolve) => {
    log.error = (fields, message) => resolve(`${(fields as { code: string }).code} ${message}`);
  });
  const stop = new AbortController();
  const attempt = KubeBusNode.join({ stateDir: late, logger: log, signal: stop.signal });
  t.regex(await told, /ERR_CERTIFICATE/);
  stop.abort();
  await t.throwsAsync(attempt, { code: 'ERR_ABORTED' });
  const again = await now().authority.createToken({ tenant: 'acme', node: 'late' });
  const back = await KubeBusNode.join({ stateDir: late, token: again.text });
  t.is(back.node, 'late');
  await back.stop();
});

test('steps out of order are refused; one that a crash interrupted is done by doing it again', async (t) => {
  const { dir, restart } = await hub(t);
  const wrong = (step: 'begin' | 'switch' | 'finish', message: RegExp) =>
    t.throwsAsync<KubeBusError>(rotateAuthority(dir, step), { code: 'ERR_STATE', message });
  await t.throwsAsync(rotateAuthority(await folder(t), 'begin'), { message: /there is none/ });
  await wrong('switch', /begin first/);
  await rotateAuthority(dir, 'begin');
  await wrong('begin', /has begun already/);
  await wrong('finish', /switch to the next one first/);
  // The crash came between the two files of the pair.
  const [oldCert, nextCert] = [await text(dir, 'ca.crt'), await text(dir, 'ca-next.crt')];
  await rotateAuthority(dir, 'switch');
  await writeFile(join(dir, 'ca.crt'), oldCert);
  await writeFile(join(dir, 'ca-next.crt'), nextCert);
  await t.throwsAsync(
    restart(async () => {}),
    { code: 'ERR_STATE', message: /does not belong to its certificate/ },
  );
  await rotateAuthority(dir, 'switch');
  await restart(async () => {});
  t.is(await text(dir, 'ca.crt'), nextCert);
  await wrong('begin', /not finished/);
  await rotateAuthority(dir, 'finish');
  await rotateAuthority(dir, 'begin');
  // Its key is gone: nothing is signed by a CA that is only half there.
  await rm(join(dir, 'ca-next.key'));
  await t.throwsAsync(
    restart(async () => {}),
    { code: 'ERR_STATE', message: /ca-next.key is missing/ },
  );
});

// The way of the guide, with real processes: a cloud that makes its own CA, a token, an edge that needs nothing else.

import { once } from 'node:events';
import { mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { connect } from 'node:tls';
import test, { type ExecutionContext } from 'ava';
import { Kubebus } from '../cli/support/process.js';
import { run } from '../cli/support/run.js';

async function folder(t: ExecutionContext): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), 'kb-cli-join-'));
  t.teardown(() => rm(dir, { recursive: true, force: true }));
  return dir;
}

function start(t: ExecutionContext, ...argv: string[]): Kubebus {
  const process = new Kubebus(...argv);
  t.teardown(() => process.stop('SIGKILL'));
  return process;
}

const cloudFlags = (state: string, port = '0') => [
  'cloud',
  ...['--state', state, '--host', '127.0.0.1', '--listen', `127.0.0.1:${port}`, '--tenant', 'acme=10.80.0.0/16'],
];

async function ok(t: ExecutionContext, ...argv: string[]): Promise<string> {
  const { code, out, err } = await run(...argv);
  t.is(code, 0, err);
  return out.trim();
}

test('cloud, token, edge; the second start without the token; revoked for good, over a restart of the cloud', async (t) => {
  const [hub, edge] = [await folder(t), await folder(t)];
  const state = ['--state', hub];
  let cloud = start(t, ...cloudFlags(hub));
  const up = await cloud.says(/^cloud up$/);
  const port = new URL((up.addresses as string[])[0]!.replace('kubebus', 'http')).port;
  t.is((await stat(join(hub, 'ca.key'))).mode & 0o777, 0o600);
  t.is((await stat(join(hub, 'admin.sock'))).mode & 0o777, 0o600);

  const token = await ok(
    t,
    'token',
    'create',
    ...state,
    '--tenant',
    'acme',
    '--node',
    'edge-1',
    '--routes',
    '10.2.0.0/16',
  );
  t.regex(token, /^kbt1_[\w-]{100,300}$/, 'one string');
  const first = start(t, 'edge', '--join', token, '--state', edge);
  t.deepEqual((await first.says(/^edge up$/)).addresses, ['10.80.0.2']);
  t.is((await stat(join(edge, 'identity.json'))).mode & 0o777, 0o600);
  t.is(await first.stop(), 0);

  const tokens = JSON.parse(await ok(t, 'token', 'list', ...state, '--json'));
  t.is(tokens[0].state, 'used');
  t.false(JSON.stringify(tokens).includes('hash'));
  t.regex(await ok(t, 'token', 'list', ...state), /acme\/edge-1 +1\/1 .* edge-1$/m);

  const second = start(t, 'edge', '--state', edge);
  t.deepEqual((await second.says(/^edge up$/)).addresses, ['10.80.0.2']);
  t.regex(await ok(t, 'node', 'list', ...state), /^acme\/edge-1 +up +10\.2\.0\.0\/16/m);

  // The thief of a used token gets nothing, and both sides say why.
  const thief = start(t, 'edge', '--join', token, '--state', await folder(t));
  const [, refusal] = await Promise.all([thief.stopped, cloud.says(/^join refused/)]);
  t.is(refusal.code, 'ERR_TOKEN_USED');
  t.regex(thief.err, /was used already \(by edge-1\) \(ERR_TOKEN_USED\)/);

  t.is(await ok(t, 'node', 'revoke', ...state, 'acme/edge-1'), 'acme/edge-1 revoked');
  t.is((await second.says(/^refused/)).code, 'ERR_REVOKED');
  t.is(await cloud.stop(), 0, cloud.err);
  cloud = start(t, ...cloudFlags(hub, port));
  t.regex((await cloud.says(/^handshake failed|^connection refused|^refused/)).msg, /revoked by the operator/);
  t.regex(await ok(t, 'node', 'list', ...state), /^acme\/edge-1 +revoked/m);
  await ok(t, 'node', 'allow', ...state, 'acme/edge-1');
  await cloud.says(/^node joined$/);

  const logs = [...cloud.lines, ...first.lines, ...second.lines].map((l) => JSON.stringify(l)).join('\n');
  const secret = Buffer.from(token.slice(5), 'base64url').subarray(-28, -4);
  t.false(logs.includes(token.slice(-60)) || logs.includes(secret.toString('hex')), 'no secret in any log');
});

test('mistakes are refused by name before anything starts', async (t) => {
  const dir = await folder(t);
  const refused = async (argv: string[], what: RegExp, code = 2) => {
    const outcome = await run(...argv);
    t.is(outcome.code, code, outcome.err);
    t.regex(outcome.err, what);
  };
  const cloud = ['cloud', '--tenant', 'a=10.0.0.0/8', '--listen', '127.0.0.1:0'];
  await refused(cloud, /'--cert' is missing \(or give '--state' and '--host'/);
  await refused([...cloud, '--host', 'hub.example'], /'--host' needs '--state'/);
  await refused([...cloud, '--host', 'hub', '--state', dir, '--insecure'], /'--host' makes no sense with '--insecure'/);
  await refused([...cloud, '--host', 'hub:0', '--state', dir], /not a whole number from 1 to 65535/);
  await refused([...cloud, '--host', 'a b', '--state', dir], /not a host name/);
  await refused(['edge', '--join', 'x'], /'--join' needs '--state'/);
  await refused(['edge', '--join', 'x', '--state', dir], /'--join': the token does not begin with kbt1_/);
  await refused(['edge', '--join', 'kbt1_AAAA', '--state', dir], /'--join': the token is damaged/);
  await refused(
    ['edge', '--join', 'kbt1_AAAA', '--state', dir, '--insecure'],
    /'--insecure' makes no sense with '--join'/,
  );
  await refused(['edge', '--state', dir], /'--cloud' is missing.*'--join'/);
  await refused(['token', 'create', '--state', dir], /'--tenant <name>' not specified/);
  await refused(['token', 'create', '--state', dir, '--tenant', 'a', '--ttl', '1w'], /not a time such as/);
  await refused(['token', 'create', '--state', dir, '--tenant', 'a', '--routes', '10.1.1.1'], /not a prefix/);
  await refused(
    ['token', 'create', '--state', dir, '--tenant', 'a'],
    /admin\.sock: no cloud runs with this state folder/,
    1,
  );
  await refused(['node', 'revoke', '--state', dir, 'edge-1'], /not tenant\/node: edge-1/);
});

test('a cloud with a certificate of its own kind makes no tokens, and says how to get some', async (t) => {
  const [state, pki] = [await folder(t), await folder(t)];
  await ok(t, 'ca', 'init', '--dir', pki);
  await ok(t, 'ca', 'cloud', '--dir', pki, '--host', '127.0.0.1');
  const files = ['--cert', join(pki, 'cloud.crt'), '--key', join(pki, 'cloud.key'), '--ca', join(pki, 'ca.crt')];
  const cloud = start(t, 'cloud', '--listen', '127.0.0.1:0', '--tenant', 'a=10.0.0.0/8', '--state', state, ...files);
  await cloud.says(/^cloud up$/);
  const { code, err } = await run('token', 'create', '--state', state, '--tenant', 'a');
  t.is(code, 1);
  t.regex(err, /--state and --host.*ERR_JOIN_DISABLED/);
  t.is(await cloud.stop(), 0);
  await t.throwsAsync(readFile(join(state, 'ca.key')), { code: 'ENOENT' });
});

test('certificate files that are replaced are used without a restart, a wrong one is not', async (t) => {
  const pki = await folder(t);
  await ok(t, 'ca', 'init', '--dir', pki);
  for (const name of ['cloud', 'next']) await ok(t, 'ca', 'cloud', '--dir', pki, '--host', '127.0.0.1', '--name', name);
  const at = (name: string) => join(pki, name);
  const files = ['--cert', at('cloud.crt'), '--key', at('cloud.key'), '--ca', at('ca.crt')];
  const cloud = start(t, 'cloud', '--listen', '127.0.0.1:0', '--tenant', 'a=10.0.0.0/8', ...files);
  const { addresses } = await cloud.says(/^cloud up$/);
  const subject = async () => {
    const { hostname, port } = new URL((addresses as string[])[0]!.replace('kubebus', 'http'));
    const ca = await readFile(at('ca.crt'), 'utf8');
    const socket = connect({ host: hostname, port: Number(port), servername: '', ca });
    socket.on('error', () => {});
    await once(socket, 'secureConnect');
    const { CN } = socket.getPeerCertificate().subject;
    socket.destroy();
    return CN;
  };
  t.is(await subject(), 'cloud');
  await writeFile(at('cloud.crt'), 'nonsense');
  t.regex((await cloud.says(/stay unused/)).msg, /'--cert': .* holds no certificate/);
  t.is(await subject(), 'cloud');
  await writeFile(at('cloud.key'), await readFile(at('next.key')));
  await writeFile(at('cloud.crt'), await readFile(at('next.crt')));
  await cloud.says(/^new certificate files are used/);
  t.is(await subject(), 'next');
  t.is(await cloud.stop(), 0);
});

// Every mistake in the command line or in a configuration file: one line that names the option, and exit code 2.

import { generateKeyPairSync } from 'node:crypto';
import { mkdir } from 'node:fs/promises';
import { createServer } from 'node:net';
import test from 'ava';
import { createAuthority, save } from '../../lib/join/driver/pki.js';
import { makePki, type Pki, writeFiles } from './support/pki.js';
import { refused, run } from './support/run.js';

let pki: Pki;

test.before(async () => {
  pki = await makePki();
  await pki.node('acme', 'e1');
  await pki.node('acme', 'e2');
  await save(pki.dir, 'other-ca', await createAuthority('other'));
  const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const locked = privateKey.export({ type: 'pkcs8', format: 'pem', cipher: 'aes-256-cbc', passphrase: 'x' });
  await writeFiles(pki, { 'junk.pem': 'no pem\n', 'locked.key': locked.toString(), empty: '' });
  await mkdir(pki.file('folder'));
});

test.after.always(() => pki.remove());

test('commands and options that do not exist', async (t) => {
  await refused(t, [], /name a command/);
  await refused(t, ['nonsense'], /unknown command 'nonsense'/);
  await refused(t, ['--nonsense'], /unknown option '--nonsense'/);
  await refused(t, ['ca'], /name a command/);
  for (const command of [['cloud'], ['edge'], ['router'], ['status', '--socket', 'x']]) {
    await refused(t, [...command, '--nonsense'], /unknown option '--nonsense'/);
  }
  await refused(t, ['cloud', 'surplus'], /too many arguments for 'cloud'/);
  await refused(t, ['edge', '--cloud'], /option '--cloud <address>' argument missing/);
});

test('kubebus cloud: each option with a value that cannot be', async (t) => {
  const insecure = ['cloud', '--insecure', '--listen', '127.0.0.1:0'];
  const tenant = ['--tenant', 'acme=10.80.0.0/16'];
  const cases: [string[], RegExp][] = [
    [[], /'--tenant' is missing/],
    [['--tenant', 'acme'], /'--tenant .*not tenant=pool,pool: acme/],
    [['--tenant', '=10.80.0.0/16'], /'--tenant .*not a name/],
    [['--tenant', 'Acme=10.80.0.0/16'], /'--tenant .*not a name .*: Acme/],
    [['--tenant', `${'a'.repeat(64)}=10.80.0.0/16`], /'--tenant .*not a name/],
    [['--tenant', 'acme=10.80.0.0/33'], /'--tenant .*not a prefix such as 10.80.0.0\/16: 10.80.0.0\/33/],
    [['--tenant', 'acme=10.80.0.0'], /'--tenant .*not a prefix/],
    [['--tenant', 'acme=10.80.0.0/16,'], /'--tenant .*not a prefix/],
    [['--tenant', 'acme=10.80.0.0/16=x'], /'--tenant .*not tenant=pool/],
    [['--tenant', 'acme=fd80::/129'], /'--tenant .*not a prefix/],
    [['--tenant', 'acme=fd80::1/64'], /'--tenant .*bits set behind its length: fd80::\/64\?/],
    [['--tenant', 'acme=10.80.0.0/16,10.80.1.0/24'], /'--tenant .*10\.80\.0\.0\/16 and 10\.80\.1\.0\/24 overlap/],
    [['--tenant', 'acme=10.80.0.0/32'], /'--tenant .*too small/],
    [['--tenant', 'acme=127.0.0.0/16'], /'--tenant .*127\.0\.0\.0\/8/],
    [['--tenant', 'acme=0.0.0.0/0'], /'--tenant .*no host's/],
    [[...tenant, '--tenant', 'acme=10.81.0.0/16'], /'--tenant': acme is there twice/],
    [[...tenant, '--listen', 'nonsense'], /'--listen .*not host:port/],
    [[...tenant, '--listen', '127.0.0.1:65536'], /'--listen .*not host:port/],
    [[...tenant, '--listen', '[127.0.0.1]:1'], /'--listen .*not host:port/],
    [[...tenant, '--mtu', '1279'], /'--mtu .*1280 to 65535: 1279/],
    [[...tenant, '--mtu', '1e4'], /'--mtu /],
    [[...tenant, '--tun', 'other'], /'--tun': no '--tenant' named other/],
    [[...tenant, '--tun', 'acme', '--tun', 'acme=kb1'], /'--tun': acme is there twice/],
    [[...tenant, '--tun', 'acme=a-name-that-is-too-long'], /'--tun .*device name/],
    [[...tenant, '--tun', 'acme='], /'--tun .*device name/],
    [[...tenant, '--name', 'a b'], /'--name .*not a name/],
    [[...tenant, '--log-level', 'loud'], /'--log-level .*not one of/],
    [[...tenant, '--state', ''], /'--state .*empty/],
    [[...tenant, '--status-socket', pki.file('empty')], /'--status-socket': .* is no socket/],
    [[...tenant, '--status-socket', pki.file('none/here')], /'--status-socket': .*its folder is not there/],
    [[...tenant, '--status-socket', `/tmp/${'x'.repeat(200)}`], /'--status-socket': /],
  ];
  for (const [argv, expected] of cases) await refused(t, [...insecure, ...argv], expected);
});

test('kubebus edge and router: each option with a value that cannot be', async (t) => {
  const who = ['--insecure', '--tenant', 'acme', '--node', 'e1'];
  const edge = ['edge', '--cloud', 'kubebus://127.0.0.1:7443', ...who];
  const router = ['router', ...edge.slice(1)];
  const cases: [string[], RegExp][] = [
    [['edge', ...who], /'--cloud' is missing/],
    [['edge', '--cloud', 'http://hub', ...who], /'--cloud .*not an address such as/],
    [['edge', '--cloud', 'kubebus://hub:99999', ...who], /'--cloud .*not an address such as/],
    [['edge', '--cloud', 'kubebus://', ...who], /'--cloud .*not an address such as/],
    [['edge', '--cloud', 'kubebus://hub', '--insecure'], /'--tenant' is missing/],
    [['edge', '--cloud', 'kubebus://hub', '--insecure', '--tenant', 'acme'], /'--node' is missing/],
    [[...edge, '--node', 'under_score'], /'--node .*not a name/],
    [[...edge, '--connections', '0'], /'--connections .*1 to 64/],
    [[...edge, '--connections', '65'], /'--connections .*1 to 64/],
    [[...edge, '--mtu', '70000'], /'--mtu /],
    [[...edge, '--tun', 'name/with/slash'], /'--tun .*device name/],
    [[...edge, '--advertise', '10.1.0.0'], /'--advertise .*not prefix/],
    [[...edge, '--advertise', '10.1.0.0/24:edge'], /'--advertise .*not prefix/],
    [[...edge, '--advertise', '10.1.0.0/24@70000'], /'--advertise .*0 to 65535/],
    [[...edge, '--advertise', '10.1.0.1/24'], /'--advertise .*10\.1\.0\.0\/24\?/],
    [[...edge, '--advertise', '10.1.0.0/24', '--advertise', '10.1.0.0/24@5'], /'--advertise': .* there twice/],
    [[...edge, '--snat'], /unknown option '--snat'/],
    [router, /'--advertise' is missing/],
    [[...router, '--advertise', '10.1.0.0/24', '--snat'], /'--snat' needs '--tun'/],
  ];
  for (const [argv, expected] of cases) await refused(t, argv, expected);
});

test('certificates, keys and CAs: missing, unreadable, of another kind, not belonging together', async (t) => {
  const cloud = (...more: string[]) => ['cloud', '--tenant', 'acme=10.80.0.0/16', '--listen', '127.0.0.1:0', ...more];
  const edge = (...more: string[]) => ['edge', '--cloud', 'kubebus://127.0.0.1:7443', ...more];
  const files = (cert: string, key: string, ca = 'ca.crt') => [
    ...['--cert', pki.file(cert), '--key', pki.file(key), '--ca', pki.file(ca)],
  ];
  const cases: [string[], RegExp][] = [
    [cloud(), /'--cert' is missing/],
    [cloud('--cert', 'x', '--ca', 'x'), /'--cert': cannot read x: ENOENT/],
    [edge('--cert', pki.file('acme-e1.crt')), /'--key' is missing/],
    [edge(...files('acme-e1.crt', 'acme-e1.key').slice(0, 4)), /'--ca' is missing/],
    [edge(...files('folder', 'acme-e1.key')), /'--cert': cannot read .*EISDIR/],
    [edge(...files('junk.pem', 'acme-e1.key')), /'--cert': .*junk\.pem holds no certificate/],
    [edge(...files('empty', 'acme-e1.key')), /'--cert': .*empty holds no certificate/],
    [edge(...files('acme-e1.key', 'acme-e1.key')), /'--cert': .* holds no certificate/],
    [edge(...files('acme-e1.crt', 'acme-e1.crt')), /'--key': .* holds no private key/],
    [edge(...files('acme-e1.crt', 'locked.key')), /'--key': .*passphrase/],
    [edge(...files('acme-e1.crt', 'acme-e2.key')), /'--key': .* is not the key of the certificate/],
    [edge(...files('acme-e1.crt', 'acme-e1.key', 'junk.pem')), /'--ca': .*holds no certificate/],
    [edge(...files('acme-e1.crt', 'acme-e1.key', 'acme-e2.crt')), /'--ca': .* is not the certificate of a CA/],
    [edge(...files('cloud.crt', 'cloud.key')), /'--cert': .* names no node/],
    [cloud(...files('acme-e1.crt', 'acme-e1.key')), /'--cert': .* names no cloud/],
    [cloud(...files('cloud.crt', 'cloud.key'), '--name', 'other'), /'--name': the certificate names the cloud hub/],
    [edge(...files('acme-e1.crt', 'acme-e1.key'), '--node', 'e2'), /'--node': the certificate is for acme\/e1/],
    [edge(...files('acme-e1.crt', 'acme-e1.key'), '--tenant', 'x'), /'--tenant': the certificate is for acme\/e1/],
    [cloud('--insecure', '--key', 'x'), /'--key' makes no sense with '--insecure'/],
  ];
  for (const [argv, expected] of cases) await refused(t, argv, expected);
});

test('configuration files: unreadable, no YAML, unknown options, values of the wrong kind', async (t) => {
  const cases: [string, RegExp][] = [
    ['tenant: [acme=10.80.0.0/16', /no YAML: .*line 1/],
    ['mtu: 1400\nmtu: 1500', /no YAML: .*line 2/],
    ['a: *b', /no YAML/],
    ['\tx: 1', /no YAML/],
    ['- mtu', /not a list of options/],
    ['just text', /not a list of options/],
    ['nonsense: 1', /unknown option 'nonsense'/],
    ['statusSocket: /x', /unknown option 'statusSocket'/],
    ['config: other.yaml', /unknown option 'config'/],
    ['tenant: {acme: 10.80.0.0/16}', /option 'tenant' must be/],
    ['tenant: [[a]]', /option 'tenant' must be/],
    ['mtu: true', /option 'mtu' needs a value/],
    ['mtu: [1400, 1500]', /option 'mtu' takes one value/],
    ['mtu:', /option 'mtu' must be/],
    ['insecure: 1', /option 'insecure' is true or false/],
    ['insecure: "yes"', /option 'insecure' is true or false/],
    ['mtu: 12', /'--mtu .*: 12/],
    ['tenant: acme', /'--tenant .*not tenant=pool/],
    ['name: ""', /'--name .*not a name/],
  ];
  for (const [i, [text, expected]] of cases.entries()) {
    await writeFiles(pki, { [`c${i}.yaml`]: text });
    await refused(t, ['cloud', '--config', pki.file(`c${i}.yaml`)], expected);
  }
  await refused(t, ['cloud', '--config', '/nowhere.yaml'], /'--config': cannot read \/nowhere\.yaml: ENOENT/);
  await refused(t, ['cloud', '--config', pki.file('folder')], /'--config': cannot read .*EISDIR/);
  await refused(t, ['cloud', '--config'], /'--config' needs a file/);
  await refused(t, ['cloud', '--config=', '--insecure'], /'--config' needs a file/);
  await refused(t, ['cloud', '--config', 'a', '--config', 'b'], /'--config' is there twice/);
  await refused(t, ['status', '--socket', 'x', '--config', 'a'], /unknown option '--config'/);
});

test('a configuration file is the command line in another form, and the command line wins', async (t) => {
  await writeFiles(pki, {
    'good.yaml':
      'insecure: true\nlisten: 127.0.0.1:0\ntenant:\n  - acme=10.80.0.0/16\n  - other=10.80.0.0/16\nmtu: 1300\n',
  });
  const good = await run('cloud', '--config', pki.file('good.yaml'));
  t.is(good.code, 0, good.err);
  t.deepEqual(JSON.parse(good.out.split('\n')[0]!).tenants, ['acme', 'other']);
  const over = await run('cloud', `--config=${pki.file('good.yaml')}`, '--tenant', 'third=10.9.0.0/24');
  t.deepEqual(JSON.parse(over.out.split('\n')[0]!).tenants, ['third']);
});

test('kubebus ca: files are never overwritten, and what is missing or damaged is named', async (t) => {
  const dir = pki.file('ca2');
  t.is((await run('ca', 'init', '--dir', dir)).code, 0);
  t.is((await run('ca', 'node', '--dir', dir, '--tenant', 'acme', '--node', 'e1')).code, 0);
  const node = ['ca', 'node', '--dir', dir, '--tenant', 'acme', '--node'];
  await refused(t, ['ca', 'init'], /'--dir <folder>' not specified/);
  await refused(t, ['ca', 'init', '--dir', dir], /'--dir': .*ca\.key exists already/);
  await refused(t, ['ca', 'init', '--dir', pki.file('empty')], /'--dir'/);
  await refused(
    t,
    ['ca', 'cloud', '--dir', '/nowhere', '--host', 'h'],
    /'--dir': no CA in \/nowhere: run 'kubebus ca init/,
  );
  await refused(t, ['ca', 'cloud', '--dir', dir], /'--host <host>' not specified/);
  await refused(t, ['ca', 'cloud', '--dir', dir, '--host', 'a b'], /'--host .*not a host name/);
  await refused(t, [...node, 'e1'], /'--dir': .*acme-e1\.key exists already/);
  await refused(t, [...node, 'E1'], /'--node .*not a name/);
  await refused(t, [...node, 'e2', '--prefix', '10.1.0.0'], /'--prefix .*not a prefix/);
  await refused(t, [...node, 'e2', '--days', '0'], /'--days .*1 to 3650/);
});

test('failures that are no mistakes end with 1 and one line: a port in use, an address of another host, nothing to ask', async (t) => {
  const taken = createServer().listen(0, '127.0.0.1');
  await new Promise((resolve) => taken.once('listening', resolve));
  t.teardown(() => taken.close());
  const { port } = taken.address() as { port: number };
  const cloud = ['cloud', '--insecure', '--tenant', 'acme=10.80.0.0/16', '--listen'];
  const cases: [string[], RegExp][] = [
    [[...cloud, `127.0.0.1:${port}`], /cannot listen on 127\.0\.0\.1:\d+: another process listens there already/],
    [[...cloud, '192.0.2.1:7443'], /cannot listen on 192\.0\.2\.1:7443: this host has no such address/],
    [[...cloud, '127.0.0.1:0', '--state', pki.file('empty')], /empty.*\(ERR_STATE\)/],
    [['status', '--socket', '/nowhere/socket'], /'--socket': \/nowhere\/socket: no kubebus process serves it/],
    [['status', '--socket', pki.file('empty')], /'--socket': /],
  ];
  for (const [argv, expected] of cases) {
    const { code, err } = await run(...argv);
    t.is(code, 1, err);
    t.regex(err, /^kubebus: [^\n]+\n$/);
    t.regex(err, expected);
  }
});

test('defaults in the help are what a user would type', async (t) => {
  for (const argv of [['cloud'], ['edge'], ['router'], ['token', 'create'], ['drain']]) {
    const { out } = await run(...argv, '--help');
    for (const [all, value] of out.replace(/\s+/g, ' ').matchAll(/\(default: ([^)]*)\)/g)) {
      t.false(/[[{]|\d0000/.test(value!), `${argv.join(' ')}: ${all}`);
    }
  }
  t.regex((await run('token', 'create', '--help')).out, /7d \(default: 1h\)/);
});

test('help and version go to standard output and end with 0', async (t) => {
  t.regex((await run('--version')).out, /^\d+\.\d+\.\d+\n$/);
  for (const argv of [['--help'], ['help'], ['cloud', '--help'], ['ca', 'node', '--help']]) {
    const { code, out, err } = await run(...argv);
    t.is(code, 0);
    t.regex(out, /^Usage: kubebus/);
    t.is(err, '');
  }
});

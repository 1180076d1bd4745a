// As usage.test.ts, for the options of transports, services, limits, joining, and for the commands that ask a running process.

import test, { type ExecutionContext } from 'ava';
import { makePki, type Pki, writeFiles } from './support/pki.js';
import { refused as refusedOne, run } from './support/run.js';

let pki: Pki;

test.before(async () => {
  pki = await makePki();
  await pki.node('acme', 'e1');
  await writeFiles(pki, { empty: '' });
});

test.after.always(() => pki.remove());

const CLOUD = ['cloud', '--insecure', '--listen', '127.0.0.1:0', '--tenant', 'acme=10.80.0.0/16'];
const EDGE = ['edge', '--insecure', '--cloud', 'kubebus://127.0.0.1:1', '--tenant', 'acme', '--node', 'e1'];

/** Each of them, with what is wrong with what. */
async function refused(t: ExecutionContext, cases: readonly (readonly [argv: readonly string[], expected: RegExp])[]) {
  for (const [argv, expected] of cases) await refusedOne(t, argv, expected);
}

test('kubebus cloud: limits, hosts, priority, transports', (t) => {
  const own = ['cloud', '--listen', '127.0.0.1:0', '--tenant', 'acme=10.80.0.0/16'];
  const state = ['--state', pki.file('state')];
  return refused(t, [
    [[...CLOUD, '--rate', 'acme'], /'--rate .*not tenant=rate/],
    [[...CLOUD, '--rate', 'acme=fast'], /'--rate .*not bits per second/],
    [[...CLOUD, '--rate', 'acme=1k'], /'--rate .*at least 8k/],
    [[...CLOUD, '--rate', 'acme=10M/'], /'--rate .*not tenant=rate/],
    [[...CLOUD, '--rate', 'acme=10M/5M/3M'], /'--rate .*not bits per second/],
    [[...CLOUD, '--rate', 'x=10M'], /'--rate': no '--tenant' named x/],
    [[...CLOUD, '--rate', 'acme=10M', '--rate', 'acme=1M'], /'--rate': acme is there twice/],
    [[...CLOUD, '--node-rate', 'other=10M'], /'--node-rate': no '--tenant' named other/],
    [[...CLOUD, '--node-rate', '=10M'], /'--node-rate .*not tenant=rate/],
    [[...CLOUD, '--host', 'hub'], /'--host' makes no sense with '--insecure'/],
    [[...own, '--host', 'hub'], /'--host' needs '--state'/],
    [[...own, ...state, '--host', 'a b'], /'--host .*not a host name/],
    [[...own, ...state, '--host', 'hub:70000'], /'--host .*1 to 65535/],
    [[...own, ...state, '--host', 'hub', '--cert', 'x'], /'--host' makes no sense with '--cert'/],
    [[...CLOUD, '--node-lifetime', '1h'], /'--node-lifetime' needs '--host'/],
    [[...own, ...state, '--host', 'hub', '--node-lifetime', '0s'], /'--node-lifetime .*not a time/],
    [[...own, ...state, '--host', 'hub', '--node-lifetime', '999999d'], /'--node-lifetime .*more than 3650d/],
    [[...CLOUD, '--nice', '20'], /'--nice .*-20 to 19: 20/],
    [[...CLOUD, '--nice'], /'--nice <n>' argument missing/],
    [[...CLOUD, '--priority', 'high'], /'--priority .*: high/],
    [[...CLOUD, '--transport', 'udp'], /'--transport .*no transport is called udp/],
    [[...CLOUD, '--transport', ''], /'--transport .*no transport is called ""/],
    [[...CLOUD, '--transport', 'tcp,tcp'], /'--transport .*there twice/],
    [[...CLOUD, '--transport', 'quic'], /'--insecure' is for the transport tcp only: quic/],
    [[...CLOUD, '--websocket-listen', '127.0.0.1:0'], /'--websocket-listen' needs 'websocket' in '--transport'/],
    [[...CLOUD, '--webtransport-listen', 'x'], /'--webtransport-listen .*not host:port/],
    [[...CLOUD, '-x'], /unknown option '-x'/],
  ]);
});

test('kubebus cloud: the gateway, and listeners of the host', (t) => {
  const gateway = [...CLOUD, '--gateway', '127.0.0.1:0'];
  const pair = (cert: string, key: string) => ['--gateway-cert', pki.file(cert), '--gateway-key', pki.file(key)];
  return refused(t, [
    [[...CLOUD, '--gateway', 'x'], /'--gateway .*not host:port/],
    [[...gateway, '--gateway-cert', 'x'], /'--gateway-cert' and '--gateway-key' go together/],
    [[...gateway, ...pair('none', 'none')], /'--gateway-cert': cannot read .*: ENOENT/],
    [[...gateway, ...pair('empty', 'empty')], /'--gateway-cert': .* holds no certificate/],
    [[...gateway, ...pair('cloud.crt', 'empty')], /'--gateway-key': .* holds no private key/],
    [[...gateway, ...pair('cloud.crt', 'acme-e1.key')], /'--gateway-key': .* is not the key of the certificate/],
    [[...CLOUD, ...pair('cloud.crt', 'cloud.key')], /'--gateway-cert' needs '--gateway'/],
    [[...gateway, '--gateway-domain', 'a b'], /'--gateway-domain .*not a host name/],
    [[...CLOUD, '--gateway-domain', 'x'], /'--gateway-domain' needs '--gateway'/],
    [[...CLOUD, '--gateway-trust'], /'--gateway-trust' needs '--gateway'/],
    [[...CLOUD, '--gateway-redirect', '127.0.0.1:0'], /'--gateway-redirect' needs '--gateway' with a certificate/],
    [[...CLOUD, '--client-rate', '5'], /'--client-rate' needs '--gateway'/],
    [[...gateway, '--client-rate', '0'], /'--client-rate .*1 to 1000000/],
    [[...gateway, '--tenant-rate', '1.5'], /'--tenant-rate .*1 to 1000000/],
    [[...CLOUD, '--proxy', '70000'], /'--proxy .*0 to 65535/],
    [[...CLOUD, '--socks', '1:2:3'], /'--socks .*not host:port/],
    [[...CLOUD, '--forward', '8080'], /'--forward .*not port=tenant\/node:port/],
    [[...CLOUD, '--forward', '99999=acme/e1:80'], /'--forward .*0 to 65535/],
    [[...CLOUD, '--forward', '0=nonsense'], /'--forward .*not tenant\/node:port/],
    [[...CLOUD, '--forward', '0=acme/e1:99999'], /'--forward .*not tenant\/node:port/],
    [[...CLOUD, '--access-log', ''], /'--access-log .*empty/],
    [[...CLOUD, '--access-log', '/nowhere/log'], /'--access-log': cannot write \/nowhere\/log: ENOENT/],
  ]);
});

test('kubebus edge and router: services, joining, transports', (t) => {
  const state = ['--state', pki.file('state')];
  const publish = (text: string) => [...EDGE, '--publish', text];
  return refused(t, [
    [publish('cam'), /'--publish .*not name=url/],
    [publish('Cam=http://127.0.0.1:1'), /'--publish .*not a name .*: Cam/],
    [publish('cam='), /'--publish .*not name=url/],
    [publish('cam=public'), /'--publish .*the URL is missing/],
    [publish('cam=ftp://x'), /'--publish .*not an http, https or tcp URL.*: ftp:\/\/x/],
    [publish('cam=http://'), /'--publish .*not an http, https or tcp URL/],
    [publish('cam=http://127.0.0.1:99999'), /'--publish .*not an http, https or tcp URL/],
    [publish('cam=tcp://127.0.0.1'), /'--publish .*the port is missing/],
    [publish('cam=http://h/?q'), /'--publish .*no query/],
    [publish('cam=127.0.0.1:80,tcp://127.0.0.1:22'), /'--publish .*tcp/],
    [publish('cam=127.0.0.1:80,grant='), /'--publish .*grant= in /],
    [publish('cam=127.0.0.1:80,grant=A'), /'--publish .*not a name .*: A/],
    [publish('cam=127.0.0.1:80,health=x'), /'--publish .*health=x in /],
    [publish('cam=127.0.0.1:80,port=0'), /'--publish .*1 to 65535/],
    [[...publish('cam=127.0.0.1:80'), '--publish', 'cam=127.0.0.1:81'], /'--publish': cam is there twice/],
    [[...EDGE, '--forward', '0=acme/e1/Bad_Name'], /'--forward .*not tenant\/node:port/],
    [[...EDGE, '--access-log', '/nowhere/log'], /'--access-log': cannot write/],
    [[...EDGE, '--outbound-proxy', 'x'], /'--outbound-proxy .*a proxy is http/],
    [[...EDGE, '--outbound-proxy', 'ftp://h:1'], /'--outbound-proxy .*a proxy is http/],
    [[...EDGE, '--transport', 'quic,tcp'], /'--insecure' is for the transport tcp only/],
    [['edge', '--join', 'x'], /'--join' needs '--state'/],
    [['edge', '--join', 'x', ...state], /'--join': the token does not begin with/],
    [['edge', '--join', '', ...state], /'--join .*empty/],
    [['edge', '--join', `kbt1_${'A'.repeat(400)}`, ...state], /'--join': /],
    [['edge', '--join', 'x', ...state, '--cloud', 'kubebus://h'], /'--cloud' makes no sense with '--join'/],
    [['edge', ...state], /'--cloud' is missing/],
    [[...EDGE, '--cert', 'x'], /'--cert' makes no sense with '--insecure'/],
    [[...EDGE, '--status-socket', '/nowhere/s'], /'--status-socket': .*its folder is not there/],
    [[...EDGE, '--connections', '1.5'], /'--connections .*1 to 64/],
    [[...EDGE, '--tun', 'a b'], /'--tun .*device name/],
    [[...EDGE, '--mtu', ''], /'--mtu /],
    [[...EDGE, '--mtu', '0x500'], /'--mtu /],
    [[...EDGE, '--cloud', 'kubebus://h?transport=pigeon'], /'--cloud .*not an address such as/],
    [[...EDGE, '--cloud', 'kubebus://h/path'], /'--cloud .*not an address such as/],
    [[...EDGE, '--cloud', 'kubebus://u:p@h'], /'--cloud .*not an address such as/],
    [[...EDGE, '--cloud', 'kubebus://h:0'], /'--cloud .*not an address such as/],
    [['router', ...EDGE.slice(1), '--advertise', '127.0.0.0/8'], /'--advertise .*127\.0\.0\.0\/8/],
    [['router', ...EDGE.slice(1), '--advertise', '10.80.0.0/24:vm:container'], /'--advertise .*not prefix/],
  ]);
});

test('kubebus token, node, drain, services, status, ca: arguments that cannot be', (t) =>
  refused(t, [
    [['token'], /name a command/],
    [['token', 'nonsense'], /unknown command 'nonsense'/],
    [['token', 'create'], /'--tenant <name>' not specified/],
    [['token', 'create', '--tenant', 'A'], /'--tenant .*not a name/],
    [['token', 'create', '--tenant', 'a', '--node', 'A'], /'--node .*not a name/],
    [['token', 'create', '--tenant', 'a', '--ttl', '5'], /'--ttl .*not a time/],
    [['token', 'create', '--tenant', 'a', '--uses', '0'], /'--uses .*1 to 1000000/],
    [['token', 'create', '--tenant', 'a', '--routes', '10.0.0.1/8'], /'--routes .*10\.0\.0\.0\/8\?/],
    [['token', 'revoke'], /missing required argument 'id'/],
    [['token', 'revoke', 'a', 'b'], /too many arguments/],
    [['token', 'list', '--state', ''], /'--state .*empty/],
    [['node'], /name a command/],
    [['node', 'revoke'], /missing required argument 'tenant\/node'/],
    [['node', 'revoke', 'acme'], /not tenant\/node: acme/],
    [['node', 'allow', 'Acme/e1'], /not tenant\/node: Acme\/e1/],
    [['drain', '--retry-after', 'x'], /'--retry-after .*not a time/],
    [['drain', '--to', 'http://x'], /'--to .*not an address such as/],
    [['drain', 'x'], /too many arguments/],
    [['services'], /'--socket <path>' not specified/],
    [['services', '--socket', 'x', '--format', 'xml'], /'--format .*not table, json or prometheus: xml/],
    [['services', '--socket', ''], /'--socket .*empty/],
    [['status'], /'--socket <path>' not specified/],
    [['ca', 'nonsense'], /unknown command 'nonsense'/],
    [['ca', 'init', '--dir', ''], /'--dir .*empty/],
    [['ca', 'init', '--dir', pki.file('ca3'), '--days', '0'], /'--days .*1 to 36500/],
    [['ca', 'init', '--dir', pki.file('ca3'), '--name', ''], /'--name .*empty/],
    [['ca', 'cloud', '--dir', pki.dir, '--host', 'h', '--name', 'A B'], /'--name .*not a name/],
  ]));

test('without a process to ask, the commands end with 1 and say where they looked', async (t) => {
  for (const argv of [
    ['token', 'list', '--state', '/nowhere'],
    ['node', 'list', '--state', '/nowhere'],
    ['drain', '--state', '/nowhere'],
    ['services', '--socket', '/nowhere'],
  ]) {
    const { code, err } = await run(...argv);
    t.is(code, 1, err);
    t.regex(err, /^kubebus: [^\n]*\/nowhere[^\n]*\n$/);
  }
});

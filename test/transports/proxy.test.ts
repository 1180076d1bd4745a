// Links through the proxies that networks have: tinyproxy (HTTP CONNECT) and microsocks (SOCKS5), as real programs.
import { once } from 'node:events';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import net from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { type ExecutionContext } from 'ava';
import { has } from '../../examples/lab/netns.js';
import { KubeBusCloud, KubeBusNode } from '../../lib/index.js';
import { cloudNames, createAuthority, nodeNames } from '../../lib/join/driver/pki.js';
import { parseProxy } from '../../transports/proxy.js';
import { tcpTransport } from '../../transports/tcp.js';
import { foreignServer, refusingPort } from '../support/foreign-server.js';
import { transfer } from '../support/transfer.js';

const withProgram = (program: string) => (title: string, body: (t: ExecutionContext) => Promise<void>) => {
  if (has(program)) test(title, body);
  else if (process.env.KUBEBUS_REQUIRE_ALL === '1') test(title, (t) => t.fail(`needs the program ${program}`));
  else test.skip(`${title} (needs the program ${program})`, body);
};
const withTinyproxy = withProgram('tinyproxy');
const withMicrosocks = withProgram('microsocks');

const ca = await createAuthority('test CA');

async function overlay(t: ExecutionContext) {
  const issued = await ca.issue({ name: 'cloud', days: 1, names: cloudNames('cloud', ['127.0.0.1']), server: true });
  const cloud = await KubeBusCloud.start({
    transports: [tcpTransport({ listen: { host: '127.0.0.1', port: 0 }, tls: { ca: ca.cert, ...issued } })],
    tenants: { acme: { pools: ['10.80.0.0/16'] } },
  });
  t.teardown(() => cloud.stop());
  const transport = async (node: string, proxy?: string) => {
    const leaf = await ca.issue({ name: node, days: 1, names: nodeNames('acme', node, []) });
    return tcpTransport({ tls: { ca: ca.cert, ...leaf }, ...(proxy === undefined ? {} : { proxy }) });
  };
  const start = async (node: string, proxy?: string) => {
    const joined = await KubeBusNode.join({
      cloud: cloud.addresses,
      transport: await transport(node, proxy),
      tenant: 'acme',
      node,
    });
    t.teardown(() => joined.stop());
    return joined;
  };
  return { cloud, transport, start };
}

async function tinyproxy(t: ExecutionContext, extra = ''): Promise<number> {
  const dir = await mkdtemp(join(tmpdir(), 'kubebus-proxy-'));
  t.teardown(() => rm(dir, { recursive: true, force: true }));
  const file = join(dir, 'tinyproxy.conf');
  return foreignServer(t, 'tinyproxy', async (port) => {
    await writeFile(file, `Port ${port}\nListen 127.0.0.1\nTimeout 600\nAllow 127.0.0.1\nMaxClients 20\n${extra}`);
    return ['-d', '-c', file];
  });
}

withTinyproxy('a link through HTTP CONNECT', async (t) => {
  const { start } = await overlay(t);
  const port = await tinyproxy(t);
  const a = await start('a', `http://127.0.0.1:${port}`);
  const b = await start('b');
  t.is((await a.ping(b.addresses[0]!, { count: 3, intervalMs: 0 })).lost, 0);
  t.true(await transfer(a, b, 4 * 1024 * 1024));
  t.true(await transfer(b, a, 4 * 1024 * 1024));
});

withTinyproxy(
  'HTTP CONNECT: user and password, and the reason when they are wrong, missing, or the port is forbidden',
  async (t) => {
    const { cloud, transport, start } = await overlay(t);
    const port = await tinyproxy(t, 'BasicAuth edge s3cret\n');
    const a = await start('a', `http://edge:s3cret@127.0.0.1:${port}`);
    t.is(a.link.state, 'up');
    const signal = () => AbortSignal.timeout(30_000);
    const [address] = cloud.addresses as [string];
    const none = await t.throwsAsync((await transport('b', `http://127.0.0.1:${port}`)).dial(address, signal()));
    t.regex(none!.message, /through the proxy .*wants a user and password/);
    const wrong = await t.throwsAsync(
      (await transport('b', `http://edge:no@127.0.0.1:${port}`)).dial(address, signal()),
    );
    t.regex(wrong!.message, /does not accept this user and password/);
    t.notRegex(wrong!.message, /no@|edge:/);
    const closed = await tinyproxy(t, 'ConnectPort 443\n');
    const forbidden = await t.throwsAsync((await transport('b', `http://127.0.0.1:${closed}`)).dial(address, signal()));
    t.regex(forbidden!.message, /it answered 403/);
  },
);

withMicrosocks('a link through SOCKS5, with user and password', async (t) => {
  const { cloud, transport, start } = await overlay(t);
  const port = await foreignServer(t, 'microsocks', (p) => [
    '-i',
    '127.0.0.1',
    '-p',
    String(p),
    '-u',
    'edge',
    '-P',
    's3cret',
  ]);
  const a = await start('a', `socks5://edge:s3cret@127.0.0.1:${port}`);
  const b = await start('b');
  t.true(await transfer(a, b, 4 * 1024 * 1024));
  const wrong = await t.throwsAsync(
    (await transport('b', `socks5://edge:no@127.0.0.1:${port}`)).dial(cloud.addresses[0]!, AbortSignal.timeout(30_000)),
  );
  t.regex(wrong!.message, /through the proxy socks5:/);
});

test('a proxy that is not there, and one that never answers: the reason, and no wait beyond the time given', async (t) => {
  const { cloud, transport } = await overlay(t);
  const port = await refusingPort(t);
  for (const scheme of ['http', 'socks5']) {
    const gone = await t.throwsAsync(
      (await transport('a', `${scheme}://127.0.0.1:${port}`)).dial(cloud.addresses[0]!, AbortSignal.timeout(30_000)),
    );
    t.regex(gone!.message, /through the proxy .*ECONNREFUSED/);
  }
  const accepted: net.Socket[] = [];
  const silent = net.createServer((socket) => void accepted.push(socket.resume())).listen(0, '127.0.0.1');
  await once(silent, 'listening');
  t.teardown(() => silent.close());
  const { port: mute } = silent.address() as net.AddressInfo;
  for (const scheme of ['http', 'socks5']) {
    const late = await t.throwsAsync(
      (await transport('a', `${scheme}://127.0.0.1:${mute}`)).dial(cloud.addresses[0]!, AbortSignal.timeout(300)),
    );
    t.regex(late!.message, /no answer in time/);
  }
  t.is(accepted.length, 2);
  // Nothing is left behind that would hold a process.
  for (const socket of accepted)
    if (!socket.closed) await once(socket, 'close', { signal: AbortSignal.timeout(10_000) });
});

test('what is no proxy is refused at once, and its password is not repeated', (t) => {
  for (const text of ['', 'ftp://u:geheim@h:1', 'http://', 'geheim', 'socks4://u:geheim@h']) {
    const error = t.throws(() => parseProxy(text));
    t.is((error as { code?: string }).code, 'ERR_INVALID_ARGUMENT');
    t.notRegex(error!.message, /geheim/);
  }
});

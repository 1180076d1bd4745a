// QUIC first, TCP when UDP is blocked, and QUIC again when it is not: on real sockets, with a path that can be closed to UDP.
import { once } from 'node:events';
import net from 'node:net';
import test, { type ExecutionContext } from 'ava';
import { MS } from '../../lib/core/index.js';
import { KubeBusCloud, KubeBusNode } from '../../lib/index.js';
import { cloudNames, createAuthority, nodeNames } from '../../lib/join/driver/pki.js';
import type { Transport } from '../../lib/l2/transport.js';
import { anyTransport } from '../../transports/any.js';
import { quicTransport } from '../../transports/quic.js';
import { tcpTransport } from '../../transports/tcp.js';
import { transfer } from '../support/transfer.js';
import { udpRelay } from '../support/udp-relay.js';

const ca = await createAuthority('test CA');
const issued = await ca.issue({ name: 'cloud', days: 1, names: cloudNames('cloud', ['127.0.0.1']), server: true });
const cloudTls = { ca: ca.cert, ...issued };
const nodeTls = async (node: string) => ({
  ca: ca.cert,
  ...(await ca.issue({ name: node, days: 1, names: nodeNames('acme', node, []) })),
});

type Options = Partial<Parameters<typeof KubeBusNode.join>[0]> & { readonly headStart?: number };

/** The server listens, and a UDP relay on the same port, which may be taken in UDP: then on another. */
async function bothOn(server: net.Server, target: number) {
  for (;;) {
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    try {
      return await udpRelay(target, (server.address() as net.AddressInfo).port);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EADDRINUSE') throw error;
      server.close();
      await once(server, 'close');
    }
  }
}

/** A cloud on TCP and QUIC, and one port on which both are reached. */
async function setup(t: ExecutionContext) {
  const listen = { host: '127.0.0.1', port: 0 };
  const cloud = await KubeBusCloud.start({
    transports: [tcpTransport({ listen, tls: cloudTls }), quicTransport({ listen, tls: cloudTls })],
    tenants: { acme: { pools: ['10.80.0.0/16'] } },
  });
  t.teardown(() => cloud.stop());
  const [tcpPort, udpPort] = cloud.addresses.map((address) => Number(new URL(address).port)) as [number, number];
  const relayed = new Set<net.Socket>();
  const tcp = net.createServer((front) => {
    const back = net.connect(tcpPort, '127.0.0.1');
    for (const socket of [front, back]) {
      relayed.add(socket);
      socket.on('error', () => {});
    }
    front.on('close', () => back.destroy());
    back.on('close', () => front.destroy());
    front.pipe(back).pipe(front);
  });
  const udp = await bothOn(tcp, udpPort);
  t.teardown(() => {
    udp.close();
    tcp.close();
    for (const socket of relayed) socket.destroy();
  });
  // By default QUIC is waited for: a busy machine must not make it a TCP link.
  const join = async (node: string, { headStart = 60_000 * MS, ...options }: Options = {}) => {
    const tls = await nodeTls(node);
    const joined = await KubeBusNode.join({
      cloud: [`kubebus://127.0.0.1:${udp.port}`],
      transport: anyTransport({ transports: [quicTransport({ tls }), tcpTransport({ tls })], headStart }),
      tenant: 'acme',
      node,
      ...options,
    });
    t.teardown(() => joined.stop());
    return joined;
  };
  return { cloud, udp, tcp, relayed, join };
}

test('QUIC where UDP passes', async (t) => {
  const { join } = await setup(t);
  const a = await join('a');
  t.is(a.link.medium, 'lossy');
});

test('TCP where UDP is swallowed, with the reason; QUIC again once it passes, without a break', async (t) => {
  const { udp, join } = await setup(t);
  udp.pass = () => false;
  let reason = '';
  const logger = {
    debug() {},
    info() {},
    error() {},
    warn(_: object, text: string) {
      reason ||= text;
    },
  };
  const a = await join('a', { headStart: 300 * MS, logger: logger as never, link: { betterAfter: 400 * MS } });
  t.is(a.link.medium, 'reliable');
  t.regex(reason, /quic: no answer within 300 ms/);
  udp.pass = () => true;
  const b = await join('b');
  t.is(b.link.medium, 'lossy');
  let downs = 0;
  a.on('down', () => downs++);
  // Traffic all the while, until the link has moved.
  let rounds = 0;
  while (a.link.medium !== 'lossy') {
    t.true(await transfer(a, b, 64 * 1024));
    rounds++;
  }
  t.true(await transfer(b, a, 256 * 1024));
  t.true(rounds > 0);
  t.is(downs, 0);
  t.is(a.link.stats().connections, 1);
});

for (const dies of ['quic', 'tcp'] as const) {
  test(`one link of a QUIC and a TCP connection: ${dies} dies under running flows, and they go on over the other`, async (t) => {
    const { udp, relayed, join } = await setup(t);
    const by = { quic: quicTransport, tcp: tcpTransport };
    const lives = dies === 'quic' ? 'tcp' : 'quic';
    const tls = await nodeTls('a');
    const [quic, tcp] = [by.quic({ tls }), by.tcp({ tls })];
    const survivor = lives === 'tcp' ? tcp : quic;
    let dials = 0;
    const mixed: Transport = {
      name: 'mixed',
      listen: tcp.listen,
      dial: (...args) => [quic, tcp][dials++]?.dial(...args) ?? survivor.dial(...args),
    };
    const b = await join('b', { transport: by[lives]({ tls: await nodeTls('b') }) });
    const others = new Set(relayed);
    const a = await join('a', {
      transport: mixed,
      connections: 2,
      link: { keepalive: { interval: 300 * MS, deadAfter: 1_500 * MS } },
    });
    while (a.link.stats().connections! < 2) await a.ping(b.addresses[0]!);
    t.is(a.link.medium, 'lossy', 'the worse of the two');
    let downs = 0;
    a.on('down', () => downs++);
    // The connection dies when it has carried so many packets more.
    let left = 300;
    if (dies === 'quic') {
      udp.pass = () => left-- > 0;
    } else {
      for (const socket of relayed) {
        if (others.has(socket)) continue;
        socket.on('data', () => void (--left === 0 && socket.destroy()));
      }
    }
    while (left > 0) {
      const flows = Array.from({ length: 4 }, () => transfer(a, b, 512 * 1024));
      t.deepEqual(await Promise.all(flows), [true, true, true, true]);
    }
    t.true(await transfer(b, a, 512 * 1024));
    t.is(downs, 0);
    while (a.link.medium !== (dies === 'quic' ? 'reliable' : 'lossy')) await a.ping(b.addresses[0]!);
  });
}

test('an address may name its transport; one that is not there is named', async (t) => {
  const { udp, join } = await setup(t);
  const tcp = await join('a', { cloud: [`kubebus://127.0.0.1:${udp.port}?transport=tcp`] });
  t.is(tcp.link.medium, 'reliable');
  const { transport } = { transport: anyTransport({ transports: [tcpTransport({ insecure: true })] }) };
  const error = await t.throwsAsync(
    transport.dial('kubebus://127.0.0.1:1?transport=pigeon', AbortSignal.timeout(10_000)),
  );
  t.regex(error!.message, /no transport is called pigeon here \(tcp\)/);
});

test('several addresses: the first is dead, the link is up with the second without waiting for its timeout', async (t) => {
  const { udp, join } = await setup(t);
  // Takes connections and says nothing.
  const silent = net.createServer(() => {});
  silent.listen(0, '127.0.0.1');
  await once(silent, 'listening');
  t.teardown(() => silent.close());
  const dead = `kubebus://127.0.0.1:${(silent.address() as net.AddressInfo).port}?transport=tcp`;
  const a = await join('a', {
    cloud: [dead, `kubebus://127.0.0.1:${udp.port}?transport=tcp`],
    link: { connectTimeout: 3_600_000 * MS },
  });
  t.is(a.link.state, 'up');
});

// A peer that goes silent without a word, over each real transport: both ends find out by keepalive, and only then; the link is
// back when the way is, and the hub has one link. And what a jump of the clock does.

import { once } from 'node:events';
import net from 'node:net';
import test, { type ExecutionContext } from 'ava';
import { MS, SECOND } from '../../lib/core/index.js';
import { cloudNames, createAuthority, nodeNames } from '../../lib/join/driver/pki.js';
import { acceptLinks, dialLink, type Link, type TlsMaterial, type Transport } from '../../lib/l2/index.js';
import { quicTransport } from '../../transports/quic.js';
import { tcpTransport } from '../../transports/tcp.js';
import { webSocketTransport } from '../../transports/websocket.js';
import { webTransport } from '../../transports/webtransport.js';
import { numbered, slabOf } from '../l2/support/frames.js';
import { bye, Recorder, slabsInUse, World } from '../l2/support/world.js';
import { udpRelay } from '../support/udp-relay.js';

const ca = await createAuthority('test CA');
const names = cloudNames('hub', ['127.0.0.1']);
const cloud = { ca: ca.cert, ...(await ca.issue({ name: 'hub', days: 1, names, server: true })) };
const node = { ca: ca.cert, ...(await ca.issue({ name: 'a', days: 1, names: nodeNames('acme', 'a', []) })) };

type Make = (options: { tls: TlsMaterial; listen?: { host: string; port: number } }) => Transport;
const transports: Record<string, Make> = {
  tcp: tcpTransport,
  quic: quicTransport,
  webtransport: webTransport,
  websocket: webSocketTransport,
};

interface Relay {
  readonly port: number;
  silence(on: boolean): void;
}

async function tcpRelay(t: ExecutionContext, target: number): Promise<Relay> {
  const sockets = new Set<net.Socket>();
  let silent = false;
  const join = (from: net.Socket, to: net.Socket) => {
    sockets.add(from);
    from.on('data', (chunk) => silent || to.write(chunk));
    from.on('error', () => {});
    from.on('close', () => silent || to.destroy());
  };
  const server = net.createServer((front) => {
    const back = net.connect(target, '127.0.0.1');
    join(front, back);
    join(back, front);
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.teardown(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  return { port: (server.address() as net.AddressInfo).port, silence: (on) => (silent = on) };
}

async function quicRelay(t: ExecutionContext, target: number): Promise<Relay> {
  const relay = await udpRelay(target);
  t.teardown(() => relay.close());
  return { port: relay.port, silence: (on) => (relay.pass = () => !on) };
}

/** Resolves when the recorder has seen the state. */
function state(seen: Recorder, wanted: RegExp): Promise<void> {
  return new Promise((resolve) => {
    const before = seen.onState.bind(seen);
    seen.onState = (now, reason) => {
      before(now, reason);
      if (wanted.test(seen.states.at(-1)!)) resolve();
    };
  });
}

for (const [name, make] of Object.entries(transports)) {
  test(`a silent peer over ${name}: noticed by both ends, back when the way is, one link`, async (t) => {
    const keepalive = { interval: 300 * MS, deadAfter: 1_500 * MS };
    const links: { link: Link; seen: Recorder; dead: Promise<void> }[] = [];
    const acceptor = await acceptLinks({
      transports: [make({ tls: cloud, listen: { host: '127.0.0.1', port: 0 } })],
      node: 'hub',
      keepalive,
      authorize: () => null,
      onLink(link) {
        const seen = new Recorder();
        links.push({ link, seen, dead: state(seen, /^closed/) });
        link.attach(seen);
      },
    });
    t.teardown(() => acceptor.close(bye));
    const port = Number(new URL(acceptor.addresses[0]!).port);
    const relay = await (name === 'quic' ? quicRelay : tcpRelay)(t, port);
    const link = dialLink({
      ...{ transport: make({ tls: node }), addresses: [`kubebus://127.0.0.1:${relay.port}`], keepalive },
      ...{ tenant: 'acme', node: 'a', connectTimeout: SECOND },
    });
    t.teardown(() => link.close(bye));
    const seen = new Recorder();
    const up = state(seen, /^up/);
    link.attach(seen);
    await up;
    const lost = state(seen, /ERR_PEER_DEAD/);
    relay.silence(true);
    await Promise.all([lost, links[0]!.dead]);
    t.is(links[0]!.seen.reason!.code, 'ERR_PEER_DEAD');
    const again = state(seen, /^up/);
    relay.silence(false);
    await again;
    t.is(acceptor.links, 1);
    t.is(links.at(-1)!.link.state, 'up');
  });
}

test.serial(
  'the clock jumps by an hour (suspend and resume): both ends begin anew within 5 s, and nothing is kept',
  async (t) => {
    const world = new World();
    const { links, acceptor } = await world.accept('hub-1');
    const { link, seen } = world.dial({ connections: 2 });
    await world.clock.run(10 * SECOND);
    for (let sleep = 0; sleep < 5; sleep++) {
      world.clock.jump(3600 * SECOND);
      const before = seen.packets.length;
      t.true(await world.clock.run(5 * SECOND, () => links.length === sleep + 2 && link.stats().connections === 2));
      // The hub's timers may see the jump after the node is back: then it is told, not left with a dead link.
      await world.clock.run(5 * SECOND);
      t.is(link.stats().connections, 2);
      t.is(acceptor.links, 1);
      t.is(acceptor.stats().connections, 2);
      const slab = slabOf(numbered(1, sleep));
      links.at(-1)!.link.send(slab, 0, slab.bytes.length);
      await world.clock.run(SECOND);
      t.is(seen.packets.length, before + 1);
    }
    link.close(bye);
    await acceptor.close(bye);
    await world.clock.run(5 * SECOND);
    t.is(slabsInUse(), 0);
  },
);

test.serial(
  'one of two connections takes nothing any more: the flows of the other go on, and none of theirs is lost',
  async (t) => {
    const world = new World();
    const { links, acceptor } = await world.accept('hub-1');
    const { link } = world.dial({ connections: 2 });
    await world.clock.run(SECOND);
    const stuck = world.lines[0]!;
    let held = 0;
    stuck.write = (_slab, start, end) => {
      held += end - start;
      return false;
    };
    Object.defineProperty(stuck, 'pending', { get: () => held });
    // As a TUN device does: nothing is sent while the link says no.
    let sent = 0;
    let refused = 0;
    for (let step = 0; step < 1_000; step++) {
      if (link.writable) {
        const slab = slabOf(...Array.from({ length: 40 }, (_, flow) => numbered(flow, step, 1_000)));
        link.send(slab, 0, slab.bytes.length);
        sent++;
      } else refused++;
      await world.clock.run(10 * MS);
    }
    const perFlow = new Map<number, number>();
    for (const [flow] of links[0]!.seen.packets) perFlow.set(flow, (perFlow.get(flow) ?? 0) + 1);
    const whole = [...perFlow.values()].filter((n) => n === sent).length;
    // Two looks, a second apart, until the connection is found to be stuck.
    t.true(refused <= 200, `${refused} of 1000 times the link could not be written to`);
    t.true(whole >= 10, `${whole} of 40 flows whole`);
    // Cut off after the time for stalls: all flows have the other one, and then a new one.
    t.true(await world.clock.run(31 * SECOND, () => world.lines.length === 3));
    link.close(bye);
    await acceptor.close(bye);
    await world.clock.run(40 * SECOND);
  },
);

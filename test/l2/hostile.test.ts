// Peers that stall, flood or never read, at whole hubs: cut off in bounded time and bounded memory, with a reason.

import { once } from 'node:events';
import net from 'node:net';
import tls from 'node:tls';
import test from 'ava';
import { HEADER, KubeBusError, MS, putHeader, SECOND, Slab } from '../../lib/core/index.js';
import { cloudNames, createAuthority, type Issued, nodeNames } from '../../lib/join/driver/pki.js';
import { kubebus } from '../../lib/l2/gen/messages.js';
import { acceptLinks, dialLink, type Link, type LinkAcceptor } from '../../lib/l2/index.js';
import { controlFrame, FrameType } from '../../lib/l2/wire/frame.js';
import { tcpTransport } from '../../transports/tcp.js';
import { numbered, slabOf } from './support/frames.js';
import { bye, Recorder, slabsInUse, World } from './support/world.js';

const DAY = 24 * 60 * 60 * 1000;

const hello = () =>
  controlFrame(
    FrameType.hello,
    kubebus.l2.Hello.encode({
      versions: [1],
      tenant: 'acme',
      node: 'evil',
      instance: new Uint8Array(16),
      mtu: 1400,
    }).finish(),
  );

/** A raw peer of a hub in memory; reads only when told to. */
async function raw(world: World) {
  const stream = await world.transport.dial('hub-1', new AbortController().signal);
  const room = Buffer.alloc(64 * 1024);
  const got: Buffer[] = [];
  const state = { closed: false, got };
  stream.open({
    room: () => room,
    hasPartial: false,
    onData: (n) => void got.push(Buffer.from(room.subarray(0, n))),
    onDrain() {},
    datagramRoom: () => room,
    onDatagram() {},
    onDatagramsDone() {},
    onClose: () => {
      state.closed = true;
    },
  });
  const send = (bytes: Uint8Array) => {
    const slab = Slab.of(bytes);
    stream.write(slab, 0, bytes.length);
    slab.release();
  };
  return { stream, state, send };
}

test.serial('a frame that comes byte by byte is cut off after the stall timeout, and the peer is told', async (t) => {
  const world = new World();
  const { acceptor } = await world.accept('hub-1');
  const peer = await raw(world);
  peer.send(hello());
  await world.clock.run(SECOND);
  const header = Buffer.alloc(HEADER);
  putHeader(header, 0, FrameType.packet, 0, 0, 60_000);
  peer.send(header);
  const begun = world.clock.now();
  while (!peer.state.closed && world.clock.now() - begun < 60 * SECOND) {
    peer.send(Buffer.of(1));
    await world.clock.run(SECOND);
  }
  t.true(world.clock.now() - begun <= 36 * SECOND, `${(world.clock.now() - begun) / SECOND} s`);
  t.is(acceptor.stats()['ended.ERR_PEER_STALLED'], 1);
  t.regex(Buffer.concat(peer.state.got).toString('latin1'), /ERR_PEER_STALLED.*a frame was begun/);
  await acceptor.close(bye);
  await world.clock.run(5 * SECOND);
  t.is(slabsInUse(), 0);
});

test.serial(
  'a connection that is replaced is told so when the new one had its time, not in a race with it',
  async (t) => {
    const world = new World();
    const { acceptor, links } = await world.accept('hub-1');
    const said = (peer: { state: { got: Buffer[] } }) => Buffer.concat(peer.state.got).toString('latin1');
    const [before, after] = [await raw(world), await raw(world)];
    before.send(hello());
    await world.clock.run(100 * MS);
    after.send(hello());
    await world.clock.run(100 * MS);
    t.is(after.state.got[0]?.[0], FrameType.hello);
    t.false(before.state.closed);
    t.notRegex(said(before), /replaced/);
    // Until then it is read, and nothing is sent there.
    const { link, seen } = links[0]!;
    before.send(numbered(7, 1));
    await world.clock.run(100 * MS);
    t.is(seen.packets.length, 1);
    t.is(link.stats().connections, 1);
    await world.clock.run(SECOND);
    t.regex(said(before), /ERR_TRANSPORT.*replaced by a new connection/);
    t.true(before.state.closed);
    t.false(after.state.closed);
    await acceptor.close(bye);
    await world.clock.run(2 * SECOND);
  },
);

test.serial('a flood of pings is answered once for each read, by the last one', async (t) => {
  const world = new World();
  const { acceptor } = await world.accept('hub-1');
  const peer = await raw(world);
  peer.send(hello());
  await world.clock.run(SECOND);
  peer.state.got.length = 0;
  const ping = (token: number) => controlFrame(FrameType.ping, kubebus.l2.Ping.encode({ token }).finish());
  peer.send(Buffer.concat(Array.from({ length: 1_000 }, (_, i) => ping(i + 1))));
  await world.clock.run(SECOND);
  const answers = Buffer.concat(peer.state.got);
  const pong = controlFrame(FrameType.pong, kubebus.l2.Pong.encode({ token: 1_000 }).finish());
  // As many reads as there were small slabs to be filled.
  t.true(answers.length > 0 && answers.length <= 3 * pong.length, `${answers.length} bytes`);
  t.deepEqual(answers.subarray(-pong.length), Buffer.from(pong));
  await acceptor.close(bye);
  await world.clock.run(2 * SECOND);
});

test.serial('a peer that never reads: what waits for it is bounded, and it is cut off', async (t) => {
  const world = new World();
  const { acceptor, links } = await world.accept('hub-1');
  const peer = await raw(world);
  peer.send(hello());
  await world.clock.run(SECOND);
  peer.stream.pause();
  const { link, seen } = links[0]!;
  const slab = slabOf(...Array.from({ length: 100 }, (_, i) => numbered(i, i, 1400)));
  const begun = world.clock.now();
  let most = 0;
  while (link.state === 'up' && world.clock.now() - begun < 60 * SECOND) {
    link.send(slab, 0, slab.bytes.length);
    // It is alive: only it does not read.
    peer.send(controlFrame(FrameType.ping, kubebus.l2.Ping.encode({ token: 1 }).finish()));
    most = Math.max(most, link.stats().queuedBytes!);
    await world.clock.run(100 * MS);
  }
  t.true(world.clock.now() - begun <= 36 * SECOND);
  t.true(most <= (4 << 20) + 512 * 1024, `${most} bytes waited`);
  t.is(seen.reason!.code, 'ERR_PEER_STALLED');
  const { droppedOverflow, droppedDown, bytesLost } = acceptor.stats();
  t.true(droppedOverflow! > 0 && droppedDown! > 0 && bytesLost! > 0, 'what was dropped is counted');
  t.is(slab.refs, 1);
  await acceptor.close(bye);
  await world.clock.run(5 * SECOND);
});

test.serial('a flood of pings from a peer that does not read is answered by one pong, not by memory', async (t) => {
  const world = new World();
  const { acceptor, links } = await world.accept('hub-1');
  const peer = await raw(world);
  peer.send(hello());
  await world.clock.run(SECOND);
  peer.stream.pause();
  const { link } = links[0]!;
  const pings = Buffer.concat(
    Array.from({ length: 5_000 }, (_, i) =>
      controlFrame(FrameType.ping, kubebus.l2.Ping.encode({ token: i + 1 }).finish()),
    ),
  );
  for (let i = 0; i < 40; i++) {
    peer.send(pings);
    await world.clock.run(20 * MS);
  }
  t.true(link.stats().queuedBytes! < 160 * 1024, `${link.stats().queuedBytes} bytes wait`);
  peer.state.got.length = 0;
  peer.stream.resume();
  await world.clock.run(SECOND);
  const pong = Buffer.from(controlFrame(FrameType.pong, kubebus.l2.Pong.encode({ token: 5_000 }).finish()));
  t.true(Buffer.concat(peer.state.got).includes(pong), 'the last ping is answered when it reads again');
  await acceptor.close(bye);
  await world.clock.run(5 * SECOND);
});

test.serial('a peer that lets control messages pile up is cut off at the bound', async (t) => {
  const world = new World();
  const { acceptor, links } = await world.accept('hub-1', { controlBytes: 256 * 1024 });
  const peer = await raw(world);
  peer.send(hello());
  await world.clock.run(SECOND);
  peer.stream.pause();
  const { link, seen } = links[0]!;
  let sent = 0;
  for (; link.state === 'up' && sent < 100; sent++) link.sendControl(new Uint8Array(24 * 1024));
  t.true(sent <= 18, `${sent} messages of 24 KiB`);
  t.is(seen.reason!.code, 'ERR_PEER_STALLED');
  await acceptor.close(bye);
  await world.clock.run(5 * SECOND);
});

test.serial('small packets for a peer that does not read do not pin slabs many times their size', async (t) => {
  const world = new World();
  const { acceptor, links } = await world.accept('hub-1');
  const peer = await raw(world);
  peer.send(hello());
  const { link: node } = world.dial();
  await world.clock.run(SECOND);
  peer.stream.pause();
  const from = links.find((l) => l.link.peer.node === 'edge-1')!;
  const to = links.find((l) => l.link.peer.node === 'evil')!.link;
  // As a router does: one small packet of each large read goes to the peer that does not read.
  from.seen.onPackets = (slab, start) => to.send(slab, start, start + HEADER + 32);
  const big = slabOf(...Array.from({ length: 3 }, (_, i) => numbered(1, i, 60_000)));
  const small = slabOf(numbered(1, 1));
  let most = 0;
  for (let i = 0; i < 1_200; i++) {
    node.send(small, 0, small.bytes.length);
    node.send(big, 0, big.bytes.length);
    await world.clock.run(20 * MS);
    most = Math.max(most, slabsInUse());
  }
  t.true(to.stats().bytesOut! + to.stats().queuedBytes! > 0);
  // 256 large slabs, 64 MiB, from where on copies wait in their place; and a few small ones.
  t.log(`${most} slabs`);
  t.true(most <= 300, `${most} slabs in use`);
  node.close(bye);
  await acceptor.close(bye);
  await world.clock.run(40 * SECOND);
  t.is(slabsInUse(), 0);
});

// ---- real sockets

const pki = (async () => {
  const ca = await createAuthority('test CA');
  const other = await createAuthority('another CA');
  const cloud = await ca.issue({ name: 'hub', days: 1, names: cloudNames('hub', ['127.0.0.1']), server: true });
  const node = (name: string, days = 1, by = ca) => by.issue({ name, days, names: nodeNames('acme', name, []) });
  /** Valid from tomorrow on. */
  const early = {
    cloud: await ca.issue({
      name: 'hub',
      days: 1,
      names: cloudNames('hub', ['127.0.0.1']),
      server: true,
      now: Date.now() + DAY,
    }),
    node: await ca.issue({ name: 'e1', days: 1, names: nodeNames('acme', 'e1', []), now: Date.now() + DAY }),
  };
  return { ca: ca.cert, other: other.cert, otherCa: other, cloud, node, early };
})();

async function tlsHub(
  options: { handshakes?: number; handshakeTimeout?: number; native?: boolean } = {},
  cloud?: Issued,
) {
  const { ca } = await pki;
  cloud ??= (await pki).cloud;
  const links: Link[] = [];
  const acceptor = await acceptLinks({
    transports: [tcpTransport({ tls: { ...cloud, ca }, listen: { host: '127.0.0.1', port: 0 }, ...options })],
    node: 'hub',
    authorize: ({ tenant }) =>
      tenant === 'acme' ? null : new KubeBusError('ERR_TENANT_UNKNOWN', `no tenant ${tenant}`),
    onLink: (link) => void links.push(link),
  });
  return { acceptor, links, port: Number(new URL(acceptor.addresses[0]!).port) };
}

/** Waits for a count to be there; every try is a turn of the loop, so a slow machine is only slow. */
async function counted(acceptor: LinkAcceptor, name: string, n = 1): Promise<void> {
  while ((acceptor.stats()[name] ?? 0) < n) await new Promise((resolve) => setImmediate(resolve));
}

test('TLS handshakes that are never finished: at most so many, each for so long, and their places are free again', async (t) => {
  const { acceptor, port } = await tlsHub({ handshakes: 5, handshakeTimeout: 300 * MS });
  const sockets = Array.from({ length: 8 }, () => net.connect(port, '127.0.0.1').on('error', () => {}));
  await counted(acceptor, 'refused.ERR_TOO_MANY_CONNECTIONS', 3);
  await counted(acceptor, 'refused.ERR_HELLO_TIMEOUT', 5);
  await Promise.all(sockets.map((s) => s.destroyed || once(s.resume(), 'close')));
  // And one that leaves in the middle gives its place back at once.
  for (let i = 0; i < 12; i++) {
    const s = net.connect(port, '127.0.0.1');
    await once(s, 'connect');
    s.destroy();
    await once(s, 'close');
  }
  const { ca, node } = await pki;
  const link = dialLink({
    transport: tcpTransport({ tls: { ...(await node('e1')), ca } }),
    addresses: acceptor.addresses,
    tenant: 'acme',
    node: 'e1',
  });
  await new Promise<void>((resolve) =>
    link.attach(Object.assign(new Recorder(), { onState: (s: string) => s === 'up' && resolve() })),
  );
  t.is(acceptor.links, 1);
  link.close(bye);
  await acceptor.close(bye);
});

test('at the limit of TLS handshakes, here none at all, both sides are told; so is who gives a limit that is none', async (t) => {
  const { ca, node } = await pki;
  const material = { ...(await node('e1')), ca };
  for (const native of [true, false]) {
    const { acceptor } = await tlsHub({ handshakes: 0, native });
    for (const ours of [true, false]) {
      const dialled = tcpTransport({ tls: material, native: ours }).dial(
        acceptor.addresses[0]!,
        AbortSignal.timeout(30_000),
      );
      const error = await t.throwsAsync(dialled, { code: 'ERR_CONNECT' });
      t.regex(
        error!.message,
        /turned us away before the TLS handshake: most likely it has too many of them in progress/,
      );
    }
    t.is(acceptor.stats()['refused.ERR_TOO_MANY_CONNECTIONS'], 2);
    await acceptor.close(bye);
  }
  for (const limits of [{ handshakes: -1 }, { handshakes: Number.NaN }, { handshakes: 1.5 }, { handshakeTimeout: 0 }]) {
    t.throws(() => tcpTransport({ tls: material, ...limits }), { code: 'ERR_INVALID_ARGUMENT', message: /handshake/ });
  }
});

test('certificates that are refused: each side shows the same reason', async (t) => {
  const { ca, other, otherCa, node, early } = await pki;
  const { acceptor } = await tlsHub();
  const { acceptor: earlyHub } = await tlsHub({}, early.cloud);
  const refusal = (
    material: { cert: string; key: string; ca: string },
    tenant = 'acme',
    name = 'e1',
    { addresses } = acceptor,
  ) =>
    new Promise<KubeBusError>((resolve) => {
      const link = dialLink({
        transport: tcpTransport({ tls: material }),
        addresses,
        tenant,
        node: name,
      });
      link.attach(
        Object.assign(new Recorder(), {
          onState: (_: string, reason?: KubeBusError) => {
            if (reason === undefined || reason === bye) return;
            resolve(reason);
            link.close(bye);
          },
        }),
      );
    });
  const good = await node('e1');
  const cases: [string, Promise<KubeBusError>, string, string, RegExp][] = [
    [
      'of another CA',
      refusal({ ...(await node('e1', 1, otherCa)), ca }),
      'ERR_CERTIFICATE',
      'remote',
      /not signed by our CA/,
    ],
    ['expired', refusal({ ...(await node('e1', -0.001)), ca }), 'ERR_CERTIFICATE', 'remote', /expired/],
    ['not valid yet', refusal({ ...early.node, ca }), 'ERR_CERTIFICATE', 'remote', /not valid yet/],
    [
      'a cloud’s that is not valid yet',
      refusal({ ...good, ca }, 'acme', 'e1', earlyHub),
      'ERR_CERTIFICATE',
      'local',
      /not valid yet/,
    ],
    ['we do not know the cloud’s CA', refusal({ ...good, ca: other }), 'ERR_CERTIFICATE', 'local', /CA/],
    [
      'the hello names another node',
      refusal({ ...good, ca }, 'acme', 'e2'),
      'ERR_IDENTITY_MISMATCH',
      'remote',
      /acme\/e2.*acme\/e1/,
    ],
    [
      'the hello names another tenant',
      refusal({ ...good, ca }, 'other', 'e1'),
      'ERR_IDENTITY_MISMATCH',
      'remote',
      /other\/e1/,
    ],
  ];
  for (const [what, promise, code, side, text] of cases) {
    const reason = await promise;
    t.deepEqual([reason.code, reason.side], [code, side], what);
    t.regex(reason.message, text, what);
  }
  await counted(acceptor, 'refused.ERR_CERTIFICATE', 4);
  await counted(earlyHub, 'refused.ERR_CERTIFICATE', 1);
  await earlyHub.close(bye);
  t.is(acceptor.stats()['refused.ERR_IDENTITY_MISMATCH'], 2);
  // No certificate at all.
  const { port } = new URL(acceptor.addresses[0]!);
  const bare = tls.connect({ host: '127.0.0.1', port: Number(port), ca, minVersion: 'TLSv1.3' });
  bare.on('error', () => {});
  const chunks: Buffer[] = [];
  bare.on('data', (chunk: Buffer) => chunks.push(chunk));
  await once(bare, 'close');
  t.regex(Buffer.concat(chunks).toString('latin1'), /ERR_CERTIFICATE.*no certificate/);
  t.is(acceptor.links, 0);
  await acceptor.close(bye);
});

// Whole links on a virtual clock: opening, spreading, fail-over, reconnection, refusals, limits.

import test from 'ava';
import { HEADER, KubeBusError, MS, SECOND, seededRandom } from '../../lib/core/index.js';
import type { Transport } from '../../lib/l2/index.js';
import { numbered, slabOf } from './support/frames.js';
import { bye, slabsInUse, World } from './support/world.js';

/** [flow, number] pairs are in order within each flow. */
function firstDisorder(packets: readonly [number, number][]): string | null {
  const last = new Map<number, number>();
  for (const [flow, number] of packets) {
    if (number <= (last.get(flow) ?? -1)) return `flow ${flow}: ${number} after ${last.get(flow)}`;
    last.set(flow, number);
  }
  return null;
}

test.serial(
  'packets and control both ways; a goodbye shows its reason on the other side; nothing is kept',
  async (t) => {
    const world = new World();
    const { acceptor, links } = await world.accept('hub-1');
    const { link, seen } = world.dial({ connections: 2 });
    t.true(await world.clock.run(SECOND, () => link.stats().connections === 2));
    await world.clock.run(SECOND);
    const hub = links[0]!;
    t.deepEqual([hub.link.peer.tenant, hub.link.peer.node], ['acme', 'edge-1']);
    t.is(link.peer.node, 'hub');
    t.deepEqual(seen.states, ['up', 'up']);
    t.true(Math.abs(link.rtt - 20 * MS) < MS && Math.abs(hub.link.rtt - 20 * MS) < MS);
    for (let i = 0; i < 50; i++) {
      const slab = slabOf(numbered(i % 7, i), numbered((i % 7) + 7, i));
      link.send(slab, 0, slab.bytes.length);
      hub.link.send(slab, 0, slab.bytes.length);
      link.sendControl(Buffer.from(`up ${i}`));
      hub.link.sendControl(Buffer.from(`down ${i}`));
    }
    await world.clock.run(SECOND);
    for (const { packets } of [seen, hub.seen]) {
      t.is(packets.length, 100);
      t.is(firstDisorder(packets), null);
    }
    t.deepEqual(
      hub.seen.control,
      Array.from({ length: 50 }, (_, i) => `up ${i}`),
    );
    t.deepEqual(
      seen.control,
      Array.from({ length: 50 }, (_, i) => `down ${i}`),
    );
    await acceptor.close(new KubeBusError('ERR_PEER_GOODBYE', 'the hub goes for lunch'), { retryAfterMs: 2000 });
    await world.clock.run(SECOND);
    t.is(seen.reason!.message, 'the hub goes for lunch');
    t.is(seen.reason!.side, 'remote');
    t.is(hub.seen.states.at(-1), 'closed ERR_PEER_GOODBYE local');
    link.close(bye);
    await world.clock.run(5 * SECOND);
    t.is(seen.states.at(-1), 'closed ERR_PEER_GOODBYE local');
    t.is(slabsInUse(), 0);
  },
);

for (const seed of [1, 2, 3]) {
  test.serial(
    `connections die at random: no flow is reordered, no control message lost or repeated (seed ${seed})`,
    async (t) => {
      const random = seededRandom(seed);
      const world = new World(seed);
      const { links, acceptor } = await world.accept('hub-1');
      const { link, seen } = world.dial({ connections: 3 });
      await world.clock.run(SECOND);
      t.is(link.stats().connections, 3);
      let sent = 0;
      let control = 0;
      let deaths = 0;
      for (let step = 0; step < 1_500; step++) {
        const { link: hub } = links.at(-1)!;
        const slab = slabOf(...Array.from({ length: 20 }, (_, i) => numbered((step + i) % 40, sent + i)));
        sent += 20;
        link.send(slab, 0, slab.bytes.length);
        hub.send(slab, 0, slab.bytes.length);
        if (step % 3 === 0) {
          link.sendControl(Buffer.from(`${control}`));
          hub.sendControl(Buffer.from(`${control++}`));
        }
        const living = world.lines.filter((l) => !l.silent).slice(-3);
        if (link.stats().connections === 3 && random.u32() % 8 === 0) {
          const victim = living[random.u32() % living.length]!;
          if (random.u32() % 2 === 0) victim.destroy(new Error('cut'));
          else {
            // Cut on one side first: the other goes on with the dead one until it is told by the replacement.
            victim.destroy();
          }
          deaths++;
        }
        await world.clock.run((random.u32() % 40) * MS);
      }
      await world.clock.run(10 * SECOND);
      t.true(deaths >= 30, `${deaths} deaths`);
      t.is(links.length, 1, 'the link itself never broke');
      for (const { packets, control: messages } of [seen, links[0]!.seen]) {
        t.is(firstDisorder(packets), null);
        t.true(packets.length > sent * 0.9, `${packets.length} of ${sent}`);
        t.deepEqual(
          messages,
          Array.from({ length: control }, (_, i) => `${i}`),
        );
      }
      link.close(bye);
      await acceptor.close(bye);
      await world.clock.run(5 * SECOND);
      t.is(slabsInUse(), 0);
    },
  );
}

test.serial(
  'what waits in the queue of a dying connection goes on over the others: only what its stream held is lost',
  async (t) => {
    const world = new World();
    const { links, acceptor } = await world.accept('hub-1');
    const { link } = world.dial({ connections: 2, egress: { target: 60 * SECOND } });
    await world.clock.run(SECOND);
    const { seen } = links[0]!;
    // A burst much larger than the streams take: both connections have a queue.
    const LENGTH = 1000;
    const total = 1_600;
    const slab = slabOf(...Array.from({ length: total }, (_, i) => numbered(i % 50, i, LENGTH)));
    for (let i = 0; i < total; i += 50) link.send(slab, i * (HEADER + LENGTH), (i + 50) * (HEADER + LENGTH));
    t.true(link.stats().queuedBytes! > 1_000_000);
    world.lines[1]!.destroy(new Error('cut'));
    await world.clock.run(10 * SECOND);
    const lost = link.stats().bytesLost!;
    t.true(lost > 0 && lost <= 200_000, `${lost} bytes lost`);
    // Keepalive frames in the stream are the rest of the lost bytes.
    t.is(seen.packets.length, total - Math.floor(lost / (HEADER + LENGTH)));
    t.is(firstDisorder(seen.packets), null);
    link.close(bye);
    await acceptor.close(bye);
    await world.clock.run(5 * SECOND);
    t.is(slabsInUse(), 0);
  },
);

test.serial(
  'every address is tried, also by several connections at once, and one that only accepts holds nobody',
  async (t) => {
    for (const connections of [1, 2, 3]) {
      const world = new World(connections);
      // hub-1 refuses; hub-2 takes connections and never says a word; hub-3 works.
      await world.addHub('hub-2').listen({ onStream() {}, onRefused() {} });
      const { links, acceptor } = await world.accept('hub-3');
      const { link, seen } = world.dial({ connections, addresses: ['hub-1', 'hub-2', 'hub-3'] });
      t.true(await world.clock.run(15 * SECOND, () => link.state === 'up'), `${connections}: ${seen.states.at(-1)}`);
      t.true(await world.clock.run(20 * SECOND, () => link.stats().connections === connections));
      t.true(
        seen.states.some((s) => s.includes('ERR_CONNECT')) && seen.states.some((s) => s.includes('ERR_HELLO_TIMEOUT')),
      );
      t.is(links.length, 1);
      link.close(bye);
      await acceptor.close(bye);
      await world.clock.run(10 * SECOND);
    }
  },
);

test.serial('connections of one link never end at two hubs', async (t) => {
  const world = new World();
  const a = await world.accept('hub-1');
  const b = await world.accept('hub-2');
  const both: Transport = {
    ...world.transport,
    // One name, two hubs in turn, as behind a load balancer.
    dial: (_address, signal) => world.transport.dial(`hub-${1 + (world.dials.length % 2)}`, signal),
  };
  const { link } = world.dial({ connections: 2, transport: both, addresses: ['balanced'] });
  t.true(await world.clock.run(60 * SECOND, () => link.stats().connections === 2));
  t.is(Math.max(a.acceptor.stats().connections!, b.acceptor.stats().connections!), 2);
  link.close(bye);
  await a.acceptor.close(bye);
  await b.acceptor.close(bye);
  await world.clock.run(5 * SECOND);
});

test.serial(
  'a line that goes silent: dead within 30 s of the last byte, then back at once as a new link',
  async (t) => {
    const world = new World();
    const { links, acceptor } = await world.accept('hub-1');
    const { link, seen } = world.dial();
    await world.clock.run(15 * SECOND);
    const silentAt = world.clock.now();
    world.lines[0]!.silent = true;
    t.true(await world.clock.run(31 * SECOND, () => link.state === 'connecting'));
    t.is(seen.reason!.code, 'ERR_PEER_DEAD');
    t.true(world.clock.now() - silentAt <= 30 * SECOND);
    t.true(await world.clock.run(SECOND, () => link.state === 'up'));
    t.is(links.length, 2);
    t.true(links[0]!.link.state === 'closed', 'the hub gave up the old one by itself, or with the new one');
    // And the hub finds a silent node in the same time.
    world.lines.at(-1)!.silent = true;
    t.true(await world.clock.run(31 * SECOND, () => links[1]!.link.state === 'closed'));
    t.is(links[1]!.seen.reason!.code, 'ERR_PEER_DEAD');
    link.close(bye);
    await acceptor.close(bye);
    await world.clock.run(40 * SECOND);
  },
);

test.serial(
  'a node that lost its link begins anew: the hub does not keep sending into the dead connections',
  async (t) => {
    const world = new World();
    const { links, acceptor } = await world.accept('hub-1');
    const { link, seen } = world.dial({ connections: 2, keepalive: { interval: SECOND, deadAfter: 3 * SECOND } });
    await world.clock.run(SECOND);
    t.is(links[0]!.link.stats().connections, 2);
    // The node finds out after 3 s, the hub only after 30 s.
    for (const line of world.lines) line.silent = true;
    t.true(await world.clock.run(10 * SECOND, () => links.length === 2));
    t.is(links[0]!.link.state, 'closed');
    t.regex(links[0]!.seen.reason!.message, /begins anew/);
    await world.clock.run(SECOND);
    t.is(links[1]!.link.stats().connections, 2);
    const slab = slabOf(...Array.from({ length: 100 }, (_, i) => numbered(i, i)));
    links[1]!.link.send(slab, 0, slab.bytes.length);
    links[1]!.link.sendControl(Buffer.from('new'));
    await world.clock.run(SECOND);
    t.is(seen.packets.length, 100);
    t.deepEqual(seen.control, ['new']);
    link.close(bye);
    await acceptor.close(bye);
    await world.clock.run(40 * SECOND);
    t.is(slabsInUse(), 0);
  },
);

test.serial(
  'one of two connections goes silent on one side only: its replacement takes its place at the hub',
  async (t) => {
    const world = new World();
    const { links, acceptor } = await world.accept('hub-1');
    const { link } = world.dial({ connections: 2, keepalive: { interval: SECOND, deadAfter: 3 * SECOND } });
    await world.clock.run(SECOND);
    world.lines[0]!.silent = true;
    t.true(await world.clock.run(10 * SECOND, () => world.lines.length === 3 && link.stats().connections === 2));
    await world.clock.run(SECOND);
    t.is(links.length, 1);
    t.is(links[0]!.link.stats().connections, 2);
    t.is(acceptor.stats()['ended.ERR_TRANSPORT'], 1);
    link.close(bye);
    await acceptor.close(bye);
    await world.clock.run(40 * SECOND);
  },
);

test.serial(
  'a second node of the same name is refused while the first lives, and takes over within a second when it does not',
  async (t) => {
    const world = new World();
    const { links, acceptor } = await world.accept('hub-1');
    const first = world.dial();
    await world.clock.run(SECOND);
    const second = world.dial();
    await world.clock.run(3 * SECOND);
    t.is(second.seen.reason!.code, 'ERR_DUPLICATE_NODE');
    t.is(second.seen.reason!.side, 'remote');
    t.regex(second.seen.reason!.message, /acme\/edge-1 is connected/);
    t.is(first.link.state, 'up');
    t.is(acceptor.stats()['refused.ERR_DUPLICATE_NODE'], 1);
    // Crashed without a word, and started again.
    world.lines[0]!.silent = true;
    second.link.close(bye);
    const third = world.dial();
    t.true(await world.clock.run(1.2 * SECOND, () => third.link.state === 'up'));
    t.is(links[0]!.seen.reason!.code, 'ERR_DUPLICATE_NODE');
    first.link.close(bye);
    third.link.close(bye);
    await acceptor.close(bye);
    await world.clock.run(40 * SECOND);
  },
);

test.serial('who is not authorized reads why; a verdict that closes for good is obeyed', async (t) => {
  const world = new World();
  const { acceptor } = await world.accept('hub-1', {
    authorize: (peer) => new KubeBusError('ERR_TENANT_UNKNOWN', `no tenant ${peer.tenant} here`),
  });
  const { link, seen } = world.dial();
  await world.clock.run(20 * SECOND);
  t.deepEqual([...new Set(seen.states)], ['connecting ERR_TENANT_UNKNOWN remote']);
  t.is(seen.reason!.message, 'no tenant acme here');
  t.true(world.dials.length <= 5, `${world.dials.length} dials in 20 s: a refusal is not hammered at`);
  t.is(acceptor.stats()['refused.ERR_TENANT_UNKNOWN'], world.dials.length);
  link.close(bye);
  await acceptor.close(bye);
  await world.clock.run(5 * SECOND);
});

test.serial('a bound that is none is refused before anything is opened', async (t) => {
  const world = new World();
  const wrong = { code: 'ERR_INVALID_ARGUMENT' };
  for (const [name, value] of [
    ['connections', Number.NaN],
    ['connectionsPerPeer', 0],
    ['linksPerTenant', Number.POSITIVE_INFINITY],
    ['handshakes', 0],
  ] as const) {
    const error = await t.throwsAsync(world.accept('hub-1', { limits: { [name]: value } }), wrong);
    t.true(error!.message.startsWith(`limits.${name} must be`), error!.message);
  }
  for (const name of ['handshakeTimeout', 'stallTimeout', 'controlBytes', 'highWater'] as const) {
    for (const value of [0, -1, Number.NaN, Number.POSITIVE_INFINITY]) {
      t.throws(() => world.dial({ [name]: value }), { ...wrong, message: new RegExp(`^${name} must be`) });
    }
  }
});

test.serial(
  'limits: connections in all, of one node, links of a tenant, handshakes: refused with the reason, and freed again',
  async (t) => {
    const world = new World();
    const { acceptor, links } = await world.accept('hub-1', {
      limits: { connections: 6, connectionsPerPeer: 2, linksPerTenant: 2, handshakes: 3 },
    });
    const of = (what: ReturnType<typeof world.dial>) => [...new Set(what.seen.states)];
    const greedy = world.dial({ connections: 3, node: 'greedy' });
    await world.clock.run(5 * SECOND);
    t.is(links[0]!.link.stats().connections, 2);
    const b = world.dial({ node: 'b' });
    await world.clock.run(2 * SECOND);
    const c = world.dial({ node: 'c' });
    await world.clock.run(2 * SECOND);
    t.deepEqual(of(c), ['connecting ERR_TOO_MANY_CONNECTIONS remote']);
    t.regex(c.seen.reason!.message, /2 nodes of one tenant/);
    const other = world.dial({ node: 'c', tenant: 'other', connections: 2 });
    await world.clock.run(2 * SECOND);
    t.is(other.link.state, 'up', 'another tenant has its own number');
    c.link.close(bye);
    greedy.link.close(bye);
    await world.clock.run(2 * SECOND);
    const d = world.dial({ node: 'd' });
    await world.clock.run(2 * SECOND);
    t.is(d.link.state, 'up', 'a place that is given back can be taken');
    // Six connections in all: 1 + 2 + 1, and two of a node of a third tenant; then no more.
    const e = world.dial({ node: 'e', tenant: 'third', connections: 2 });
    await world.clock.run(2 * SECOND);
    const f = world.dial({ node: 'f', tenant: 'fourth' });
    await world.clock.run(2 * SECOND);
    t.is(acceptor.stats().connections, 6);
    t.deepEqual(of(f), ['connecting ERR_TOO_MANY_CONNECTIONS remote']);
    t.regex(f.seen.reason!.message, /6 connections in all/);
    for (const x of [b, other, d, e, f]) x.link.close(bye);
    await acceptor.close(bye);
    await world.clock.run(10 * SECOND);
    t.is(acceptor.stats().connections, 0);
  },
);

test.serial(
  'while somebody holds all places for handshakes, a node still gets in: the slow give way after a second',
  async (t) => {
    const world = new World();
    const { acceptor } = await world.accept('hub-1', { limits: { handshakes: 4 } });
    for (let i = 0; i < 4; i++) await world.transport.dial('hub-1', new AbortController().signal);
    await world.clock.run(100 * MS);
    t.is(acceptor.stats().handshaking, 4);
    const { link, seen } = world.dial();
    await world.clock.run(200 * MS);
    t.regex(seen.reason!.message, /4 handshakes in progress/);
    t.true(await world.clock.run(4 * SECOND, () => link.state === 'up'));
    t.true(acceptor.stats()['refused.ERR_HELLO_TIMEOUT']! >= 1);
    link.close(bye);
    await acceptor.close(bye);
    await world.clock.run(10 * SECOND);
  },
);

test.serial(
  'a hub that restarts: 200 nodes are back within 5 s of the port being open, and not all at once',
  async (t) => {
    const world = new World();
    const first = await world.accept('hub-1');
    const nodes = Array.from({ length: 200 }, (_, i) => world.dial({ node: `n${i}` }));
    await world.clock.run(SECOND);
    t.is(first.acceptor.links, 200);
    // It dies without a word, and is away for 20 s.
    world.hubs.delete('hub-1');
    for (const line of world.lines) line.destroy(new Error('reset'));
    await world.clock.run(20 * SECOND);
    const second = await world.accept('hub-1');
    const opened = world.clock.now();
    const perSlot = new Map<number, number>();
    let before = 0;
    t.true(
      await world.clock.run(5 * SECOND, () => {
        const slot = Math.floor((world.clock.now() - opened) / (100 * MS));
        perSlot.set(slot, (perSlot.get(slot) ?? 0) + second.acceptor.links - before);
        before = second.acceptor.links;
        return before === 200;
      }),
    );
    t.true(Math.max(...perSlot.values()) <= 30, JSON.stringify([...perSlot]));
    for (const { link } of nodes) link.close(bye);
    await second.acceptor.close(bye);
    await first.acceptor.close(bye);
    await world.clock.run(5 * SECOND);
    t.is(slabsInUse(), 0);
  },
);

test.serial('a user may close the link from inside its own callbacks', async (t) => {
  const world = new World();
  const { links, acceptor } = await world.accept('hub-1');
  const { link, seen } = world.dial();
  await world.clock.run(SECOND);
  const hub = links[0]!;
  hub.seen.onPackets = (slab, start, end) => {
    const before = Buffer.from(slab.bytes.subarray(start, end));
    hub.link.close(new KubeBusError('ERR_CLOSED', 'enough'));
    t.true(before.equals(slab.bytes.subarray(start, end)) && slab.refs > 0, 'the bytes stay until the return');
  };
  const slab = slabOf(numbered(1, 1));
  link.send(slab, 0, slab.bytes.length);
  link.sendControl(Buffer.from('not delivered'));
  link.send(slab, 0, slab.bytes.length);
  await world.clock.run(200 * MS);
  t.deepEqual(hub.seen.control, []);
  t.is(seen.reason!.code, 'ERR_CLOSED');
  link.close(bye);
  await acceptor.close(bye);
  await world.clock.run(5 * SECOND);
  t.is(slabsInUse(), 0);
});

test('what is sent while there is no connection is counted, packet by packet', async (t) => {
  const world = new World();
  const { link } = world.dial();
  const slab = slabOf(numbered(1, 1), numbered(1, 2), numbered(2, 3));
  link.send(slab, 0, slab.bytes.length);
  link.sendControl(Buffer.from('x'));
  t.is(link.stats().packetsRefused, 3);
  t.is(link.stats().controlRefused, 1);
  t.throws(() => link.sendControl(new Uint8Array(65_533)), { code: 'ERR_INVALID_ARGUMENT' });
  link.close(bye);
});

test('options that cannot be are refused by name', (t) => {
  const world = new World();
  for (const [options, name] of [
    [{ streamBytes: 1000 }, /streamBytes/],
    [{ mtu: 1000 }, /mtu/],
    [{ mtu: Number.NaN }, /mtu/],
    [{ egress: { flows: 100 } }, /flows/],
    [{ egress: { maxPackets: 0 } }, /maxPackets/],
    [{ keepalive: { interval: 5, deadAfter: 5 } }, /keepalive/],
    [{ connections: 65 }, /connections/],
    [{ addresses: [] }, /addresses/],
  ] as const) {
    t.throws(() => world.dial(options), { code: 'ERR_INVALID_ARGUMENT', message: name });
  }
});

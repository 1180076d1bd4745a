import test from 'ava';
import { HEADER, MS, putHeader, Slab, seededRandom } from '../../lib/core/index.js';
import { parseAddress } from '../../lib/l3/address.js';
import { PingDriver } from '../../lib/l3/driver.js';
import { makeEchoReply } from '../../lib/l3/icmp.js';
import { Pinger, type PingResult } from '../../lib/l3/pinger.js';
import { Router } from '../../lib/l3/router.js';
import { World } from './support/net.js';

const source = parseAddress('10.80.0.2');
const destination = parseAddress('10.80.0.3');

function ask(pinger: Pinger, now = 0, more: object = {}) {
  const buf = Buffer.alloc(4096);
  const results: PingResult[] = [];
  const end = pinger.request(now, buf, 0, { source, destination, timeout: 100 * MS, ...more }, (r) => results.push(r));
  return { buf, end, results, length: end - HEADER };
}

test('a reply answers its request once; duplicates, strangers and damaged ones do not', (t) => {
  const pinger = new Pinger({ random: seededRandom(1) });
  const first = ask(pinger);
  const second = ask(pinger, 10);
  const reply = Buffer.from(second.buf);
  makeEchoReply(reply, HEADER, second.length);

  const stranger = Buffer.from(reply);
  stranger[HEADER + 15] = 9; // another source
  t.false(pinger.handleIcmp(50, stranger, 0));
  const kernels = Buffer.from(reply);
  kernels[HEADER + 28]! ^= 1; // not our token: the kernel's own ping with the same id
  t.false(pinger.handleIcmp(50, kernels, 0));
  const damaged = Buffer.from(reply);
  damaged[HEADER + 60]! ^= 1;
  t.true(pinger.handleIcmp(50, damaged, 0), 'ours, but no answer');
  t.deepEqual(second.results, []);

  t.true(pinger.handleIcmp(50, reply, 0));
  t.true(pinger.handleIcmp(60, reply, 0));
  t.deepEqual(second.results, [{ ok: true, sequence: 1, rttMicros: 40, ttl: 64 }]);
  t.deepEqual(first.results, []);
  t.is(pinger.pollDeadline(), 100 * MS);
  pinger.handleTimeout(100 * MS - 1);
  t.deepEqual(first.results, []);
  pinger.handleTimeout(100 * MS);
  t.deepEqual(first.results, [{ ok: false, sequence: 0, failure: { reason: 'timeout' } }]);
  t.is(pinger.pollDeadline(), Number.POSITIVE_INFINITY);
});

test('cut replies and errors are nobody’s, and never throw', (t) => {
  const pinger = new Pinger({ random: seededRandom(1) });
  const { buf, length, results } = ask(pinger);
  makeEchoReply(buf, HEADER, length);
  for (let cut = 20; cut < length; cut++) {
    putHeader(buf, 0, 0, 0, 0, cut);
    pinger.handleIcmp(1, buf, 0);
  }
  t.deepEqual(results, []);
});

test('sizes, families and the number of waiting requests are checked', (t) => {
  const pinger = new Pinger({ random: seededRandom(1), maxWaiting: 2 });
  for (const more of [{ size: 7 }, { size: 1.5 }, { size: 65_536 }, { destination: parseAddress('::1') }]) {
    t.throws(() => ask(pinger, 0, more), { code: 'ERR_INVALID_ARGUMENT' });
  }
  ask(pinger);
  ask(pinger);
  t.throws(() => ask(pinger), { code: 'ERR_INVALID_ARGUMENT' });
});

test('PingDriver: results in order, lost ones counted, abort and close reject', async (t) => {
  const world = new World();
  const vrf = new Router({ defer: world.defer }).addVrf('x');
  vrf.setAddresses([source]);
  let answer = true;
  const port = vrf.addPort({
    name: 'echo',
    kind: 'link',
    mtu: 1400,
    sources: null,
    sink: {
      send(slab, start, end) {
        if (!answer) return;
        const copy = Slab.of(Buffer.from(slab.bytes.subarray(start, end)));
        makeEchoReply(copy.bytes, HEADER, end - start - HEADER);
        world.at(world.now() + 7 * MS, () => port.handlePackets(world.now(), copy, 0, copy.bytes.length));
      },
    },
  });
  vrf.addStaticRoute({ address: new Uint8Array(4), length: 0 }, port);
  const driver = new PingDriver(vrf, world, seededRandom(3));
  const turns = async (until: Promise<unknown>) => {
    let open = true;
    until.finally(() => (open = false)).catch(() => {});
    while (open) {
      world.run(10 * MS);
      await null;
    }
    return until;
  };
  const good = driver.ping('10.80.0.3', { count: 3 });
  await turns(good);
  t.deepEqual((await good).rtts, [7, 7, 7]);
  t.is((await good).lost, 0);
  answer = false;
  const none = driver.ping('10.80.0.3', { count: 2, timeoutMs: 30, intervalMs: 0 });
  await turns(none);
  t.like(await none, { rtts: [], lost: 2 });

  const abort = new AbortController();
  const aborted = driver.ping('10.80.0.3', { signal: abort.signal });
  abort.abort();
  await t.throwsAsync(aborted, { code: 'ERR_ABORTED' });
  await t.throwsAsync(driver.ping('fd80::1'), { code: 'ERR_INVALID_ARGUMENT' });
  await t.throwsAsync(driver.ping('nobody'), { code: 'ERR_ADDRESS' });
  const open = driver.ping('10.80.0.3');
  driver.close();
  await t.throwsAsync(open, { code: 'ERR_CLOSED' });
  await t.throwsAsync(driver.ping('10.80.0.3'), { code: 'ERR_CLOSED' });
});

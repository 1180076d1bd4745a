import test from 'ava';
import { Flag, HEADER, lengthAt, SECOND, Slab } from '../../lib/core/index.js';
import { parseAddress, parsePrefix } from '../../lib/l3/address.js';
import type { CounterName } from '../../lib/l3/counters.js';
import type { Port, PortOptions } from '../../lib/l3/port.js';
import { Router } from '../../lib/l3/router.js';
import type { VrfLimits } from '../../lib/l3/vrf.js';
import { packetLine } from '../../lib/l3/wire/pretty.js';
import { frames, makePacket, type PacketFields } from './support/packets.js';

const GSO = Flag.gsoTcp | Flag.partialChecksum;

function setup(limits: Partial<VrfLimits> = {}) {
  const deferred: (() => void)[] = [];
  const vrf = new Router({ defer: (fn) => void deferred.push(fn), limits }).addVrf('acme');
  vrf.setAddresses([parseAddress('10.80.0.1'), parseAddress('fd80::1')]);
  /** What came out, one line a packet, and how many calls it took. */
  const out: string[] = [];
  const calls: Record<string, number> = {};
  const note = (name: string) => (slab: Slab, start: number, end: number) => {
    calls[name] = (calls[name] ?? 0) + 1;
    for (let off = start; off < end; off += HEADER + lengthAt(slab.bytes, off))
      out.push(`${name}: ${packetLine(slab.bytes, off)}`);
  };
  const port = (name: string, sources: string[] | null, routes: string[], more: Partial<PortOptions> = {}): Port => {
    const port = vrf.addPort({
      name,
      kind: 'link',
      mtu: 1400,
      sources: sources?.map(parsePrefix) ?? null,
      sink: { send: note(name) },
      ...more,
    });
    for (const prefix of routes) vrf.addStaticRoute(parsePrefix(prefix), port);
    return port;
  };
  const a = port('a', ['10.80.0.2', 'fd80::2'], ['10.80.0.2', 'fd80::2'], { offload: true });
  const b = port('b', ['10.80.0.3', 'fd80::3'], ['10.80.0.3', 'fd80::3', '10.3.0.0/16']);
  const c = port('c', null, ['10.4.0.0/16'], { offload: true });
  const send = (from: Port, ...list: Parameters<typeof frames>) => {
    const slab = Slab.of(frames(...list));
    from.handlePackets(0, slab, 0, slab.bytes.length);
    for (const fn of deferred.splice(0)) fn();
    return out.splice(0);
  };
  const take = () => {
    for (const fn of deferred.splice(0)) fn();
    return out.splice(0);
  };
  return { vrf, port, a, b, c, send, take, calls, note, count: (name: CounterName) => vrf.counters.get(name) };
}

const udp = (source: string, destination: string, more: Partial<PacketFields> = {}) => ({
  packet: makePacket({ source, destination, protocol: 17, payload: new Uint8Array(10), ...more }),
});
const tcp = (source: string, destination: string, bytes: number, more: Partial<PacketFields> = {}) =>
  makePacket({ source, destination, protocol: 6, payload: new Uint8Array(bytes), ...more });

test('consecutive packets for the same port are one call, and order is kept', (t) => {
  const { a, send, calls } = setup();
  const [x, y] = [udp('10.80.0.2', '10.80.0.3'), udp('10.80.0.2', '10.4.0.1')];
  const out = send(a, x, x, udp('10.80.0.2', '10.3.9.9'), y, y, x);
  t.deepEqual(
    out.map((line) => line.split(' ')[0]),
    ['b:', 'b:', 'b:', 'c:', 'c:', 'b:'],
  );
  t.deepEqual(calls, { b: 2, c: 1 });
  t.is(out[0], 'b: IP 10.80.0.2.40000 > 10.80.0.3.53: UDP length 10 ttl 63');
});

test('TTL and hop limit count from link to link only', (t) => {
  const { a, port, send } = setup();
  const host = port('tun', null, ['10.9.0.0/16', 'fd09::/16'], { kind: 'host', mtu: 0xffff });
  t.regex(send(a, udp('10.80.0.2', '10.9.0.1'))[0]!, /^tun: .* ttl 64$/);
  t.regex(send(a, udp('fd80::2', 'fd09::1'))[0]!, /^tun: .* ttl 64$/);
  t.regex(send(host, udp('10.9.0.1', '10.80.0.3', { ttl: 1 }))[0]!, /^b: .* ttl 1$/);
  t.regex(send(a, udp('fd80::2', 'fd80::3'))[0]!, /^b: IP6 .* ttl 63$/);
  t.deepEqual(send(a, udp('fd80::2', 'fd80::3', { ttl: 1 })), [
    'a: IP6 fd80::1 > fd80::2: ICMP6 time exceeded length 66 ttl 64',
  ]);
});

test('a super-packet passes as it is to a port with offload, and in segments, in its place, to one without', (t) => {
  const { a, b, send, count } = setup();
  const big = { packet: tcp('10.80.0.2', '10.4.0.1', 3000), flags: GSO, gsoSize: 1348 };
  t.deepEqual(send(a, big), [
    'c: IP 10.80.0.2.40000 > 10.4.0.1.80: TCP [PA] seq 1000 ack 7 win 5000 length 3000 ttl 63 gso 1348 partial-checksum',
  ]);
  const cut = { packet: tcp('10.80.0.2', '10.80.0.3', 3000), flags: GSO, gsoSize: 1348 };
  const out = send(a, udp('10.80.0.2', '10.80.0.3'), cut, udp('10.80.0.2', '10.80.0.3', { ttl: 9 }));
  t.deepEqual(out, [
    'b: IP 10.80.0.2.40000 > 10.80.0.3.53: UDP length 10 ttl 63',
    'b: IP 10.80.0.2.40000 > 10.80.0.3.80: TCP [A] seq 1000 ack 7 win 5000 length 1348 ttl 63',
    'b: IP 10.80.0.2.40000 > 10.80.0.3.80: TCP [A] seq 2348 ack 7 win 5000 length 1348 ttl 63',
    'b: IP 10.80.0.2.40000 > 10.80.0.3.80: TCP [PA] seq 3696 ack 7 win 5000 length 304 ttl 63',
    'b: IP 10.80.0.2.40000 > 10.80.0.3.53: UDP length 10 ttl 8',
  ]);
  t.is(count('super-packets-segmented'), 1);
  t.deepEqual(send(b, udp('10.80.0.3', '10.80.0.2')).length, 1);
});

test('a partial checksum is completed for a port without offload', (t) => {
  const { a, vrf, send, take } = setup();
  const good = tcp('10.80.0.2', '10.80.0.3', 100);
  const seen: Buffer[] = [];
  const d = vrf.addPort({
    name: 'd',
    kind: 'link',
    mtu: 1400,
    sink: { send: (s, start, end) => void seen.push(Buffer.from(s.bytes.subarray(start, end))) },
  });
  vrf.addStaticRoute(parsePrefix('10.80.0.3'), d, { metric: 1 });
  const half = Buffer.from(good);
  half.writeUInt16BE(0x1111, 36);
  send(a, { packet: half, flags: Flag.partialChecksum });
  take();
  t.deepEqual(seen, [frames({ packet: tcp('10.80.0.2', '10.80.0.3', 100, { ttl: 63 }) })]);
  // The builder makes the checksum anew: equal bytes are a right checksum.
});

test('a port that takes partial checksums, but no super-packets, gets segments whose checksums are left to it', (t) => {
  const { a, vrf, port, send, count } = setup();
  port('lossy', null, ['10.6.0.0/16', 'fd06::/16'], { partialChecksums: true });
  t.true(vrf.endpoint.partialChecksumsTo(parseAddress('10.6.0.1')));
  t.false(vrf.endpoint.offloadTo(parseAddress('10.6.0.1')));
  t.true(vrf.endpoint.partialChecksumsTo(parseAddress('10.80.0.2')), 'wherever super-packets are taken');
  t.false(vrf.endpoint.partialChecksumsTo(parseAddress('10.80.0.3')));
  const segment = { packet: tcp('10.80.0.2', '10.6.0.1', 100), flags: Flag.partialChecksum };
  t.regex(send(a, segment)[0]!, /^lossy: .* length 100 ttl 63 partial-checksum$/);
  for (const [from, to] of [
    ['10.80.0.2', '10.6.0.1'],
    ['fd80::2', 'fd06::1'],
  ] as const) {
    const out = send(a, { packet: tcp(from, to, 3000), flags: GSO, gsoSize: 1300 });
    t.deepEqual(
      out.map((line) => /length (\d+) ttl 63 partial-checksum$/.exec(line)?.[1]),
      ['1300', '1300', '400'],
    );
  }
  t.is(count('checksums-completed'), 0);
});

test('MTU: segments count and not the super-packet; too big ones are answered with the MTU, with DF clear fragmented', (t) => {
  const { a, port, send, count } = setup();
  port('small', null, ['10.5.0.0/16', 'fd05::/16'], { mtu: 1300, offload: true });
  const big = (gsoSize: number) => ({ packet: tcp('10.80.0.2', '10.5.0.1', 3000), flags: GSO, gsoSize });
  t.is(send(a, big(1260)).length, 1);
  t.deepEqual(send(a, big(1261)), [
    'a: IP 10.80.0.1 > 10.80.0.2: ICMP fragmentation needed mtu 1300 length 556 ttl 64',
  ]);
  t.deepEqual(send(a, udp('fd80::2', 'fd05::1', { payload: new Uint8Array(1300) })), [
    'a: IP6 fd80::1 > fd80::2: ICMP6 packet too big mtu 1300 length 1240 ttl 64',
  ]);
  t.deepEqual(send(a, udp('10.80.0.2', '10.5.0.1', { payload: new Uint8Array(1300), dontFragment: false })), [
    'small: IP 10.80.0.2.40000 > 10.5.0.1.53: UDP length 1272 frag 0+ ttl 63',
    'small: IP 10.80.0.2 > 10.5.0.1: udp frag 1280 length 28 ttl 63',
  ]);
  t.is(count('fragments-made'), 2);
  // A UDP super-packet with DF clear: segments, and each of them in fragments.
  const uso = {
    packet: udp('10.80.0.2', '10.5.0.1', { payload: new Uint8Array(2800), dontFragment: false }).packet,
    flags: Flag.gsoUdp | 8,
    gsoSize: 1400,
  };
  t.is(send(a, uso).length, 4);
});

test('each reason to drop has its counter, and the sender hears of what it can mend', (t) => {
  const { a, b, c, send, count } = setup();
  const expect = (from: Port, frame: Parameters<typeof frames>[0], counter: CounterName, answer: RegExp | null) => {
    const before = count(counter);
    const out = send(from, frame);
    t.is(count(counter), before + 1, counter);
    if (answer === null) t.deepEqual(out, [], counter);
    else t.regex(out.join(), answer, counter);
  };
  expect(a, udp('10.80.0.2', '10.99.0.1'), 'drop-no-route', /^a: IP 10\.80\.0\.1 > 10\.80\.0\.2: ICMP unreachable net/);
  expect(a, udp('fd80::2', 'fd99::1'), 'drop-no-route', /ICMP6 unreachable code 0/);
  expect(a, udp('10.80.0.9', '10.80.0.3'), 'drop-spoofed-source', null);
  expect(a, udp('fd80::9', 'fd80::3'), 'drop-spoofed-source', null);
  expect(b, udp('10.80.0.3', '10.3.0.1'), 'drop-loop', /ICMP unreachable host/);
  for (const to of ['224.0.0.5', '255.255.255.255', '127.0.0.1', '169.254.1.1', '0.1.2.3', '240.0.0.1']) {
    expect(a, udp('10.80.0.2', to), 'drop-not-unicast', null);
    expect(c, udp(to, '10.80.0.3'), 'drop-not-unicast', null);
  }
  for (const to of ['ff02::1', 'fe80::1', '0::1', '0::0']) {
    expect(a, udp('fd80::2', to), 'drop-not-unicast', null);
    expect(c, udp(to, 'fd80::3'), 'drop-not-unicast', null);
  }
  expect(a, udp('10.80.0.2', '10.80.0.3', { ipOptions: [131, 7, 4, 10, 3, 0, 1, 0] }), 'drop-source-route', null);
  expect(a, udp('10.80.0.2', '10.80.0.1'), 'drop-no-listener', /ICMP unreachable port/);
  b.update({ up: false });
  expect(a, udp('10.80.0.2', '10.80.0.3'), 'drop-port-down', /ICMP unreachable host/);
  b.update({ up: true });
  t.is(send(a, udp('10.80.0.2', '10.80.0.3')).length, 1);

  const bad = (change: (p: Buffer) => void) => {
    const { packet } = udp('10.80.0.2', '10.80.0.3');
    change(packet);
    return { packet };
  };
  expect(
    a,
    bad((p) => (p[0] = 0x55)),
    'drop-malformed',
    null,
  );
  expect(
    a,
    bad((p) => (p[0] = 0x44)),
    'drop-malformed',
    null,
  );
  expect(
    a,
    bad((p) => (p[0] = 0x4f)),
    'drop-malformed',
    null,
  );
  expect(
    a,
    bad((p) => (p[3]! += 1)),
    'drop-malformed',
    null,
  );
  expect(
    a,
    bad((p) => (p[10]! ^= 1)),
    'drop-malformed',
    null,
  );
  expect(a, { packet: Buffer.alloc(0) }, 'drop-malformed', null);
  expect(a, { packet: udp('10.80.0.2', '10.80.0.3').packet, flags: Flag.gsoTcp, gsoSize: 100 }, 'drop-malformed', null);
});

test('no error is sent about errors, fragments or to multicast (RFC 1812 §4.3.2.7, RFC 4443 §2.4)', (t) => {
  const { a, send, count } = setup();
  const icmp = (source: string, destination: string, type: number) => {
    const { packet } = udp(source, destination);
    const v4 = packet[0]! >>> 4 === 4;
    packet[v4 ? 20 : 40] = type;
    if (!v4) {
      packet[6] = 58;
      return { packet };
    }
    packet[9] = 1;
    packet.writeUInt16BE(packet.readUInt16BE(10) + 16, 10); // protocol 17 to 1
    return { packet };
  };
  for (const type of [3, 4, 5, 11, 12]) t.deepEqual(send(a, icmp('10.80.0.2', '10.99.0.1', type)), [], `type ${type}`);
  for (const type of [1, 2, 3, 4, 137]) t.deepEqual(send(a, icmp('fd80::2', 'fd99::1', type)), [], `type ${type}`);
  t.is(send(a, icmp('10.80.0.2', '10.99.0.1', 8)).length, 1, 'but about an echo request');
  t.is(send(a, icmp('fd80::2', 'fd99::1', 128)).length, 1);
  const { packet } = udp('10.80.0.2', '10.99.0.1');
  packet.writeUInt16BE(0x0001, 6);
  packet.writeUInt16BE((packet.readUInt16BE(10) + 0x4000 - 1) & 0xffff, 10);
  t.deepEqual(send(a, { packet }), [], 'a later fragment');
  t.is(count('drop-no-route'), 13);
  t.is(count('icmp-errors-suppressed'), 11);
});

test('errors are limited in rate by sender: a burst, then so many a second', (t) => {
  const { a, c, count } = setup({ icmpPerSecond: 10, icmpBurst: 5 });
  const slab = Slab.of(frames(udp('10.80.0.2', '10.99.0.1')));
  const send = (now: number, n: number) => {
    for (let i = 0; i < n; i++) a.handlePackets(now, slab, 0, slab.bytes.length);
    return count('icmp-errors-sent');
  };
  t.is(send(0, 20), 5);
  t.is(send(SECOND / 10, 20), 6);
  t.is(send(100 * SECOND, 20), 11);
  c.handlePackets(100 * SECOND, slab, 0, slab.bytes.length);
  t.is(count('icmp-errors-sent'), 12, 'another port has its own');
});

test('the endpoint: sends from our addresses only, gets what is for us, and itself what it sends to itself', (t) => {
  const { vrf, a, send, take, note, count } = setup();
  let inside = false;
  vrf.endpoint.attach({
    onPackets(slab, start, end) {
      t.false(inside, 'never from inside its own call of send');
      note('us')(slab, start, end);
    },
    claims: () => true,
    onChange() {},
  });
  t.deepEqual(send(a, udp('10.80.0.2', '10.80.0.1')), ['us: IP 10.80.0.2.40000 > 10.80.0.1.53: UDP length 10 ttl 64']);
  const emit = (...list: Parameters<typeof frames>) => {
    const slab = Slab.of(frames(...list));
    inside = true;
    vrf.endpoint.send(slab, 0, slab.bytes.length);
    inside = false;
    const lines = take();
    t.is(slab.refs, 1, 'the slab is given back');
    return lines;
  };
  t.deepEqual(emit(udp('10.80.0.1', '10.80.0.3')), ['b: IP 10.80.0.1.40000 > 10.80.0.3.53: UDP length 10 ttl 64']);
  t.deepEqual(emit(udp('10.80.0.1', '10.80.0.1')), ['us: IP 10.80.0.1.40000 > 10.80.0.1.53: UDP length 10 ttl 64']);
  t.regex(emit(udp('10.80.0.1', '10.99.0.1')).join(), /^us: IP 10\.80\.0\.1 > 10\.80\.0\.1: ICMP unreachable net/);
  t.deepEqual(emit(udp('10.80.0.7', '10.80.0.3')), []);
  t.is(count('drop-spoofed-source'), 1);
  t.is(vrf.endpoint.mtuTo(parseAddress('10.80.0.3')), 1400);
  t.true(vrf.endpoint.offloadTo(parseAddress('10.80.0.2')));
  t.false(vrf.endpoint.offloadTo(parseAddress('10.80.0.3')));
});

test('what the endpoint sends to itself is bounded', (t) => {
  const { vrf, take, count } = setup({ localQueueBytes: 200 });
  let got = 0;
  vrf.endpoint.attach({ onPackets: () => void got++, claims: () => true, onChange() {} });
  const slab = Slab.of(frames(udp('10.80.0.1', '10.80.0.1')));
  for (let i = 0; i < 10; i++) vrf.endpoint.send(slab, 0, slab.bytes.length);
  take();
  t.is(got, 4);
  t.is(count('drop-local-queue'), 6);
});

test('a node with a TUN: userspace sockets and the kernel share the address, packet by packet', (t) => {
  const { vrf, a, port, send, note } = setup();
  const host = port('tun', null, [], { kind: 'host', mtu: 1400, offload: true });
  const isOurs = (buf: Uint8Array, off: number) => buf[off + HEADER + 23] === 53;
  vrf.endpoint.attach({ onPackets: note('us'), claims: isOurs, onChange() {} });
  const other = udp('10.80.0.2', '10.80.0.1');
  other.packet[23] = 99;
  const ours = udp('10.80.0.2', '10.80.0.1');
  t.deepEqual(
    send(a, ours, other, ours).map((line) => line.slice(0, 4)),
    ['us: ', 'tun:', 'us: '],
  );
  const echo = makePacket({ source: '10.80.0.2', destination: '10.80.0.1', protocol: 17, payload: new Uint8Array(10) });
  echo[9] = 1;
  echo[20] = 8;
  echo[23] = 99;
  echo.writeUInt16BE(echo.readUInt16BE(10) + 16, 10);
  t.regex(send(a, { packet: echo })[0]!, /^tun: .*echo request/, 'the kernel answers ping itself');
  vrf.removePort(host);
  t.is(send(a, other).length, 1, 'without the TUN all of it is ours');
});

test('errors to the host come from the gateway: a kernel takes none from its own address', (t) => {
  const { vrf, port, send } = setup();
  const host = port('tun', ['10.80.0.1'], [], { kind: 'host' });
  t.regex(send(host, udp('10.80.0.1', '10.99.0.1')).join(), /^tun: IP 10\.80\.0\.1 > /);
  vrf.setGateway([parseAddress('10.80.0.254')]);
  t.regex(
    send(host, udp('10.80.0.1', '10.99.0.1')).join(),
    /^tun: IP 10\.80\.0\.254 > 10\.80\.0\.1: ICMP unreachable net/,
  );
});

test('a change of routes, sources or ports takes effect on the next packet of a flow that is under way', (t) => {
  const { vrf, a, b, c, send } = setup();
  const flow = () => send(a, udp('10.80.0.2', '10.80.0.3'), udp('fd80::2', 'fd80::3')).map((line) => line.slice(0, 2));
  t.deepEqual(flow(), ['b:', 'b:']);
  vrf.addStaticRoute(parsePrefix('10.80.0.3'), c, { metric: 1 });
  vrf.addStaticRoute(parsePrefix('fd80::3'), c, { metric: 1 });
  t.deepEqual(flow(), ['c:', 'c:']);
  vrf.removePort(c);
  t.deepEqual(flow(), ['b:', 'b:']);
  a.setSources([]);
  t.deepEqual(flow(), []);
  a.setSources(null);
  t.deepEqual(flow(), ['b:', 'b:']);
  vrf.removePort(b);
  t.deepEqual(flow(), ['a:', 'a:'], 'now unreachable');
});

test('a frame that reaches past the end stops the walk and nothing before it is lost', (t) => {
  const { a, count, take } = setup();
  const slab = Slab.of(
    Buffer.concat([
      frames(udp('10.80.0.2', '10.80.0.3')),
      Buffer.from([0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]),
      Buffer.alloc(10),
    ]),
  );
  a.handlePackets(0, slab, 0, slab.bytes.length);
  t.is(take().length, 1);
  t.is(count('drop-malformed'), 1);
});

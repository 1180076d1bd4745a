// Hostile packets at every kind of port of a VRF: no exception, nothing kept, every kind of drop reached and counted, and
// whatever goes out is a valid packet that the sender was allowed to send.

import test from 'ava';
import { Flag, HEADER, lengthAt, putHeader, Slab, seededRandom } from '../../lib/core/index.js';
import { parseAddress, parsePrefix } from '../../lib/l3/address.js';
import { Pinger } from '../../lib/l3/pinger.js';
import type { Port } from '../../lib/l3/port.js';
import { Router } from '../../lib/l3/router.js';
import { checksumOk4, isIpv4 } from '../../lib/l3/wire/ipv4.js';
import { isIpv6 } from '../../lib/l3/wire/ipv6.js';
import { packetLine } from '../../lib/l3/wire/pretty.js';
import { makePacket } from '../l3/support/packets.js';

const CASES = 1_000_000;
const SEED = Number(process.env.KUBEBUS_FUZZ_SEED ?? 1);

test(`a million hostile packets (KUBEBUS_FUZZ_SEED=${SEED})`, (t) => {
  const random = seededRandom(SEED);
  const below = (n: number) => random.u32() % n;
  const deferred: (() => void)[] = [];
  const vrf = new Router({ defer: (fn) => void deferred.push(fn) }).addVrf('acme');
  vrf.setAddresses([parseAddress('10.80.0.1'), parseAddress('fd80::1')]);
  vrf.listenIcmp(new Pinger({ random }));
  let out = 0;
  let outBytes = 0;
  let broken = '';
  // The host's kernel and this process are believed about header checksums; a link is not.
  let trusted = false;
  const check = (mtu: number, offload: boolean, kind: string) => (slab: Slab, start: number, end: number) => {
    for (let off = start; off < end; off += HEADER + lengthAt(slab.bytes, off)) {
      const length = lengthAt(slab.bytes, off);
      const p = off + HEADER;
      out++;
      outBytes += length;
      const v4 = slab.bytes[p]! >>> 4 === 4;
      if (
        v4
          ? !isIpv4(slab.bytes, p, length) || (!trusted && !checksumOk4(slab.bytes, p))
          : !isIpv6(slab.bytes, p, length)
      ) {
        broken ||= `${kind}: ${packetLine(slab.bytes, off)}`;
      }
      if (!offload && (slab.bytes[off + 1]! & 0x0f) !== 0) broken ||= 'offload flags on a path without offload';
      // A kernel takes what is for itself at any size.
      if (kind === 'link' && !offload && length > mtu) broken ||= `${length} bytes at MTU ${mtu}`;
    }
  };
  const add = (
    name: string,
    kind: 'link' | 'host',
    mtu: number,
    offload: boolean,
    sources: string[] | null,
    routes: string[],
  ): Port => {
    const sink = { send: check(mtu, offload, kind) };
    const port = vrf.addPort({ name, kind, mtu, offload, sink, sources: sources?.map(parsePrefix) ?? null });
    for (const prefix of routes) vrf.addStaticRoute(parsePrefix(prefix), port);
    return port;
  };
  const ports = [
    add('edge-2', 'link', 1400, true, ['10.80.0.2', 'fd80::2'], ['10.80.0.2', 'fd80::2']),
    add(
      'edge-3',
      'link',
      1300,
      false,
      ['10.80.0.3', 'fd80::3', '10.2.0.0/16'],
      ['10.80.0.3', 'fd80::3', '10.2.0.0/16'],
    ),
    add('any', 'link', 100, false, null, ['10.3.0.0/16', 'fd03::/16']),
    add('tun', 'host', 1400, false, null, ['10.4.0.0/16']),
  ];
  let claimed = 0;
  vrf.endpoint.attach({
    onPackets: check(0xffff, true, 'local'),
    claims: () => (claimed++ & 1) === 0,
    onChange() {},
  });

  const v4 = [
    '10.80.0.1',
    '10.80.0.2',
    '10.80.0.3',
    '10.2.7.7',
    '10.3.0.9',
    '10.4.1.1',
    '10.9.9.9',
    '224.0.0.1',
    '255.255.255.255',
    '127.0.0.1',
  ];
  const v6 = ['fd80::1', 'fd80::2', 'fd80::3', 'fd03::9', 'fd99::1', 'ff02::1', 'fe80::1', '0::0'];
  const seeds: Buffer[] = [];
  for (const list of [v4, v6]) {
    for (const source of list) {
      for (const destination of list) {
        const protocol = below(2) === 0 ? 6 : 17;
        const payload = new Uint8Array(below(3) === 0 ? 1350 : below(64));
        const ipOptions =
          list === v4 && below(4) === 0
            ? [
                [131, 4, 4, 0],
                [7, 4, 0, 1],
                [148, 4, 0, 0],
              ][below(3)]!
            : [];
        const packet = makePacket({
          source,
          destination,
          protocol,
          payload,
          ttl: below(4),
          dontFragment: below(2) === 0,
          ipOptions,
        });
        seeds.push(packet);
        const icmp = Buffer.from(packet);
        icmp[list === v4 ? 9 : 6] = list === v4 ? 1 : 58;
        icmp[(list === v4 ? 20 : 40) + 0] = [0, 3, 8, 11, 1, 2, 128, 129][below(8)]!;
        seeds.push(icmp);
      }
    }
  }
  const echo = Buffer.alloc(200);
  for (const [source, destination] of [
    ['10.80.0.2', '10.80.0.1'],
    ['fd80::2', 'fd80::1'],
  ] as const) {
    const request = { source: parseAddress(source), destination: parseAddress(destination), timeout: 1 };
    const end = new Pinger({ random }).request(0, echo, 0, request, () => {});
    for (let i = 0; i < 20; i++) seeds.push(Buffer.from(echo.subarray(HEADER, end)));
  }
  const slab = Slab.of(Buffer.alloc(64 * 1024));
  const before = process.memoryUsage().heapUsed;
  let cases = 0;
  let batches = 0;
  while (cases < CASES) {
    let end = 0;
    const count = 1 + below(20);
    for (let i = 0; i < count; i++, cases++) {
      let length: number;
      const p = end + HEADER;
      const how = below(8);
      if (how === 0) {
        length = below(120);
        for (let k = 0; k < length; k++) slab.bytes[p + k] = random.u32();
        if (below(2) === 0) slab.bytes[p] = below(2) === 0 ? 0x45 : 0x60;
      } else {
        const seed = seeds[below(seeds.length)]!;
        seed.copy(slab.bytes, p);
        length = seed.length;
        if (how < 5) for (let k = below(4); k > 0; k--) slab.bytes[p + below(Math.min(length, 60))] = random.u32();
        if (how === 5) length = below(length + 1);
        // A header changed on purpose is useless to an attacker while its checksum is wrong: mend it half of the time.
        if (how >= 3 && length >= 20 && slab.bytes[p]! >>> 4 === 4 && below(2) === 0) mend(slab.bytes, p);
      }
      const flags =
        below(3) === 0 ? [Flag.gsoTcp | 8, Flag.gsoUdp | 8, Flag.partialChecksum, random.u32() & 0xff][below(4)]! : 0;
      putHeader(
        slab.bytes,
        end,
        below(200) === 0 ? 5 : 0,
        flags,
        flags & 3 ? [0, 1, 8, 100, 1300, 65_535][below(6)]! : 0,
        length,
      );
      end += HEADER + length;
    }
    if (below(50) === 0) putHeader(slab.bytes, 0, 0, 0, 0, [0, 65_575, 0xffffffff, end][below(4)]!);
    if (below(20) === 0) packetLine(slab.bytes, below(end));
    const who = below(5);
    const port = ports[who];
    trusted = port === undefined || port.kind === 'host';
    if (port === undefined) vrf.handleLocal(batches * 100, slab, 0, end);
    else port.handlePackets(batches * 100, slab, 0, end);
    for (const fn of deferred.splice(0)) fn();
    batches++;
  }
  t.is(broken, '');
  t.true(claimed > 0 && out > 10_000, `${out} packets came out`);
  const c = vrf.counters;
  for (const name of Object.keys(c.snapshot()) as (keyof ReturnType<typeof c.snapshot>)[]) {
    if (name !== 'drop-port-down' && name !== 'drop-no-listener' && name !== 'drop-local-queue')
      t.true(c.get(name) > 0, `${name} was reached`);
  }
  t.true(slab.refs === 1, 'the slab is not kept');
  const grown = process.memoryUsage().heapUsed - before;
  t.true(grown < 64 << 20, `heap grew by ${grown} bytes`);
  t.log(`${cases} packets in ${batches} batches, ${out} out (${(outBytes / 1e6).toFixed(0)} MB), ${c.dropped} dropped`);
});

function mend(buf: Buffer, p: number): void {
  const end = p + Math.max(20, (buf[p]! & 15) * 4);
  buf[p + 10] = buf[p + 11] = 0;
  let sum = 0;
  for (let i = p; i < end; i += 2) sum += (buf[i]! << 8) | buf[i + 1]!;
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  buf.writeUInt16BE(~sum & 0xffff, p + 10);
}

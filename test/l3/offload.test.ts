import test from 'ava';
import fc from 'fast-check';
import { Flag, HEADER, lengthAt } from '../../lib/core/index.js';
import { Fragmenter } from '../../lib/l3/fragment.js';
import {
  completeChecksum,
  MAX_UDP_SEGMENTS,
  MIN_TCP_SEGMENT,
  offloadHeaders,
  Segmenter,
  wireLength,
} from '../../lib/l3/offload.js';
import { frames, makePacket, type PacketFields, slowChecksum } from './support/packets.js';

function cutAll(cutter: { frameBytes: number; next(to: Buffer, at: number): number }): Buffer[] {
  const to = Buffer.alloc(cutter.frameBytes, 0xee);
  const packets: Buffer[] = [];
  for (let end = cutter.next(to, 0); end !== 0; end = cutter.next(to, 0))
    packets.push(Buffer.from(to.subarray(HEADER, end)));
  return packets;
}

/** What the packets of one super-packet have to be, each built from its fields by the slow builder. */
function slowSegments(f: PacketFields, size: number): Buffer[] {
  const result: Buffer[] = [];
  for (let at = 0, i = 0; at < f.payload.length; at += size, i++) {
    const last = at + size >= f.payload.length;
    let flags = f.tcp?.flags ?? 0x18;
    if (!last) flags &= ~0x09;
    if (i > 0) flags &= ~0x80;
    result.push(
      makePacket({
        ...f,
        payload: f.payload.subarray(at, at + size),
        id: ((f.id ?? 77) + i) & 0xffff,
        tcp: { ...f.tcp, seq: ((f.tcp?.seq ?? 1000) + at) % 2 ** 32, flags },
      }),
    );
  }
  return result;
}

test('segmentation of TCP and UDP over both families equals segments built one by one', (t) => {
  const fields = fc.record({
    v4: fc.boolean(),
    tcp: fc.boolean(),
    payload: fc.uint8Array({ minLength: 1, maxLength: 5000, size: 'max' }),
    size: fc.integer({ min: 8, max: 1500 }),
    seq: fc.oneof(fc.nat(0xffffffff), fc.constant(0xfffffff0)),
    id: fc.oneof(fc.nat(0xffff), fc.constant(0xfffe)),
    flags: fc.constantFrom(0x10, 0x18, 0x19, 0x90, 0x98, 0x50),
    options: fc.constantFrom([], [1, 1, 8, 10, 1, 2, 3, 4, 5, 6, 7, 8]),
    ipOptions: fc.constantFrom([], [148, 4, 0, 0]),
  });
  fc.assert(
    fc.property(fields, ({ v4, tcp, payload, size: wanted, seq, id, flags, options, ipOptions }) => {
      const size = tcp ? wanted : Math.max(wanted, Math.ceil(payload.length / MAX_UDP_SEGMENTS));
      const f: PacketFields = {
        source: v4 ? '10.80.0.2' : 'fd80::2',
        destination: v4 ? '10.80.0.3' : 'fd80::3',
        protocol: tcp ? 6 : 17,
        payload,
        id,
        ...(v4 ? { ipOptions } : {}),
        ...(tcp ? { tcp: { seq, flags, options } } : {}),
      };
      const packet = makePacket(f);
      // What stands in the checksum field of a super-packet is of no account.
      const batch = frames({ packet, flags: (tcp ? Flag.gsoTcp : Flag.gsoUdp) | Flag.partialChecksum, gsoSize: size });
      const segmenter = new Segmenter();
      // For a path that takes partial checksums: completed, they are the same segments.
      if (!segmenter.begin(batch, 0, true)) return false;
      const partial: Buffer[] = [];
      const one = Buffer.alloc(segmenter.frameBytes);
      for (let end = segmenter.next(one, 0); end > 0; end = segmenter.next(one, 0)) {
        if (one[1] !== Flag.partialChecksum || !completeChecksum(one, 0)) return false;
        partial.push(Buffer.from(one.subarray(HEADER, end)));
      }
      if (!segmenter.begin(batch, 0)) return false;
      if (segmenter.remaining !== Math.ceil(payload.length / size)) return false;
      const expected = slowSegments(f, size);
      const got = cutAll(segmenter);
      const largest = Math.max(...got.map((p) => p.length));
      return (
        got.length === expected.length &&
        got.every((p, i) => p.equals(expected[i]!) && p.equals(partial[i]!)) &&
        wireLength(batch, 0, offloadHeaders(batch, 0)) === largest
      );
    }),
    { numRuns: 400 },
  );
  t.pass();
});

test('a partial checksum is completed in place, and the flag goes', (t) => {
  for (const protocol of [6, 17] as const) {
    for (const [source, destination] of [
      ['10.80.0.2', '10.80.0.3'],
      ['fd80::2', 'fd80::3'],
    ] as const) {
      const packet = makePacket({ source, destination, protocol, payload: Buffer.from('hello') });
      const damaged = Buffer.from(packet);
      const field = (source.includes(':') ? 40 : 20) + (protocol === 6 ? 16 : 6);
      damaged.writeUInt16BE(0x1234, field);
      const batch = frames({ packet: damaged, flags: Flag.partialChecksum });
      t.true(completeChecksum(batch, 0));
      t.deepEqual(batch, frames({ packet }));
    }
  }
});

test('a UDP checksum that comes out as 0 is sent as 0xffff (RFC 768)', (t) => {
  // Two bytes of payload that bring the sum to all ones.
  const base = makePacket({ source: '10.0.0.1', destination: '10.0.0.2', protocol: 17, payload: Uint8Array.of(0, 0) });
  const payload = Uint8Array.of(base[26]!, base[27]!);
  const packet = makePacket({ source: '10.0.0.1', destination: '10.0.0.2', protocol: 17, payload });
  t.is(packet.readUInt16BE(26), 0xffff);
  const batch = frames({ packet, flags: Flag.partialChecksum });
  batch.writeUInt16BE(0, HEADER + 26);
  t.true(completeChecksum(batch, 0));
  t.is(batch.readUInt16BE(HEADER + 26), 0xffff);
});

test('offload fields that do not fit the packet are refused', (t) => {
  const tcp = makePacket({ source: '10.0.0.1', destination: '10.0.0.2', protocol: 6, payload: new Uint8Array(100) });
  const udp = makePacket({ source: '10.0.0.1', destination: '10.0.0.2', protocol: 17, payload: new Uint8Array(100) });
  const bad = (packet: Buffer, flags: number, gsoSize: number, change?: (p: Buffer) => void) => {
    const batch = frames({ packet, flags, gsoSize });
    change?.(batch.subarray(HEADER));
    return offloadHeaders(batch, 0) === 0 && !new Segmenter().begin(batch, 0) && !completeChecksum(batch, 0);
  };
  t.false(bad(tcp, Flag.gsoTcp, 50));
  t.true(bad(tcp, Flag.gsoUdp, 50), 'another protocol');
  t.true(bad(udp, Flag.gsoTcp, 50));
  t.true(bad(tcp, Flag.gsoTcp | Flag.gsoUdp, 50));
  t.true(bad(tcp, Flag.gsoEcn, 0), 'ECN without segments');
  t.true(bad(udp, Flag.gsoUdp | Flag.gsoEcn, 50));
  t.true(bad(tcp, Flag.gsoTcp, 0), 'no segment size');
  t.true(
    bad(tcp, Flag.gsoTcp, 50, (p) => (p[6] = 0x20)),
    'a fragment',
  );
  t.true(
    bad(tcp, Flag.gsoTcp, 50, (p) => (p[32] = 0x40)),
    'TCP header shorter than 20',
  );
  t.true(bad(tcp, Flag.gsoTcp, 50, (p) => (p[32] = 0xf0)) === false, 'a longer one that still fits');
  t.true(
    bad(tcp, Flag.gsoTcp, 50, (p) => (p[33] = 0x02)),
    'SYN',
  );
  t.true(bad(tcp.subarray(0, 40), Flag.gsoTcp, 50), 'no payload');
  const long = makePacket({
    source: '10.0.0.1',
    destination: '10.0.0.2',
    protocol: 17,
    payload: new Uint8Array(MAX_UDP_SEGMENTS + 1),
  });
  t.true(bad(long, Flag.gsoUdp, 1), 'too many segments');
  t.false(bad(long, Flag.gsoUdp, 2));
  t.true(bad(tcp, Flag.gsoTcp, MIN_TCP_SEGMENT - 1), 'segments smaller than any kernel makes');
  t.false(bad(tcp, Flag.gsoTcp, MIN_TCP_SEGMENT));
});

test('IPv4 fragments join to the packet again, each valid and within the MTU (RFC 791 §3.2)', (t) => {
  fc.assert(
    fc.property(
      fc.uint8Array({ minLength: 100, maxLength: 4000, size: 'max' }),
      fc.integer({ min: 68, max: 1500 }),
      fc.boolean(),
      (payload, mtu, options) => {
        // Record route (not copied) and router alert (copied).
        const ipOptions = options ? [7, 7, 4, 0, 0, 0, 0, 148, 4, 0, 0, 0] : [];
        const packet = makePacket({
          source: '10.0.0.1',
          destination: '10.0.0.2',
          protocol: 17,
          payload,
          dontFragment: false,
          ipOptions,
        });
        const fragmenter = new Fragmenter();
        if (!fragmenter.begin(frames({ packet }), 0, mtu)) return mtu - 20 - ipOptions.length < 8;
        const pieces = cutAll(fragmenter);
        const header = 20 + ipOptions.length;
        const data: Buffer[] = [];
        for (const [i, piece] of pieces.entries()) {
          const offset = (piece.readUInt16BE(6) & 0x1fff) * 8;
          const more = (piece[6]! & 0x20) !== 0;
          if (piece.length > mtu || piece.readUInt16BE(2) !== piece.length) return false;
          if (slowChecksum([...piece.subarray(0, header)]) !== 0) return false;
          if (offset !== data.reduce((n, b) => n + b.length, 0) || more !== i < pieces.length - 1) return false;
          if (options && i > 0 && (piece[20] !== 1 || piece[27] !== 148)) return false;
          data.push(piece.subarray(header));
        }
        return Buffer.concat(data).equals(packet.subarray(header));
      },
    ),
    { numRuns: 200 },
  );
  t.pass();
});

test('a fragment that is fragmented again keeps its place and its "more" bit', (t) => {
  const packet = makePacket({
    source: '10.0.0.1',
    destination: '10.0.0.2',
    protocol: 17,
    payload: new Uint8Array(1000),
    dontFragment: false,
  });
  const fragmenter = new Fragmenter();
  fragmenter.begin(frames({ packet }), 0, 620);
  const [first, second] = cutAll(fragmenter);
  const offsets = (p: Buffer) => {
    fragmenter.begin(frames({ packet: p }), 0, 220);
    return cutAll(fragmenter).map((q) => [(q.readUInt16BE(6) & 0x1fff) * 8, (q[6]! & 0x20) !== 0]);
  };
  t.deepEqual(offsets(first!), [
    [0, true],
    [200, true],
    [400, true],
  ]);
  t.deepEqual(offsets(second!), [
    [600, true],
    [800, true],
    [1000, false],
  ]);
  t.is(lengthAt(frames({ packet: first! }), 0), 620);
});

// One TCP segment written and read: headers, options, payload copied once, checksum; 1,400-byte packets with and without the
// checksum, a super-packet, and a bare acknowledgement.

import { seededRandom } from '../../lib/core/index.js';
import { DEFAULT_TCP_OPTIONS, type TcpConfig } from '../../lib/l4/tcp/types.js';
import type { PacketWriter } from '../../lib/l4/wire/packet-writer.js';
import { TcpFlag, TcpSegment } from '../../lib/l4/wire/tcp.js';
import { beginTcp, finishTcp, TcpFields } from '../../lib/l4/wire/tcp-emit.js';
import type { MicroBench, MicroCase } from './shape.js';

const SLAB = 256 * 1024;

/** Goes round in one slab, as the driver's writer does. */
class Ring implements PacketWriter {
  readonly bytes = Buffer.allocUnsafeSlow(SLAB);
  private end = 0;

  reserve(length: number): number {
    if (this.end + length > SLAB) this.end = 0;
    return this.end;
  }

  commit(end: number): void {
    this.end = end;
  }
}

const config: TcpConfig = {
  localAddress: Uint8Array.of(10, 80, 0, 1),
  remoteAddress: Uint8Array.of(10, 80, 0, 2),
  localPort: 40_000,
  remotePort: 80,
  iss: 1,
  tsOffset: 0,
  mtu: 1_400,
  offload: true,
  random: seededRandom(1),
  options: DEFAULT_TCP_OPTIONS,
};

const payload = new Uint8Array(65_536).fill(7);
const views = new Map<number, Uint8Array>();

function emit(out: PacketWriter, f: TcpFields, length: number, offload: boolean, gsoSize: number, seq: number): void {
  f.reset(seq, 1, TcpFlag.ack, 65_535);
  f.timestamps = true;
  f.tsval = f.tsecr = seq;
  const at = beginTcp(out, config, f, length);
  if (length > 0) out.bytes.set(views.get(length)!, at);
  finishTcp(out, config, offload, gsoSize, length, false);
}

function emitCase(name: string, length: number, offload: boolean, gsoSize: number, ops: number): MicroCase {
  const out = new Ring();
  const f = new TcpFields();
  views.set(length, payload.subarray(0, length));
  return {
    name: `write, ${name}`,
    unit: 'packet',
    ops,
    ...(length > 0 && { bytes: length }),
    fn() {
      for (let i = 0; i < ops; i++) emit(out, f, length, offload, gsoSize, i * length);
    },
  };
}

function parseCase(ops: number): MicroCase {
  const out = new Ring();
  const length = 1_348;
  views.set(length, payload.subarray(0, length));
  const frames: number[] = [];
  const f = new TcpFields();
  for (let i = 0; i < 180; i++) {
    frames.push(out.reserve(1_408));
    emit(out, f, length, true, 0, i);
  }
  const segment = new TcpSegment();
  return {
    name: 'read headers and options',
    unit: 'packet',
    ops,
    fn() {
      for (let i = 0; i < ops; i++)
        if (!segment.parse(out.bytes, frames[i % frames.length]!)) throw new Error('not a segment');
    },
  };
}

export default {
  name: 'l4-segment',
  setup: (smoke) => {
    const n = smoke ? 10 : 1_000;
    return [
      emitCase('1,400 bytes, checksum', 1_348, false, 0, n),
      emitCase('1,400 bytes, partial checksum', 1_348, true, 0, n),
      emitCase('super-packet of 64 KB, partial checksum', 64_704, true, 1_348, Math.ceil(n / 20)),
      emitCase('acknowledgement, checksum', 0, false, 0, n),
      parseCase(n),
    ];
  },
} satisfies MicroBench;

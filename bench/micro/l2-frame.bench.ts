// The frame codec: a read of 64 KiB with whole frames parsed in place, the same cut at a frame's middle, and headers written.

import { HEADER, putHeader } from '../../lib/core/index.js';
import { controlFrame, Framer, type FrameSink, FrameType, flowHash } from '../../lib/l2/index.js';
import type { MicroBench, MicroCase } from './shape.js';

const READ = 64 * 1024;

function frames(size: number): { buf: Buffer; count: number } {
  const count = Math.floor(READ / (HEADER + size));
  const buf = Buffer.alloc(count * (HEADER + size));
  for (let i = 0; i < count; i++) {
    putHeader(buf, i * (HEADER + size), FrameType.packet, 0, 0, size);
    buf[i * (HEADER + size) + HEADER] = 0x45;
  }
  return { buf, count };
}

const isOpen = () => true;
let seen = 0;
const sink: FrameSink = {
  onPackets(start, end) {
    seen += end - start;
    return true;
  },
  onControlFrame(type) {
    seen += type;
    return true;
  },
};

function decode(name: string, size: number, cut: number, reads: number): MicroCase {
  const { buf, count } = frames(size);
  const framer = new Framer();
  return {
    name,
    unit: 'frame',
    bytes: HEADER + size,
    ops: count * reads,
    fn() {
      for (let i = 0; i < reads; i++) {
        const off = cut === 0 ? 0 : framer.parse(buf, 0, cut, isOpen, sink);
        framer.parse(buf, off, buf.length, isOpen, sink);
      }
    },
  };
}

export default {
  name: 'l2-frame',
  setup: (smoke) => {
    const reads = smoke ? 1 : 50;
    const { buf, count } = frames(56);
    const payload = new Uint8Array(6);
    const control = Buffer.concat(Array.from({ length: 1_000 }, () => controlFrame(FrameType.ping, payload)));
    const framer = new Framer();
    return [
      decode('decode, packets of 56 bytes', 56, 0, reads),
      decode('decode, packets of 56 bytes, cut in the middle', 56, READ / 2 + 3, reads),
      decode('decode, packets of 1400 bytes', 1_400, 0, reads),
      decode('decode, super-packets of 64,000 bytes', 64_000, 0, reads),
      {
        name: 'decode, control frames',
        unit: 'frame',
        ops: 1_000,
        fn: () => void framer.parse(control, 0, control.length, isOpen, sink),
      },
      {
        name: 'encode, header of a packet in place',
        unit: 'frame',
        ops: count * reads,
        fn() {
          for (let i = 0; i < reads; i++) {
            for (let off = 0; off < buf.length; off += HEADER + 56) putHeader(buf, off, 0, 0, 0, 56);
          }
        },
      },
      {
        name: 'encode, control frame of 6 bytes',
        unit: 'frame',
        ops: 100 * reads,
        fn() {
          for (let i = 0; i < 100 * reads; i++) seen += controlFrame(FrameType.ping, payload).length;
        },
      },
      {
        name: 'flow hash, IPv4',
        unit: 'packet',
        ops: count * reads,
        fn() {
          for (let i = 0; i < reads; i++) {
            for (let off = 0; off < buf.length; off += HEADER + 56) seen = (seen + flowHash(buf, off, 56)) | 0;
          }
        },
      },
    ];
  },
} satisfies MicroBench;

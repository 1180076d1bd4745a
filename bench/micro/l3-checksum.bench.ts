// The Internet checksum at the lengths that matter: a header, a small and a full packet, a super-packet; aligned and not.

import { sumOf } from '../../lib/l3/wire/checksum.js';
import type { MicroBench } from './shape.js';

const BYTES = 1 << 20;

export default {
  name: 'l3-checksum',
  setup: (smoke) => {
    const buf = Buffer.allocUnsafeSlow(BYTES);
    for (let i = 0; i < BYTES; i++) buf[i] = (i * 2_654_435_761) >>> 16;
    let sum = 0;
    return [20, 64, 1_400, 65_000].flatMap((length) =>
      (length < 1_400 ? [0] : [0, 1]).map((shift) => {
        const ops = smoke ? 1 : Math.max(1, Math.floor(1e6 / length));
        return {
          name: `${length} bytes${shift === 1 ? ', odd address' : ''}`,
          unit: 'range',
          bytes: length,
          ops,
          fn() {
            for (let i = 0; i < ops; i++) {
              const at = ((i * 1_408) % (BYTES - 70_000)) + shift;
              sum = (sum + sumOf(buf, at, at + length)) | 0;
            }
          },
        };
      }),
    );
  },
} satisfies MicroBench;

// Edge: streams that are refused before they get a connection. They hear why; a flood of them is just cut off.

import { type Clock, SECOND, Slab } from '../../core/index.js';
import type { ByteStream, StreamHandler } from '../transport.js';

/** Refused streams that may wait for their goodbye to be read. */
const AT_ONCE = 64;
/** What they send is read, so that the system does not answer it with a reset before the goodbye is there. */
const nowhere = new Uint8Array(64 * 1024 + 64);

export class TurnAway {
  private waiting = 0;

  constructor(private readonly clock: Clock) {}

  refuse(stream: ByteStream, goodbye: Uint8Array): void {
    if (this.waiting >= AT_ONCE) return stream.destroy();
    this.waiting++;
    let over = false;
    const handler: StreamHandler = {
      room: () => nowhere,
      hasPartial: false,
      onData() {},
      onDrain() {},
      datagramRoom: () => nowhere,
      onDatagram() {},
      onDatagramsDone() {},
      onClose: () => {
        if (!over) this.waiting--;
        over = true;
      },
    };
    stream.open(handler);
    const slab = Slab.of(goodbye);
    stream.write(slab, 0, goodbye.length);
    slab.release();
    stream.end();
    this.clock.at(this.clock.now() + SECOND, () => over || stream.destroy());
  }
}

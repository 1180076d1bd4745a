// The reference transport: streams joined in memory. Addresses are names: `kubebus://anything` of the same hub object.

import { KubeBusError, type Slab, turnTaking } from '../lib/core/index.js';
import {
  type AcceptHandler,
  type ByteStream,
  type Listener,
  type PeerIdentity,
  STREAM_HIGH_WATER,
  type StreamHandler,
  type Transport,
} from '../lib/l2/transport.js';

const NOBODY: PeerIdentity = {
  tenant: '',
  node: '',
  prefixes: [],
  authenticated: false,
  expires: Number.POSITIVE_INFINITY,
};

/** Everybody who holds the same object can reach its listener. */
export function memoryTransport(name = 'memory', defer: (fn: () => void) => void = turnTaking()): Transport {
  let accept: AcceptHandler | null = null;
  return {
    name,
    listen(handler): Promise<Listener> {
      accept = handler;
      const close = () => {
        accept = null;
        return Promise.resolve();
      };
      return Promise.resolve({ address: `kubebus://${name}`, close });
    },
    dial(_address, signal): Promise<ByteStream> {
      if (accept === null || signal.aborted) {
        return Promise.reject(new KubeBusError('ERR_CONNECT', `nobody listens on ${name}`));
      }
      const a = new MemoryStream(defer, name);
      const b = new MemoryStream(defer, name);
      a.other = b;
      b.other = a;
      const handler = accept;
      defer(() => handler.onStream(b));
      return Promise.resolve(a);
    },
  };
}

class MemoryStream implements ByteStream {
  readonly identity = NOBODY;
  other!: MemoryStream;
  pending = 0;
  lost = 0;
  private handler: StreamHandler | null = null;
  private readonly queue: { slab: Slab; start: number; end: number }[] = [];
  private paused = false;
  private scheduled = false;
  private ended = false;
  private closed = false;
  private needDrain = false;

  constructor(
    private readonly defer: (fn: () => void) => void,
    readonly remote: string,
  ) {}

  open(handler: StreamHandler): void {
    this.handler = handler;
    this.other.schedule();
  }

  write(slab: Slab, start: number, end: number): boolean {
    if (this.ended || this.closed) return true;
    slab.retain();
    this.queue.push({ slab, start, end });
    this.pending += end - start;
    this.schedule();
    if (this.pending >= STREAM_HIGH_WATER) this.needDrain = true;
    return !this.needDrain;
  }

  pause(): void {
    this.paused = true;
  }

  resume(): void {
    this.paused = false;
    this.other.schedule();
  }

  end(): void {
    if (this.closed) return;
    this.ended = true;
    this.schedule();
  }

  destroy(error?: Error): void {
    this.finish(error);
    this.other.finish();
  }

  private schedule(): void {
    if (this.scheduled || this.closed) return;
    this.scheduled = true;
    this.defer(() => {
      this.scheduled = false;
      this.pump();
    });
  }

  /** Moves what was written into the other side's room. */
  private pump(): void {
    const { other } = this;
    while (this.queue.length > 0 && other.handler !== null && !other.paused && !other.closed) {
      const chunk = this.queue[0]!;
      const room = other.handler.room();
      const n = Math.min(room.length, chunk.end - chunk.start);
      room.set(chunk.slab.bytes.subarray(chunk.start, chunk.start + n));
      chunk.start += n;
      this.pending -= n;
      if (chunk.start === chunk.end) {
        this.queue.shift();
        chunk.slab.release();
      }
      other.handler.onData(n);
    }
    if (this.closed) return;
    if (this.needDrain && this.pending === 0) {
      this.needDrain = false;
      this.handler?.onDrain();
    }
    if (this.ended && this.queue.length === 0) {
      this.finish();
      other.finish();
    }
  }

  private finish(error?: Error): void {
    if (this.closed) return;
    this.closed = true;
    for (const { slab } of this.queue) slab.release();
    this.queue.length = 0;
    this.lost = this.pending;
    this.pending = 0;
    this.defer(() => this.handler?.onClose(error));
  }
}

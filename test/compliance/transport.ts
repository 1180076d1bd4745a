// What every transport must do. A test file calls `transportCompliance(name, setup)`; `setup` makes a fresh pair of ends.

import test, { type ExecutionContext } from 'ava';
import { KubeBusError, type Micros, SECOND, Slab } from '../../lib/core/index.js';
import {
  type AcceptHandler,
  type ByteStream,
  type Listener,
  STREAM_HIGH_WATER,
  type StreamHandler,
  type Transport,
} from '../../lib/l2/index.js';

export interface TransportPair {
  /** What the cloud listens with (on a free port), and what a node dials with; may be the same object. */
  readonly listener: Transport;
  readonly dialer: Transport;
  /** What the certificates say, where there are any. */
  readonly identities?: { readonly node: { tenant: string; node: string }; readonly cloud: string };
  /** An address of the same form at which nobody listens; undefined: there is none. */
  readonly nobody?: string;
  close?(): void | Promise<void>;
}

/** Nothing may take longer, on however busy a machine; a test that waits for more hangs. */
const PATIENCE: Micros = 30 * SECOND;

/** One end: what came, and promises for what is to come. */
class End implements StreamHandler {
  hasPartial = false;
  readonly chunks: Buffer[] = [];
  bytes = 0;
  drains = 0;
  closes: (Error | undefined)[] = [];
  /** Depth of calls into the stream: callbacks must not come from inside. */
  private inside = 0;
  reentered = false;
  private readonly buffer = Buffer.alloc(64 * 1024);
  private readonly waiting: { done: () => boolean; resolve: () => void }[] = [];

  constructor(readonly stream: ByteStream) {
    this.call(() => stream.open(this));
  }
  call<T>(fn: () => T): T {
    this.inside++;
    try {
      return fn();
    } finally {
      this.inside--;
    }
  }
  write(bytes: Uint8Array): { slab: Slab; more: boolean } {
    const slab = Slab.of(bytes);
    const more = this.call(() => this.stream.write(slab, 0, bytes.length));
    slab.release();
    return { slab, more };
  }
  room(): Uint8Array {
    return this.buffer;
  }
  onData(length: number): void {
    this.event();
    this.chunks.push(Buffer.from(this.buffer.subarray(0, length)));
    this.bytes += length;
    this.check();
  }
  onDrain(): void {
    this.event();
    this.drains++;
    this.check();
  }
  datagramRoom(): Uint8Array {
    return this.buffer;
  }
  onDatagram(): void {
    this.event();
  }
  onDatagramsDone(): void {}
  onClose(error?: Error): void {
    this.event();
    this.closes.push(error);
    this.check();
  }
  forget(): void {
    this.chunks.length = 0;
    this.bytes = 0;
  }
  async until(what: string, done: () => boolean): Promise<void> {
    if (done()) return;
    let timer: NodeJS.Timeout | undefined;
    const late = new Promise<never>((_, reject) => {
      timer = setTimeout(() => reject(new Error(`never: ${what}`)), PATIENCE / 1000);
    });
    await Promise.race([new Promise<void>((resolve) => this.waiting.push({ done, resolve })), late]);
    clearTimeout(timer);
  }
  private event(): void {
    if (this.inside > 0) this.reentered = true;
  }
  private check(): void {
    for (const w of this.waiting.filter((w) => w.done())) {
      this.waiting.splice(this.waiting.indexOf(w), 1);
      w.resolve();
    }
  }
}

export function transportCompliance(name: string, setup: () => Promise<TransportPair>): void {
  const never = new AbortController().signal;

  /** Runs `body` with a connected pair, and takes everything down. */
  const connected = async (body: (node: End, cloud: End, pair: TransportPair, at: Listener) => Promise<void>) => {
    const pair = await setup();
    let accepted: (stream: ByteStream) => void = () => {};
    const stream = new Promise<ByteStream>((resolve) => {
      accepted = resolve;
    });
    const handler: AcceptHandler = { onStream: accepted, onRefused() {} };
    const listener = await pair.listener.listen(handler);
    try {
      const node = new End(await pair.dialer.dial(listener.address, never));
      // As a dialer does: it speaks first. A listener need not see a stream before that (RFC 9000 §2.1).
      node.write(Buffer.of(0));
      const cloud = new End(await stream);
      try {
        await cloud.until('the first byte', () => cloud.bytes === 1);
        cloud.forget();
        await body(node, cloud, pair, listener);
      } finally {
        node.stream.destroy();
        cloud.stream.destroy();
      }
      await node.until('the node is told of the end', () => node.closes.length > 0);
      await cloud.until('the cloud is told of the end', () => cloud.closes.length > 0);
    } finally {
      await listener.close();
      await pair.close?.();
    }
  };
  const given = (
    title: string,
    body: (t: ExecutionContext, ...ends: Parameters<Parameters<typeof connected>[0]>) => Promise<void>,
  ) =>
    test.serial(`${name}: ${title}`, (t) =>
      connected(async (...ends) => {
        await body(t, ...ends);
        t.false(ends[0].reentered || ends[1].reentered, 'no callback from inside a call');
      }),
    );
  const pattern = (n: number, seed: number) =>
    Buffer.from(Uint8Array.from({ length: n }, (_, i) => (i * 31 + seed * 17) >>> 2));

  given('says who the other end is, and names it for logs', async (t, node, cloud, { identities }) => {
    t.is(node.stream.identity.authenticated, identities !== undefined);
    t.is(cloud.stream.identity.authenticated, identities !== undefined);
    if (identities !== undefined) {
      t.like(cloud.stream.identity, identities.node);
      t.is(node.stream.identity.node, identities.cloud);
      t.true(cloud.stream.identity.expires > Date.now());
    }
    t.true(node.stream.remote.length > 0 && cloud.stream.remote.length > 0);
  });

  given('every byte arrives, once and in order, both ways at once, in writes of all sizes', async (t, node, cloud) => {
    const sizes = [1, 2, 7, 8, 1000, 65_536, 3, 200_000, 1, 16_384, 500_000];
    const parts = sizes.map(pattern);
    const all = Buffer.concat(parts);
    for (const part of parts) {
      node.write(part);
      cloud.write(part);
    }
    for (const end of [cloud, node]) {
      await end.until('all bytes', () => end.bytes >= all.length);
      t.true(Buffer.concat(end.chunks).equals(all));
    }
  });

  given('holds a slab while it needs the bytes, and not longer', async (t, node, cloud) => {
    const { slab } = node.write(pattern(300_000, 1));
    await cloud.until('all bytes', () => cloud.bytes === 300_000);
    if (node.stream.pending > 0) await node.until('nothing is pending', () => node.stream.pending === 0);
    // The last write is confirmed with the next answer at the latest.
    cloud.write(pattern(1, 1));
    await node.until('an answer', () => node.bytes === 1);
    t.is(slab.refs, 0);
  });

  given(
    'says no at the high-water mark at the latest, and drains when the reader reads again',
    async (t, node, cloud) => {
      cloud.call(() => cloud.stream.pause());
      let written = 0;
      const block = pattern(32 * 1024, 5);
      for (;;) {
        const { more } = node.write(block);
        written += block.length;
        if (!more) break;
        t.true(node.stream.pending < STREAM_HIGH_WATER);
        if (written > 64 << 20) return t.fail('64 MiB written to a reader that stopped, and never a no');
        await new Promise((resolve) => setImmediate(resolve));
      }
      t.true(node.stream.pending > 0);
      cloud.call(() => cloud.stream.resume());
      await node.until('a drain', () => node.drains > 0);
      t.true(node.stream.pending <= STREAM_HIGH_WATER);
      await cloud.until('all bytes', () => cloud.bytes === written);
    },
  );

  given('end: what was written arrives, then both are told, without an error and once', async (t, node, cloud) => {
    node.write(pattern(400_000, 3));
    node.call(() => node.stream.end());
    await cloud.until('all bytes', () => cloud.bytes === 400_000);
    await cloud.until('the end', () => cloud.closes.length > 0);
    await node.until('the end', () => node.closes.length > 0);
    t.deepEqual([node.closes, cloud.closes], [[undefined], [undefined]]);
  });

  given(
    'destroy: drops what waits and lets go of every slab; both are told once; later calls are harmless',
    async (t, node, cloud) => {
      cloud.call(() => cloud.stream.pause());
      const slabs: Slab[] = [];
      for (let i = 0; i < 40; i++) slabs.push(node.write(pattern(256 * 1024, i)).slab);
      node.call(() => node.stream.destroy());
      node.call(() => node.stream.destroy());
      await node.until('the end', () => node.closes.length > 0);
      cloud.call(() => cloud.stream.resume());
      await cloud.until('the end', () => cloud.closes.length > 0);
      t.is(slabs.filter((slab) => slab.refs !== 0).length, 0);
      const { slab, more } = node.write(pattern(10, 1));
      t.true(more);
      t.is(slab.refs, 0, 'a stream that is over takes nothing');
      node.call(() => node.stream.end());
      t.is(node.closes.length, 1);
      t.is(cloud.closes.length, 1);
    },
  );

  given('several dialers at once have streams of their own', async (t, node, cloud, { dialer }, { address }) => {
    const more = await Promise.all(Array.from({ length: 5 }, () => dialer.dial(address, never)));
    node.write(pattern(100, 1));
    await cloud.until('its own bytes', () => cloud.bytes === 100);
    for (const stream of more) stream.destroy();
    cloud.write(pattern(100, 2));
    await node.until('its own bytes', () => node.bytes === 100);
    t.deepEqual([node.closes, cloud.closes], [[], []], 'the others’ end is not ours');
  });

  test.serial(`${name}: a dial that fails or is aborted rejects with ERR_CONNECT`, async (t) => {
    const pair = await setup();
    const aborted = AbortSignal.abort();
    const listener = await pair.listener.listen({ onStream: (s) => s.destroy(), onRefused() {} });
    await t.throwsAsync(pair.dialer.dial(listener.address, aborted), { instanceOf: KubeBusError, code: 'ERR_CONNECT' });
    if (pair.nobody !== undefined) {
      const error = await t.throwsAsync(pair.dialer.dial(pair.nobody, never), { code: 'ERR_CONNECT' });
      t.true((error?.message.length ?? 0) > 10);
    }
    await listener.close();
    await pair.close?.();
  });
}

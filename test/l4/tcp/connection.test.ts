import { setImmediate } from 'node:timers/promises';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import test from 'ava';
import { Flag, gsoSizeAt, HEADER, lengthAt, Slab, SlabPool, seededRandom } from '../../../lib/core/index.js';
import { TcpConnection } from '../../../lib/l4/tcp/connection.js';
import { DEFAULT_TCP_OPTIONS, type TcpConfig, TcpEvent, type TcpMemory } from '../../../lib/l4/tcp/types.js';
import { SlabWriter } from '../../../lib/l4/wire/packet-writer.js';
import { TcpFlag, TcpSegment } from '../../../lib/l4/wire/tcp.js';
import { FrameWriter, join, makePeers, Transfer, World } from '../../support/sim-net.js';

const RANDOM = seededRandom(1);
const ADDRESSES = [Uint8Array.of(10, 0, 0, 1), Uint8Array.of(10, 0, 0, 2)] as const;

function config(side: 0 | 1, port: number, more: Partial<TcpConfig> = {}): TcpConfig {
  return {
    localAddress: ADDRESSES[side],
    remoteAddress: ADDRESSES[1 - side]!,
    localPort: side === 0 ? port : 80,
    remotePort: side === 0 ? 80 : port,
    iss: 0xfffffff0,
    tsOffset: 77,
    mtu: 1_400,
    offload: true,
    random: RANDOM,
    options: DEFAULT_TCP_OPTIONS,
    ...more,
  };
}

/** Two connections and what flies between them, delivered by `exchange`; `seen` keeps every frame. */
class Pair {
  now = 1_000_000;
  readonly a: TcpConnection;
  b!: TcpConnection;
  seen: Uint8Array[] = [];
  private flying: Uint8Array[] = [];
  private readonly segment = new TcpSegment();
  private readonly writer = new FrameWriter((frame) => {
    this.flying.push(frame);
    this.seen.push(frame);
  });

  constructor(port = 4_000, more: Partial<TcpConfig> = {}) {
    this.a = TcpConnection.connect(config(0, port, more), this.now);
    this.flush(this.a);
    this.segment.parse(this.flying.shift()!, 0);
    this.b = TcpConnection.accept(config(1, port, more), this.now, this.segment);
    this.exchange();
  }

  private flush(c: TcpConnection): void {
    while (c.pollTransmit(this.now, this.writer));
  }

  /** Until both are silent; a round trip takes 40 us. */
  exchange(): void {
    for (;;) {
      let any = false;
      for (const [from, to] of [
        [this.a, this.b],
        [this.b, this.a],
      ] as const) {
        this.now += 20;
        this.flush(from);
        const frames = this.flying;
        this.flying = [];
        for (const frame of frames) {
          any = true;
          this.segment.parse(frame, 0);
          to.handleSegment(this.now, this.segment);
        }
      }
      if (!any) return;
    }
  }

  pass(time: number): void {
    this.now += time;
    for (const c of [this.a, this.b]) c.handleTimeout(this.now);
    this.exchange();
  }
}

test('super-packets: up to 64 KiB, whole segments, partial checksum, and they fit four to a slab', (t) => {
  const pair = new Pair();
  for (let i = 0; i < 40; i++) {
    pair.a.write(Buffer.alloc(65_536, i));
    pair.exchange();
    while (pair.b.read() !== null);
    pair.exchange();
  }
  const supers = pair.seen.filter((f) => gsoSizeAt(f, 0) > 0);
  t.true(supers.length > 10);
  for (const frame of supers) {
    t.is(frame[1]! & (Flag.gsoTcp | Flag.partialChecksum), Flag.gsoTcp | Flag.partialChecksum);
    t.is(gsoSizeAt(frame, 0), 1_348);
    t.true(frame.length <= 65_536);
    t.is(lengthAt(frame, 0), (frame[HEADER + 2]! << 8) | frame[HEADER + 3]!);
  }
  t.true(supers.some((f) => f.length > 64_000));
});

test('the memory of all connections is accounted, and given back', (t) => {
  const memory: TcpMemory = { used: 0, limit: 64e6, refused: 0 };
  const world = new World(3);
  const [a, b] = makePeers(world, {}, { memory });
  join(world, a, b, { loss: 0.05, reorder: 0.1, duplicate: 0.05, delay: 5_000, mtu: 1_300 });
  const transfer = new Transfer(world, a, b, 400_000, 1);
  let most = 0;
  a.onEvents = (events) => transfer.handleSender(events);
  b.onEvents = (events) => {
    most = Math.max(most, memory.used);
    transfer.handleReceiver(events);
  };
  a.connect();
  t.true(world.run(world.now + 600e6, () => transfer.finished));
  b.pump();
  t.true(most > 0);
  t.is(memory.used, 0);
  // What nobody reads is given back when the connection is dropped.
  b.connection!.abort();
  t.is(memory.used, 0);
});

test('above the bound of all connections out-of-order data is refused, data in order is not', (t) => {
  const memory: TcpMemory = { used: 1_000, limit: 500, refused: 0 };
  const pair = new Pair(4_001, { memory });
  const segment = new TcpSegment();
  let frames: Uint8Array[] = [];
  const writer = new FrameWriter((frame) => frames.push(frame));
  pair.a.write(Buffer.alloc(1_000, 1));
  while (pair.a.pollTransmit(pair.now, writer));
  pair.a.write(Buffer.alloc(1_348, 2));
  while (pair.a.pollTransmit(pair.now, writer));
  t.is(frames.length, 2);
  frames = frames.reverse();
  segment.parse(frames[0]!, 0);
  pair.b.handleSegment(pair.now, segment);
  segment.parse(frames[1]!, 0);
  pair.b.handleSegment(pair.now, segment);
  t.is(pair.b.readable, 1_000);
});

test('TIME-WAIT lives on in an object of its own: answers a repeated FIN, lets a newer SYN through', (t) => {
  const pair = new Pair(4_002);
  pair.a.shutdown();
  pair.exchange();
  const last = pair.seen.length;
  pair.b.shutdown();
  pair.exchange();
  t.is(pair.a.state, 'TIME-WAIT');
  t.is(pair.b.state, 'CLOSED');
  const wait = pair.a.takeTimeWait()!;
  t.is(pair.a.takeTimeWait(), null);
  t.is(pair.a.pollDeadline(), Number.POSITIVE_INFINITY);
  t.true(Math.abs(wait.deadline - (pair.now + 60e6)) < 1_000);

  const segment = new TcpSegment();
  const fin = pair.seen
    .slice(last)
    .find((f) => segment.parse(f, 0) && segment.srcPort === 80 && (segment.flags & TcpFlag.fin) !== 0)!;
  segment.parse(fin, 0);
  const answers: Uint8Array[] = [];
  const writer = new FrameWriter((frame) => answers.push(frame));
  t.is(wait.handleSegment(pair.now + 5e6, segment), 'stay');
  while (wait.pollTransmit(pair.now + 5e6, writer));
  t.is(answers.length, 1);
  t.true(segment.parse(answers[0]!, 0) && segment.flags === TcpFlag.ack);
  t.is(wait.deadline, pair.now + 65e6);

  // RFC 6191: a SYN with a newer timestamp.
  let syn: Uint8Array = new Uint8Array(0);
  const again = TcpConnection.connect(config(1, 4_002, { iss: 5 }), pair.now + 6e6);
  while (again.pollTransmit(pair.now + 6e6, new FrameWriter((f) => (syn = f))));
  segment.parse(syn, 0);
  t.is(wait.handleSegment(pair.now + 6e6, segment), 'reopen');
});

test('a connection made from a SYN cookie has what the cookie preserved', (t) => {
  const now = 5e6;
  const writer = (sink: Uint8Array[]) => new FrameWriter((frame) => sink.push(frame));
  const segment = new TcpSegment();
  const client = TcpConnection.connect(config(0, 4_003), now);
  const sent: Uint8Array[] = [];
  while (client.pollTransmit(now, writer(sent)));
  segment.parse(sent[0]!, 0);
  // The SYN-ACK comes from a connection that is thrown away, as with cookies.
  const thrown = TcpConnection.accept(config(1, 4_003), now, segment);
  const irs = segment.seq;
  const answer: Uint8Array[] = [];
  while (thrown.pollTransmit(now, writer(answer)));
  segment.parse(answer[0]!, 0);
  client.handleSegment(now + 100, segment);
  client.write(Buffer.from('hello'));
  sent.length = 0;
  while (client.pollTransmit(now + 100, writer(sent)));
  segment.parse(sent[0]!, 0);
  const cookie = {
    irs,
    mss: 1_360,
    windowScale: 7,
    sackPermitted: true,
    timestamps: true,
    ecn: false,
    ourWindowScale: 7,
  };
  const server = TcpConnection.fromCookie(config(1, 4_003), now + 200, segment, cookie);
  for (const frame of sent) {
    segment.parse(frame, 0);
    server.handleSegment(now + 200, segment);
  }
  t.is(server.state, 'ESTABLISHED');
  t.true((server.pollEvents() & TcpEvent.established) !== 0);
  t.is(String(server.read()), 'hello');
});

test('written bytes may be changed at once, unless they were given away', (t) => {
  const pair = new Pair(4_004);
  const bytes = Buffer.alloc(10_000, 1);
  pair.a.write(bytes);
  bytes.fill(2);
  const given = Buffer.alloc(10_000, 3);
  pair.a.write(given, true);
  pair.exchange();
  const got: number[] = [];
  for (let b = pair.b.read(); b !== null; b = pair.b.read()) got.push(...b);
  t.is(got.length, 20_000);
  t.true(got.every((v, i) => v === (i < 10_000 ? 1 : 3)));
});

test('the writer hands over runs of frames and gives its slabs back', (t) => {
  const pool = new SlabPool(4_096, 4);
  const runs: number[] = [];
  const writer = new SlabWriter(pool, (slab, start, end) => {
    t.true(slab instanceof Slab);
    runs.push(end - start);
  });
  for (let i = 0; i < 10; i++) {
    const at = writer.reserve(1_000);
    writer.bytes.fill(i, at, at + 1_000);
    writer.commit(at + 1_000);
  }
  t.is(writer.pending, 10_000);
  t.is(runs.length, 0, 'reserve never sends');
  writer.flush();
  t.deepEqual(runs, [4_000, 4_000, 2_000]);
  t.is(writer.pending, 0);
  writer.close();
  t.is(pool.inUse, 0);
});

test('an idle connection costs less than 4 KB', async (t) => {
  setFlagsFromString('--expose-gc');
  const collect = runInNewContext('gc') as () => void;
  // The memory of array buffers is given back after the collection, by another thread.
  const gc = async () => {
    for (let i = 0; i < 3; i++) {
      collect();
      await setImmediate();
    }
  };
  const use = (port: number) => {
    const pair = new Pair(port);
    // It has worked before it is idle.
    pair.a.write(Buffer.alloc(300, 1));
    pair.exchange();
    pair.b.write(pair.b.read()!);
    pair.exchange();
    pair.a.read();
    pair.pass(100_000);
    return pair;
  };
  for (let i = 0; i < 300; i++) use(1_000 + i);
  const COUNT = 2_500;
  const kept: TcpConnection[] = new Array<TcpConnection>(2 * COUNT).fill(use(1).a);
  await gc();
  const before = process.memoryUsage();
  for (let i = 0; i < COUNT; i++) {
    const { a, b } = use(2_000 + i);
    kept[2 * i] = a;
    kept[2 * i + 1] = b;
  }
  await gc();
  const after = process.memoryUsage();
  const each = (after.heapUsed + after.arrayBuffers - before.heapUsed - before.arrayBuffers) / (2 * COUNT);
  t.log(`${Math.round(each)} bytes each`);
  t.true(kept.every((c) => c.state === 'ESTABLISHED' && c.unacknowledged === 0));
  t.true(each < 4_096, `${each} bytes`);
});

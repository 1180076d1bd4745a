// Hostile bytes at both ends of links: random, cut, oversized and almost right frames and hellos against whole hubs
// and dialers, and random operations on the machine. Nothing throws, hangs, or keeps memory; every end has a reason that is counted.

import test from 'ava';
import {
  type Clock,
  getU32,
  HEADER,
  KubeBusError,
  L2_ERROR_CODES,
  lengthAt,
  MS,
  putHeader,
  SECOND,
  type Slab,
  seededRandom,
} from '../../lib/core/index.js';
import { ConnectionMachine, type MachineOutput } from '../../lib/l2/connection-machine.js';
import { Connection, type ConnectionEvents } from '../../lib/l2/driver/connection.js';
import { resolveOptions } from '../../lib/l2/driver/options.js';
import { kubebus } from '../../lib/l2/gen/messages.js';
import type { ByteStream, StreamHandler } from '../../lib/l2/index.js';
import { controlFrame, FrameType, MAX_CONTROL } from '../../lib/l2/wire/frame.js';
import { numbered } from '../l2/support/frames.js';

const SEED = Number(process.env.KUBEBUS_FUZZ_SEED ?? 1);
const FRAMES = 600_000;
const OPERATIONS = 400_000;

const random = seededRandom(SEED);
const below = (n: number) => random.u32() % n;
const pick = <T>(list: readonly T[]): T => list[below(list.length)]!;
const bytes = (n: number) => {
  const buf = Buffer.allocUnsafe(n);
  random.fill(buf);
  return buf;
};

/** Time stands still unless the test moves it; no timer fires. */
class Stopped implements Clock {
  time = SECOND;
  now() {
    return this.time;
  }
  at() {
    return { cancel() {} };
  }
}

/** The end of a stream that the peer of the test is on. */
class Probe implements ByteStream {
  readonly identity = { tenant: '', node: '', prefixes: [], authenticated: false, expires: Number.POSITIVE_INFINITY };
  readonly remote = 'fuzz';
  pending = 0;
  over = false;
  written = 0;
  lastType = -1;
  lastFrame = Buffer.alloc(0);
  private handler: StreamHandler | null = null;
  open(handler: StreamHandler): void {
    this.handler = handler;
  }
  write(slab: Slab, start: number, end: number): boolean {
    this.written += end - start;
    this.lastType = slab.bytes[start]!;
    this.lastFrame = Buffer.from(slab.bytes.subarray(start, end));
    return true;
  }
  pause(): void {}
  resume(): void {}
  end(): void {
    this.over = true;
  }
  destroy(): void {
    this.over = true;
  }
  /** Bytes from the peer, as a transport hands them over: into the room, piece by piece. */
  feed(data: Uint8Array): void {
    for (let off = 0; off < data.length && !this.over; ) {
      const room = this.handler!.room();
      const n = Math.min(room.length, data.length - off, 1 + below(70_000));
      room.set(data.subarray(off, off + n));
      this.handler!.onData(n);
      off += n;
    }
  }
  close(): void {
    this.over = true;
    this.handler!.onClose();
  }
}

const goodHello = () =>
  kubebus.l2.Hello.encode({
    versions: [1],
    tenant: pick(['acme', 'other']),
    node: pick(['a', 'b', 'edge-1']),
    instance: bytes(16),
    mtu: 1280 + below(9000),
    features: below(4),
    connection: below(3),
    connections: below(4),
    session: below(3),
    agent: 'fuzz',
  }).finish();

/** One frame of the peer, from nonsense to flawless. */
function hostile(): Uint8Array {
  const how = below(16);
  if (how === 0) return bytes(below(60));
  if (how === 1) {
    const header = Buffer.alloc(HEADER);
    putHeader(
      header,
      0,
      random.u32() & 0xff,
      below(256),
      below(65_536),
      pick([0, 1, 4096, 4097, 65_536, 65_575, 65_576, 0x7fffffff, 0xffffffff]),
    );
    return header;
  }
  if (how < 5) return numbered(below(99), below(99), 32 + below(pick([10, 1400, 30_000])));
  const payload = pick([
    () => goodHello(),
    () => kubebus.l2.Ping.encode({ token: random.u32(), controlReceived: below(3) === 0 ? random.u32() : 0 }).finish(),
    () => kubebus.l2.Pong.encode({ token: below(4), controlReceived: 0 }).finish(),
    () =>
      kubebus.l2.Goodbye.encode({
        code: pick([...Object.keys(L2_ERROR_CODES), 'toString']),
        message: bytes(20).toString('latin1'),
      }).finish(),
    () => Buffer.concat([Buffer.from([0, 0, 0, below(4)]), bytes(below(40))]),
    () => bytes(below(100)),
    () => bytes(below(20) === 0 ? MAX_CONTROL + below(2) : below(5)),
  ])();
  const type = how < 13 ? 1 + below(5) : below(256);
  const frame = controlFrame(type, payload);
  if (how < 9) for (let k = below(4); k > 0; k--) frame[below(frame.length)] = random.u32();
  return how === 9 ? frame.subarray(0, below(frame.length + 1)) : frame;
}

test.serial(`${FRAMES} hostile frames at listeners and dialers (KUBEBUS_FUZZ_SEED=${SEED})`, (t) => {
  const clock = new Stopped();
  const options = resolveOptions({ clock }).connection;
  const { large, small } = options.buffers;
  const ends = new Map<string, number>();
  let connections = 0;
  let overs = 0;
  let packets = 0;
  let opened = 0;
  let unexplained = '';
  const events: ConnectionEvents = {
    onHello: (connection) => pick([() => connection.machine.accept(clock.time), () => {}])(),
    onOpen: () => void opened++,
    onPackets(slab, start, end) {
      for (let off = start; off < end; off += HEADER + lengthAt(slab.bytes, off)) packets++;
      if (slab.bytes[start] !== 0 || end > slab.bytes.length) unexplained ||= 'a run that is none';
      if (below(5000) === 0) throwAway();
    },
    onControl(connection, payload) {
      // A link would number them.
      if (payload.length >= 4 && getU32(payload, 0) > 1) connection.machine.fail('ERR_FRAME_MALFORMED', 'a gap');
    },
    controlReceived: () => 0,
    onControlReceived(connection, received) {
      if (received !== 0) connection.machine.fail('ERR_FRAME_MALFORMED', 'not sent');
    },
    onWritable() {},
    onOver(_connection, reason) {
      overs++;
      ends.set(`${reason.code} ${reason.side}`, (ends.get(`${reason.code} ${reason.side}`) ?? 0) + 1);
    },
  };
  let current: { probe: Probe; connection: Connection } | null = null;
  const throwAway = () => current?.connection.close(new KubeBusError('ERR_CLOSED', 'by its user, inside a call'));
  globalThis.gc?.();
  const before = process.memoryUsage().heapUsed;
  let frames = 0;
  while (frames < FRAMES) {
    const probe = new Probe();
    const role = below(4) === 0 ? 'dialer' : 'listener';
    const local = {
      tenant: 'acme',
      node: 'hub',
      instance: new Uint8Array(16),
      mtu: 1400,
      offload: true,
      partialChecksums: true,
      connection: 0,
      connections: 1,
      session: 1,
      keepalive: { interval: 10 * SECOND, deadAfter: 30 * SECOND },
      agent: 'fuzz',
    };
    const connection = new Connection(probe, role, local, options, events);
    current = { probe, connection };
    connections++;
    if (below(4) !== 0) probe.feed(controlFrame(FrameType.hello, goodHello()));
    for (let n = below(60); n >= 0 && !probe.over; n--) {
      const batch = Array.from({ length: 1 + below(8) }, hostile);
      frames += batch.length;
      probe.feed(Buffer.concat(batch));
      // What waits of one frame is never more than the longest frame.
      if (probe.over || below(30) !== 0) continue;
      clock.time += below(3) * SECOND;
      connection.machine.handleTimeout(clock.time);
    }
    if (probe.over && probe.lastType === FrameType.goodbye) {
      const { code, message } = kubebus.l2.Goodbye.decode(probe.lastFrame.subarray(HEADER));
      if (!(code in L2_ERROR_CODES || code === 'ERR_CLOSED') || message === '')
        unexplained ||= `goodbye ${code} ${message}`;
      if (probe.lastFrame.length > HEADER + 4096) unexplained ||= 'a goodbye that is too long before the hello';
    }
    if (!probe.over) probe.close();
    if (overs !== connections) unexplained ||= `${overs} ends of ${connections} connections`;
    if (large.inUse + small.inUse !== 0) return t.fail(`slabs are kept: ${large.inUse} and ${small.inUse}`);
  }
  t.is(unexplained, '');
  t.true(opened > connections / 4 && packets > FRAMES / 20, `${opened} opened, ${packets} packets`);
  // Each kind of end was met, and each is counted by its reason.
  for (const end of [
    'ERR_FRAME_TOO_LONG local',
    'ERR_FRAME_MALFORMED local',
    'ERR_FRAME_UNKNOWN_CRITICAL local',
    'ERR_HELLO_MALFORMED local',
    'ERR_VERSION local',
    'ERR_PEER_GOODBYE remote',
    'ERR_DUPLICATE_NODE remote',
    'ERR_TRANSPORT remote',
  ])
    t.true((ends.get(end) ?? 0) > 0, `${end}: ${JSON.stringify([...ends])}`);
  t.is(
    [...ends.values()].reduce((a, b) => a + b, 0),
    connections,
  );
  globalThis.gc?.();
  const grown = process.memoryUsage().heapUsed - before;
  t.true(grown < 64 << 20, `heap grew by ${grown} bytes`);
  t.log(`${frames} frames on ${connections} connections, ${packets} packets taken`);
});

test.serial(`${OPERATIONS} random operations on pairs of machines (KUBEBUS_FUZZ_SEED=${SEED})`, (t) => {
  const sent = [0, 0];
  let broken = '';
  let opens = 0;
  const local = (i: number) => ({
    tenant: 'acme',
    node: i === 0 ? 'edge' : 'hub',
    instance: new Uint8Array(16).fill(i),
    mtu: 1280 + below(500),
    offload: below(2) === 0,
    partialChecksums: below(2) === 0,
    connection: 0,
    connections: 1,
    session: 1,
    keepalive: { interval: 10 * SECOND, deadAfter: 30 * SECOND },
    agent: '',
  });
  let operations = 0;
  while (operations < OPERATIONS) {
    let now = 0;
    const wires: [number, Uint8Array][][] = [[], []];
    const over = [0, 0];
    const machines: ConnectionMachine[] = [];
    const opened = [false, false];
    const output = (i: number): MachineOutput => ({
      sendFrame(type, payload) {
        if (over[i]! > 0) broken ||= 'a frame after the end';
        sent[i]!++;
        wires[i]!.push([type, Uint8Array.from(payload)]);
      },
      onPing: (token) => machines[i]!.sendPong(token),
      controlReceived: () => 0,
      onControlReceived() {},
      onHello() {
        if (i === 0) broken ||= 'a dialer judges';
      },
      onOpen() {
        if (opened[i]) broken ||= 'opened twice';
        opened[i] = true;
        opens++;
      },
      onControl() {
        if (!opened[i]) broken ||= 'control before it is open';
      },
      onOver: () => void over[i]!++,
    });
    machines.push(
      new ConnectionMachine(0, 'dialer', local(0), new Probe().identity, 5 * SECOND, output(0)),
      new ConnectionMachine(0, 'listener', local(1), new Probe().identity, 5 * SECOND, output(1)),
    );
    machines[0]!.start();
    for (let step = 5 + below(120); step > 0; step--, operations++) {
      const i = below(2);
      const m = machines[i]!;
      const what = below(100);
      if (what < 55) {
        const frame = wires[1 - i]!.shift();
        if (frame !== undefined) {
          m.keepalive.handleBytes(now);
          m.handleFrame(now, frame[0], frame[1]);
        }
      } else if (what < 70) m.accept(now);
      else if (what < 88) {
        now += below(4000) * MS;
        m.handleTimeout(now);
        if (m.state !== 'over' && m.pollDeadline() < now - 30 * SECOND) broken ||= 'a deadline that is never met';
      } else if (what < 93) {
        if (m.state === 'open') m.sendPing(now);
      } else if (what < 96) m.handleFrame(now, below(256), bytes(below(30)));
      else if (what < 97) m.fail('ERR_TENANT_UNKNOWN', 'no');
      else if (what < 98) m.over(new KubeBusError('ERR_TRANSPORT', 'gone'), null);
      if (over[0]! > 1 || over[1]! > 1) broken ||= 'over twice';
      if (m.state === 'over' && over[i] !== 1) broken ||= 'over without a word';
    }
    // Left alone, each machine ends or is open, in bounded time.
    for (const m of machines) {
      for (let k = 0; k < 4 && m.state !== 'over'; k++) m.handleTimeout((now += 31 * SECOND));
      if (m.state !== 'over') broken ||= `still ${m.state} after two minutes of silence`;
    }
    if (broken !== '') break;
  }
  t.is(broken, '');
  t.true(opens > 1000, `${opens} opens`);
  t.log(`${operations} operations, ${sent[0]! + sent[1]!} frames sent`);
});

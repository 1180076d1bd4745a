// Hostile segments in every state: nothing is thrown, nothing hangs, nothing grows without bound.
//
//     KUBEBUS_FUZZ_SEED=77 npx ava test/l4/tcp/fuzz.test.ts        repeats one run

import test from 'ava';
import { HEADER, type Random, seededRandom } from '../../../lib/core/index.js';
import { TcpConnection } from '../../../lib/l4/tcp/connection.js';
import { MAX_RANGES } from '../../../lib/l4/tcp/reassembler.js';
import { TCP_TRANSITIONS, type TcpState } from '../../../lib/l4/tcp/state.js';
import { DEFAULT_TCP_OPTIONS, type TcpConfig } from '../../../lib/l4/tcp/types.js';
import { TcpFlag, TcpSegment } from '../../../lib/l4/wire/tcp.js';
import { beginTcp, finishTcp, TcpFields } from '../../../lib/l4/wire/tcp-emit.js';
import { FrameWriter } from '../../support/sim-net.js';

const ONE = process.env.KUBEBUS_FUZZ_SEED;
const SEEDS = ONE === undefined ? Number(process.env.KUBEBUS_FUZZ_SEEDS ?? 300) : 1;
const STEPS = 300;
const LIMIT = 65_536;
const ISS = 1_000;
const IRS = 5_000;

const local = Uint8Array.of(10, 0, 0, 1);
const remote = Uint8Array.of(10, 0, 0, 2);

class Target {
  now = 1_000_000;
  readonly config: TcpConfig;
  connection!: TcpConnection;
  readonly seen = new TcpSegment();
  /** What the attacker has seen on the wire, so that its numbers are close. */
  theirNxt = IRS + 1;
  ourNxt = ISS + 1;
  packets = 0;
  /** While the state is being reached. */
  private polite = true;
  private readonly writer: FrameWriter;
  private frame: Uint8Array = new Uint8Array(0);

  constructor(readonly random: Random) {
    this.config = {
      localAddress: local,
      remoteAddress: remote,
      localPort: 1,
      remotePort: 2,
      iss: ISS,
      tsOffset: 0,
      mtu: 1_400,
      offload: random.float() < 0.5,
      random,
      options: {
        ...DEFAULT_TCP_OPTIONS,
        receiveBuffer: 8_192,
        maxReceiveBuffer: LIMIT,
        maxSendBuffer: LIMIT,
        timestamps: random.float() < 0.7,
        sack: random.float() < 0.8,
        keepAlive: random.float() < 0.3,
        congestion: random.float() < 0.5 ? 'cubic' : 'reno',
      },
    };
    this.writer = new FrameWriter((frame) => {
      this.packets++;
      if (!this.seen.parse(frame, 0)) throw new Error('we sent a packet that does not parse');
      this.theirNxt = this.seen.ack;
      this.ourNxt = (this.seen.seq + this.seen.seqLength) | 0;
    });
  }

  /** A connection brought to `state` in the ordinary way. */
  reach(state: TcpState): void {
    this.converse(state);
    this.polite = false;
  }

  private converse(state: TcpState): void {
    const { now } = this;
    const passive = state === 'SYN-RECEIVED';
    if (passive) this.connection = TcpConnection.accept(this.config, now, this.make(TcpFlag.syn, IRS, 0, 0));
    else this.connection = TcpConnection.connect(this.config, now);
    this.poll();
    if (passive || state === 'SYN-SENT') return;
    this.give(TcpFlag.syn | TcpFlag.ack, IRS, ISS + 1);
    if (state === 'CLOSED') this.connection.abort();
    if (state === 'CLOSE-WAIT' || state === 'LAST-ACK') this.give(TcpFlag.fin | TcpFlag.ack, IRS + 1, ISS + 1);
    if (
      state === 'FIN-WAIT-1' ||
      state === 'FIN-WAIT-2' ||
      state === 'CLOSING' ||
      state === 'LAST-ACK' ||
      state === 'TIME-WAIT'
    )
      this.connection.shutdown();
    this.poll();
    if (state === 'FIN-WAIT-2' || state === 'TIME-WAIT') this.give(TcpFlag.ack, IRS + 1, ISS + 2);
    if (state === 'CLOSING') this.give(TcpFlag.fin | TcpFlag.ack, IRS + 1, ISS + 1);
    if (state === 'TIME-WAIT') this.give(TcpFlag.fin | TcpFlag.ack, IRS + 1, ISS + 2);
  }

  give(flags: number, seq: number, ack: number, length = 0): void {
    this.connection.handleSegment(this.now, this.make(flags, seq, ack, length));
    this.poll();
  }

  make(flags: number, seq: number, ack: number, length: number): TcpSegment {
    const { random } = this;
    const f = new TcpFields();
    const window = random.float() < 0.2 ? Math.floor(random.float() * 4) : random.u32() & 0xffff;
    f.reset(seq | 0, ack | 0, flags, this.polite ? 5_000 : window);
    if (flags & TcpFlag.syn) {
      f.mss = 1 + Math.floor(random.float() * 1_460);
      f.windowScale = Math.floor(random.float() * 20) - 1;
      f.sackPermitted = random.float() < 0.8;
    }
    f.timestamps = this.config.options.timestamps;
    f.tsval = Math.floor(this.now / 1_000) - (random.float() < 0.1 && !this.polite ? 5_000 : 0);
    f.tsecr = Math.floor(this.now / 1_000) - Math.floor(random.float() * 300);
    if (!(flags & TcpFlag.syn) && !this.polite && random.float() < 0.5) {
      f.sackCount = 1 + Math.floor(random.float() * 3);
      for (let i = 0; i < 2 * f.sackCount; i++) f.sack[i] = this.near(this.ourNxt, 20_000);
    }
    f.ecn = Math.floor(random.float() * 4);
    const writer = new FrameWriter((frame) => {
      this.frame = frame;
    });
    const back = { ...this.config, localAddress: remote, remoteAddress: local, localPort: 2, remotePort: 1 };
    beginTcp(writer, back, f, length);
    finishTcp(writer, back, true, 0, length, false);
    const { frame } = this;
    // Some options are only bytes.
    if (random.float() < 0.1 && !this.polite)
      for (let at = HEADER + 40; at < frame.length - length; at++) frame[at] = random.u32();
    const segment = new TcpSegment();
    if (!segment.parse(frame, 0)) throw new Error('the packet of the test does not parse');
    return segment;
  }

  near(value: number, spread: number): number {
    const r = this.random.float();
    if (r < 0.4) return value | 0;
    if (r < 0.9) return (value + Math.floor((this.random.float() - 0.5) * spread)) | 0;
    return this.random.u32() | 0;
  }

  step(): void {
    const { random, connection: c } = this;
    this.now += random.float() < 0.1 ? random.float() * 3e6 : random.float() * 20_000;
    const r = random.float();
    if (r < 0.75) {
      const flags = random.float() < 0.6 ? TcpFlag.ack : random.u32() & 0xff;
      const length = random.float() < 0.5 ? 0 : Math.floor(random.float() * 1_300);
      c.handleSegment(
        this.now,
        this.make(flags, this.near(this.theirNxt, 60_000), this.near(this.ourNxt, 10_000), length),
      );
    } else if (r < 0.85) c.handleTimeout(this.now);
    else if (r < 0.9) c.write(new Uint8Array(Math.floor(random.float() * 5_000)));
    else if (r < 0.95) c.read(Math.floor(random.float() * 5_000));
    else if (r < 0.97) c.handleIcmp(this.now, 'packet-too-big', this.near(this.ourNxt, 3_000), random.u32() & 0x7ff);
    else if (r < 0.98) c.handlePath(this.now, 300 + Math.floor(random.float() * 2_000), random.float() < 0.5);
    else if (r < 0.985) c.shutdown();
    else if (r < 0.987) c.close();
    this.poll();
  }

  poll(): void {
    const { connection: c } = this;
    if (c === undefined) return;
    const before = this.packets;
    while (c.pollTransmit(this.now, this.writer)) {
      if (this.packets - before > 5_000) throw new Error('does not stop sending');
    }
    c.pollEvents();
    if (Number.isNaN(c.pollDeadline())) throw new Error('the deadline is not a number');
    if (c.readable > LIMIT) throw new Error(`${c.readable} bytes wait`);
    if (c.unacknowledged > LIMIT) throw new Error('the send buffer grew');
    if (!(c.cwnd >= 1) || c.cwnd > 1e9) throw new Error(`cwnd ${c.cwnd}`);
    const inside = c as unknown as {
      receiver: { ranges: number; outOfOrder: number };
      sender: { recovery: { board: { count: number } } };
    };
    if (inside.receiver.ranges > MAX_RANGES || inside.receiver.outOfOrder > LIMIT)
      throw new Error('the reassembler grew');
    if (inside.sender.recovery.board.count > LIMIT) throw new Error('the scoreboard grew');
  }
}

for (const state of Object.keys(TCP_TRANSITIONS) as TcpState[]) {
  if (state === 'LISTEN') continue; // the stack's
  test.serial(`any segments in ${state}`, async (t) => {
    const reached = new Set<TcpState>();
    for (let i = 1; i <= SEEDS; i++) {
      if (i % 50 === 0) await new Promise((resolve) => setImmediate(resolve));
      const seed = ONE === undefined ? i : Number(ONE);
      const target = new Target(seededRandom(seed));
      try {
        target.reach(state);
        if (target.connection.state !== state) throw new Error(`reached ${target.connection.state}`);
        for (let step = 0; step < STEPS; step++) {
          target.step();
          reached.add(target.connection.state);
        }
      } catch (error) {
        t.fail(
          `seed ${seed}: ${(error as Error).stack}\nrepeat: KUBEBUS_FUZZ_SEED=${seed} npx ava test/l4/tcp/fuzz.test.ts`,
        );
        return;
      }
    }
    t.true(reached.has(state));
    if (state !== 'CLOSED' && state !== 'TIME-WAIT')
      t.true(reached.has('CLOSED'), 'no run ended the connection: the segments are too wrong');
  });
}

test('any bytes as a frame: a segment or not, but never beyond the frame', (t) => {
  const random = seededRandom(5);
  const segment = new TcpSegment();
  let good = 0;
  for (let i = 0; i < 100_000; i++) {
    const length = Math.floor(random.float() * 120);
    const frame = new Uint8Array(HEADER + length);
    random.fill(frame);
    frame.set([0, 0, 0, 0, 0, 0, 0, random.float() < 0.9 ? length : random.u32() & 0xff]);
    const v6 = random.float() < 0.5;
    frame[HEADER] = v6 ? 0x60 : 0x45 + (random.float() < 0.2 ? 3 : 0);
    if (v6) frame[HEADER + 6] = random.float() < 0.8 ? 6 : 60;
    else {
      frame[HEADER + 9] = 6;
      frame[HEADER + 6] = frame[HEADER + 7] = 0;
    }
    if (!segment.parse(frame, 0)) continue;
    good++;
    if (segment.payload + segment.length > frame.length || segment.length < 0 || segment.tcp + 20 > segment.payload)
      t.fail(`frame ${i}`);
    if (segment.sackCount > 4) t.fail(`frame ${i}: sack blocks`);
  }
  t.true(good > 1_000);
});

// Against the TCP of the kernel, through a TUN device in a network namespace: both roles, both address families, with and
// without offload, clean and with seeded loss, reordering, duplication and corruption between the two. What crossed is
// captured, and tshark's expert analysis has to find nothing that is malformed or against the protocol.

import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import test, { type ExecutionContext } from 'ava';
import { HEADER, lengthAt, type Random, Slab, seededRandom, systemClock } from '../../../lib/core/index.js';
import { openTun, type TunDevice } from '../../../lib/l3/tun.js';
import { TcpConnection } from '../../../lib/l4/tcp/connection.js';
import { DEFAULT_TCP_OPTIONS, type TcpConfig, TcpEvent } from '../../../lib/l4/tcp/types.js';
import { TcpSegment } from '../../../lib/l4/wire/tcp.js';
import { checksumGood, FrameWriter } from '../../support/sim-net.js';

const PEER = fileURLToPath(new URL('./kernel-peer.mjs', import.meta.url));
const NS = `kbt${process.pid}`;
const DEV = `kbt${process.pid % 100_000}`;
const OURS = { 4: Uint8Array.of(10, 97, 0, 2), 6: Uint8Array.of(0xfd, 0x97, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2) };
const KERNELS = {
  4: Uint8Array.of(10, 97, 0, 1),
  6: Uint8Array.of(0xfd, 0x97, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1),
};

const ip = (...args: string[]) => execFileSync('ip', args, { stdio: 'pipe' });

function missing(): string | null {
  if (process.getuid?.() !== 0) return 'root';
  for (const tool of ['ip', 'tshark']) {
    try {
      execFileSync('which', [tool], { stdio: 'ignore' });
    } catch {
      return tool;
    }
  }
  try {
    openTun({ name: 'kbprobe%d' }).close();
  } catch (error) {
    return (error as Error).message;
  }
  return null;
}

interface Impairment {
  loss: number;
  reorder: number;
  duplicate: number;
  corrupt: number;
}
const CLEAN: Impairment = { loss: 0, reorder: 0, duplicate: 0, corrupt: 0 };
const ROUGH: Impairment = { loss: 0.02, reorder: 0.05, duplicate: 0.02, corrupt: 0.01 };

/** One connection of ours on a TUN device, on the real clock. */
class Host {
  connection: TcpConnection | null = null;
  onEvents: (events: number) => void = () => {};
  private timer: { cancel(): void } | null = null;
  private readonly writer = new FrameWriter((frame) =>
    this.impair(frame, (f) => this.tun.send(Slab.of(f), 0, f.length)),
  );
  private readonly segment = new TcpSegment();

  constructor(
    private readonly tun: TunDevice,
    private readonly impairment: Impairment,
    private readonly random: Random,
    private readonly config: (segment: TcpSegment | null) => TcpConfig,
  ) {
    tun.open({
      onPackets: (slab, start, end) => {
        for (let off = start; off < end; ) {
          const next = off + HEADER + lengthAt(slab.bytes, off);
          this.impair(Uint8Array.from(slab.bytes.subarray(off, next)), (frame) => this.receive(frame));
          off = next;
        }
      },
      onClose() {},
    });
  }

  connect(): void {
    this.connection = TcpConnection.connect(this.config(null), systemClock.now());
    this.pump();
  }

  private impair(frame: Uint8Array, deliver: (frame: Uint8Array) => void): void {
    const { impairment: im, random } = this;
    if (random.float() < im.loss) return;
    if (random.float() < im.duplicate) deliver(Uint8Array.from(frame));
    // A super-packet is not corrupted: its checksum is still to be made.
    if (random.float() < im.corrupt && !(frame[1]! & 0x08)) frame[frame.length - 1]! ^= 0x10;
    if (random.float() < im.reorder) systemClock.at(systemClock.now() + 3_000, () => deliver(frame));
    else deliver(frame);
  }

  private receive(frame: Uint8Array): void {
    const { segment } = this;
    if (!segment.parse(frame, 0) || !checksumGood(frame, segment)) return;
    const now = systemClock.now();
    if (this.connection !== null) this.connection.handleSegment(now, segment);
    else if ((segment.flags & 0x12) === 2) this.connection = TcpConnection.accept(this.config(segment), now, segment);
    this.pump();
  }

  pump(): void {
    const c = this.connection;
    if (c === null) return;
    for (let again = true; again; ) {
      const now = systemClock.now();
      while (c.pollTransmit(now, this.writer));
      const events = c.pollEvents();
      again = events !== 0;
      if (again) this.onEvents(events);
    }
    this.timer?.cancel();
    const deadline = c.pollDeadline();
    if (deadline === Number.POSITIVE_INFINITY) return;
    this.timer = systemClock.at(deadline, () => {
      c.handleTimeout(systemClock.now());
      this.pump();
    });
  }

  stop(): void {
    this.timer?.cancel();
    this.tun.close();
  }
}

const pattern = (i: number) => ((i * 131) ^ (i >>> 9)) & 0xff;

function setUp(offload: boolean): TunDevice {
  ip('netns', 'add', NS);
  const tun = openTun({ name: DEV, offload });
  ip('link', 'set', DEV, 'netns', NS);
  const inside = (...args: string[]) => ip('-n', NS, ...args);
  inside('link', 'set', 'lo', 'up');
  inside('addr', 'add', '10.97.0.1/24', 'dev', DEV);
  inside('addr', 'add', 'fd97::1/64', 'dev', DEV, 'nodad');
  inside('link', 'set', DEV, 'mtu', '1400', 'up');
  return tun;
}

async function capture(file: string): Promise<ChildProcess> {
  const tshark = spawn('ip', ['netns', 'exec', NS, 'tshark', '-q', '-i', DEV, '-w', file, '-f', 'tcp'], {
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  for await (const text of tshark.stderr!) if (/Capturing|started/.test(String(text))) break;
  return tshark;
}

/** What tshark's expert finds malformed or an error; "impaired" runs have retransmissions and the like, which are only notes. */
function expertErrors(file: string): string {
  const out = execFileSync('tshark', ['-r', file, '-o', 'tcp.check_checksum:FALSE', '-q', '-z', 'expert,error'], {
    encoding: 'utf8',
  });
  return out
    .split('\n')
    .filter((line) => /^\s+\d+\s/.test(line))
    .join('\n');
}

async function run(
  t: ExecutionContext,
  version: 4 | 6,
  role: 'client' | 'server',
  offload: boolean,
  impairment: Impairment,
  bytes: number,
): Promise<void> {
  const directory = mkdtempSync(join(tmpdir(), 'kubebus-kernel-'));
  const file = join(directory, 'run.pcapng');
  const random = seededRandom(bytes + version);
  let host: Host | null = null;
  const children: ChildProcess[] = [];
  try {
    const tun = setUp(offload);
    const config = (segment: TcpSegment | null): TcpConfig => ({
      localAddress: OURS[version],
      remoteAddress: KERNELS[version],
      localPort: segment?.dstPort ?? 40_000,
      remotePort: segment?.srcPort ?? 7,
      iss: random.u32(),
      tsOffset: random.u32(),
      mtu: 1_400,
      offload: tun.takesOffload,
      random,
      options: DEFAULT_TCP_OPTIONS,
    });
    host = new Host(tun, impairment, random, config);
    const tshark = await capture(file);
    children.push(tshark);
    if (role === 'client') await sendAndCheck(t, host, children, bytes);
    else await echo(t, host, children, version, bytes);
    tshark.kill('SIGINT');
    await once(tshark, 'exit');
    t.is(expertErrors(file), '');
    t.log(JSON.stringify(host.connection!.stats()));
  } finally {
    host?.stop();
    for (const child of children) child.kill('SIGKILL');
    ip('netns', 'del', NS);
    rmSync(directory, { recursive: true });
  }
}

async function sendAndCheck(t: ExecutionContext, host: Host, children: ChildProcess[], bytes: number): Promise<void> {
  const peer = spawn('ip', ['netns', 'exec', NS, process.execPath, PEER, 'echo', '7'], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  children.push(peer);
  await once(peer.stdout!, 'data');
  let sent = 0;
  let got = 0;
  let wrong = -1;
  const done = new Promise<void>((resolve) => {
    host.onEvents = (events) => {
      const c = host.connection!;
      if (events & (TcpEvent.established | TcpEvent.writable)) {
        while (sent < bytes && c.writable > 0) {
          const chunk = Buffer.alloc(Math.min(16_384, bytes - sent, c.writable));
          for (let i = 0; i < chunk.length; i++) chunk[i] = pattern(sent + i);
          sent += c.write(chunk);
        }
        if (sent === bytes) c.shutdown();
        else c.write(new Uint8Array(0x10_0000).subarray(0, 0));
      }
      for (let data = c.read(); data !== null; data = c.read()) {
        for (const byte of data) if (byte !== pattern(got++) && wrong < 0) wrong = got - 1;
      }
      // The buffer was filled to the brim: the next event comes with room.
      if (sent < bytes && c.writable === 0) c.write(Buffer.of(pattern(sent)));
      if (c.ended || c.state === 'CLOSED') resolve();
    };
  });
  host.connect();
  await done;
  t.is(wrong, -1);
  t.is(got, bytes);
  t.is(host.connection!.reason, 'none');
}

async function echo(
  t: ExecutionContext,
  host: Host,
  children: ChildProcess[],
  version: 4 | 6,
  bytes: number,
): Promise<void> {
  let waiting: Buffer | null = null;
  host.onEvents = () => {
    const c = host.connection!;
    for (;;) {
      waiting ??= c.read(32_768);
      if (waiting === null) break;
      const n = c.write(waiting);
      if (n < waiting.length) {
        waiting = waiting.subarray(n);
        break;
      }
      waiting = null;
    }
    if (c.ended && waiting === null) c.shutdown();
  };
  const address = version === 4 ? '10.97.0.2' : 'fd97::2';
  const peer = spawn('ip', ['netns', 'exec', NS, process.execPath, PEER, 'client', address, '99', String(bytes)], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  children.push(peer);
  const [text] = await once(peer.stdout!, 'data');
  t.is(String(text).trim(), 'good');
}

const absent = missing();
for (const version of [4, 6] as const) {
  for (const role of ['client', 'server'] as const) {
    for (const [offload, impairment, name] of [
      [true, CLEAN, 'offload, clean'],
      [false, CLEAN, 'plain, clean'],
      [false, ROUGH, 'plain, impaired'],
      [true, ROUGH, 'offload, impaired'],
    ] as const) {
      test.serial(`as ${role} with the kernel, IPv${version}, ${name}`, async (t) => {
        if (absent !== null) {
          if (process.env.KUBEBUS_REQUIRE_ALL === '1') t.fail(`needs ${absent}`);
          else t.log(`skipped: needs ${absent}`);
          t.pass();
          return;
        }
        t.timeout(60_000);
        await run(t, version, role, offload, impairment, impairment === CLEAN ? 5_000_000 : 700_000);
      });
    }
  }
}

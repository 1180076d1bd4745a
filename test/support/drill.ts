// TCP scripts: a dialogue between one connection and a scripted peer, in a notation close to packetdrill's.
//
//     # comment                      one step a line; empty lines and comments are skipped
//     0.100 STEP                     at this many seconds;  +0.1 STEP: so long after the last step;  * STEP: whenever (outputs)
//
// Packets. Sequence numbers are relative: each side's SYN is 0. Flags: S F R P . (ACK) U E (ECE) W (CWR).
//     < S. 0:0(0) ack 1 win 65535 <mss 1000,sackOK>        the peer sends
//     > P. 1:1001(1000) ack 1                              we must send exactly this next, at this time (within 1 ms)
// `win` is the raw field; in an expectation it and each option are compared only when given. Options:
//     mss N   wscale N   sackOK   TS val N ecr N (in ms; our clock starts at 0)   sack A:B C:D   nots   nosack
// After the options: `ce`, `ect0` or `notect` for the ECN field of the IP header; `urg N`; `badsum`.
// P is compared only when given. `0:0(0)` may be left out for a segment without text whose seq is SND.NXT (`> . ack 1`).
//
// Commands
//     option NAME VALUE              before the connection is made (TcpOptions; times in ms), or on it
//     v6                             IPv6 instead of IPv4, from the start
//     connect | listen               active open; passive open by the first SYN
//     established [mss=N] [win=N] [wscale=N] [ts] [nosack] [ecn]     the handshake as a prelude, not shown
//     write N | read N | read all | shutdown | close [linger=MS] | abort [twice]
//     icmp too-big SEQ MTU | icmp host|net|port SEQ               an ICMP error that quotes SEQ
//     path MTU                       the route changed or came back
//
// Expectations about the inside
//     state NAME | reason NAME | readable N | unacked N | ended | established | closed | drained
//     cwnd N | cwnd >N | cwnd <N     in bytes;     stat NAME N (of stats())
//     skip                           what has been sent until now is not looked at
//     nothing                        no packet has been sent since the last expectation
// At the end of a script no packet may be left that was not expected.

import { type Micros, seededRandom } from '../../lib/core/index.js';
import { TcpConnection } from '../../lib/l4/tcp/connection.js';
import { DEFAULT_TCP_OPTIONS, type TcpConfig, TcpEvent, type TcpOptions } from '../../lib/l4/tcp/types.js';
import { TcpSegment } from '../../lib/l4/wire/tcp.js';
import { beginTcp, finishTcp, TcpFields } from '../../lib/l4/wire/tcp-emit.js';
import { checksumGood, FrameWriter } from './sim-net.js';

const ISS = 0x7fff_ff00; // wraps into negative numbers soon
const IRS = 0xffff_fff0; // wraps through zero soon
const TOLERANCE: Micros = 1_000;
const FLAG_BITS: Record<string, number> = { F: 1, S: 2, R: 4, P: 8, '.': 16, U: 32, E: 64, W: 128 };

interface Sent {
  at: Micros;
  text: string;
  segment: TcpSegment;
  frame: Uint8Array;
}

export class DrillError extends Error {}

class Drill {
  private now: Micros = 0;
  private options: TcpOptions = { ...DEFAULT_TCP_OPTIONS, pacing: false, ecn: false };
  private connection: TcpConnection | null = null;
  private readonly sent: Sent[] = [];
  private events = 0;
  private written = 0;
  private readonly writer = new FrameWriter((frame) => this.sent.push(this.describe(frame)));
  private v6 = false;
  private readonly config: () => TcpConfig = () => ({
    localAddress: this.v6 ? Uint8Array.of(0xfd, ...Array<number>(14).fill(0), 1) : Uint8Array.of(10, 0, 0, 1),
    remoteAddress: this.v6 ? Uint8Array.of(0xfd, ...Array<number>(14).fill(0), 2) : Uint8Array.of(10, 0, 0, 2),
    localPort: 1_000,
    remotePort: 2_000,
    iss: ISS,
    tsOffset: 0,
    mtu: 1_400,
    offload: false,
    random: seededRandom(1),
    options: this.options,
  });

  run(script: string): void {
    for (const [i, raw] of script.split('\n').entries()) {
      const line = raw.replace(/#.*/, '').trim();
      if (line === '') continue;
      try {
        this.step(line);
      } catch (error) {
        throw new DrillError(`line ${i + 1}: ${raw.trim()}\n${(error as Error).message}`);
      }
    }
    this.pump();
    if (this.sent.length > 0) throw new DrillError(`left at the end: ${this.sent.map((s) => s.text).join(' | ')}`);
  }

  private step(line: string): void {
    const match = /^(\*|\+?[\d.]+)\s+(.*)$/.exec(line);
    let text = line;
    let whenever = false;
    if (match !== null) {
      text = match[2]!;
      if (match[1] === '*') whenever = true;
      else if (match[1]!.startsWith('+')) this.advance(this.now + seconds(match[1]!.slice(1)));
      else this.advance(seconds(match[1]!));
    }
    if (text.startsWith('>')) this.expectPacket(text.slice(1).trim(), whenever);
    else if (text.startsWith('<')) this.inject(text.slice(1).trim());
    else this.command(text.split(/\s+/));
  }

  /** Lets time pass, timers included. */
  private advance(to: Micros): void {
    this.pump();
    for (let guard = 0; this.connection !== null; guard++) {
      const deadline = this.connection.pollDeadline();
      if (deadline > to) break;
      if (guard > 10_000) throw new Error('timers do not come to rest');
      this.now = Math.max(this.now, deadline);
      this.connection.handleTimeout(this.now);
      this.pump();
    }
    this.now = Math.max(this.now, to);
    this.pump();
  }

  private pump(): void {
    if (this.connection === null) return;
    while (this.connection.pollTransmit(this.now, this.writer));
    this.events |= this.connection.pollEvents();
  }

  private command([name, ...args]: string[]): void {
    const c = this.connection;
    const arg = args[0] ?? '';
    switch (name) {
      case 'option':
        this.setOption(arg, args[1] ?? '1');
        return;
      case 'v6':
        this.v6 = true;
        return;
      case 'skip':
        this.sent.length = 0;
        return;
      case 'connect':
        this.connection = TcpConnection.connect(this.config(), this.now);
        break;
      case 'listen':
        return;
      case 'established':
        this.establish(args);
        return;
      case 'write':
        this.write(Number(arg));
        return;
      case 'read':
        if (arg === 'all') while (c!.read() !== null);
        else if (c!.readInto(new Uint8Array(Number(arg))) !== Number(arg)) throw new Error('fewer bytes were readable');
        break;
      case 'shutdown':
        c!.shutdown();
        break;
      case 'close':
        if (arg === '') c!.close();
        else c!.close(Number(arg.slice(7)) * 1_000);
        break;
      case 'abort':
        c!.abort();
        if (arg === 'twice') c!.abort();
        break;
      case 'icmp':
        if (arg === 'too-big') c!.handleIcmp(this.now, 'packet-too-big', ISS + Number(args[1]), Number(args[2]));
        else
          c!.handleIcmp(
            this.now,
            `${arg === 'net' ? 'network' : (arg as 'host' | 'port')}-unreachable`,
            ISS + Number(args[1]),
            0,
          );
        break;
      case 'path':
        c!.handlePath(this.now, Number(arg), false);
        break;
      default:
        this.expectInside(name ?? '', args);
        return;
    }
    this.pump();
  }

  private write(n: number): void {
    const bytes = new Uint8Array(n);
    for (let i = 0; i < n; i++) bytes[i] = this.written + i;
    this.written += n;
    if (this.connection!.write(bytes) !== n) throw new Error('not all bytes were taken');
    this.pump();
  }

  private setOption(name: string, value: string): void {
    const known = DEFAULT_TCP_OPTIONS[name as keyof TcpOptions];
    if (known === undefined) throw new Error(`no option ${name}`);
    const time = /delayedAck|Idle|Interval|Timeout|Rto|msl|finWait2/.test(name);
    const parsed =
      typeof known === 'boolean'
        ? value === '1'
        : typeof known === 'number'
          ? Number(value) * (time ? 1_000 : 1)
          : value;
    if (this.connection !== null) this.connection.setOption(name as keyof TcpOptions, parsed as never);
    else this.options = { ...this.options, [name]: parsed };
    this.pump();
  }

  private establish(args: string[]): void {
    const given = new Map(args.map((a) => a.split('=') as [string, string]));
    this.options = { ...this.options, timestamps: given.has('ts'), sack: !given.has('nosack'), ecn: given.has('ecn') };
    this.connection = TcpConnection.connect(this.config(), this.now);
    this.pump();
    this.sent.length = 0;
    const options = [`mss ${given.get('mss') ?? 1_000}`];
    if (this.options.sack) options.push('sackOK');
    if (given.has('ts')) options.push(`TS val 1 ecr ${Math.floor(this.now / 1_000)}`);
    if (given.has('wscale')) options.push(`wscale ${given.get('wscale')}`);
    // The handshake takes 100 ms, which is the first RTT sample.
    this.advance(this.now + 100_000);
    this.inject(
      `S${given.has('ecn') ? 'E' : ''}. 0:0(0) ack 1 win ${given.get('win') ?? 65_535} <${options.join(',')}>`,
    );
    this.sent.length = 0;
  }

  // ---- packets ------------------------------------------------------------------------------------------------

  private inject(text: string): void {
    const m = /^(\S+)(?:\s+(-?\d+):(-?\d+)\((\d+)\))?(?:\s+ack (-?\d+))?(?:\s+win (\d+))?(?:\s+<(.*?)>)?(.*)$/.exec(
      text,
    );
    if (m === null) throw new Error('not a packet');
    const [, flags, start, , length, ack, win, options, rest] = m;
    const f = new TcpFields();
    f.reset((IRS + Number(start ?? 1)) | 0, (ISS + Number(ack ?? 0)) | 0, flagBits(flags!), Number(win ?? 65_535));
    for (const option of (options ?? '').split(',')) this.fillOption(f, option.trim());
    if (/\bce\b/.test(rest!)) f.ecn = 3;
    if (/\bect0\b/.test(rest!)) f.ecn = 2;
    const n = Number(length ?? 0);
    let frame = new Uint8Array(0);
    const out = new FrameWriter((bytes) => (frame = bytes as Uint8Array<ArrayBuffer>));
    const back = {
      ...this.config(),
      localPort: 2_000,
      remotePort: 1_000,
      localAddress: this.config().remoteAddress,
      remoteAddress: this.config().localAddress,
    };
    const at = beginTcp(out, back, f, n);
    for (let i = 0; i < n; i++) out.bytes[at + i] = Number(start) + i;
    const urgent = /urg (\d+)/.exec(rest!);
    if (urgent !== null) out.bytes[at - 1 - f.optionBytes] = Number(urgent[1]);
    finishTcp(out, back, false, 0, n, false);
    const segment = new TcpSegment();
    if (!segment.parse(frame, 0)) throw new Error('the packet does not parse');
    if (this.connection === null) this.connection = TcpConnection.accept(this.config(), this.now, segment);
    else this.connection.handleSegment(this.now, segment);
    this.pump();
  }

  private fillOption(f: TcpFields, option: string): void {
    const words = option.split(/\s+/);
    const n = Number(words[1]);
    if (option === 'sackOK') f.sackPermitted = true;
    else if (words[0] === 'mss') f.mss = n;
    else if (words[0] === 'wscale') f.windowScale = n;
    else if (words[0] === 'TS') {
      f.timestamps = true;
      f.tsval = Number(words[2]) | 0;
      f.tsecr = Number(words[4]) | 0;
    } else if (words[0] === 'sack') {
      for (const block of words.slice(1)) {
        const [a, b] = block.split(':').map(Number) as [number, number];
        f.sack[2 * f.sackCount] = (ISS + a) | 0;
        f.sack[2 * f.sackCount + 1] = (ISS + b) | 0;
        f.sackCount++;
      }
    } else if (option !== '') throw new Error(`unknown option ${option}`);
  }

  private expectPacket(text: string, whenever: boolean): void {
    if (whenever && this.sent.length === 0) this.advanceToOutput();
    const got = this.sent.shift();
    if (got === undefined) throw new Error('nothing was sent');
    const fail = (what: string) => {
      throw new Error(`${what}\nsent: ${got.text}`);
    };
    if (!whenever && Math.abs(got.at - this.now) > TOLERANCE) fail(`at ${(this.now / 1e6).toFixed(3)} s`);
    const m = /^(\S+)(?:\s+(-?\d+):(-?\d+)\((\d+)\))?(?:\s+ack (-?\d+))?(?:\s+win (\d+))?(?:\s+<(.*?)>)?(.*)$/.exec(
      text,
    );
    if (m === null) throw new Error('not a packet');
    const [, flags, start, end, length, ack, win, options, rest] = m;
    const s = got.segment;
    const wanted = flagBits(flags!);
    // PSH is a matter of taste, unless the script names it.
    const mask = wanted & 8 ? 0xff : 0xf7;
    if ((s.flags & mask) !== wanted) fail(`flags ${flags}`);
    const seq = (s.seq - ISS) | 0;
    if (start !== undefined && (seq !== Number(start) || s.length !== Number(length) || seq + s.length !== Number(end)))
      fail('sequence');
    if (start === undefined && s.length !== 0) fail('text');
    if (ack !== undefined && ((s.ack - IRS) | 0) !== Number(ack)) fail('ack');
    if (win !== undefined && s.window !== Number(win)) fail('window');
    for (const option of (options ?? '').split(',')) this.expectOption(s, option.trim(), fail);
    const ecn = got.frame[9]! & 3;
    if (/\bect0\b/.test(rest!) && ecn !== 2) fail('ECT(0)');
    if (/\bnotect\b/.test(rest!) && ecn !== 0) fail('not ECT');
    if (!checksumGood(got.frame, s)) fail('checksum');
    for (let i = 0; i < s.length; i++) {
      if (s.buf[s.payload + i] !== ((seq - 1 + i) & 0xff)) fail(`payload at ${i}`);
    }
  }

  private expectOption(s: TcpSegment, option: string, fail: (what: string) => void): void {
    const words = option.split(/\s+/);
    const n = Number(words[1]);
    if (option === 'sackOK' && !s.sackPermitted) fail(option);
    else if (option === 'nots' && s.hasTimestamps) fail(option);
    else if (option === 'nosack' && (s.sackPermitted || s.sackCount > 0)) fail(option);
    else if (words[0] === 'mss' && s.mss !== n) fail(option);
    else if (words[0] === 'wscale' && s.windowScale !== n) fail(option);
    else if (words[0] === 'TS') {
      if (!s.hasTimestamps) fail(option);
      if (words[2] !== undefined && s.tsval !== Number(words[2])) fail(option);
      if (words[4] !== undefined && s.tsecr !== Number(words[4])) fail(option);
    } else if (words[0] === 'sack') {
      const got = Array.from(
        { length: s.sackCount },
        (_, i) => `${(s.sack[2 * i]! - IRS) | 0}:${(s.sack[2 * i + 1]! - IRS) | 0}`,
      );
      if (got.join(' ') !== words.slice(1).join(' ')) fail(`${option}, not ${got.join(' ')}`);
    }
  }

  private advanceToOutput(): void {
    for (let i = 0; i < 1_000 && this.sent.length === 0; i++) {
      const deadline = this.connection?.pollDeadline() ?? Number.POSITIVE_INFINITY;
      if (deadline === Number.POSITIVE_INFINITY) return;
      this.advance(deadline);
    }
  }

  private expectInside(name: string, args: string[]): void {
    const c = this.connection!;
    const compare = (what: string, got: unknown, wanted: unknown) => {
      if (String(got) !== String(wanted)) throw new Error(`${what} is ${got}`);
    };
    const arg = args[0] ?? '';
    if (name === 'state') compare(name, c.state, arg);
    else if (name === 'reason') compare(name, c.reason, arg);
    else if (name === 'readable') compare(name, c.readable, arg);
    else if (name === 'unacked') compare(name, c.unacknowledged, arg);
    else if (name === 'ended') compare(name, c.ended, true);
    else if (name === 'stat') compare(arg, c.stats()[arg as keyof ReturnType<typeof c.stats>], args[1]);
    else if (name === 'nothing') compare('sent', this.sent.map((s) => s.text).join(' | '), '');
    else if (name === 'cwnd') {
      const limit = Number(arg.replace(/[<>]/, ''));
      const good = arg.startsWith('>')
        ? c.cwnd > limit
        : arg.startsWith('<')
          ? c.cwnd < limit
          : Math.round(c.cwnd) === limit;
      if (!good) throw new Error(`cwnd is ${c.cwnd}`);
    } else if (name in TcpEvent) {
      const bit = TcpEvent[name as keyof typeof TcpEvent];
      if (!(this.events & bit)) throw new Error(`no event ${name}`);
      this.events &= ~bit;
    } else throw new Error(`unknown command ${name}`);
  }

  private describe(frame: Uint8Array): Sent {
    const segment = new TcpSegment();
    if (!segment.parse(frame, 0)) throw new Error('we sent something that does not parse');
    const flags = Object.entries(FLAG_BITS)
      .filter(([, bit]) => segment.flags & bit)
      .map(([name]) => name)
      .join('');
    const seq = (segment.seq - ISS) | 0;
    let text = `${(this.now / 1e6).toFixed(3)} > ${flags} ${seq}:${seq + segment.length}(${segment.length}) ack ${(segment.ack - IRS) | 0} win ${segment.window}`;
    if (segment.hasTimestamps) text += ` TS val ${segment.tsval} ecr ${segment.tsecr}`;
    for (let i = 0; i < segment.sackCount; i++)
      text += ` sack ${(segment.sack[2 * i]! - IRS) | 0}:${(segment.sack[2 * i + 1]! - IRS) | 0}`;
    return { at: this.now, text, segment, frame };
  }
}

function flagBits(text: string): number {
  let bits = 0;
  for (const c of text) {
    const bit = FLAG_BITS[c];
    if (bit === undefined) throw new Error(`unknown flag ${c}`);
    bits |= bit;
  }
  return bits;
}

function seconds(text: string): Micros {
  return Math.round(Number(text) * 1e6);
}

/** Runs one script. @throws DrillError that names the line and shows what was sent instead. */
export function runDrill(script: string): void {
  new Drill().run(script);
}

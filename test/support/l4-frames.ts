// A Stack without sockets, links and time, and frames for it: what an attacker, or any peer, could put on the wire.

import { HEADER, putHeader, type Random, seededRandom } from '../../lib/core/index.js';
import type { IpEndpoint } from '../../lib/l3/index.js';
import { checksum, pseudoSum4, pseudoSum6 } from '../../lib/l3/wire/checksum.js';
import type { TcpFlow } from '../../lib/l4/flow-table.js';
import { Stack, type StackOptions } from '../../lib/l4/stack.js';
import { TcpConnection } from '../../lib/l4/tcp/connection.js';
import type { TcpConfig } from '../../lib/l4/tcp/types.js';
import type { TcpListener } from '../../lib/l4/tcp-stack.js';
import { TcpFlag, TcpSegment } from '../../lib/l4/wire/tcp.js';
import { beginTcp, finishTcp, TcpFields } from '../../lib/l4/wire/tcp-emit.js';
import { FrameWriter } from './sim-net.js';

export const OURS = {
  4: Uint8Array.of(10, 0, 0, 1),
  6: Uint8Array.of(0xfd, ...new Array<number>(14).fill(0), 1),
} as const;
export const THEIRS = {
  4: Uint8Array.of(10, 0, 0, 2),
  6: Uint8Array.of(0xfd, ...new Array<number>(14).fill(0), 2),
} as const;

export interface Sent {
  readonly frame: Uint8Array;
  /** Null: not TCP. */
  readonly tcp: TcpSegment | null;
}

export interface SegmentOptions {
  readonly family?: 4 | 6;
  readonly from?: Uint8Array;
  readonly port?: number;
  readonly to?: number;
  readonly flags: number;
  readonly seq: number;
  readonly ack?: number;
  readonly window?: number;
  readonly payload?: Uint8Array;
  readonly fields?: (f: TcpFields) => void;
}

export class StackUnderTest {
  now = 1_000_000;
  readonly sent: Sent[] = [];
  readonly accepted: TcpFlow[] = [];
  readonly stack: Stack;

  constructor(options: StackOptions = {}, random: Random = seededRandom(3)) {
    const endpoint: IpEndpoint = {
      addresses: [OURS[4], OURS[6]],
      mtuTo: () => 1_400,
      offloadTo: () => false,
      partialChecksumsTo: () => false,
      send() {},
      attach() {},
    };
    const writer = new FrameWriter((frame) => {
      const tcp = new TcpSegment();
      this.sent.push({ frame, tcp: tcp.parse(frame, 0) ? tcp : null });
    });
    this.stack = new Stack(endpoint, writer, random, TcpConnection, options);
  }

  listen(port: number): TcpListener {
    const listener: TcpListener = {
      address: null,
      family: 0,
      port,
      halfOpen: 0,
      onConnection: (flow) => {
        flow.take();
        flow.handler = { onTcpEvents() {}, onStop() {} };
        this.accepted.push(flow);
      },
    };
    this.stack.tcp.listen(listener);
    return listener;
  }

  /** What is sent because of it; in order. */
  give(frame: Uint8Array): Sent[] {
    this.sent.length = 0;
    this.stack.handlePackets(this.now, frame, 0, frame.length);
    return this.settle();
  }

  settle(): Sent[] {
    this.stack.poll(this.now);
    while (this.stack.deliver());
    this.stack.poll(this.now);
    return this.sent;
  }

  /** Lets time pass, with what it brings. */
  advance(micros: number): Sent[] {
    const until = this.now + micros;
    this.sent.length = 0;
    for (let at = this.stack.pollDeadline(); at <= until; at = this.stack.pollDeadline()) {
      this.now = Math.max(this.now, at);
      this.stack.handleTimeouts(this.now);
      this.settle();
    }
    this.now = until;
    return this.sent;
  }

  counter(name: string): number {
    const value = this.stack.stats()[name];
    if (value === undefined) throw new Error(`no counter ${name}`);
    return value;
  }
}

/** A frame with one TCP segment of a peer, its checksum good. */
export function segment(o: SegmentOptions): Uint8Array {
  const family = o.family ?? 4;
  const f = new TcpFields();
  f.reset(o.seq | 0, (o.ack ?? 0) | 0, o.flags, o.window ?? 65_535);
  o.fields?.(f);
  const payload = o.payload ?? new Uint8Array(0);
  const config = {
    localAddress: o.from ?? THEIRS[family],
    remoteAddress: OURS[family],
    localPort: o.port ?? 4_000,
    remotePort: o.to ?? 80,
  } as TcpConfig;
  let frame: Uint8Array = new Uint8Array(0);
  const out = new FrameWriter((bytes) => {
    frame = bytes;
  });
  const at = beginTcp(out, config, f, payload.length);
  out.bytes.set(payload, at);
  finishTcp(out, config, false, 0, payload.length, false);
  return frame;
}

/** A connection that a peer of `port` has opened to our listener on 80. */
export function open(
  s: StackUnderTest,
  port = 4_000,
  isn = 5_000,
  more: Partial<SegmentOptions> = {},
): { ours: number; theirs: number } {
  const [synAck] = s.give(segment({ port, flags: TcpFlag.syn, seq: isn, ...more }));
  if (synAck?.tcp == null) throw new Error('no SYN-ACK');
  const ours = (synAck.tcp.seq + 1) | 0;
  const { fields: _options, ...rest } = more;
  s.give(segment({ port, flags: TcpFlag.ack, seq: isn + 1, ack: ours, ...rest }));
  return { ours, theirs: isn + 1 };
}

/** The IP packet of a UDP datagram to port 53, for cutting into fragments. */
export function datagram(family: 4 | 6, data: Uint8Array): Uint8Array {
  const udp = new Uint8Array(8 + data.length);
  const view = new DataView(udp.buffer);
  view.setUint16(0, 9_000);
  view.setUint16(2, 53);
  view.setUint16(4, udp.length);
  udp.set(data, 8);
  const head = ipHeader(family, 17, udp.length, 0, 0, false);
  const packet = new Uint8Array(head.length + udp.length);
  packet.set(head);
  packet.set(udp, head.length);
  const sum = family === 4 ? pseudoSum4 : pseudoSum6;
  view.setUint16(6, checksum(packet, head.length, packet.length, sum(packet, 0, 17, udp.length)) || 0xffff);
  return udp;
}

/** A frame with the fragment [start, end) of `payload`. */
export function fragment(
  family: 4 | 6,
  id: number,
  payload: Uint8Array,
  start: number,
  end: number,
  more = end < payload.length,
): Uint8Array {
  const head = ipHeader(family, 17, end - start, id, start, more, true);
  const frame = new Uint8Array(HEADER + head.length + end - start);
  putHeader(frame, 0, 0, 0, 0, head.length + end - start);
  frame.set(head, HEADER);
  frame.set(payload.subarray(start, end), HEADER + head.length);
  return frame;
}

function ipHeader(
  family: 4 | 6,
  protocol: number,
  length: number,
  id: number,
  offset: number,
  more: boolean,
  cut = false,
): Uint8Array {
  if (family === 4) {
    const h = new Uint8Array(20);
    const v = new DataView(h.buffer);
    h.set([0x45, 0]);
    v.setUint16(2, 20 + length);
    v.setUint16(4, id);
    v.setUint16(6, (more ? 0x2000 : 0) | (offset >>> 3));
    h.set([64, protocol], 8);
    h.set(THEIRS[4], 12);
    h.set(OURS[4], 16);
    v.setUint16(10, checksum(h, 0, 20));
    return h;
  }
  const h = new Uint8Array(cut ? 48 : 40);
  const v = new DataView(h.buffer);
  h[0] = 0x60;
  v.setUint16(4, h.length - 40 + length);
  h[6] = cut ? 44 : protocol;
  h[7] = 64;
  h.set(THEIRS[6], 8);
  h.set(OURS[6], 24);
  if (cut) {
    h[40] = protocol;
    v.setUint16(42, offset | (more ? 1 : 0));
    v.setUint32(44, id);
  }
  return h;
}

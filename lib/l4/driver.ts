// Edge: binds a Stack to an IpEndpoint, a clock and the event loop. The only place where L4 meets real time.
//
// Packets that come in are handled and answered at once; what the application is told waits for its own tick, so that
// an exception of its code cannot unwind into L3 and L2. What it commands is collected until the end of that tick.

import { type Clock, Hold, type Micros, NEVER, type Random, type Slab, SlabPool, type Timer } from '../core/index.js';
import type { IpEndpoint } from '../l3/index.js';
import type { TcpFlow } from './flow-table.js';
import { Stack, type StackOptions } from './stack.js';
import { TcpConnection } from './tcp/connection.js';
import { SlabWriter } from './wire/packet-writer.js';

/** Rounds of handle and poll before other work of the process gets its turn. */
const MAX_ROUNDS = 32;

/** What is open on a driver and has no connection that could end: listening servers, bound datagram sockets. */
export interface DriverOwner {
  /** The driver is closed. */
  handleDriverClosed(): void;
}

export class Driver {
  readonly stack: Stack;
  readonly owners = new Set<DriverOwner>();
  /** Set once by `close`: nothing is sent or told any more. */
  closed = false;
  private readonly writer: SlabWriter;
  private pumping = false;
  private again = false;
  private scheduled = false;
  private delivering = false;
  private timer: Timer | null = null;
  private timerAt: Micros = NEVER;
  private refs = 0;
  private readonly hold = new Hold();

  constructor(
    readonly endpoint: IpEndpoint,
    readonly clock: Clock,
    random: Random,
    options: StackOptions,
  ) {
    this.writer = new SlabWriter(new SlabPool(256 * 1024, 8), (slab, start, end) => endpoint.send(slab, start, end));
    this.stack = new Stack(endpoint, this.writer, random, TcpConnection, options);
    endpoint.attach({
      onPackets: (slab, start, end) => this.handlePackets(slab, start, end),
      claims: (buf, off) => !this.closed && this.stack.claims(buf, off),
      onChange: () => this.handleChange(),
    });
  }

  now(): Micros {
    return this.clock.now();
  }

  /** The owner gave a command to this flow. */
  touch(flow: TcpFlow): void {
    this.stack.tcp.touch(flow);
    this.schedule();
  }

  /** Something was written or touched: it goes out at the end of this tick. */
  schedule(): void {
    if (this.scheduled || this.closed) return;
    this.scheduled = true;
    queueMicrotask(this.runScheduled);
  }

  /** Counts a socket that keeps the process alive. */
  ref(): void {
    if (this.refs++ === 0 && !this.closed) this.hold.ref();
  }

  unref(): void {
    if (--this.refs === 0) this.hold.unref();
  }

  /** Resets all connections, sends that, and stops: servers and datagram sockets close, and the process is not held any more. */
  close(): void {
    if (this.closed) return;
    this.stack.tcp.abortAll();
    this.pump();
    this.closed = true;
    this.timer?.cancel();
    this.timer = null;
    this.writer.close();
    this.hold.unref();
    for (const owner of [...this.owners]) owner.handleDriverClosed();
  }

  private handlePackets(slab: Slab, start: number, end: number): void {
    if (this.closed) return;
    this.stack.handlePackets(this.now(), slab.bytes, start, end);
    this.pump();
  }

  private handleChange(): void {
    if (this.closed) return;
    this.stack.handlePathChange(this.now());
    this.schedule();
  }

  private readonly runScheduled = (): void => {
    this.scheduled = false;
    this.pump();
  };

  private readonly runTimer = (): void => {
    this.timer = null;
    this.timerAt = NEVER;
    if (this.closed) return;
    this.stack.handleTimeouts(this.now());
    this.pump();
  };

  private readonly runDeliver = (): void => {
    this.delivering = false;
    try {
      while (this.stack.deliver());
    } finally {
      // A listener threw: the rest is told in a tick of its own, after the process has dealt with that.
      if (this.stack.hasEvents) this.deliverSoon();
      this.pump();
    }
  };

  private deliverSoon(): void {
    if (this.delivering) return;
    this.delivering = true;
    process.nextTick(this.runDeliver);
  }

  /** Idempotent: every event ends in it. */
  private pump(): void {
    if (this.closed) return;
    // A link that delivers at once may come back in from `flush`.
    if (this.pumping) {
      this.again = true;
      return;
    }
    this.pumping = true;
    let rounds = 0;
    try {
      do {
        this.again = false;
        this.stack.poll(this.now());
        this.writer.flush();
      } while (this.again && ++rounds < MAX_ROUNDS);
    } finally {
      this.pumping = false;
    }
    if (this.again) setImmediate(this.runScheduled);
    if (this.stack.hasEvents) this.deliverSoon();
    this.arm();
  }

  private arm(): void {
    const at = this.stack.pollDeadline();
    // A timer that fires too early does no harm; one that is too late does.
    if (at >= this.timerAt) return;
    this.timer?.cancel();
    this.timerAt = at;
    this.timer = this.clock.at(at, this.runTimer);
  }
}

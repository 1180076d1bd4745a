// Edge: one QUIC connection as L2 sees it: its first bidirectional stream is the reliable way (control, and packets too
// big for a datagram), RFC 9221 datagrams carry packets. Only the dialer opens the stream.
//
// Everything ends in one idempotent `pump`: receive, send, flush, arm the timer, notice the end. It runs once per turn of
// the event loop, after all UDP packets of that turn have been taken in.

import type { Slab } from '../../lib/core/index.js';
import type { ByteStream, DatagramPath, PeerIdentity, StreamHandler } from '../../lib/l2/transport.js';
import type { EngineConnection, HostPort } from './engine.js';
import { APP_CERTIFICATE, APP_DESTROYED, APP_END, explainQuic } from './errors.js';

/** The stream that carries frames: the first one that a client opens (RFC 9000 §2.1). */
const STREAM = 0;
/** Bytes that wait above which `write` says stop, and below which it may go on. */
const HIGH_WATER = 32 * 1024;
/** Refills of the engine's queue in one turn of the event loop: then others have their turn. */
const REFILLS = 16;

/** What a connection needs of its endpoint. */
export interface ConnectionHost {
  readonly local: HostPort;
  /** A buffer for one UDP payload, handed back through `transmit`. */
  takeBuffer(): Buffer;
  transmit(buffer: Buffer, length: number, to: HostPort): void;
  giveBack(buffer: Buffer): void;
  /** Handshake done: who is it? Throws to refuse. */
  identify(connection: QuicConnection): PeerIdentity;
  onReady(connection: QuicConnection): void;
  /** The connection is over; forget its ids. */
  onOver(connection: QuicConnection, error: Error | undefined): void;
  /** Keeps the list of connection ids of this connection up to date. */
  onIds(connection: QuicConnection): void;
}

interface Chunk {
  slab: Slab;
  start: number;
  end: number;
}

export class QuicConnection implements ByteStream, DatagramPath {
  identity!: PeerIdentity;
  maxBytes = 0;
  /** Connection ids by which packets find this connection, as keys of a map. */
  readonly ids = new Set<string>();
  state: 'handshake' | 'ready' | 'over' = 'handshake';
  private handler: StreamHandler | null = null;
  private readonly queue: Chunk[] = [];
  private queued = 0;
  private needDrain = false;
  private paused = false;
  private ending = false;
  private finSent = false;
  private peerFin = false;
  private scheduled = false;
  private timer: NodeJS.Timeout | null = null;
  private timerAt = 0;

  constructor(
    readonly engine: EngineConnection,
    private readonly host: ConnectionHost,
    private readonly role: 'dialer' | 'listener',
    readonly remote: string,
  ) {}

  get datagrams(): DatagramPath | undefined {
    return this.maxBytes > 0 ? this : undefined;
  }

  /** Handed over: its end is told to the handler, and to nobody else. */
  get opened(): boolean {
    return this.handler !== null;
  }

  /** Of the stream and of the datagrams together: both wait for the same congestion window. */
  get pending(): number {
    return this.queued + (this.state === 'ready' ? this.engine.dgramSendQueueByteSize() : 0);
  }

  open(handler: StreamHandler): void {
    this.handler = handler;
    this.schedule();
  }

  write(slab: Slab, start: number, end: number): boolean {
    if (this.state === 'over' || this.ending) return true;
    slab.retain();
    this.queue.push({ slab, start, end });
    this.queued += end - start;
    this.schedule();
    if (this.queued > HIGH_WATER) this.needDrain = true;
    return !this.needDrain;
  }

  send(bytes: Uint8Array, start: number, end: number): boolean {
    if (this.state !== 'ready') return true;
    this.needDrain = true;
    this.schedule();
    if (this.engine.isDgramSendQueueFull()) return false;
    this.engine.dgramSend(bytes.subarray(start, end));
    return true;
  }

  pause(): void {
    this.paused = true;
  }

  resume(): void {
    this.paused = false;
    this.schedule();
  }

  end(): void {
    this.ending = true;
    this.schedule();
  }

  destroy(error?: Error): void {
    if (this.state === 'over') return;
    this.shut(APP_DESTROYED, '');
    this.finish(error);
  }

  /** One UDP payload from the network. */
  receive(data: Uint8Array, from: HostPort): void {
    if (this.state === 'over') return;
    try {
      this.engine.recv(data, { from, to: this.host.local });
    } catch {
      // A broken packet, or one that ends the connection: `localError` has the reason, and pump sends it.
    }
    this.schedule();
  }

  schedule(): void {
    if (this.scheduled || this.state === 'over') return;
    this.scheduled = true;
    setImmediate(this.pump);
  }

  private readonly pump = (): void => {
    this.scheduled = false;
    if (this.state === 'over') return;
    if (this.state === 'handshake' && this.engine.isEstablished()) this.ready();
    if (this.state === 'ready' && this.handler !== null) {
      this.takeDatagrams();
      this.takeStream();
      this.writeStream();
    } else if (this.state === 'ready' && this.role === 'listener' && this.engine.streamReadable(STREAM)) {
      this.host.onReady(this);
      return this.schedule();
    }
    this.flush();
    this.refill();
    if (this.isOver()) return;
    this.arm();
    // Draining (RFC 9000 §10.2): nothing will be said any more, and the engine's reason is known.
    if (this.engine.isClosed() || this.engine.isDraining()) return this.finish(explainQuic(this.engine, this.remote));
    if (this.peerFin && this.queue.length === 0 && (this.ending || this.finSent)) return this.close();
  };

  /**
   * What waits above comes down as long as the congestion window takes it, in this turn: an engine whose queue runs empty though
   * there is more takes its user for the bottleneck, and its window does not grow (RFC 9002 §7.8).
   */
  private refill(): void {
    for (let round = 0; round < REFILLS; round++) {
      if (!this.needDrain || this.handler === null || this.pending > HIGH_WATER) return;
      this.needDrain = false;
      this.handler.onDrain();
      if (this.isOver() || this.pending === 0) return;
      this.writeStream();
      this.flush();
    }
  }

  private ready(): void {
    // The handshake's last flight goes first: without it the peer could not read why we refuse it.
    this.flush();
    this.state = 'ready';
    this.maxBytes = this.engine.dgramMaxWritableLen() ?? 0;
    try {
      this.identity = this.host.identify(this);
    } catch (error) {
      this.shut(APP_CERTIFICATE, (error as Error).message);
      return this.finish(error as Error);
    }
    this.host.onIds(this);
    // The listener's stream exists once the dialer has sent on it.
    if (this.role === 'dialer') this.host.onReady(this);
  }

  private takeDatagrams(): void {
    const handler = this.handler!;
    let taken = 0;
    while (!this.paused && this.engine.dgramRecvQueueLen() > 0) {
      const n = this.engine.dgramRecv(handler.datagramRoom());
      if (n === null) break;
      handler.onDatagram(n);
      taken++;
      if (this.isOver()) return;
    }
    if (taken > 0) handler.onDatagramsDone();
  }

  private takeStream(): void {
    while (!this.paused && !this.isOver() && this.engine.streamReadable(STREAM)) {
      let got: [number, boolean] | null;
      try {
        got = this.engine.streamRecv(STREAM, this.handler!.room());
      } catch {
        got = [0, true]; // reset by the peer
      }
      if (got === null) return;
      const [n, fin] = got;
      if (n > 0) this.handler!.onData(n);
      if (fin) {
        this.peerFin = true;
        this.ending = true; // a half-closed link is of no use
        return;
      }
    }
  }

  private writeStream(): void {
    try {
      while (this.queue.length > 0) {
        const chunk = this.queue[0]!;
        const n = this.engine.streamSend(STREAM, chunk.slab.bytes.subarray(chunk.start, chunk.end), false) ?? 0;
        chunk.start += n;
        this.queued -= n;
        if (chunk.start < chunk.end) return;
        this.queue.shift();
        chunk.slab.release();
      }
      if (this.ending && !this.finSent) {
        this.engine.streamSend(STREAM, new Uint8Array(0), true);
        this.finSent = true;
      }
    } catch {
      this.ending = true; // the peer wants no more of it
      this.peerFin = true;
      this.finSent = true;
      this.dropQueue();
    }
  }

  private flush(): void {
    for (;;) {
      const buffer = this.host.takeBuffer();
      let out: [number, { to: HostPort }] | null;
      try {
        out = this.engine.send(buffer);
      } catch {
        out = null; // the connection is beyond sending; isClosed or a timer will say so
      }
      if (out === null) {
        this.host.giveBack(buffer);
        break;
      }
      this.host.transmit(buffer, out[0], out[1].to);
    }
  }

  private arm(): void {
    const wait = this.engine.timeout();
    if (wait === null) return;
    const at = performance.now() + wait;
    // One that fires too early does no harm; one that is too late does.
    if (this.timer !== null && this.timerAt <= at) return;
    if (this.timer !== null) clearTimeout(this.timer);
    this.timerAt = at;
    this.timer = setTimeout(this.onTimer, Math.ceil(wait));
  }

  private readonly onTimer = (): void => {
    this.timer = null;
    if (this.state === 'over') return;
    if ((this.engine.timeout() ?? 1) <= 0) this.engine.onTimeout();
    this.pump();
  };

  private close(): void {
    this.shut(APP_END, '');
    this.finish(undefined);
  }

  private shut(code: number, reason: string): void {
    try {
      this.engine.close(true, code, Buffer.from(reason.slice(0, 200)));
      this.flush();
    } catch {
      // closed already
    }
  }

  private finish(error: Error | undefined): void {
    if (this.state === 'over') return;
    this.state = 'over';
    if (this.timer !== null) clearTimeout(this.timer);
    this.timer = null;
    this.dropQueue();
    this.host.onOver(this, error);
    const { handler } = this;
    // Never from inside a call of the layer above.
    if (handler !== null) queueMicrotask(() => handler.onClose(error));
  }

  private dropQueue(): void {
    for (const { slab } of this.queue) slab.release();
    this.queue.length = 0;
    this.queued = 0;
  }

  private isOver(): boolean {
    return this.state === 'over';
  }
}

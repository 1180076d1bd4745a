// Edge: a ByteStream over any duplex stream of bytes (a WebTransport stream, a WebSocket, a tunnel through a proxy), with
// the proof of identity in its first bytes, and credit where the medium has no flow control of its own.

import type { Duplex } from 'node:stream';
import { KubeBusError, Slab } from '../../lib/core/index.js';
import { type ByteStream, type PeerIdentity, STREAM_HIGH_WATER, type StreamHandler } from '../../lib/l2/transport.js';
import type { AuthMachine } from './auth.js';
import { CreditFlow, MAX_RECORD } from './credit.js';

/** Bytes handed to the duplex and not yet taken by it, above which more waits here. */
const HIGH_WATER = 128 * 1024;

interface Chunk {
  slab: Slab;
  start: number;
  end: number;
}

export class DuplexStream implements ByteStream {
  identity!: PeerIdentity;
  private handler: StreamHandler | null = null;
  private auth: AuthMachine | null = null;
  private onAuth: (() => void) | null = null;
  private readonly flow: CreditFlow | null;
  private readonly outgoing: Chunk[] = [];
  private outgoingBytes = 0;
  private readonly incoming: Buffer[] = [];
  private needDrain = false;
  private paused = false;
  private ending = false;
  private closed = false;
  private failure: Error | undefined;

  constructor(
    private readonly duplex: Duplex,
    readonly remote: string,
    /** The medium takes in whatever comes, read or not. */
    credit: boolean,
  ) {
    this.flow = credit ? new CreditFlow() : null;
    duplex.on('data', (chunk: Buffer) => this.received(chunk));
    duplex.on('drain', () => this.pump());
    duplex.on('end', () => this.end());
    duplex.on('error', (error: Error) => {
      this.failure ??= error;
    });
    duplex.on('close', () => this.over());
  }

  /** Runs the proof of identity to its end. Rejects with its reason, with ERR_CONNECT when the stream ends, or on abort. */
  authenticate(machine: AuthMachine, signal: AbortSignal): Promise<void> {
    this.auth = machine;
    return new Promise<void>((resolve, reject) => {
      const settle = (error: Error | null) => {
        signal.removeEventListener('abort', aborted);
        this.onAuth = null;
        if (error === null) return resolve();
        this.end();
        reject(error);
      };
      const aborted = () => settle(new KubeBusError('ERR_CONNECT', `${this.remote}: no answer in time`));
      this.onAuth = () => {
        const out = machine.pollOutput();
        if (out !== null) this.writeBytes(out);
        if (machine.step === 'failed') return settle(machine.error!);
        if (machine.step === 'done') {
          this.identity = machine.identity!;
          this.auth = null;
          if (machine.rest.length > 0) this.incoming.push(Buffer.from(machine.rest));
          return settle(null);
        }
        if (this.closed)
          settle(new KubeBusError('ERR_CONNECT', `${this.remote}: the connection ended during the handshake`));
      };
      if (signal.aborted) return aborted();
      signal.addEventListener('abort', aborted, { once: true });
      this.onAuth();
    });
  }

  open(handler: StreamHandler): void {
    this.handler = handler;
    queueMicrotask(() => (this.closed ? handler.onClose(this.failure) : this.deliver()));
  }

  get pending(): number {
    return this.outgoingBytes + this.duplex.writableLength;
  }

  write(slab: Slab, start: number, end: number): boolean {
    if (this.closed || this.ending) return true;
    slab.retain();
    this.outgoing.push({ slab, start, end });
    this.outgoingBytes += end - start;
    this.pump();
    if (this.pending >= STREAM_HIGH_WATER) this.needDrain = true;
    return !this.needDrain;
  }

  pause(): void {
    this.paused = true;
    if (this.flow === null) this.duplex.pause();
  }

  resume(): void {
    this.paused = false;
    this.duplex.resume();
    queueMicrotask(() => this.deliver());
  }

  end(): void {
    this.ending = true;
    this.pump();
  }

  destroy(error?: Error): void {
    this.failure ??= error;
    this.duplex.destroy(error);
    this.over();
  }

  private writeBytes(bytes: Uint8Array): void {
    const slab = Slab.of(bytes);
    this.write(slab, 0, bytes.length);
    slab.release();
  }

  private received(chunk: Buffer): void {
    if (this.closed) return;
    if (this.flow === null) this.take(chunk);
    else {
      this.flow.handleBytes(chunk, (bytes) => this.take(bytes));
      if (this.flow.error !== null) return this.destroy(new KubeBusError('ERR_FRAME_MALFORMED', this.flow.error));
      this.pump();
    }
    this.deliver();
  }

  private take(bytes: Uint8Array): void {
    if (this.auth !== null) {
      this.auth.handleBytes(bytes);
      this.giveCredit(bytes.length);
      this.onAuth?.();
    } else this.incoming.push(Buffer.from(bytes));
  }

  /** Puts what has come where the handler wants it. */
  private deliver(): void {
    const { handler } = this;
    while (handler !== null && !this.paused && !this.closed && this.incoming.length > 0) {
      const chunk = this.incoming[0]!;
      const room = handler.room();
      const n = Math.min(room.length, chunk.length);
      room.set(chunk.subarray(0, n));
      if (n === chunk.length) this.incoming.shift();
      else this.incoming[0] = chunk.subarray(n);
      handler.onData(n);
      this.giveCredit(n);
    }
  }

  private giveCredit(n: number): void {
    const record = this.flow?.consumed(n) ?? null;
    if (record !== null && !this.duplex.writableEnded) this.duplex.write(record);
  }

  private pump(): void {
    if (this.closed) return;
    while (this.outgoing.length > 0 && this.duplex.writableLength < HIGH_WATER) {
      const chunk = this.outgoing[0]!;
      const { flow } = this;
      const n = Math.min(chunk.end - chunk.start, flow === null ? Number.POSITIVE_INFINITY : flow.credit, MAX_RECORD);
      if (n === 0) break;
      const { slab, start } = chunk;
      chunk.start += n;
      this.outgoingBytes -= n;
      const bytes = slab.bytes.subarray(start, start + n);
      if (flow === null) {
        slab.retain();
        this.duplex.write(bytes, () => slab.release());
      } else this.duplex.write(Buffer.concat([flow.record(n), bytes])); // a copy: that medium says "written" before it is
      if (chunk.start === chunk.end) {
        this.outgoing.shift();
        slab.release();
      }
    }
    if (this.ending && this.outgoing.length === 0 && !this.duplex.writableEnded) this.duplex.end();
    if (this.needDrain && this.pending <= HIGH_WATER / 2) {
      this.needDrain = false;
      // Never from inside a call of write.
      queueMicrotask(() => this.closed || this.handler?.onDrain());
    }
  }

  private over(): void {
    if (this.closed) return;
    this.closed = true;
    for (const { slab } of this.outgoing) slab.release();
    this.outgoing.length = 0;
    this.outgoingBytes = 0;
    this.incoming.length = 0;
    this.onAuth?.();
    const { handler, failure } = this;
    if (handler !== null) queueMicrotask(() => handler.onClose(failure));
  }
}

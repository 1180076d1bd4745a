// A socket of the addon as a ByteStream: bytes are read straight to where they are parsed, and a write is in the system's
// hands when it returns, or waits until there is room.

import type { Slab } from '../../lib/core/index.js';
import type { ByteStream, PeerIdentity, StreamHandler } from '../../lib/l2/transport.js';
import { streamError } from '../tls-reasons.js';
import { DRAINED, FAILED, MORE, nativeError, type OpenSocket, READABLE } from './native-events.js';

export class NativeByteStream implements ByteStream {
  /** Bytes that wait for the system. */
  pending = 0;
  lost = 0;
  private handler: StreamHandler | null = null;
  private over = false;
  private ending = false;
  /** The other side's end was read. */
  private ended = false;
  private failure: Error | undefined;

  constructor(
    private readonly socket: OpenSocket,
    readonly identity: PeerIdentity,
    readonly remote: string,
  ) {}

  open(handler: StreamHandler): void {
    this.handler = handler;
    this.socket.onClosed(() => this.closed());
    this.socket.open((event) => {
      if (event === READABLE) this.read();
      else if (event === DRAINED) this.drained();
      else if (event === FAILED) this.fail(nativeError(this.socket.handle));
    });
  }

  get progress(): number {
    return this.over ? 0 : this.socket.handle.pending;
  }

  write(slab: Slab, start: number, end: number): boolean {
    if (this.over || this.ending) return true;
    const waiting = this.socket.handle.write(slab.bytes, start, end);
    if (waiting < 0) {
      // Told from outside of this call.
      this.lost += end - start;
      setImmediate(() => this.fail(nativeError(this.socket.handle)));
      return true;
    }
    this.pending = waiting;
    return waiting === 0;
  }

  pause(): void {
    if (!this.over) this.socket.handle.pause();
  }

  resume(): void {
    if (!this.over) this.socket.handle.resume();
  }

  end(): void {
    if (this.over || this.ending) return;
    this.ending = true;
    this.socket.handle.end();
    if (this.ended && this.socket.handle.pending === 0) setImmediate(() => this.fail());
  }

  destroy(error?: Error): void {
    if (this.over) return;
    // Nothing more is delivered from now on.
    this.ended = true;
    this.ending = true;
    this.failure ??= error;
    setImmediate(() => this.fail());
  }

  private read(): void {
    const { handle } = this.socket;
    for (;;) {
      if (this.over || this.ended) return;
      const n = handle.read(this.handler!.room(), 0);
      if (n > 0) {
        this.handler!.onData(n >= MORE ? n - MORE : n);
        if (n < MORE) return;
      } else if (n === 0) {
        return;
      } else if (n === -1) {
        // A half-closed link is of no use: the other side's end is ours.
        this.ended = true;
        this.ending = true;
        handle.end();
        if (handle.pending === 0) this.fail();
        return;
      } else {
        return this.fail(nativeError(handle));
      }
    }
  }

  private drained(): void {
    this.pending = 0;
    if (this.ended) this.fail();
    else if (!this.ending) this.handler!.onDrain();
  }

  private fail(error?: Error): void {
    if (this.over) return;
    this.failure ??= error;
    this.lost += this.socket.handle.pending;
    this.socket.destroy();
  }

  private closed(): void {
    if (this.over) return;
    this.over = true;
    this.pending = 0;
    const { failure } = this;
    this.handler!.onClose(failure === undefined ? undefined : streamError(failure));
  }
}

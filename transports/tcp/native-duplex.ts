// A socket of the addon as a Duplex of node:stream, for the other services on the port.

import { Duplex } from 'node:stream';
import { DRAINED, FAILED, MORE, nativeError, type OpenSocket, READABLE } from './native-events.js';

const CHUNK = 16 * 1024;

export class NativeDuplex extends Duplex {
  private writing: ((error?: Error | null) => void) | null = null;
  private opened = false;
  private wanted = false;

  constructor(private readonly socket: OpenSocket) {
    super({ allowHalfOpen: false });
    socket.onClosed(() => this.destroy());
  }

  override _construct(callback: (error?: Error | null) => void): void {
    callback();
    this.opened = true;
    this.socket.open((event) => {
      if (event === READABLE) this.pull();
      else if (event === DRAINED) this.flushed();
      else if (event === FAILED) this.destroy(nativeError(this.socket.handle));
    });
  }

  override _read(): void {
    this.wanted = true;
    if (!this.opened || this.destroyed) return;
    this.socket.handle.resume();
    // What is here already is not announced again.
    setImmediate(() => this.pull());
  }

  override _write(chunk: Buffer, _encoding: BufferEncoding, callback: (error?: Error | null) => void): void {
    const waiting = this.socket.handle.write(chunk, 0, chunk.length);
    if (waiting < 0) callback(nativeError(this.socket.handle));
    else if (waiting === 0) callback();
    else this.writing = callback;
  }

  override _final(callback: (error?: Error | null) => void): void {
    this.socket.handle.end();
    callback();
  }

  override _destroy(error: Error | null, callback: (error?: Error | null) => void): void {
    this.socket.destroy();
    callback(error);
  }

  private flushed(): void {
    const { writing } = this;
    this.writing = null;
    writing?.();
  }

  private pull(): void {
    const { handle } = this.socket;
    // Nobody reads yet: what is here would be announced again and again.
    if (!this.wanted && !this.destroyed) handle.pause();
    while (this.wanted && !this.destroyed) {
      const chunk = Buffer.allocUnsafe(CHUNK);
      const got = handle.read(chunk, 0);
      if (got === -2) return void this.destroy(nativeError(handle));
      if (got === -1) {
        this.wanted = false;
        this.push(null);
        return;
      }
      const n = got >= MORE ? got - MORE : got;
      if (n === 0) return;
      // Below, nobody reads until `_read` is called again: the system holds the other side back.
      if (!this.push(chunk.subarray(0, n))) {
        this.wanted = false;
        handle.pause();
      }
    }
  }
}

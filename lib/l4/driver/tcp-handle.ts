// Edge: a TCP connection as net.Socket wants it: what Node's lib/net.js has in a libuv handle. No streams here, no
// EventEmitter: one owner with five callbacks.

import type { Driver } from '../driver.js';
import type { FlowHandler, TcpFlow } from '../flow-table.js';
import type { TcpSurface } from '../tcp/surface.js';
import { TcpEvent, type TcpOptions } from '../tcp/types.js';
import { codeOfReason } from './errors.js';

/** Most bytes handed up at once: what Node's own sockets read at a time. */
const READ_MAX = 65_536;

/** Bytes of a write that wait; never changed while empty, so all handles share this one. */
const NOTHING: Uint8Array[] = [];

/** In a tick of its own, without a closure per connection. */
const pull = (handle: TcpHandle): void => handle.pull();

export interface HandleOwner {
  /** The connection is up (code null) or has failed. Active opens only. */
  onConnect(code: string | null): void;
  /** Bytes; the caller may call `readStop` in here. */
  onData(chunk: Buffer): void;
  /** Bytes of `readInto` (see `useBuffer`). False: stop reading. */
  onBuffer(length: number): void;
  onEnd(): void;
  /** The connection broke; `code` as in `errno`. */
  onReadError(code: string): void;
  /** The node has been stopped; the connection is reset. */
  onStop(): void;
}

export class TcpHandle implements FlowHandler {
  private wanted = false;
  bytesRead = 0;
  bytesWritten = 0;
  readonly connection: TcpSurface;
  private owner: HandleOwner | null = null;
  private connecting: boolean;
  /**
   * The application hears of this connection in this turn of the loop: whoever awaits 'connect' or 'connection' has to get
   * his turn before data or an error comes. What came meanwhile is in `held`.
   */
  private fresh = false;
  private held = 0;
  private ended = false;
  /** How it ended, once it did; and whether that has been told. */
  private failure: string | null = null;
  private told = false;
  private finished = false;
  private target: Uint8Array | null = null;
  private pending: Uint8Array[] = NOTHING;
  private pendingDone: ((code: string | null) => void) | null = null;
  private waitingBytes = 0;
  private referenced = false;

  constructor(
    readonly driver: Driver,
    readonly flow: TcpFlow,
    connecting: boolean,
  ) {
    this.connecting = connecting;
    if (!connecting) this.beFresh();
    this.connection = flow.take();
    flow.handler = this;
    this.ref();
  }

  /** Bytes of the write in progress: counted as written, not yet taken. All of it counts until it is done, as in a stream. */
  get waiting(): number {
    return this.waitingBytes;
  }

  /** Node's HTTP client asks for it when it puts a socket back into the agent's pool: that of the program's start. */
  getAsyncId(): number {
    return 1;
  }

  attach(owner: HandleOwner): void {
    this.owner = owner;
  }

  ref(): void {
    if (this.referenced || this.finished) return;
    this.referenced = true;
    this.driver.ref();
  }

  unref(): void {
    if (!this.referenced) return;
    this.referenced = false;
    this.driver.unref();
  }

  /** Data goes to this buffer from now on, and is told by `onBuffer`. */
  useBuffer(target: Uint8Array): void {
    this.target = target;
  }

  get reading(): boolean {
    return this.wanted;
  }

  /** Node's HTTP server sets it before it calls `readStart` or `readStop`, which would then find nothing to do: what was waiting stayed for ever. */
  set reading(_value: boolean) {}

  readStart(): void {
    if (this.wanted || this.finished) return;
    this.wanted = true;
    const { connection } = this;
    // What is there already comes in its own tick, as from the kernel.
    if (connection.readable === 0 && !connection.ended && this.failure === null) return;
    if (!this.fresh) process.nextTick(pull, this);
  }

  readStop(): void {
    this.wanted = false;
  }

  /** `done(null)` once the connection has taken all bytes, perhaps at once; `done(code)` if it cannot. */
  write(chunks: readonly Uint8Array[], done: (code: string | null) => void): void {
    if (this.failure !== null) {
      // The first use after a reset says so, any later one EPIPE; as in the kernel.
      const code = this.told ? 'EPIPE' : this.failure;
      this.told = true;
      done(code);
      return;
    }
    let bytes = 0;
    for (const chunk of chunks) bytes += chunk.length;
    this.bytesWritten += bytes;
    let i = 0;
    let taken = 0;
    for (; i < chunks.length; i++) {
      taken = this.connection.write(chunks[i]!);
      if (taken < chunks[i]!.length) break;
    }
    this.driver.touch(this.flow);
    // The stream counts these bytes until `done`, also if that is called at once.
    this.waitingBytes = bytes;
    if (i === chunks.length) {
      this.waitingBytes = 0;
      done(null);
      return;
    }
    this.pending = chunks.slice(i);
    this.pending[0] = chunks[i]!.subarray(taken);
    this.pendingDone = done;
  }

  /** Takes what the connection takes now; returns how many bytes. */
  tryWrite(bytes: Uint8Array): number {
    if (this.failure !== null || this.pendingDone !== null) return 0;
    const taken = this.connection.write(bytes);
    this.bytesWritten += taken;
    this.driver.touch(this.flow);
    return taken;
  }

  /** FIN after what was written. */
  shutdown(): string | null {
    if (this.failure !== null) return this.told ? null : 'ENOTCONN';
    this.connection.shutdown();
    this.driver.touch(this.flow);
    return null;
  }

  setOption<K extends keyof TcpOptions>(name: K, value: TcpOptions[K]): void {
    this.connection.setOption(name, value);
    this.driver.touch(this.flow);
  }

  /** Lets go: what was written is still delivered, nobody reads. */
  close(): void {
    this.finish(() => this.connection.close());
  }

  reset(): void {
    this.finish(() => this.connection.abort());
  }

  private finish(how: () => void): void {
    if (this.finished) return;
    this.finished = true;
    this.wanted = false;
    this.owner = null;
    this.flow.handler = null;
    const done = this.pendingDone;
    this.pendingDone = null;
    this.pending = NOTHING;
    how();
    this.driver.touch(this.flow);
    this.unref();
    done?.('ECANCELED');
  }

  onTcpEvents(_flow: TcpFlow, events: number): void {
    if (this.connecting) {
      if ((events & (TcpEvent.established | TcpEvent.closed)) === 0) return;
      this.connecting = false;
      this.beFresh();
      if ((events & TcpEvent.established) === 0) {
        this.failure = codeOfReason(this.connection.reason);
        this.owner?.onConnect(this.failure);
        return;
      }
      this.owner?.onConnect(null);
      events &= ~TcpEvent.established;
    }
    if (this.fresh) this.held |= events;
    else this.handleEvents(events);
  }

  onStop(): void {
    this.owner?.onStop();
  }

  private beFresh(): void {
    this.fresh = true;
    setImmediate(() => {
      this.fresh = false;
      // Also without events: reading may have been started meanwhile.
      this.handleEvents(this.held);
    });
  }

  private handleEvents(events: number): void {
    if (this.finished) return;
    if ((events & TcpEvent.closed) !== 0 && this.connection.reason !== 'none') {
      this.failure = codeOfReason(this.connection.reason);
    }
    if ((events & TcpEvent.writable) !== 0 && this.pendingDone !== null) this.flushPending();
    if (this.wanted) this.pull();
    if (this.failure !== null && this.pendingDone !== null) {
      const done = this.pendingDone;
      this.pendingDone = null;
      this.pending = NOTHING;
      this.told = true;
      done(this.failure);
    }
  }

  private flushPending(): void {
    while (this.pending.length > 0) {
      const chunk = this.pending[0]!;
      const taken = this.connection.write(chunk);
      this.driver.touch(this.flow);
      if (taken < chunk.length) {
        this.pending[0] = chunk.subarray(taken);
        return;
      }
      this.pending.shift();
    }
    const done = this.pendingDone;
    this.pendingDone = null;
    this.waitingBytes = 0;
    done?.(null);
  }

  /** Hands up what is there. */
  pull(): void {
    const { connection } = this;
    let took = false;
    while (this.wanted && connection.readable > 0) {
      took = true;
      if (this.target !== null) {
        const n = connection.readInto(this.target);
        this.bytesRead += n;
        this.owner?.onBuffer(n);
        continue;
      }
      const chunk = connection.read(READ_MAX);
      if (chunk === null) break;
      this.bytesRead += chunk.length;
      this.owner?.onData(chunk);
    }
    if (took) this.driver.touch(this.flow);
    if (!this.wanted) return;
    if (connection.ended) {
      if (this.ended) return;
      this.ended = true;
      this.wanted = false;
      this.owner?.onEnd();
    } else if (this.failure !== null && !this.told) {
      this.told = true;
      this.wanted = false;
      this.owner?.onReadError(this.failure);
    }
  }
}

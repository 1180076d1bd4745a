// A connected socket of node:net or node:tls as a ByteStream: reads into buffers of ours, writes from slabs.

import net from 'node:net';
import type { Slab } from '../../lib/core/index.js';
import type { ByteStream, PeerIdentity, StreamHandler } from '../../lib/l2/transport.js';
import { streamError } from '../tls-reasons.js';
import { limitUnsent } from './descriptor.js';

/** One for all streams: a read is over before the next begins. */
const sharedRead = Buffer.allocUnsafeSlow(64 * 1024);
const MIN_READ = 16 * 1024;

/**
 * Makes an accepted socket read into buffers of ours, as the option `onread` of net.connect does, which servers do not
 * offer: saves an allocation of 64 KiB per read. The fields are Node's own, found by name on a socket made with the
 * public option; where a version of Node has others, false is returned and 'data' events do.
 */
function useReadBuffer(
  socket: net.Socket,
  room: () => Uint8Array,
  callback: (n: number, buf: Uint8Array) => boolean,
): boolean {
  const handle = (socket as unknown as { _handle?: { useUserBuffer?(buf: Uint8Array): void } })._handle;
  if (readFields === null || handle === undefined || handle === null || typeof handle.useUserBuffer !== 'function')
    return false;
  const fields = socket as unknown as Record<symbol, unknown>;
  const first = room();
  fields[readFields.buffer] = first;
  fields[readFields.callback] = callback;
  fields[readFields.next] = room;
  handle.useUserBuffer(first);
  socket.resume();
  return true;
}

const readFields = findReadFields();

function findReadFields(): { buffer: symbol; callback: symbol; next: symbol } | null {
  const options = { onread: { buffer: () => sharedRead, callback: () => true } };
  const probe = new net.Socket(options as net.SocketConstructorOpts);
  const named = (name: string) => Object.getOwnPropertySymbols(probe).find((s) => s.description === name);
  const [buffer, callback, next] = [named('kBuffer'), named('kBufferCb'), named('kBufferGen')];
  probe.destroy();
  if (buffer === undefined || callback === undefined || next === undefined) return null;
  return { buffer, callback, next };
}

/**
 * Bytes that one stream may bring per turn of the event loop. libuv reads a socket up to 32 times before it looks at the
 * next one: without this, a bulk transfer holds up everybody else for 2 MiB worth of work.
 */
const TURN_BYTES = 256 * 1024;
const TURN_WATCHED = TURN_BYTES / 4;

export class NodeStream implements ByteStream {
  private handler: StreamHandler | null = null;
  private needDrain = false;
  // Writes under way, in order, from `oldest` on. One callback serves all: a closure for each is what a small packet feels.
  private readonly writing: Slab[] = [];
  private readonly writingBytes: number[] = [];
  private oldest = 0;
  private readonly written = (error?: Error | null) => {
    const i = this.oldest++;
    if (!error && !this.socket.destroyed) this.lost -= this.writingBytes[i]!;
    this.writing[i]!.release();
    if (this.oldest === this.writing.length || this.oldest === 256) {
      this.writing.splice(0, this.oldest);
      this.writingBytes.splice(0, this.oldest);
      this.oldest = 0;
    }
  };
  /** Bytes read in this turn of the event loop (or since it was last asked), and whether its end is waited for. */
  private turn = 0;
  private watched = false;
  private held = false;
  private readonly nextTurn = () => {
    const rested = this.turn >= TURN_BYTES;
    this.watched = false;
    this.turn = 0;
    if (rested && !this.held) this.socket.resume();
  };
  /** Bytes of which the system did not say yet that it took them: in the end, those that are lost. */
  lost = 0;

  constructor(
    private readonly socket: net.Socket,
    readonly identity: PeerIdentity,
    readonly remote: string,
  ) {
    socket.on('error', () => {}); // reported by 'close', with the error kept below
  }

  open(handler: StreamHandler): void {
    this.handler = handler;
    const { socket } = this;
    let failure: Error | undefined;
    socket.on('error', (error: Error) => {
      failure = error;
    });
    if (
      !useReadBuffer(
        socket,
        () => this.nextRoom(),
        (n, buf) => this.landed(n, buf),
      )
    ) {
      socket.on('data', (chunk: Buffer) => this.receive(chunk));
    }
    socket.on('drain', () => {
      this.needDrain = false;
      handler.onDrain();
    });
    // A half-closed link is of no use: the other side's end is ours.
    socket.on('end', () => socket.end());
    const closed = () => handler.onClose(failure === undefined ? undefined : streamError(failure));
    limitUnsent(socket);
    if (socket.closed) queueMicrotask(closed);
    else socket.on('close', closed);
  }

  get pending(): number {
    return this.socket.writableLength;
  }

  /** What libuv has still to write: it shrinks while a single large write, of which Node says nothing, is under way. */
  get progress(): number {
    type Handle = { writeQueueSize?: number; _parent?: { writeQueueSize?: number } } | null | undefined;
    const handle = (this.socket as unknown as { _handle?: Handle })._handle;
    return (handle?.writeQueueSize ?? 0) + (handle?._parent?.writeQueueSize ?? 0);
  }

  write(slab: Slab, start: number, end: number): boolean {
    if (!this.socket.writable) return true; // over: 'close' says so
    slab.retain();
    this.lost += end - start;
    this.writing.push(slab);
    this.writingBytes.push(end - start);
    const more = this.socket.write(slab.bytes.subarray(start, end), this.written);
    if (!more) this.needDrain = true;
    return !this.needDrain;
  }

  pause(): void {
    this.held = true;
    this.socket.pause();
  }

  resume(): void {
    this.held = false;
    if (this.turn < TURN_BYTES) this.socket.resume();
  }

  end(): void {
    this.socket.end();
  }

  destroy(error?: Error): void {
    this.socket.destroy(error);
  }

  /** Where the next read is to land: behind a frame that is half there, else in the buffer that all idle streams share. */
  private nextRoom(): Uint8Array {
    const { handler } = this;
    if (handler === null || !handler.hasPartial) return sharedRead;
    const room = handler.room();
    return room.length >= MIN_READ ? room : sharedRead;
  }

  private landed(n: number, buf: Uint8Array): boolean {
    if (buf === sharedRead) this.receive(sharedRead.subarray(0, n));
    else this.handler!.onData(n);
    this.turn += n;
    if (this.turn >= TURN_WATCHED && !this.watched) {
      this.watched = true;
      setImmediate(this.nextTurn);
    }
    return this.turn < TURN_BYTES;
  }

  private receive(chunk: Buffer): void {
    let off = 0;
    while (off < chunk.length && !this.socket.destroyed) {
      const room = this.handler!.room();
      const n = Math.min(room.length, chunk.length - off);
      room.set(off === 0 && n === chunk.length ? chunk : chunk.subarray(off, off + n));
      this.handler!.onData(n);
      off += n;
    }
  }
}

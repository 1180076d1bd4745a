// Edge: the host's kernel as a port: a TUN device through the addon in native/. Packets are read straight into slabs in
// the layout of core/packet.ts, super-packets included, and written from wherever they lie.

import { loadNative, type NativeTun } from '../../native/loader.mjs';
import { KubeBusError, type Logger, type Slab, SlabPool, silentLogger } from '../core/index.js';

export interface TunOptions {
  /** Name of the device, at most 15 characters; %d is replaced by a free number. **Default:** 'kb%d'. */
  readonly name?: string;
  /** Ask the kernel for checksum, TCP and UDP segmentation offload. **Default:** true. */
  readonly offload?: boolean;
  /** Queues of the device, 1 to 16; the kernel spreads flows over them. **Default:** 1. */
  readonly queues?: number;
  readonly logger?: Logger;
}

export interface TunHandler {
  onPackets(slab: Slab, start: number, end: number): void;
  /** The kernel takes no super-packets although it said so: `takesOffload` is false from now on. Called once, not inside send(). */
  onPlain?(): void;
  /** The device is gone: closed by us (no error), or deleted by somebody else. */
  onClose(error?: KubeBusError): void;
}

/** Bytes of a read slab. At most one slab is read per wake-up and queue, so that links and timers get their turn. */
const READ_SLAB = 256 * 1024;
const MAX_READ_PACKETS = 256;

const CSUM = 1;
const TSO = 2;
const USO = 4;

/**
 * Creates a TUN device; it vanishes with the process. Throws ERR_TUN_UNAVAILABLE (no addon), ERR_TUN_PERMISSION (with
 * what to grant) or ERR_TUN.
 */
export function openTun(options: TunOptions = {}): TunDevice {
  const { name = 'kb%d', offload = true, queues = 1, logger = silentLogger } = options;
  const native = loadNative();
  if (native === null) {
    throw new KubeBusError(
      'ERR_TUN_UNAVAILABLE',
      `the TUN addon is not there for ${process.platform}-${process.arch}: install python3, make and a C++ compiler and run 'npm rebuild kubebus', or run without a TUN device`,
    );
  }
  if (!Number.isInteger(queues) || queues < 1 || queues > 16) {
    throw new KubeBusError('ERR_INVALID_ARGUMENT', `queues must be 1 to 16, not ${queues}`);
  }
  const flags = (offload ? 1 : 0) | (queues > 1 ? 2 : 0);
  const opened: NativeTun[] = [];
  try {
    for (let i = 0; i < queues; i++) opened.push(new native.Tun(opened[0]?.name ?? name, flags));
  } catch (cause) {
    for (const tun of opened) tun.close();
    throw explain(cause, name);
  }
  return new TunDevice(opened, logger);
}

/**
 * Runs `start`, which starts a program of the system, so that it may do what this process may: a right that the node binary has
 * by `setcap` would otherwise end here. Only for the time of the call: no other child of the application gets it.
 */
export function withNetAdmin<T>(start: () => T): T {
  const native = loadNative();
  const lent = native?.netAdminForChildren?.(true) ?? false;
  try {
    return start();
  } finally {
    if (lent) native?.netAdminForChildren(false);
  }
}

function explain(cause: unknown, name: string): KubeBusError {
  const { code = '', message = String(cause) } = cause as NodeJS.ErrnoException;
  if (code === 'ENOENT' || code === 'ENODEV' || code === 'ENXIO') {
    const text =
      '/dev/net/tun is missing: load the module (modprobe tun); in a container start it with --device /dev/net/tun';
    return new KubeBusError('ERR_TUN_PERMISSION', text, { cause });
  }
  if (code === 'EACCES' || (code === 'EPERM' && message.includes('/dev/net/tun'))) {
    const text = 'no access to /dev/net/tun: run as root or give this user read and write access to it';
    return new KubeBusError('ERR_TUN_PERMISSION', text, { cause });
  }
  if (code === 'EPERM') {
    const text =
      'the right CAP_NET_ADMIN is missing: run as root, or `setcap cap_net_admin+ep` on the node binary, AmbientCapabilities=CAP_NET_ADMIN in a systemd unit, --cap-add NET_ADMIN for a container';
    return new KubeBusError('ERR_TUN_PERMISSION', text, { cause });
  }
  if (code === 'EBUSY')
    return new KubeBusError('ERR_TUN', `a network device named ${name} is in use already`, { cause });
  if (code === 'ENAMETOOLONG') {
    return new KubeBusError('ERR_TUN', `the name of a network device has at most 15 characters: ${name}`, { cause });
  }
  return new KubeBusError('ERR_TUN', `cannot create the TUN device ${name}: ${message}`, { cause });
}

export class TunDevice {
  readonly name: string;
  /** What the kernel agreed to when the device was made. */
  readonly offload: { readonly csum: boolean; readonly tso: boolean; readonly uso: boolean };
  private plain = false;
  private readonly pool = new SlabPool(READ_SLAB, 4);
  private handler: TunHandler | null = null;
  private closed = false;

  constructor(
    private readonly queues: readonly NativeTun[],
    private readonly logger: Logger,
  ) {
    const first = queues[0]!;
    this.name = first.name;
    const bits = first.offload;
    this.offload = { csum: (bits & CSUM) !== 0, tso: (bits & TSO) !== 0, uso: (bits & USO) !== 0 };
  }

  /** The device can take super-packets and partial checksums. */
  get takesOffload(): boolean {
    return this.offload.tso && !this.plain;
  }

  /** Starts delivery. */
  open(handler: TunHandler): void {
    this.handler = handler;
    for (const queue of this.queues) {
      queue.start((errno) => {
        if (errno === 0) this.read(queue);
        else this.fail(errno);
      });
    }
  }

  /** Whole packet frames, to the kernel. What it does not take at once is dropped and counted, as on any interface. */
  send(slab: Slab, start: number, end: number): void {
    if (this.closed) return;
    if (this.queues[0]!.writeBatch(slab.bytes, start, end) < 0) this.fallBack();
  }

  pause(): void {
    for (const queue of this.queues) queue.pause();
  }

  resume(): void {
    if (!this.closed) for (const queue of this.queues) queue.resume();
  }

  close(): void {
    if (this.closed) return;
    this.closed = true;
    for (const queue of this.queues) queue.close();
    this.handler?.onClose();
  }

  stats(): Record<string, number> {
    const sum = { invalid: 0, full: 0, rejected: 0, coalesced: 0, written: 0, read: 0, split: 0 };
    for (const queue of this.queues) {
      const [invalid, full, rejected, coalesced, written, read, split] = queue.counters;
      sum.invalid += invalid!;
      sum.full += full!;
      sum.rejected += rejected!;
      sum.coalesced += coalesced!;
      sum.written += written!;
      sum.read += read!;
      sum.split += split!;
    }
    return sum;
  }

  private read(queue: NativeTun): void {
    const slab = this.pool.take();
    const end = queue.readBatch(slab.bytes, 0, slab.bytes.length, MAX_READ_PACKETS);
    if (end > 0) this.handler!.onPackets(slab, 0, end);
    slab.release();
  }

  private fallBack(): void {
    if (this.plain) return;
    this.plain = true;
    for (const queue of this.queues) queue.plain();
    this.logger.warn({ device: this.name }, 'the kernel refuses super-packets: the device goes on with plain ones');
    queueMicrotask(() => this.handler?.onPlain?.());
  }

  private fail(errno: number): void {
    if (this.closed) return;
    this.closed = true;
    for (const queue of this.queues) queue.close();
    this.logger.error({ device: this.name, errno }, 'the TUN device is gone');
    this.handler?.onClose(
      new KubeBusError('ERR_TUN_LOST', `the device ${this.name} was deleted or broke (errno ${errno})`),
    );
  }
}

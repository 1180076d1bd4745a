// Edge: binds a VRF to a link and to a clock. No policy in here.

import {
  type Clock,
  KubeBusError,
  MS,
  type Random,
  Slab,
  systemClock,
  systemRandom,
  type Timer,
} from '../core/index.js';
import type { Link, LinkHandler, LinkState } from '../l2/index.js';
import { formatAddress, type Prefix, parseAddress } from './address.js';
import { Pinger, type PingResult } from './pinger.js';
import type { Port } from './port.js';
import type { Vrf } from './vrf.js';

export interface LinkPortOptions {
  readonly vrf: Vrf;
  readonly link: Link;
  /** Sources allowed from the link; null: any (a node's link to its cloud, which has checked them). **Default:** []. */
  readonly sources?: readonly Prefix[] | null;
  readonly clock?: Clock;
  readonly onControl: (message: Uint8Array) => void;
  readonly onState?: (state: LinkState, reason?: KubeBusError) => void;
  /** The link takes packets again: resume a TUN device that was paused for it. */
  readonly onWritable?: () => void;
}

/** Makes a port of `vrf` out of a link and keeps its MTU, offload and state up to date. Remove it with vrf.removePort. */
export function attachLink(options: LinkPortOptions): Port {
  const { vrf, link, sources = [], clock = systemClock, onControl, onState, onWritable } = options;
  const { mtu, offload, partialChecksums } = link;
  const port = vrf.addPort({
    name: link.peer.node,
    kind: 'link',
    sink: link,
    mtu,
    offload,
    partialChecksums,
    up: link.state === 'up',
    sources,
  });
  const handler: LinkHandler = {
    onPackets: (slab, start, end) => port.handlePackets(clock.now(), slab, start, end),
    onControl,
    onState(state, reason) {
      const { mtu, offload, partialChecksums } = link;
      port.update({ mtu, offload, partialChecksums, up: state === 'up' });
      onState?.(state, reason);
    },
    onWritable: () => onWritable?.(),
  };
  link.attach(handler);
  return port;
}

export interface PingOptions {
  /** **Default:** 4. */
  readonly count?: number;
  /** Per request. Milliseconds. **Default:** 2000. */
  readonly timeoutMs?: number;
  /** Between requests. Milliseconds. **Default:** 200; 0: each as soon as the one before is answered. */
  readonly intervalMs?: number;
  /** Bytes of echo data, 8 or more. **Default:** 56. */
  readonly size?: number;
  /** **Default:** 64. */
  readonly ttl?: number;
  readonly signal?: AbortSignal;
}

export interface PingReport {
  /** Milliseconds, in order of the requests that were answered. */
  readonly rtts: readonly number[];
  readonly lost: number;
  /** Every request with its outcome; ICMP errors with their sender. */
  readonly results: readonly PingResult[];
}

/** node.ping(): echo requests from a VRF, with promises. One per VRF; `close` when the node stops. */
export class PingDriver {
  private readonly pinger: Pinger;
  private readonly detach: () => void;
  private readonly deadline: DeadlineTimer;
  private readonly closed = new AbortController();

  constructor(
    private readonly vrf: Vrf,
    private readonly clock: Clock = systemClock,
    random: Random = systemRandom,
  ) {
    this.pinger = new Pinger({ random });
    this.deadline = new DeadlineTimer(clock, this.pinger);
    this.detach = vrf.listenIcmp(this.pinger);
  }

  /** Rejects with ERR_ADDRESS, ERR_INVALID_ARGUMENT (also where we have no address of that family), ERR_ABORTED or ERR_CLOSED. Lost requests are no rejection. */
  async ping(address: string, options: PingOptions = {}): Promise<PingReport> {
    const { count = 4, intervalMs = 200, signal } = options;
    const destination = parseAddress(address);
    const results: PingResult[] = [];
    for (let i = 0; i < count; i++) {
      const started = this.clock.now();
      results.push(await this.once(destination, options, signal));
      const wait = started + intervalMs * MS - this.clock.now();
      if (i + 1 < count && wait > 0) await this.sleep(wait, signal);
    }
    const rtts = results.flatMap((r) => (r.ok ? [r.rttMicros / 1_000] : []));
    return { rtts, lost: count - rtts.length, results };
  }

  close(): void {
    this.closed.abort();
    this.deadline.close();
    this.detach();
  }

  private once(destination: Uint8Array, options: PingOptions, signal?: AbortSignal): Promise<PingResult> {
    const source = this.vrf.addresses.find((a) => a.length === destination.length);
    if (source === undefined) {
      const what = `this node has no ${destination.length === 4 ? 'IPv4' : 'IPv6'} address to reach ${formatAddress(destination)} from`;
      return Promise.reject(new KubeBusError('ERR_INVALID_ARGUMENT', what));
    }
    return this.abortable<PingResult>(signal, (resolve) => {
      const timeout = (options.timeoutMs ?? 2_000) * MS;
      const { size = 56, ttl = 64 } = options;
      const request = { source, destination, size, ttl, timeout };
      const now = this.clock.now();
      const slab = Slab.of(Buffer.allocUnsafe(Pinger.frameBytes(request)));
      const end = this.pinger.request(now, slab.bytes, 0, request, resolve);
      this.deadline.update();
      this.vrf.handleLocal(now, slab, 0, end);
      slab.release();
    });
  }

  private sleep(micros: number, signal?: AbortSignal): Promise<void> {
    let timer: Timer | undefined;
    return this.abortable<void>(signal, (resolve) => {
      timer = this.clock.at(this.clock.now() + micros, resolve);
    }).finally(() => timer?.cancel());
  }

  private abortable<T>(signal: AbortSignal | undefined, start: (resolve: (value: T) => void) => void): Promise<T> {
    const aborted = () => new KubeBusError('ERR_ABORTED', 'ping aborted', { cause: signal?.reason });
    const gone = () => new KubeBusError('ERR_CLOSED', 'the node was stopped during ping');
    if (signal?.aborted) return Promise.reject(aborted());
    if (this.closed.signal.aborted) return Promise.reject(gone());
    return new Promise<T>((resolve, reject) => {
      const settle = () => {
        signal?.removeEventListener('abort', onAbort);
        this.closed.signal.removeEventListener('abort', onAbort);
      };
      const onAbort = () => {
        settle();
        reject(signal?.aborted ? aborted() : gone());
      };
      const done = (value: T) => {
        settle();
        resolve(value);
      };
      signal?.addEventListener('abort', onAbort, { once: true });
      this.closed.signal.addEventListener('abort', onAbort, { once: true });
      try {
        start(done);
      } catch (error) {
        settle();
        reject(error);
      }
    });
  }
}

/** Runs `handleTimeout` of a core whenever its deadline comes; call `update` after everything that may change it. */
export class DeadlineTimer {
  private timer: Timer | null = null;
  private at = Number.POSITIVE_INFINITY;

  constructor(
    private readonly clock: Clock,
    private readonly core: { pollDeadline(): number; handleTimeout(now: number): void },
  ) {}

  update(): void {
    const deadline = this.core.pollDeadline();
    if (deadline === this.at) return;
    this.close();
    if (deadline === Number.POSITIVE_INFINITY) return;
    this.at = deadline;
    this.timer = this.clock.at(deadline, () => {
      this.timer = null;
      this.at = Number.POSITIVE_INFINITY;
      this.core.handleTimeout(this.clock.now());
      this.update();
    });
  }

  close(): void {
    this.timer?.cancel();
    this.timer = null;
    this.at = Number.POSITIVE_INFINITY;
  }
}

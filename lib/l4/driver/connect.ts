// Edge: from a host name or address to a connected handle: Node's lookup and "happy eyeballs" rules.

import { isIP } from 'node:net';
import { MS } from '../../core/index.js';
import { formatAddress } from '../../l3/index.js';
import type { FlowHandler, TcpFlow } from '../flow-table.js';
import type { TcpOptions } from '../tcp/types.js';
import { bindAddress, destination, resolve, type SocketContext } from './context.js';
import { argType, hostPortException, nodeError, notFound, type SystemError } from './errors.js';
import { TcpHandle } from './tcp-handle.js';

/** Node's custom lookup: `dns.lookup` or anything with its signature. */
export type LookupFunction = (
  hostname: string,
  options: { family: number; hints: number; all: boolean },
  callback: (
    error: Error | null,
    address?: string | readonly { address: string; family: number }[],
    family?: number,
  ) => void,
) => void;

export interface BlockListLike {
  check(address: string, family: 'ipv4' | 'ipv6'): boolean;
}

export interface ConnectRequest {
  readonly host: string;
  readonly port: number;
  readonly family: 0 | 4 | 6;
  readonly localAddress: string | undefined;
  readonly localPort: number;
  readonly lookup: LookupFunction | undefined;
  readonly autoSelectFamily: boolean;
  readonly attemptTimeout: number;
  readonly blockList: BlockListLike | undefined;
  readonly tcp: Readonly<TcpOptions>;
}

/** What a connection attempt tells the socket while it goes on. */
export interface ConnectObserver {
  onLookup(error: Error | null, address: string | undefined, family: number, host: string): void;
  /** A new attempt; the handle is the one that counts from now on. */
  /** `several`: there are more addresses than this one. */
  onAttempt(handle: TcpHandle, address: string, port: number, family: number, several: boolean): void;
  onAttemptFailed(address: string, port: number, family: number, error: Error): void;
  onAttemptTimeout(address: string, port: number, family: number): void;
  onConnected(handle: TcpHandle): void;
  onFailed(error: Error): void;
}

/** Until the handle is there: no event comes before the next tick. */
const NOBODY: FlowHandler = { onTcpEvents: () => {}, onStop: () => {} };

interface Candidate {
  readonly address: string;
  readonly family: number;
}

export class Connector {
  private stopped = false;
  private handle: TcpHandle | null = null;
  private timer: { cancel(): void } | null = null;
  private readonly errors: SystemError[] = [];

  constructor(
    private readonly context: SocketContext,
    private readonly request: ConnectRequest,
    private readonly observer: ConnectObserver,
  ) {}

  start(): void {
    const { host, family } = this.request;
    const kind = isIP(host);
    if (kind !== 0) {
      process.nextTick(() => this.attempt([{ address: host, family: kind }], 0));
      return;
    }
    if (this.request.lookup !== undefined) this.customLookup(this.request.lookup);
    else {
      resolve(this.context, host, family).then(
        (found) => this.handleFound(found.map((address) => ({ address, family: isIP(address) }))),
        (error: unknown) => this.handleLookupError(error instanceof Error ? error : notFound(host)),
      );
    }
  }

  /** The socket was destroyed. */
  stop(): void {
    this.stopped = true;
    this.timer?.cancel();
    this.handle?.reset();
    this.handle = null;
  }

  private customLookup(lookup: LookupFunction): void {
    const { host, family, autoSelectFamily } = this.request;
    const all = family === 0 && autoSelectFamily;
    lookup(host, { family, hints: 0, all }, (error, address, kind) => {
      if (error !== null && error !== undefined) {
        this.handleLookupError(error);
        return;
      }
      if (typeof address === 'object') {
        this.handleFound(address.filter((a) => a.family === 4 || a.family === 6));
        return;
      }
      if (typeof address !== 'string' || isIP(address) === 0) {
        const bad = nodeError('ERR_INVALID_IP_ADDRESS', `Invalid IP address: ${address}`, TypeError);
        process.nextTick(() => this.fail(bad));
        return;
      }
      if (kind !== 4 && kind !== 6) {
        const text = `Invalid address family: ${kind} ${host}:${this.request.port}`;
        const bad = Object.assign(nodeError('ERR_INVALID_ADDRESS_FAMILY', text, RangeError), {
          host,
          port: this.request.port,
        });
        process.nextTick(() => this.fail(bad));
        return;
      }
      this.handleFound([{ address, family: kind }]);
    });
  }

  private handleLookupError(error: Error): void {
    if (this.stopped) return;
    this.observer.onLookup(error, undefined, 0, this.request.host);
    process.nextTick(() => this.fail(error));
  }

  private handleFound(found: readonly Candidate[]): void {
    if (this.stopped) return;
    const usable = found.filter((c) => c.family === 4 || c.family === 6);
    if (usable.length === 0) {
      this.handleLookupError(notFound(this.request.host));
      return;
    }
    for (const c of usable) this.observer.onLookup(null, c.address, c.family, this.request.host);
    process.nextTick(() => this.attempt(this.request.autoSelectFamily ? takingTurns(usable) : usable.slice(0, 1), 0));
  }

  /** One candidate after the other; the last one may take as long as TCP takes. */
  private attempt(candidates: readonly Candidate[], index: number): void {
    if (this.stopped) return;
    const { address, family } = candidates[index]!;
    const { port, localAddress, localPort, attemptTimeout, blockList } = this.request;
    if (blockList?.check(address, family === 4 ? 'ipv4' : 'ipv6')) {
      const error = nodeError('ERR_IP_BLOCKED', `IP(${address}) is blocked by net.BlockList`);
      this.next(candidates, index, Object.assign(error, { errno: 0, syscall: 'connect' }));
      return;
    }
    const local = localAddress === undefined ? undefined : `${localAddress}:${localPort}`;
    const failed = (code: string) =>
      this.next(candidates, index, hostPortException(code, 'connect', address, port, local));
    const flow = this.open(address);
    if (typeof flow === 'string') {
      failed(flow);
      return;
    }
    const { driver } = this.context;
    driver.schedule();
    const handle = new TcpHandle(driver, flow, true);
    this.handle = handle;
    if (index + 1 < candidates.length) {
      this.timer = driver.clock.at(driver.now() + attemptTimeout * MS, () => {
        this.observer.onAttemptTimeout(address, port, family);
        const where =
          local === undefined ? undefined : `${formatAddress(flow.config.localAddress)}:${flow.config.localPort}`;
        this.next(candidates, index, hostPortException('ETIMEDOUT', 'connect', address, port, where));
      });
    }
    handle.attach({
      onConnect: (code) => {
        this.timer?.cancel();
        if (code !== null) {
          failed(code);
          return;
        }
        this.handle = null;
        this.observer.onConnected(handle);
      },
      onData: () => {},
      onBuffer: () => {},
      onEnd: () => {},
      onReadError: () => {},
      // The abort that follows fails the attempt.
      onStop: () => {},
    });
    this.observer.onAttempt(handle, address, port, family, candidates.length > 1);
  }

  /** The connection to come, or the code of why there is none. */
  private open(address: string): TcpFlow | string {
    const { port, localAddress, localPort, tcp } = this.request;
    const { driver } = this.context;
    if (driver.closed) return 'ENETDOWN';
    const remote = destination(this.context, address);
    if (remote === null) return 'ENETUNREACH';
    const bound = localAddress === undefined ? null : bindAddress(this.context, localAddress);
    if (bound === 'missing') return 'EADDRNOTAVAIL';
    const source = bound ?? driver.stack.localFor(remote);
    if (source === null || source.length !== remote.length) return 'ENETUNREACH';
    const flow = driver.stack.tcp.connect(driver.now(), source, localPort, remote, port, tcp, NOBODY);
    if (flow === 'in-use') return 'EADDRINUSE';
    if (flow === 'no-port') return 'EADDRNOTAVAIL';
    return flow === 'limit' ? 'ENOBUFS' : flow;
  }

  private next(candidates: readonly Candidate[], index: number, error: SystemError): void {
    const { address, family } = candidates[index]!;
    this.handle?.reset();
    this.handle = null;
    this.timer?.cancel();
    if (this.stopped) return;
    this.errors.push(error);
    this.observer.onAttemptFailed(address, this.request.port, family, error);
    if (index + 1 < candidates.length) {
      this.attempt(candidates, index + 1);
      return;
    }
    if (this.errors.length === 1) this.fail(error);
    else this.fail(Object.assign(new AggregateError(this.errors), { code: this.errors[0]!.code }));
  }

  private fail(error: Error): void {
    if (this.stopped) return;
    this.stopped = true;
    this.observer.onFailed(error);
  }
}

/** Each address once, the families in turns, that of the first one first: as Node. */
function takingTurns(candidates: readonly Candidate[]): Candidate[] {
  const once = candidates.filter((c, i) => candidates.findIndex((d) => d.address === c.address) === i);
  const first = once.filter((c) => c.family === once[0]?.family);
  const second = once.filter((c) => c.family !== once[0]?.family);
  const out: Candidate[] = [];
  for (let i = 0; i < once.length; i++) {
    for (const list of [first, second]) if (list[i] !== undefined) out.push(list[i]!);
  }
  return out;
}

/** Checks what `connect` was given, as Node does before anything asynchronous happens. */
export function validateLocal(localAddress: unknown, localPort: unknown): void {
  if (localAddress !== undefined && localAddress !== null && localAddress !== '') {
    if (typeof localAddress !== 'string' || isIP(localAddress) === 0) {
      throw nodeError('ERR_INVALID_IP_ADDRESS', `Invalid IP address: ${String(localAddress)}`, TypeError);
    }
  }
  if (localPort !== undefined && localPort !== null && typeof localPort !== 'number') {
    throw argType('options.localPort', 'of type number', localPort);
  }
}

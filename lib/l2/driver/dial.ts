// Edge: a link that dials, and dials again for ever until it is closed or told to stay away.

import { KubeBusError, type Micros, MS, RaceError, race, SECOND, type Timer } from '../../core/index.js';
import { Backoff, type BackoffOptions, DEFAULT_BACKOFF } from '../backoff.js';
import { type HelloInfo, sameBytes } from '../connection-machine.js';
import { type GoodbyeInfo, goodbyeFrame } from '../goodbye.js';
import type { Link } from '../link.js';
import type { ByteStream, PeerIdentity, Transport } from '../transport.js';
import { BaseLink } from './base-link.js';
import { Connection, type ConnectionEvents } from './connection.js';
import { type LinkOptions, type ResolvedOptions, resolveOptions } from './options.js';

export interface DialOptions extends LinkOptions {
  readonly transport: Transport;
  /** Tried from the one that worked last on, each `addressDelay` after the one before; the first to answer is taken. */
  readonly addresses: readonly string[];
  readonly tenant: string;
  readonly node: string;
  /** Connections of this link, 1 to 64. **Default:** 1. */
  readonly connections?: number;
  /** For one attempt, TLS included. **Default:** 10 s. */
  readonly connectTimeout?: Micros;
  /** Head start of one address before the next is tried beside it (RFC 8305 §5). **Default:** 250 ms. */
  readonly addressDelay?: Micros;
  /** A connection that is a compromise (UDP was blocked, say) is left for a better one, which is tried for so often. **Default:** 5 min. */
  readonly betterAfter?: Micros;
  readonly backoff?: BackoffOptions;
}

const UNKNOWN: PeerIdentity = {
  tenant: '',
  node: 'cloud',
  prefixes: [],
  authenticated: false,
  expires: Number.POSITIVE_INFINITY,
};

/** Codes that a retry in a second will not cure; the next try waits REFUSED_WAIT. */
const REFUSED = new Set([
  'ERR_TENANT_UNKNOWN',
  'ERR_DUPLICATE_NODE',
  'ERR_CERTIFICATE',
  'ERR_REVOKED',
  'ERR_IDENTITY_MISMATCH',
  'ERR_VERSION',
]);
const REFUSED_WAIT: Micros = 5 * SECOND;
/** Below this age a connection that ends counts as a failed attempt. */
const LIVED: Micros = 10 * SECOND;

export function dialLink(options: DialOptions): Link {
  const { connections = 1, addresses } = options;
  if (!Number.isInteger(connections) || connections < 1 || connections > 64) {
    throw new KubeBusError('ERR_INVALID_ARGUMENT', `connections must be 1 to 64, not ${connections}`);
  }
  if (addresses.length === 0) throw new KubeBusError('ERR_INVALID_ARGUMENT', 'addresses must name at least one cloud');
  return new DialledLink(options, resolveOptions(options), connections);
}

class DialledLink extends BaseLink implements ConnectionEvents {
  peer: PeerIdentity = UNKNOWN;
  private readonly slots: Slot[];
  private readonly instance = new Uint8Array(16);
  private peerInstance = new Uint8Array(0);
  /** Grows when the last connection is lost: the peer, too, is to begin anew. */
  private session = 1;
  /** The configured ones; before them those that a cloud sent us to when it stopped. */
  private addresses: readonly string[];
  /** Index into addresses where the next attempt of any slot starts. */
  private preferred = 0;

  constructor(
    readonly options: DialOptions,
    readonly resolved: ResolvedOptions,
    connections: number,
  ) {
    super(resolved.clock, resolved.highWater, resolved.connection.controlBytes);
    this.mtu = resolved.mtu;
    this.offload = resolved.offload;
    this.partialChecksums = resolved.offload || resolved.partialChecksums;
    this.addresses = options.addresses;
    resolved.random.fill(this.instance);
    this.slots = Array.from({ length: connections }, (_, i) => new Slot(this, i));
    for (const slot of this.slots) slot.dial();
  }

  get address(): string {
    return this.addresses[this.preferred]!;
  }

  /** Where an attempt may go, the best first: anywhere, but all connections of a link end in one process. */
  get candidates(): readonly string[] {
    const { addresses } = this;
    if (this.open.length > 0) return [this.address];
    return addresses.map((_, i) => addresses[(this.preferred + i) % addresses.length]!);
  }

  /** An attempt at `address` failed: the next one, of whatever slot, goes elsewhere, unless the link is up there. */
  avoid(address: string): void {
    if (this.open.length > 0) return;
    const { addresses } = this;
    this.preferred = (addresses.indexOf(address) + 1) % addresses.length;
  }

  hello(connection: number): HelloInfo {
    const { mtu, offload, partialChecksums, keepalive, agent } = this.resolved;
    const { tenant, node } = this.options;
    const { instance, session } = this;
    const connections = this.slots.length;
    return {
      tenant,
      node,
      instance,
      mtu,
      offload,
      partialChecksums,
      keepalive,
      agent,
      connection,
      connections,
      session,
    };
  }

  close(reason: KubeBusError): void {
    if (this.state === 'closed') return;
    for (const slot of this.slots) slot.stop(reason);
    this.open.length = 0;
    this.setState('closed', reason);
  }

  onHello(): void {}

  onOpen(connection: Connection, hello: HelloInfo): void {
    const slot = this.slots.find((s) => s.connection === connection || s.better === connection)!;
    // All connections of a link end in one process; and none that was begun for the link before belongs to this one.
    const same = this.open.length === 0 || sameBytes(this.peerInstance, hello.instance);
    if (!same || slot.session !== this.session) {
      const text = same
        ? 'begun before the link was lost'
        : 'another instance answers there than the one this link is with';
      return connection.close(new KubeBusError('ERR_PEER_GOODBYE', text));
    }
    this.peerInstance = Uint8Array.from(hello.instance);
    const { identity } = connection.stream;
    this.peer = identity.authenticated ? identity : { ...identity, tenant: hello.tenant, node: hello.node };
    this.addConnection(connection, this.slots.length);
    this.preferred = Math.max(0, this.addresses.indexOf(slot.address));
    slot.opened(connection);
    this.setState('up');
  }

  onOver(connection: Connection, reason: KubeBusError, goodbye: GoodbyeInfo | null): void {
    const wasUp = this.open.length > 0;
    this.removeConnection(connection);
    if (wasUp && this.open.length === 0) this.session++;
    this.slots.find((slot) => slot.better === connection)?.noBetter();
    this.slots.find((slot) => slot.connection === connection)?.lost(reason, goodbye);
  }

  /** Where the cloud says that it is to be found from now on. Who was configured stays in the list. */
  moved(addresses: readonly string[]): void {
    this.addresses = [...new Set([...addresses, ...this.options.addresses])];
    this.preferred = 0;
    this.resolved.logger.info({ addresses }, 'the cloud is to be found elsewhere from now on');
  }

  /** A slot has no connection: says so when it was the last. */
  failed(reason: KubeBusError): void {
    if (this.state !== 'closed' && this.open.length === 0) this.setState('connecting', reason);
  }
}

/** One connection of the link, for ever. */
class Slot {
  connection: Connection | null = null;
  /** Takes the place of `connection` once it is open. */
  better: Connection | null = null;
  /** Of the current or last attempt. */
  address = '';
  session = 0;
  private readonly backoff: Backoff;
  private attempting: AbortController | null = null;
  private timer: Timer | null = null;
  private betterTimer: Timer | null = null;
  private stopped = false;

  constructor(
    private readonly link: DialledLink,
    private readonly index: number,
  ) {
    this.backoff = new Backoff(link.resolved.random, link.options.backoff ?? DEFAULT_BACKOFF);
  }

  dial(): void {
    void this.attempt().catch((cause: unknown) => {
      if (this.stopped) return;
      const reason = cause instanceof KubeBusError ? cause : new KubeBusError('ERR_CONNECT', String(cause), { cause });
      this.link.avoid(this.address);
      this.link.failed(reason);
      this.again(REFUSED.has(reason.code) ? REFUSED_WAIT : 0);
    });
  }

  stop(reason: KubeBusError): void {
    this.stopped = true;
    this.timer?.cancel();
    this.betterTimer?.cancel();
    this.attempting?.abort();
    this.better?.close(reason);
    this.connection?.close(reason);
  }

  /** Open: the wait for a better way begins anew, or is over. */
  opened(connection: Connection): void {
    if (connection === this.better) {
      const before = this.connection;
      this.connection = connection;
      this.better = null;
      // The cloud, too, lets it go; what it has taken goes out first.
      before?.close(new KubeBusError('ERR_PEER_GOODBYE', 'a better connection took over'));
    }
    const { compromise, remote } = connection.stream;
    const { logger } = this.link.resolved;
    if (compromise === undefined) return;
    logger.warn({ remote }, `not the way that was wanted first: ${compromise}; it is tried again later`);
    this.noBetter();
  }

  /** There is none now: later, perhaps. */
  noBetter(): void {
    this.better = null;
    this.betterTimer?.cancel();
    if (this.stopped) return;
    const { resolved, options } = this.link;
    const after = options.betterAfter ?? 300 * SECOND;
    // Jitter: nodes that lost UDP together do not come back together.
    const wait = after * (0.75 + resolved.random.float() / 2);
    this.betterTimer = resolved.clock.at(resolved.clock.now() + wait, () => void this.tryBetter());
  }

  private async tryBetter(): Promise<void> {
    const current = this.connection;
    if (this.stopped || this.attempting !== null || current?.stream.compromise === undefined) return;
    const stream = await this.reach([this.address]).catch(() => null);
    if (stream === null) return this.noBetter();
    if (this.stopped || this.connection !== current || stream.compromise !== undefined) {
      stream.destroy();
      return this.noBetter();
    }
    this.better = this.begin(stream);
  }

  lost(reason: KubeBusError, goodbye: GoodbyeInfo | null): void {
    const lived = this.link.resolved.clock.now() - this.connection!.opened > LIVED;
    this.connection = null;
    this.betterTimer?.cancel();
    if (this.stopped) return;
    if (lived) this.backoff.reset();
    else this.link.avoid(this.address);
    this.link.resolved.logger.info({ code: reason.code, reason: reason.message }, 'connection lost');
    if (goodbye?.permanent) return this.link.close(reason);
    if (goodbye !== null && goodbye.addresses.length > 0) this.link.moved(goodbye.addresses);
    this.link.failed(reason);
    this.again(Math.max((goodbye?.retryAfterMs ?? 0) * MS, REFUSED.has(reason.code) ? REFUSED_WAIT : 0));
  }

  private again(atLeast: Micros): void {
    if (this.stopped) return;
    const { clock } = this.link.resolved;
    // The wait that the peer asked for, plus jitter, so that those told the same do not come at once.
    this.timer = clock.at(clock.now() + atLeast + this.backoff.next(), () => this.dial());
  }

  private async attempt(): Promise<void> {
    const { candidates } = this.link;
    this.address = candidates[0]!;
    const stream = await this.reach(candidates);
    if (this.stopped) return stream.destroy();
    this.connection = this.begin(stream);
  }

  private begin(stream: ByteStream): Connection {
    const hello = this.link.hello(this.index);
    this.session = hello.session;
    // A certificate names the cloud; it is not the tenant and node of a hello.
    return new Connection(stream, 'dialer', hello, this.link.resolved.connection, this.link);
  }

  /** A stream to one of the addresses, which becomes `address`. */
  private async reach(addresses: readonly string[]): Promise<ByteStream> {
    const { options, resolved } = this.link;
    const { clock } = resolved;
    const attempting = new AbortController();
    this.attempting = attempting;
    const timer = clock.at(clock.now() + (options.connectTimeout ?? 10 * SECOND), () => attempting.abort());
    const farewell = (reason: KubeBusError) => goodbyeFrame(reason.code, reason.message);
    try {
      if (addresses.length === 1) return await options.transport.dial(addresses[0]!, attempting.signal, farewell);
      const attempts = addresses.map((address) => ({
        headStart: options.addressDelay ?? 250 * MS,
        start: (signal: AbortSignal) => options.transport.dial(address, signal, farewell),
      }));
      const { value, winner, failures } = await race(attempts, clock, attempting.signal, (late) => late.destroy());
      // An address that did not work is said, though another did.
      for (const failure of failures) if (failure instanceof KubeBusError) this.link.failed(failure);
      this.address = addresses[winner]!;
      return value;
    } catch (error) {
      if (!(error instanceof RaceError)) throw error;
      // One that answered and refused says more than those that did not answer.
      throw error.errors.find((e) => e instanceof KubeBusError && e.code !== 'ERR_CONNECT') ?? error.errors[0]!;
    } finally {
      timer.cancel();
      this.attempting = null;
    }
  }
}

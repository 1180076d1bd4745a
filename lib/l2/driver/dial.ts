// Edge: a link that dials, and dials again for ever until it is closed or told to stay away.

import { KubeBusError, type Micros, MS, SECOND, type Timer } from '../../core/index.js';
import { Backoff, type BackoffOptions, DEFAULT_BACKOFF } from '../backoff.js';
import { type HelloInfo, sameBytes } from '../connection-machine.js';
import { type GoodbyeInfo, goodbyeFrame } from '../goodbye.js';
import type { Link } from '../link.js';
import type { PeerIdentity, Transport } from '../transport.js';
import { BaseLink } from './base-link.js';
import { Connection, type ConnectionEvents } from './connection.js';
import { type LinkOptions, type ResolvedOptions, resolveOptions } from './options.js';

export interface DialOptions extends LinkOptions {
  readonly transport: Transport;
  /** Tried in turn, from the one that worked last. */
  readonly addresses: readonly string[];
  readonly tenant: string;
  readonly node: string;
  /** Connections of this link, 1 to 64. **Default:** 1. */
  readonly connections?: number;
  /** For one attempt, TLS included. **Default:** 10 s. */
  readonly connectTimeout?: Micros;
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
    resolved.random.fill(this.instance);
    this.slots = Array.from({ length: connections }, (_, i) => new Slot(this, i));
    for (const slot of this.slots) slot.dial();
  }

  get address(): string {
    return this.options.addresses[this.preferred]!;
  }

  /** An attempt at `address` failed: the next one, of whatever slot, goes elsewhere, unless the link is up there. */
  avoid(address: string): void {
    if (this.open.length > 0 || address !== this.address) return;
    this.preferred = (this.preferred + 1) % this.options.addresses.length;
  }

  hello(connection: number): HelloInfo {
    const { mtu, offload, keepalive, agent } = this.resolved;
    const { tenant, node } = this.options;
    const { instance, session } = this;
    const connections = this.slots.length;
    return { tenant, node, instance, mtu, offload, keepalive, agent, connection, connections, session };
  }

  close(reason: KubeBusError): void {
    if (this.state === 'closed') return;
    for (const slot of this.slots) slot.stop(reason);
    this.open.length = 0;
    this.setState('closed', reason);
  }

  onHello(): void {}

  onOpen(connection: Connection, hello: HelloInfo): void {
    const slot = this.slots.find((s) => s.connection === connection)!;
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
    this.preferred = Math.max(0, this.options.addresses.indexOf(slot.address));
    this.setState('up');
  }

  onOver(connection: Connection, reason: KubeBusError, goodbye: GoodbyeInfo | null): void {
    const wasUp = this.open.length > 0;
    this.removeConnection(connection);
    if (wasUp && this.open.length === 0) this.session++;
    this.slots.find((slot) => slot.connection === connection)?.lost(reason, goodbye);
  }

  /** A slot has no connection: says so when it was the last. */
  failed(reason: KubeBusError): void {
    if (this.state !== 'closed' && this.open.length === 0) this.setState('connecting', reason);
  }
}

/** One connection of the link, for ever. */
class Slot {
  connection: Connection | null = null;
  /** Of the current or last attempt. */
  address = '';
  session = 0;
  private readonly backoff: Backoff;
  private attempting: AbortController | null = null;
  private timer: Timer | null = null;
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
    this.attempting?.abort();
    this.connection?.close(reason);
  }

  lost(reason: KubeBusError, goodbye: GoodbyeInfo | null): void {
    const lived = this.link.resolved.clock.now() - this.connection!.opened > LIVED;
    this.connection = null;
    if (this.stopped) return;
    if (lived) this.backoff.reset();
    else this.link.avoid(this.address);
    this.link.resolved.logger.info({ code: reason.code, reason: reason.message }, 'connection lost');
    if (goodbye?.permanent) return this.link.close(reason);
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
    const { options, resolved, address } = this.link;
    this.address = address;
    const attempting = new AbortController();
    this.attempting = attempting;
    const timer = resolved.clock.at(resolved.clock.now() + (options.connectTimeout ?? 10 * SECOND), () =>
      attempting.abort(),
    );
    try {
      const farewell = (reason: KubeBusError) => goodbyeFrame(reason.code, reason.message);
      const stream = await options.transport.dial(address, attempting.signal, farewell);
      if (this.stopped) return stream.destroy();
      const hello = this.link.hello(this.index);
      this.session = hello.session;
      // A certificate names the cloud; it is not the tenant and node of a hello.
      this.connection = new Connection(stream, 'dialer', hello, resolved.connection, this.link);
    } finally {
      timer.cancel();
      this.attempting = null;
    }
  }
}

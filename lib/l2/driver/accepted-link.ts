// Edge: a link that a peer dialled. It is gone with its last connection; the peer's next one is another link.

import { type KubeBusError, type Micros, SECOND } from '../../core/index.js';
import type { HelloInfo } from '../connection-machine.js';
import type { GoodbyeInfo } from '../goodbye.js';
import type { PeerIdentity } from '../transport.js';
import { BaseLink } from './base-link.js';
import type { Connection, ConnectionEvents } from './connection.js';
import type { ResolvedOptions } from './options.js';

/** How long a connection that was replaced is still read: it is the node that closes it, once it has the new one. */
const RETIRED: Micros = SECOND;
/** More of them at once are no node that moves. */
const MOST_RETIRED = 16;

export class AcceptedLink extends BaseLink {
  readonly instance: Uint8Array;
  readonly session: number;
  private readonly planned: number;
  private closing: KubeBusError | null = null;
  private probing: ((alive: boolean) => void)[] = [];
  private readonly retired = new Set<Connection>();

  constructor(
    readonly peer: PeerIdentity,
    hello: HelloInfo,
    resolved: ResolvedOptions,
    private readonly onGone: (link: AcceptedLink) => void,
  ) {
    super(resolved.clock, resolved.highWater, resolved.connection.controlBytes);
    this.instance = hello.instance;
    this.session = hello.session;
    this.planned = hello.connections;
  }

  /** What a connection that belongs to this link calls. */
  eventsOf(onOver: (reason: KubeBusError) => void): ConnectionEvents {
    return {
      onHello() {},
      onOpen: (connection) => this.opened(connection),
      onPackets: (slab, start, end) => this.onPackets(slab, start, end),
      onControl: (connection, payload) => this.onControl(connection, payload),
      controlReceived: () => this.controlReceived(),
      onControlReceived: (connection, received) => this.onControlReceived(connection, received),
      onWritable: () => this.onWritable(),
      onOver: (connection, reason) => {
        onOver(reason);
        this.retired.delete(connection);
        this.removeConnection(connection);
        if (this.open.length === 0) this.gone(reason);
      },
    };
  }

  close(reason: KubeBusError): void {
    this.closeWith(reason, {});
  }

  closeWith(reason: KubeBusError, goodbye: Partial<GoodbyeInfo>): void {
    if (this.state === 'closed') return;
    // The last one to close takes the link with it.
    this.closing = reason;
    for (const c of [...this.open]) c.close(reason, goodbye);
    this.gone(reason);
  }

  /** The first onState comes after the owner had its chance to attach. */
  announce(): void {
    if (this.state === 'up') this.handler.onState('up');
  }

  /** Asks the peer for a sign of life. */
  probe(timeout: Micros, done: (alive: boolean) => void): void {
    this.probing.push(done);
    if (this.probing.length > 1) return;
    const { clock } = this;
    const asked = clock.now();
    for (const c of [...this.open]) c.machine.sendPing(asked);
    clock.at(asked + timeout, () => {
      const now = clock.now();
      const alive = this.open.some((c) => c.machine.keepalive.silence(now) < now - asked);
      const waiting = this.probing;
      this.probing = [];
      for (const answer of waiting) answer(alive);
    });
  }

  private opened(connection: Connection): void {
    const before = this.open.find((c) => c.slot === connection.slot);
    this.addConnection(connection, this.planned);
    if (before !== undefined) this.retire(before);
    if (this.state === 'up') this.handler.onState('up');
    else this.state = 'up';
  }

  /**
   * The node dialled this one again: either it is dead, though nothing was heard of that here, or the node moves to a better way. Our
   * hello on the new one and a goodbye on this one would race each other, and a node that reads the goodbye first has no link.
   */
  private retire(connection: Connection): void {
    this.removeConnection(connection);
    this.retired.add(connection);
    const end = (c: Connection) => c.machine.fail('ERR_TRANSPORT', 'replaced by a new connection');
    if (this.retired.size > MOST_RETIRED) end(this.retired.values().next().value!);
    this.clock.at(this.clock.now() + RETIRED, () => end(connection));
  }

  private gone(reason: KubeBusError): void {
    if (this.state === 'closed') return;
    for (const c of [...this.retired]) c.close(reason);
    this.onGone(this);
    this.setState('closed', this.closing ?? reason);
  }
}

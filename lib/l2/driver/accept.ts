// Edge: accepts connections on any number of transports and groups them into links, one per node.

import { type ErrorCode, KubeBusError, type Micros, SECOND, type Slab } from '../../core/index.js';
import { type GoodbyeInfo, type HelloInfo, isName } from '../connection-machine.js';
import type { Link } from '../link.js';
import type { AcceptHandler, ByteStream, Listener, PeerIdentity, Transport } from '../transport.js';
import { BaseLink } from './base-link.js';
import { Connection, type ConnectionEvents } from './connection.js';
import { type LinkOptions, type ResolvedOptions, resolveOptions } from './options.js';

export interface AcceptLimits {
  /** Connections in all. **Default:** 16384. */
  readonly connections: number;
  /** Connections of one link. **Default:** 16. */
  readonly connectionsPerPeer: number;
  /** Connections whose hello is not done. **Default:** 1024. */
  readonly handshakes: number;
}

export const DEFAULT_ACCEPT_LIMITS: AcceptLimits = { connections: 16_384, connectionsPerPeer: 16, handshakes: 1024 };

export interface AcceptOptions extends LinkOptions {
  readonly transports: readonly Transport[];
  /** How this side calls itself in its hello. */
  readonly node: string;
  readonly limits?: Partial<AcceptLimits>;
  /** How long an existing link has to answer before a newcomer of the same name takes its place. **Default:** 1 s. */
  readonly duplicateProbe?: Micros;
  /** Says why a peer must not come in, or null. The hello has been checked against the certificate. */
  authorize(peer: PeerIdentity): KubeBusError | null;
  onLink(link: Link): void;
}

export interface LinkAcceptor {
  readonly addresses: readonly string[];
  readonly links: number;
  stats(): Readonly<Record<string, number>>;
  /** Says goodbye to all and stops listening. */
  close(reason: KubeBusError, retryAfterMs?: number): Promise<void>;
}

export async function acceptLinks(options: AcceptOptions): Promise<LinkAcceptor> {
  const acceptor = new Acceptor(options, resolveOptions(options));
  await acceptor.listen();
  return acceptor;
}

class Acceptor implements LinkAcceptor, AcceptHandler, ConnectionEvents {
  private readonly limits: AcceptLimits;
  private readonly listeners: Listener[] = [];
  private readonly byPeer = new Map<string, AcceptedLink>();
  private readonly handshaking = new Set<Connection>();
  private readonly owner = new Map<Connection, AcceptedLink>();
  private readonly refused: Record<string, number> = {};
  private readonly instance = new Uint8Array(16);
  private accepted = 0;
  private closed = false;

  constructor(
    private readonly options: AcceptOptions,
    private readonly resolved: ResolvedOptions,
  ) {
    this.limits = { ...DEFAULT_ACCEPT_LIMITS, ...options.limits };
    if (!isName(options.node)) throw new KubeBusError('ERR_INVALID_ARGUMENT', `node is no DNS label: ${options.node}`);
    resolved.random.fill(this.instance);
  }

  async listen(): Promise<void> {
    try {
      for (const transport of this.options.transports) this.listeners.push(await transport.listen(this));
    } catch (error) {
      await Promise.all(this.listeners.map((l) => l.close()));
      throw error;
    }
  }

  get addresses(): readonly string[] {
    return this.listeners.map((l) => l.address);
  }

  get links(): number {
    return this.byPeer.size;
  }

  stats(): Readonly<Record<string, number>> {
    const connections = this.owner.size + this.handshaking.size;
    const refused = Object.fromEntries(Object.entries(this.refused).map(([code, n]) => [`refused.${code}`, n]));
    return {
      links: this.byPeer.size,
      connections,
      accepted: this.accepted,
      handshaking: this.handshaking.size,
      ...refused,
    };
  }

  async close(reason: KubeBusError, retryAfterMs = 0): Promise<void> {
    this.closed = true;
    const closing = this.listeners.map((l) => l.close());
    for (const link of [...this.byPeer.values()]) link.closeWith(reason, { retryAfterMs });
    for (const connection of [...this.handshaking]) connection.close(reason, { retryAfterMs });
    await Promise.all(closing);
  }

  // ---- from the transports

  onStream(stream: ByteStream): void {
    const over = (what: string) => {
      this.count('ERR_TOO_MANY_CONNECTIONS');
      this.resolved.logger.warn({ remote: stream.remote }, what);
      stream.destroy();
    };
    if (this.closed) return stream.destroy();
    if (this.handshaking.size >= this.limits.handshakes) return over('refused: too many handshakes in progress');
    if (this.owner.size + this.handshaking.size >= this.limits.connections)
      return over('refused: too many connections');
    const connection = this.connect(stream);
    if (connection.machine.state !== 'over') this.handshaking.add(connection);
  }

  onRefused(code: string, message: string, remote: string, goodbye?: ByteStream): void {
    this.count(code);
    this.resolved.logger.warn({ code, remote }, `connection refused: ${message}`);
    if (goodbye !== undefined) this.connect(goodbye).close(new KubeBusError(code as ErrorCode, message));
  }

  private connect(stream: ByteStream): Connection {
    const { mtu, offload, keepalive, agent, connection } = this.resolved;
    const hello: HelloInfo = {
      tenant: stream.identity.tenant || 'cloud',
      node: this.options.node,
      instance: this.instance,
      mtu,
      offload,
      keepalive,
      agent,
      connection: 0,
      connections: 0,
    };
    return new Connection(stream, 'listener', hello, connection, this);
  }

  // ---- from connections

  onHello(connection: Connection, hello: HelloInfo): void {
    const { identity } = connection.stream;
    const peer = identity.authenticated ? identity : { ...identity, tenant: hello.tenant, node: hello.node };
    const no = this.options.authorize(peer);
    if (no !== null) return this.refuse(connection, no);
    const key = `${peer.tenant}/${peer.node}`;
    const existing = this.byPeer.get(key);
    if (existing === undefined || sameBytes(existing.instance, hello.instance))
      return this.admit(connection, hello, peer, key);
    // A node that came back after a crash must not wait for the dead-peer time, and a clone must not take its place.
    existing.probe(this.options.duplicateProbe ?? SECOND, (alive) => {
      if (connection.machine.state !== 'judging') return;
      if (alive) {
        const text = `a node named ${key} is connected and alive; give this one another name, or stop the other`;
        return this.refuse(connection, new KubeBusError('ERR_DUPLICATE_NODE', text));
      }
      existing.closeWith(new KubeBusError('ERR_DUPLICATE_NODE', 'another instance of this node took over'), {});
      this.onHello(connection, hello);
    });
  }

  onOpen(): void {}
  onPackets(): void {}
  onControl(): void {}
  onWritable(): void {}

  onOver(connection: Connection, reason: KubeBusError): void {
    if (this.handshaking.delete(connection)) {
      this.count(reason.code);
      this.resolved.logger.info(
        { remote: connection.stream.remote, code: reason.code },
        `handshake failed: ${reason.message}`,
      );
    }
  }

  private admit(connection: Connection, hello: HelloInfo, peer: PeerIdentity, key: string): void {
    let link = this.byPeer.get(key);
    if (link !== undefined && link.connections >= this.limits.connectionsPerPeer) {
      return this.refuse(
        connection,
        new KubeBusError(
          'ERR_TOO_MANY_CONNECTIONS',
          `more than ${this.limits.connectionsPerPeer} connections of one node`,
        ),
      );
    }
    const isNew = link === undefined;
    if (link === undefined) {
      link = new AcceptedLink(peer, hello.instance, this.resolved, (gone) => {
        if (this.byPeer.get(key) === gone) this.byPeer.delete(key);
      });
      this.byPeer.set(key, link);
    }
    this.handshaking.delete(connection);
    this.owner.set(connection, link);
    this.accepted++;
    const owned = link;
    // From here on the connection belongs to its link.
    redirect(connection, {
      onHello() {},
      onOpen: () => owned.opened(connection),
      onPackets: (slab, start, end) => owned.packets(slab, start, end),
      onControl: (message) => owned.control(message),
      onWritable: () => owned.drained(),
      onOver: (_c, reason) => {
        this.owner.delete(connection);
        owned.lost(connection, reason);
      },
    });
    connection.machine.accept(this.resolved.clock.now());
    if (isNew && owned.state === 'up') {
      this.options.onLink(owned);
      owned.announce();
    }
  }

  private refuse(connection: Connection, reason: KubeBusError): void {
    connection.close(reason);
  }

  private count(code: string): void {
    this.refused[code] = (this.refused[code] ?? 0) + 1;
  }
}

class AcceptedLink extends BaseLink {
  private probing: ((alive: boolean) => void)[] = [];

  constructor(
    readonly peer: PeerIdentity,
    readonly instance: Uint8Array,
    private readonly resolved: ResolvedOptions,
    private readonly onGone: (link: AcceptedLink) => void,
  ) {
    super(resolved.highWater);
  }

  close(reason: KubeBusError): void {
    this.closeWith(reason, {});
  }

  closeWith(reason: KubeBusError, goodbye: Partial<GoodbyeInfo>): void {
    if (this.state === 'closed') return;
    const connections = [...this.open];
    this.open.length = 0;
    this.gone(reason);
    for (const c of connections) c.close(reason, goodbye);
  }

  opened(connection: Connection): void {
    this.addConnection(connection);
    if (this.state === 'up') this.handler.onState('up');
    else this.state = 'up';
  }

  /** The first onState comes after the owner had its chance to attach. */
  announce(): void {
    if (this.state === 'up') this.handler.onState('up');
  }

  packets(slab: Slab, start: number, end: number): void {
    this.handler.onPackets(slab, start, end);
  }

  control(message: Uint8Array): void {
    this.handler.onControl(message);
  }

  drained(): void {
    this.checkWritable();
  }

  lost(connection: Connection, reason: KubeBusError): void {
    this.removeConnection(connection);
    if (this.open.length === 0) this.gone(reason);
  }

  /** Asks the peer for a sign of life. */
  probe(timeout: Micros, done: (alive: boolean) => void): void {
    this.probing.push(done);
    if (this.probing.length > 1) return;
    const { clock } = this.resolved;
    const asked = clock.now();
    for (const c of this.open) c.machine.sendPing(asked);
    clock.at(asked + timeout, () => {
      const now = clock.now();
      const alive = this.open.some((c) => c.machine.keepalive.silence(now) < now - asked);
      const waiting = this.probing;
      this.probing = [];
      for (const answer of waiting) answer(alive);
    });
  }

  private gone(reason: KubeBusError): void {
    this.onGone(this);
    this.setState('closed', reason);
  }
}

function redirect(connection: Connection, events: ConnectionEvents): void {
  connection.events = events;
}

function sameBytes(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && a.every((x, i) => x === b[i]);
}

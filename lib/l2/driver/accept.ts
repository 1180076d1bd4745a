// Edge: accepts connections on any number of transports and groups them into links, one per node.

import { checkBounds, type ErrorCode, KubeBusError, type Micros, SECOND } from '../../core/index.js';
import { type HelloInfo, isName, sameBytes } from '../connection-machine.js';
import { type GoodbyeInfo, goodbyeFrame } from '../goodbye.js';
import type { Link } from '../link.js';
import type { AcceptHandler, ByteStream, Listener, PeerIdentity, Transport } from '../transport.js';
import { AcceptedLink } from './accepted-link.js';
import { Connection, type ConnectionEvents } from './connection.js';
import { DEFAULT_ACCEPT_KEEPALIVE, type LinkOptions, type ResolvedOptions, resolveOptions } from './options.js';
import { TurnAway } from './turn-away.js';

export interface AcceptLimits {
  /** Connections in all. **Default:** 16384. */
  readonly connections: number;
  /** Connections of one link. **Default:** 16. */
  readonly connectionsPerPeer: number;
  /** Links of one tenant. **Default:** 8192. */
  readonly linksPerTenant: number;
  /** Connections whose hello is not done. When all places are taken, one that is older than a second gives way. **Default:** 1024. */
  readonly handshakes: number;
}

export const DEFAULT_ACCEPT_LIMITS: AcceptLimits = {
  connections: 16_384,
  connectionsPerPeer: 16,
  linksPerTenant: 8192,
  handshakes: 1024,
};
/** A handshake takes a few round trips: who needs longer than this gives way to newcomers. */
const GIVE_WAY: Micros = SECOND;

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
  /** Says goodbye to all, with when and where to come back, and stops listening. */
  close(reason: KubeBusError, goodbye?: Partial<GoodbyeInfo>): Promise<void>;
}

export async function acceptLinks(options: AcceptOptions): Promise<LinkAcceptor> {
  const acceptor = new Acceptor(options, resolveOptions({ keepalive: DEFAULT_ACCEPT_KEEPALIVE, ...options }));
  await acceptor.listen();
  return acceptor;
}

class Acceptor implements LinkAcceptor, AcceptHandler, ConnectionEvents {
  private readonly limits: AcceptLimits;
  private readonly listeners: Listener[] = [];
  private readonly byPeer = new Map<string, AcceptedLink>();
  private readonly handshaking = new Set<Connection>();
  private readonly owner = new Map<Connection, AcceptedLink>();
  private readonly perTenant = new Map<string, number>();
  private readonly refused: Record<string, number> = {};
  private readonly ended: Record<string, number> = {};
  /** Counters of the links that are gone. */
  private readonly past: Record<string, number> = {};
  private readonly turnAway: TurnAway;
  private readonly instance = new Uint8Array(16);
  private accepted = 0;
  private closed = false;

  constructor(
    private readonly options: AcceptOptions,
    private readonly resolved: ResolvedOptions,
  ) {
    this.limits = { ...DEFAULT_ACCEPT_LIMITS, ...options.limits };
    checkBounds({ ...this.limits }, 'limits.');
    if (!isName(options.node)) throw new KubeBusError('ERR_INVALID_ARGUMENT', `node is no DNS label: ${options.node}`);
    resolved.random.fill(this.instance);
    this.turnAway = new TurnAway(resolved.clock);
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
    const named = (prefix: string, counts: Record<string, number>) =>
      Object.fromEntries(Object.entries(counts).map(([code, n]) => [`${prefix}.${code}`, n]));
    const sum = { ...this.past };
    for (const link of this.byPeer.values()) addAll(sum, link.stats());
    for (const gauge of ['connections', 'queuedBytes']) delete sum[gauge];
    return {
      ...sum,
      links: this.byPeer.size,
      connections: this.owner.size + this.handshaking.size,
      accepted: this.accepted,
      handshaking: this.handshaking.size,
      ...named('refused', this.refused),
      ...named('ended', this.ended),
    };
  }

  async close(reason: KubeBusError, goodbye: Partial<GoodbyeInfo> = {}): Promise<void> {
    const { retryAfterMs = 0 } = goodbye;
    this.closed = true;
    const closing = this.listeners.map((l) => l.close());
    for (const link of [...this.byPeer.values()]) link.closeWith(reason, goodbye);
    for (const connection of [...this.handshaking]) connection.close(reason, { retryAfterMs });
    await Promise.all(closing);
  }

  // ---- from the transports

  onStream(stream: ByteStream): void {
    if (this.closed) return stream.destroy();
    const { limits, handshaking } = this;
    if (this.owner.size + handshaking.size >= limits.connections)
      return this.refuseStream(stream, `more than ${limits.connections} connections in all`);
    if (handshaking.size >= limits.handshakes) {
      const oldest: Connection = handshaking.values().next().value!;
      if (this.resolved.clock.now() - oldest.opened < GIVE_WAY)
        return this.refuseStream(stream, `more than ${limits.handshakes} handshakes in progress`);
      oldest.machine.fail('ERR_HELLO_TIMEOUT', 'too slow while others wait for the place');
    }
    const { mtu, offload, partialChecksums, keepalive, agent, connection: options } = this.resolved;
    const hello: HelloInfo = {
      tenant: stream.identity.tenant || 'cloud',
      node: this.options.node,
      instance: this.instance,
      mtu,
      offload,
      partialChecksums,
      keepalive,
      agent,
      connection: 0,
      connections: 0,
      session: 0,
    };
    const connection = new Connection(stream, 'listener', hello, options, this);
    if (connection.machine.state !== 'over') handshaking.add(connection);
  }

  onRefused(code: string, message: string, remote: string, goodbye?: ByteStream): void {
    this.count(code);
    this.resolved.logger.warn({ code, remote }, `connection refused: ${message}`);
    if (goodbye !== undefined) this.turnAway.refuse(goodbye, goodbyeFrame(code as ErrorCode, message));
  }

  // ---- from connections

  onHello(connection: Connection, hello: HelloInfo): void {
    const { identity } = connection.stream;
    const peer = identity.authenticated ? identity : { ...identity, tenant: hello.tenant, node: hello.node };
    const no = this.options.authorize(peer);
    if (no !== null) return connection.close(no);
    const key = `${peer.tenant}/${peer.node}`;
    const existing = this.byPeer.get(key);
    if (existing === undefined) return this.admit(connection, hello, peer, key);
    if (sameBytes(existing.instance, hello.instance)) {
      if (hello.session < existing.session)
        return connection.machine.fail('ERR_PEER_GOODBYE', 'begun before the link was lost');
      // The node has lost all connections of the link before: those that are still here are dead.
      if (hello.session > existing.session)
        existing.closeWith(new KubeBusError('ERR_TRANSPORT', 'the node begins anew', { side: 'remote' }), {});
      return this.admit(connection, hello, peer, key);
    }
    // A node that came back after a crash must not wait for the dead-peer time, and a clone must not take its place.
    existing.probe(this.options.duplicateProbe ?? SECOND, (alive) => {
      if (connection.machine.state !== 'judging') return;
      if (alive) {
        const text = `a node named ${key} is connected and alive; give this one another name, or stop the other`;
        return connection.machine.fail('ERR_DUPLICATE_NODE', text);
      }
      existing.closeWith(new KubeBusError('ERR_DUPLICATE_NODE', 'another instance of this node took over'), {});
      this.onHello(connection, hello);
    });
  }

  onOpen(): void {}
  onPackets(): void {}
  onControl(): void {}
  controlReceived(): number {
    return 0;
  }
  onControlReceived(): void {}
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
    const { limits, perTenant } = this;
    let link = this.byPeer.get(key);
    if (link !== undefined && link.connections >= limits.connectionsPerPeer) {
      const text = `more than ${limits.connectionsPerPeer} connections of one node`;
      return connection.machine.fail('ERR_TOO_MANY_CONNECTIONS', text);
    }
    const isNew = link === undefined;
    if (link === undefined) {
      const links = perTenant.get(peer.tenant) ?? 0;
      if (links >= limits.linksPerTenant) {
        const text = `more than ${limits.linksPerTenant} nodes of one tenant`;
        return connection.machine.fail('ERR_TOO_MANY_CONNECTIONS', text);
      }
      perTenant.set(peer.tenant, links + 1);
      link = new AcceptedLink(peer, hello, this.resolved, (gone) => this.gone(key, gone));
      this.byPeer.set(key, link);
    }
    this.handshaking.delete(connection);
    this.owner.set(connection, link);
    this.accepted++;
    // From here on the connection belongs to its link.
    connection.events = link.eventsOf((over) => {
      this.owner.delete(connection);
      this.ended[over.code] = (this.ended[over.code] ?? 0) + 1;
    });
    connection.machine.accept(this.resolved.clock.now());
    if (isNew && link.state === 'up') {
      this.options.onLink(link);
      link.announce();
    }
  }

  private gone(key: string, link: AcceptedLink): void {
    if (this.byPeer.get(key) === link) this.byPeer.delete(key);
    addAll(this.past, link.stats());
    const { tenant } = link.peer;
    const links = this.perTenant.get(tenant)! - 1;
    if (links > 0) this.perTenant.set(tenant, links);
    else this.perTenant.delete(tenant);
  }

  private refuseStream(stream: ByteStream, text: string): void {
    this.onRefused('ERR_TOO_MANY_CONNECTIONS', text, stream.remote, stream);
  }

  private count(code: string): void {
    this.refused[code] = (this.refused[code] ?? 0) + 1;
  }
}

function addAll(sum: Record<string, number>, counts: Readonly<Record<string, number>>): void {
  for (const [name, n] of Object.entries(counts)) sum[name] = (sum[name] ?? 0) + n;
}

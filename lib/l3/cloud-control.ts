// Core: the cloud's end of the control protocol, one per tenant. Assigns addresses, checks and distributes routes, and
// programs the tenant's VRF. docs/spec/control.md tells the conversation.
//
// All changes of one turn go out as one increment, encoded once and sent to every node as it is: a node skips its own
// routes. So 200 nodes with 100 routes each cost 200 messages a turn, not 200 x 200 x 100. The nodes' addresses go apart
// from the routes, as a list of names (name-book.ts): they do not change when nodes come and go.

import {
  checkBounds,
  KubeBusError,
  type L3ErrorCode,
  type Logger,
  type Micros,
  MS,
  NEVER,
  silentLogger,
} from '../core/index.js';
import { formatPrefix, hostPrefix, type Prefix, prefixContains, prefixKey } from './address.js';
import type { AddressPool } from './address-pool.js';
import { type ControlLimits, DEFAULT_CONTROL_LIMITS, type NodeSession, type NodeUp } from './control.js';
import { chunkRoutes, decodeControl, encodeControl, type NamesKnown } from './control-codec.js';
import { TokenBucket } from './icmp.js';
import { NameBook } from './name-book.js';
import { NameTeller } from './name-teller.js';
import type { Port } from './port.js';
import type { Route } from './route.js';
import { overlapping, RouteRegistry } from './route-registry.js';
import type { Vrf } from './vrf.js';

export interface CloudControlOptions {
  readonly tenant: string;
  readonly vrf: Vrf;
  readonly pool: AddressPool;
  /** Told to the nodes. **Default:** 1400. */
  readonly mtu?: number;
  /** How long the routes of a node whose link went down stay announced to the others. Milliseconds. **Default:** 15000. */
  readonly holdMs?: number;
  readonly limits?: Partial<ControlLimits>;
  /** Runs `fn` soon, but not inside the call. **Default:** queueMicrotask. */
  readonly defer?: (fn: () => void) => void;
  /** The same for names, which may be later than routes. **Default:** `defer`. */
  readonly deferNames?: (fn: () => void) => void;
  /** Subnets behind the nodes, for the kernel of a cloud that is on the overlay itself. Both lists may repeat what is known. */
  readonly onPrefixes?: (change: { added: readonly Prefix[]; removed: readonly Prefix[] }) => void;
  /** Something that a state file should keep changed: pool.snapshot(). */
  readonly onRecord?: () => void;
  readonly logger?: Logger;
}

/** Routes of a set that count as one message where sets are held to the same rate: to check and spread one costs the cloud some 20 us. */
const ROUTES_PER_TOKEN = 16;
/** The part of a burst that a further Register costs, for it is answered with all that the tenant has. */
const REGISTER_SHARE = 1 / 4;
/** Lines of a log for the refusals of one set of routes. */
const REFUSAL_LINES = 8;

/** What one node would like to originate but may not. */
interface Refused {
  readonly code: L3ErrorCode;
  readonly message: string;
  readonly prefix: Prefix;
}

export class CloudControl {
  readonly tenant: string;
  readonly counters = {
    messages: 0,
    malformed: 0,
    unexpected: 0,
    unknown: 0,
    tooLong: 0,
    rateLimited: 0,
    setsLate: 0,
    refusedRoutes: 0,
    updates: 0,
  };
  private readonly vrf: Vrf;
  private readonly pool: AddressPool;
  private readonly mtu: number;
  private readonly hold: Micros;
  private readonly limits: ControlLimits;
  private readonly defer: (fn: () => void) => void;
  private readonly onRecord: () => void;
  private readonly onPrefixes: CloudControlOptions['onPrefixes'];
  private readonly logger: Logger;
  private readonly registry = new RouteRegistry();
  /** Tells all the addresses of all nodes that the pool remembers, so that names and peers can be found. */
  private readonly names: NameTeller;
  private readonly sessions = new Map<string, Session>();
  /** Nodes whose link is down and whose routes are still announced, with the time at which that ends. */
  private readonly held = new Map<string, Micros>();
  private revision = 0;
  private snapshot: { revision: number; messages: Uint8Array[] } | null = null;
  /** What changed since the last flush, by prefix and node; null: withdrawn. */
  private readonly changes = new Map<string, { route: Route; withdrawn: boolean }>();
  /** Nodes whose last set waits, with the time until which it does. */
  private readonly late = new Map<Session, Micros>();
  /** When somebody called last. */
  private time: Micros = 0;
  private scheduled = false;
  private recheck = false;

  constructor(options: CloudControlOptions) {
    this.tenant = options.tenant;
    this.vrf = options.vrf;
    this.pool = options.pool;
    this.mtu = options.mtu ?? 1400;
    this.hold = (options.holdMs ?? 15_000) * MS;
    this.limits = { ...DEFAULT_CONTROL_LIMITS, ...options.limits };
    checkBounds({ ...this.limits }, 'controlLimits.', 'none');
    this.defer = options.defer ?? queueMicrotask;
    this.onRecord = options.onRecord ?? (() => {});
    this.onPrefixes = options.onPrefixes;
    this.logger = options.logger ?? silentLogger;
    this.names = new NameTeller({
      book: new NameBook(this.pool.all()),
      bytesPerTurn: this.limits.nameBytesPerTurn,
      defer: options.deferNames ?? this.defer,
    });
    this.vrf.setAddresses(this.pool.gateway);
  }

  get nodes(): readonly NodeSession[] {
    return [...this.sessions.values()];
  }

  /** All accepted routes of the tenant. */
  get routes(): readonly Route[] {
    return this.registry.routes;
  }

  /**
   * A node's link came up. Nothing is sent before its Register. A session that the node still has is replaced: the link
   * layer has decided which of the two lives.
   */
  nodeUp(now: Micros, up: NodeUp): NodeSession {
    const before = this.sessions.get(up.node);
    if (before !== undefined) this.down(now, before);
    const bucket = () => new TokenBucket(this.limits.messagesPerSecond, this.limits.messageBurst);
    const session = new Session(this, up, bucket(), bucket());
    this.sessions.set(up.node, session);
    return session;
  }

  /** Ends the holds that are over. */
  handleTimeout(now: Micros): void {
    this.time = now;
    for (const [node, until] of this.held) {
      if (until > now) continue;
      this.held.delete(node);
      this.withdrawAll(node);
    }
    for (const [session, at] of this.late) if (at <= now) this.applySoon(session);
  }

  /** When handleTimeout is wanted next. */
  pollDeadline(): Micros {
    let deadline: Micros = NEVER;
    for (const until of this.held.values()) deadline = Math.min(deadline, until);
    for (const at of this.late.values()) deadline = Math.min(deadline, at);
    return deadline;
  }

  /** Forgets a node for good: its address becomes free. For the operator; the node must not be connected. */
  forget(node: string): boolean {
    if (this.sessions.has(node)) return false;
    this.held.delete(node);
    this.withdrawAll(node);
    if (!this.pool.forget(node)) return false;
    this.names.set(node, []);
    this.onRecord();
    // Somebody may have been waiting for the place.
    for (const session of this.sessions.values()) {
      if (session.waiting !== null) this.register(this.time, session, session.waiting);
    }
    return true;
  }

  // For Session.

  handle(now: Micros, session: Session, bytes: Uint8Array): void {
    this.counters.messages++;
    if (bytes.length > this.limits.messageBytes) {
      this.counters.tooLong++;
      return;
    }
    if (!session.bucket.take(now)) {
      this.counters.rateLimited++;
      return;
    }
    const message = decodeControl(bytes);
    if (message === null) {
      this.counters.malformed++;
      this.logger.warn({ tenant: this.tenant, node: session.node }, 'malformed control message');
    } else if (message.type === 'register') {
      const { messageBurst } = this.limits;
      const again = session.registered ? messageBurst * REGISTER_SHARE : 0;
      if (session.bucket.take(now, again)) this.register(now, session, message.addresses, message.names);
      else this.counters.rateLimited++;
    } else if (message.type === 'advertise') {
      // A set is only meaningful from a node that has its addresses, or waits for them.
      if (!session.registered && session.waiting === null) this.counters.unexpected++;
      else this.advertise(now, session, message.routes, message.more);
    } else if (message.type === 'unknown') this.counters.unknown++;
    else this.counters.unexpected++;
  }

  down(now: Micros, session: Session): void {
    if (this.sessions.get(session.node) !== session) return;
    this.sessions.delete(session.node);
    this.late.delete(session);
    this.names.remove(session);
    // The VRF's routes go with the port; what is held is only the announcement, so that a short break is no storm.
    for (const route of session.routes) this.unprogram(session.port, route);
    this.unassign(session);
    if (this.registry.routesOf(session.node).size > 0) this.held.set(session.node, now + this.hold);
  }

  unassign(session: Session): void {
    for (const address of session.addresses) {
      this.vrf.routes.remove({
        prefix: hostPrefix(address),
        port: session.port.id,
        origin: 'assigned',
        node: session.node,
      });
    }
  }

  unprogram(port: Port, route: Route): void {
    this.vrf.routes.remove({ prefix: route.prefix, port: port.id, origin: 'advertised', node: route.node });
  }

  private register(now: Micros, session: Session, wanted: readonly Uint8Array[], names?: NamesKnown): void {
    this.time = now;
    const before = this.pool.revision;
    try {
      this.unassign(session);
      session.addresses = this.pool.assign(session.node, wanted);
    } catch (error) {
      const { code, message } = error instanceof KubeBusError ? error : new KubeBusError('ERR_INTERNAL', String(error));
      session.addresses = [];
      session.registered = false;
      session.waiting = wanted;
      this.names.remove(session);
      this.logger.warn({ tenant: this.tenant, node: session.node, code }, message);
      session.send(encodeControl({ type: 'refusal', code, message, prefixes: [] }));
      return;
    }
    if (this.pool.revision !== before) {
      this.names.set(session.node, session.addresses);
      this.onRecord();
    }
    session.registered = true;
    session.waiting = null;
    for (const address of session.addresses) {
      this.vrf.routes.add({
        prefix: hostPrefix(address),
        port: session.port.id,
        origin: 'assigned',
        node: session.node,
        kind: 'edge',
        metric: 0,
      });
    }
    this.setSources(session);
    const { addresses } = session;
    const { prefixes: pools, gateway } = this.pool;
    session.send(encodeControl({ type: 'assign', addresses, pools, mtu: this.mtu, gateway }));
    // What is not yet flushed may be in the snapshot already; the increment that follows repeats it, which changes nothing.
    for (const message of this.encodedSnapshot()) session.send(message);
    this.names.add(session, names);
    if (session.wanted.length > 0) this.applySoon(session);
  }

  private advertise(now: Micros, session: Session, routes: readonly Route[], more: boolean): void {
    session.wantedTotal += routes.length;
    // Keeps one more than allowed, so that the limit is noticed; the rest of a hostile set is not kept.
    const room = this.limits.routesPerNode + 1 - session.pending.length;
    session.pending.push(...routes.slice(0, Math.max(0, room)));
    if (more) return;
    session.wanted = session.pending;
    session.pending = [];
    session.beyond = session.wantedTotal - session.wanted.length;
    session.wantedTotal = 0;
    if (!session.registered) return;
    this.held.delete(session.node);
    this.time = now;
    this.applySoon(session);
  }

  /** Now, or when this node has not had more than its share of the cloud's time: then the last set that it told counts. */
  private applySoon(session: Session): void {
    const cost = Math.min(this.limits.messageBurst, (session.wanted.length + session.routes.length) / ROUTES_PER_TOKEN);
    this.late.delete(session);
    if (session.sets.take(this.time, cost)) return this.apply(session);
    this.counters.setsLate++;
    this.late.set(session, this.time + session.sets.wait(cost));
  }

  /** Makes the session's accepted routes what of `wanted` may be. */
  private apply(session: Session): void {
    const refused: Refused[] = [];
    const accepted = new Map<string, Route>();
    // Announced now: accepted in this session, or held from the one before.
    const before = this.registry.routesOf(session.node);
    // Own routes do not stand in their own way, and a set that shrinks makes room for its own new ones.
    const keep = new Set(session.wanted.map((r) => prefixKey(r.prefix)));
    for (const route of before.values()) if (!keep.has(prefixKey(route.prefix))) this.withdraw(route);
    for (const asked of session.wanted) {
      // 'edge' is for addresses, which the cloud assigns.
      const route: Route = { ...asked, node: session.node, kind: asked.kind === 'edge' ? 'vm' : asked.kind };
      const key = prefixKey(route.prefix);
      const reason = accepted.has(key) ? null : this.reasonAgainst(session, route, accepted.size, before.has(key));
      if (reason !== null) {
        refused.push({ ...reason, prefix: route.prefix });
        const old = before.get(key);
        if (old !== undefined) this.withdraw(old);
        continue;
      }
      accepted.set(key, route);
      const old = before.get(key);
      if (old === undefined || old.metric !== route.metric || old.kind !== route.kind) this.announce(route);
    }
    for (const route of session.routes) if (!accepted.has(prefixKey(route.prefix))) this.unprogram(session.port, route);
    for (const route of accepted.values()) {
      this.vrf.routes.add({ ...route, port: session.port.id, origin: 'advertised' });
    }
    session.routes = [...accepted.values()];
    this.setSources(session);
    this.refuse(session, refused);
  }

  private reasonAgainst(session: Session, route: Route, count: number, known: boolean): Omit<Refused, 'prefix'> | null {
    const text = formatPrefix(route.prefix);
    if (count >= this.limits.routesPerNode) {
      return { code: 'ERR_ROUTE_LIMIT', message: `a node may originate ${this.limits.routesPerNode} prefixes` };
    }
    if (!known && this.registry.size >= this.limits.routesPerTenant) {
      return { code: 'ERR_ROUTE_LIMIT', message: `the tenant may have ${this.limits.routesPerTenant} routes` };
    }
    if (!session.allowed.some((p) => prefixContains(p, route.prefix))) {
      const list = session.allowed.map(formatPrefix).join(', ') || 'none';
      return {
        code: 'ERR_ROUTE_NOT_ALLOWED',
        message: `${text} is not among the allowed prefixes of ${session.node} (${list})`,
      };
    }
    const pool = overlapping(this.pool.prefixes, route.prefix);
    if (pool !== undefined) {
      return { code: 'ERR_ROUTE_OVERLAP', message: `${text} overlaps the edge pool ${formatPrefix(pool)}` };
    }
    const conflict = this.registry.conflict(session.node, route.prefix);
    return conflict === null ? null : { code: 'ERR_ROUTE_OVERLAP', message: conflict };
  }

  private refuse(session: Session, refused: readonly Refused[]): void {
    const { beyond } = session;
    const changed = refused.map((r) => prefixKey(r.prefix) + r.message).join() + beyond;
    session.retry = refused.some((r) => r.code !== 'ERR_ROUTE_NOT_ALLOWED');
    if (changed === session.toldRefused) return;
    session.toldRefused = changed;
    this.counters.refusedRoutes += refused.length + beyond;
    const groups = new Map<string, Refused[]>();
    for (const r of refused) {
      const group = groups.get(r.code + r.message);
      if (group === undefined) groups.set(r.code + r.message, [r]);
      else group.push(r);
    }
    let lines = 0;
    for (const group of groups.values()) {
      const { code, message } = group[0]!;
      const more = groups.size - REFUSAL_LINES;
      if (++lines < REFUSAL_LINES || more <= 0)
        this.logger.warn({ tenant: this.tenant, node: session.node, code }, message);
      else if (lines === REFUSAL_LINES) {
        this.logger.warn({ tenant: this.tenant, node: session.node, code }, `${message}, and ${more} more`);
      }
      const prefixes = group.map((r) => r.prefix);
      session.send(encodeControl({ type: 'refusal', code, message, prefixes }));
    }
  }

  private setSources(session: Session): void {
    session.port.setSources([...session.addresses.map(hostPrefix), ...session.routes.map((r) => r.prefix)]);
  }

  private announce(route: Route): void {
    this.registry.add(route);
    this.change(route, false);
  }

  private withdraw(route: Route): void {
    if (!this.registry.remove(route.prefix, route.node)) return;
    this.recheck = true;
    this.change(route, true);
  }

  private withdrawAll(node: string): void {
    for (const route of this.registry.routesOf(node).values()) this.withdraw(route);
  }

  private change(route: Route, withdrawn: boolean): void {
    // A snapshot from before the change stays good: whoever gets it gets the increment too.
    this.changes.set(`${prefixKey(route.prefix)} ${route.node}`, { route, withdrawn });
    if (this.scheduled) return;
    this.scheduled = true;
    this.defer(() => this.flush());
  }

  /** Sends what changed since the last one to all nodes. */
  private flush(): void {
    this.scheduled = false;
    if (this.recheck) {
      // What one node withdrew may be what stood in another's way.
      this.recheck = false;
      for (const session of this.sessions.values()) if (session.retry) this.applySoon(session);
    }
    this.flushRoutes();
  }

  private flushRoutes(): void {
    if (this.changes.size === 0) return;
    const all = [...this.changes.values()];
    this.changes.clear();
    if (this.onPrefixes !== undefined) {
      const prefixes = all.map((c) => c.route.prefix);
      const added = prefixes.filter((p) => this.registry.has(p));
      if (prefixes.length > 0) this.onPrefixes({ added, removed: prefixes.filter((p) => !this.registry.has(p)) });
    }
    this.revision++;
    this.snapshot = null;
    const revision = this.revision;
    const add = chunkRoutes(all.filter((c) => !c.withdrawn).map((c) => c.route)).filter((part) => part.length > 0);
    const withdraw = chunkRoutes(all.filter((c) => c.withdrawn).map((c) => c.route)).filter((part) => part.length > 0);
    const parts = [...withdraw.map((w) => ({ add: [], withdraw: w })), ...add.map((a) => ({ add: a, withdraw: [] }))];
    const messages = parts.map((part, i) =>
      encodeControl({ type: 'routes', revision, snapshot: false, more: i < parts.length - 1, ...part }),
    );
    for (const session of this.sessions.values()) {
      if (!session.registered) continue;
      for (const message of messages) session.send(message);
      this.counters.updates += messages.length;
    }
  }

  private encodedSnapshot(): readonly Uint8Array[] {
    if (this.snapshot === null || this.snapshot.revision !== this.revision) {
      const { revision } = this;
      const parts = chunkRoutes(this.registry.routes);
      const messages = parts.map((add, i) =>
        encodeControl({ type: 'routes', revision, snapshot: i === 0, add, withdraw: [], more: i < parts.length - 1 }),
      );
      this.snapshot = { revision, messages };
    }
    return this.snapshot.messages;
  }
}

class Session implements NodeSession {
  readonly node: string;
  readonly port: Port;
  readonly allowed: readonly Prefix[];
  addresses: readonly Uint8Array[] = [];
  routes: readonly Route[] = [];
  registered = false;
  /** What a node asked for that got no address; it gets one when a place becomes free. */
  waiting: readonly Uint8Array[] | null = null;
  // Advertise messages that are not complete yet, and how many routes they had in all.
  pending: Route[] = [];
  wantedTotal = 0;
  wanted: readonly Route[] = [];
  /** Routes that the last complete set had beyond what is kept of it. */
  beyond = 0;
  /** Some of `wanted` was refused for a reason that may pass. */
  retry = false;
  toldRefused = '0';

  constructor(
    private readonly control: CloudControl,
    private readonly up: NodeUp,
    /** Its messages, and its sets of routes. */
    readonly bucket: TokenBucket,
    readonly sets: TokenBucket,
  ) {
    this.node = up.node;
    this.port = up.port;
    this.allowed = up.allowed;
  }

  handleControl(now: Micros, message: Uint8Array): void {
    this.control.handle(now, this, message);
  }

  down(now: Micros): void {
    this.control.down(now, this);
  }

  send(message: Uint8Array): void {
    this.up.send(message);
  }
}

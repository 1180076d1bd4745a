// Edge: a UDP socket and the QUIC connections on it. Finds the connection of a packet by its connection id, so that a
// node whose address changes (a NAT that rebinds) keeps its connection (RFC 9000 §9).

import { randomBytes } from 'node:crypto';
import dgram from 'node:dgram';
import { once } from 'node:events';
import { isIPv6 } from 'node:net';
import { KubeBusError } from '../../lib/core/index.js';
import type { PeerIdentity } from '../../lib/l2/transport.js';
import { watchLocalAddress } from '../local-address.js';
import { type ConnectionHost, QuicConnection } from './connection.js';
import type { Engine, EngineConfig, EngineConnection, HostPort } from './engine.js';
import { StatelessResets } from './reset.js';
import { RetryTokens } from './retry.js';

export interface EndpointOptions {
  readonly engine: Engine;
  /** Asked for each connection: certificates may change. */
  config(): EngineConfig;
  /** Largest UDP payload that is sent. */
  readonly udpPayload: number;
  /** Handshakes in progress; beyond, first packets are dropped. */
  readonly handshakes: number;
  /** Milliseconds. */
  readonly handshakeTimeout: number;
  /** Known to this endpoint alone, and the same after a restart: tokens of stateless resets are made from it. */
  secret(): string;
  identify(certificate: Uint8Array | undefined): PeerIdentity;
  onReady(connection: QuicConnection): void;
  onRefused(code: string, message: string, remote: string): void;
}

/** Above this share of the limit of handshakes, clients have to answer a RETRY first. */
const RETRY_SHARE = 0.25;
/** Of the system, both ways: bursts of a whole congestion window must fit. */
const SOCKET_BUFFER = 4 * 1024 * 1024;
/** Buffers kept for sending. */
const SPARE = 256;
/** Milliseconds without a packet, from the first error on, after which the system's "nobody listens there" is believed. */
const REFUSED_MS = 2_000;

/** Set in the first byte of a packet with a long header (RFC 9000 §17.2). */
const LONG_HEADER = 0x80;

/** Connection ids as keys. */
const keyOf = (id: Uint8Array) => Buffer.from(id.buffer, id.byteOffset, id.byteLength).toString('latin1');

export class QuicEndpoint implements ConnectionHost {
  local: HostPort = { host: '0.0.0.0', port: 0 };
  private readonly byId = new Map<string, QuicConnection>();
  private readonly handshaking = new Map<QuicConnection, NodeJS.Timeout>();
  private readonly tokens = new RetryTokens();
  private readonly resets: StatelessResets;
  private readonly spare: Buffer[] = [];
  /** Buffers that the system has not taken yet, in order. */
  private readonly flying: Buffer[] = [];
  private connected = false;
  private closed = false;
  /** When the system first said that nobody listens there, with no packet from there since. */
  private refusedAt: number | null = null;
  private unwatch: () => void = () => {};

  private constructor(
    private readonly socket: dgram.Socket,
    private readonly options: EndpointOptions,
  ) {
    this.resets = new StatelessResets(options.secret());
  }

  /** Listens on host:port. Rejects with the system's error. */
  static async listen(options: EndpointOptions, host: string, port: number): Promise<QuicEndpoint> {
    const socket = makeSocket(host);
    const endpoint = new QuicEndpoint(socket, options);
    await endpoint.bind(host, port);
    return endpoint;
  }

  /** A socket of its own, connected to the server: the system's errors (nobody listens) arrive at once. */
  static async connect(
    options: EndpointOptions,
    host: string,
    port: number,
    name: string | null,
  ): Promise<[QuicEndpoint, QuicConnection]> {
    const socket = makeSocket(host);
    const endpoint = new QuicEndpoint(socket, options);
    await endpoint.bind(isIPv6(host) ? '::' : '0.0.0.0', 0);
    socket.connect(port, host);
    await once(socket, 'connect');
    endpoint.connected = true;
    const scid = randomBytes(options.engine.MAX_CONN_ID_LEN);
    const engine = options.engine.Connection.connect(name, scid, endpoint.local, { host, port }, options.config());
    const shown = `quic://${isIPv6(host) ? `[${host}]` : host}:${port}`;
    const connection = new QuicConnection(engine, endpoint, 'dialer', shown);
    endpoint.add(connection, [scid]);
    const { address } = socket.address();
    endpoint.unwatch = watchLocalAddress(address, () => {
      connection.destroy(new KubeBusError('ERR_TRANSPORT', `this host has no longer the address ${address}`));
    });
    connection.schedule();
    return [endpoint, connection];
  }

  get connections(): number {
    return new Set(this.byId.values()).size;
  }

  /** Stops accepting; the socket goes when the last connection has. */
  close(): Promise<void> {
    this.closed = true;
    for (const connection of this.handshaking.keys()) connection.destroy();
    const gone = once(this.socket, 'close').then(() => {});
    this.maybeGone();
    return gone;
  }

  destroyAll(): void {
    for (const connection of new Set(this.byId.values())) connection.destroy();
  }

  // ---- for the connections

  takeBuffer(): Buffer {
    return this.spare.pop() ?? Buffer.allocUnsafeSlow(this.options.udpPayload);
  }

  giveBack(buffer: Buffer): void {
    if (this.spare.length < SPARE) this.spare.push(buffer);
  }

  transmit(buffer: Buffer, length: number, to: HostPort): void {
    this.flying.push(buffer);
    try {
      if (this.connected) this.socket.send(buffer, 0, length, this.sent);
      else this.socket.send(buffer, 0, length, to.port, to.host, this.sent);
    } catch {
      this.sent(); // the socket is closed: as lost as on a wire
    }
  }

  identify(connection: QuicConnection): PeerIdentity {
    this.settled(connection);
    return this.options.identify(connection.engine.peerCertChain()?.[0]);
  }

  onReady(connection: QuicConnection): void {
    this.options.onReady(connection);
  }

  onOver(connection: QuicConnection, error: Error | undefined): void {
    this.settled(connection);
    for (const id of connection.ids) this.byId.delete(id);
    this.unwatch();
    if (error !== undefined && !connection.opened) {
      const code = error instanceof KubeBusError ? error.code : 'ERR_TRANSPORT';
      this.options.onRefused(code, error.message, connection.remote);
    }
    // The last packet (CONNECTION_CLOSE) is given to the system before the socket may go.
    if (this.connected) this.closed = true;
    setImmediate(() => this.maybeGone());
  }

  onIds(connection: QuicConnection): void {
    const { engine } = connection;
    for (let old = engine.retiredScidNext(); old !== null; old = engine.retiredScidNext()) this.remove(connection, old);
    // Spare ids, or the peer could not move to another path (RFC 9000 §9.5).
    while (engine.sourceCidsLeft() > 0) {
      const cid = randomBytes(this.options.engine.MAX_CONN_ID_LEN);
      engine.newSourceCid(cid, this.resets.token(cid), false);
      this.add(connection, [cid]);
    }
  }

  // ---- helpers

  private readonly sent = (error?: NodeJS.ErrnoException | null): void => {
    const buffer = this.flying.shift();
    if (buffer !== undefined) this.giveBack(buffer);
    // What ICMP said to the packet before this one.
    if (error?.code === 'ECONNREFUSED') this.onSocketError(error);
  };

  private async bind(host: string, port: number): Promise<void> {
    const { socket } = this;
    socket.on('message', (data, from) => this.onMessage(data, { host: from.address, port: from.port }));
    const up = once(socket, 'listening');
    socket.bind({ address: host, port, exclusive: true });
    await up;
    // A connected socket gets ICMP errors this way; the handshake timer and keepalive judge.
    socket.on('error', (error: NodeJS.ErrnoException) => this.onSocketError(error));
    for (const set of [() => socket.setRecvBufferSize(SOCKET_BUFFER), () => socket.setSendBufferSize(SOCKET_BUFFER)]) {
      try {
        set();
      } catch {
        // The system's limit is lower: it stays at what it gives.
      }
    }
    const { address, port: bound } = socket.address();
    this.local = { host: address, port: bound };
  }

  private onSocketError(error: NodeJS.ErrnoException): void {
    if (!this.connected) return;
    this.believe(error);
    for (const connection of this.handshaking.keys()) {
      connection.destroy(new KubeBusError('ERR_CONNECT', `${connection.remote}: ${error.message}`, { cause: error }));
    }
  }

  /**
   * RFC 9000 §14.2.1, §21.9: an ICMP message alone ends nothing, anybody can send one. When the peer stays silent too while we ask, and
   * the system goes on saying that nobody listens there, it is so.
   */
  private believe(error: NodeJS.ErrnoException): void {
    if (error.code !== 'ECONNREFUSED') return;
    const now = performance.now();
    this.refusedAt ??= now;
    if (now - this.refusedAt < REFUSED_MS) return;
    for (const connection of new Set(this.byId.values())) {
      const text = `${connection.remote}: nobody listens there any more`;
      connection.destroy(new KubeBusError('ERR_TRANSPORT', text, { cause: error, side: 'remote' }));
    }
  }

  private onMessage(data: Buffer, from: HostPort): void {
    const { engine } = this.options;
    this.refusedAt = null;
    // The usual packet, whose id lies at a fixed place (RFC 9000 §17.3.1), is not worth a call of the engine.
    if ((data[0]! & LONG_HEADER) === 0) {
      const known = this.byId.get(data.toString('latin1', 1, 1 + engine.MAX_CONN_ID_LEN));
      if (known !== undefined) return known.receive(data, from);
    }
    let header: ReturnType<Engine['Header']['fromSlice']>;
    try {
      header = engine.Header.fromSlice(data, engine.MAX_CONN_ID_LEN);
    } catch {
      return; // not QUIC
    }
    const connection = this.byId.get(keyOf(header.dcid));
    if (connection !== undefined) return connection.receive(data, from);
    // A stateless reset has a random id: the engine knows it by its token.
    if (this.connected) return this.byId.values().next().value?.receive(data, from);
    if (this.closed) return;
    if (header.ty === engine.Type.Short) {
      const reset = this.resets.answer(performance.now(), header.dcid, data.length);
      if (reset !== null) this.socket.send(reset, from.port, from.host, () => {});
      return;
    }
    if (header.ty !== engine.Type.Initial) return;
    this.accept(header, data, from);
  }

  private accept(header: ReturnType<Engine['Header']['fromSlice']>, data: Buffer, from: HostPort): void {
    const { engine, handshakes } = this.options;
    const remote = `quic://${isIPv6(from.host) ? `[${from.host}]` : from.host}:${from.port}`;
    if (!engine.versionIsSupported(header.version)) {
      return this.reply(from, (out) => engine.negotiateVersion(header.scid, header.dcid, out));
    }
    const token = header.token ?? new Uint8Array(0);
    let original: Uint8Array | null = null;
    let scid: Uint8Array = randomBytes(engine.MAX_CONN_ID_LEN);
    if (token.length > 0) {
      original = this.tokens.open(Date.now(), from.host, token);
      if (original === null) return this.options.onRefused('ERR_TRANSPORT', 'a token that is not ours', remote);
      // RFC 9000 §7.3: the id that we chose in the RETRY is the one the client now uses.
      scid = header.dcid;
    } else if (this.handshaking.size >= handshakes * RETRY_SHARE) {
      const made = this.tokens.make(Date.now(), from.host, header.dcid);
      return this.reply(from, (out) => engine.retry(header.scid, header.dcid, scid, made, header.version, out));
    }
    if (this.handshaking.size >= handshakes) {
      return this.options.onRefused(
        'ERR_TOO_MANY_CONNECTIONS',
        `more than ${handshakes} handshakes in progress`,
        remote,
      );
    }
    let accepted: EngineConnection;
    try {
      const config = this.options.config();
      config.setStatelessResetToken(this.resets.token(scid));
      accepted = engine.Connection.accept(scid, original, this.local, from, config);
    } catch (error) {
      return this.options.onRefused('ERR_TRANSPORT', (error as Error).message, remote);
    }
    const connection = new QuicConnection(accepted, this, 'listener', remote);
    // Packets sent before the client knows our id come with the one that it made up.
    this.add(connection, [scid, header.dcid]);
    connection.receive(data, from);
  }

  private reply(to: HostPort, write: (out: Buffer) => number): void {
    const out = Buffer.allocUnsafe(this.options.udpPayload);
    try {
      this.socket.send(out, 0, write(out), to.port, to.host, () => {});
    } catch {
      // a header that cannot be answered
    }
  }

  private add(connection: QuicConnection, ids: readonly Uint8Array[]): void {
    for (const id of ids) {
      const key = keyOf(id);
      connection.ids.add(key);
      this.byId.set(key, connection);
    }
    if (connection.state !== 'handshake' || this.handshaking.has(connection)) return;
    const timer = setTimeout(() => {
      const error = new KubeBusError('ERR_HELLO_TIMEOUT', 'the QUIC handshake was not finished in time', {
        side: 'remote',
      });
      connection.destroy(error);
    }, this.options.handshakeTimeout);
    this.handshaking.set(connection, timer);
  }

  private remove(connection: QuicConnection, id: Uint8Array): void {
    const key = keyOf(id);
    connection.ids.delete(key);
    this.byId.delete(key);
  }

  private settled(connection: QuicConnection): void {
    clearTimeout(this.handshaking.get(connection));
    this.handshaking.delete(connection);
  }

  private maybeGone(): void {
    if (!this.closed || this.byId.size > 0) return;
    try {
      this.socket.close();
    } catch {
      // closed already
    }
  }
}

function makeSocket(host: string): dgram.Socket {
  return dgram.createSocket({
    type: isIPv6(host) ? 'udp6' : 'udp4',
    // Addresses are literal here: no resolver, and no tick per packet.
    lookup: (name, _options, callback) => callback(null, name, isIPv6(name) ? 6 : 4),
  });
}

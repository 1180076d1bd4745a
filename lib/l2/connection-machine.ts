// Core: the life of one connection between "bytes flow" and "over": hello both ways, negotiation, keepalive, goodbye.
//
//   dialer    hello ->            <- hello (chosen version)        open
//   listener            hello ->  judged  -> hello                 open
//   either    goodbye(code, message) -> closes; the other side shows the reason to its user

import { type ErrorCode, isErrorCode, KubeBusError, type Micros, MS } from '../core/index.js';
import { kubebus } from './gen/messages.js';
import {
  type GoodbyeInfo,
  goodbyePayload,
  MAX_ADDRESS_TEXT,
  MAX_GOODBYE_ADDRESSES,
  MAX_GOODBYE_TEXT,
  MAX_RETRY_AFTER_MS,
  printable,
} from './goodbye.js';
import { Keepalive, type KeepaliveOptions } from './keepalive.js';
import type { PeerIdentity } from './transport.js';
import { CRITICAL, FrameType } from './wire/frame.js';

export const PROTOCOL_VERSION = 1;
/** Bit 0 of Hello.features: takes super-packets and partial checksums. */
export const FEATURE_OFFLOAD = 1;
/** Bit 1: takes partial checksums on packets that are no super-packets. */
export const FEATURE_CHECKSUMS = 2;
/** Bit 2: repairs lost datagrams. */
export const FEATURE_REPAIR = 4;
/** Smallest MTU a link may have: RFC 8200 §5. */
export const MIN_MTU = 1280;

/** What one side says of itself. */
export interface HelloInfo {
  readonly tenant: string;
  readonly node: string;
  readonly instance: Uint8Array;
  readonly mtu: number;
  readonly offload: boolean;
  readonly partialChecksums: boolean;
  /** Lost datagrams are repaired. */
  readonly repair?: boolean;
  readonly connection: number;
  readonly connections: number;
  /** The dialer's count of links, see l2.proto. */
  readonly session: number;
  readonly keepalive: KeepaliveOptions;
  readonly agent: string;
}

export interface MachineOutput {
  sendFrame(type: number, payload: Uint8Array): void;
  /** Answer with `pong(token)`, now or, when much waits to be sent, later; then the last token is enough. */
  onPing(token: number): void;
  /** Number of the last control message received, for pings and pongs; and the peer's, from its. */
  controlReceived(): number;
  onControlReceived(received: number): void;
  /** The listener's side only: judge the peer; answer with `accept` or `fail`, now or later. */
  onHello(hello: HelloInfo): void;
  onOpen(hello: HelloInfo): void;
  onControl(message: Uint8Array): void;
  /** Over, exactly once. `goodbye` when the peer said it. */
  onOver(reason: KubeBusError, goodbye: GoodbyeInfo | null): void;
}

export type MachineState = 'hello' | 'judging' | 'open' | 'over';

export class ConnectionMachine {
  state: MachineState = 'hello';
  readonly keepalive: Keepalive;
  /** What both sides can do; valid when open. */
  mtu = 0;
  offload = false;
  partialChecksums = false;
  repair = false;
  ignored = 0;
  private readonly handshakeDeadline: Micros;
  private peer: HelloInfo | null = null;

  constructor(
    now: Micros,
    private readonly role: 'dialer' | 'listener',
    private readonly local: HelloInfo,
    /** What the transport proved; the hello must agree. */
    private readonly identity: PeerIdentity,
    handshakeTimeout: Micros,
    private readonly output: MachineOutput,
  ) {
    this.handshakeDeadline = now + handshakeTimeout;
    this.keepalive = new Keepalive(now, local.keepalive);
  }

  /** After construction, by the driver. */
  start(): void {
    if (this.role === 'dialer') this.sendHello();
  }

  handleFrame(now: Micros, type: number, payload: Uint8Array): void {
    if (this.state === 'over') return;
    if (type === FrameType.hello) this.handleHello(now, payload);
    else if (type === FrameType.goodbye) this.handleGoodbye(payload);
    else if (this.state !== 'open') this.fail('ERR_FRAME_MALFORMED', `frame of type ${type} before the hello`);
    else if (type === FrameType.ping) {
      const ping = this.decode(type, () => kubebus.l2.Ping.decode(payload));
      if (ping === null) return;
      this.output.onControlReceived(ping.controlReceived);
      this.output.onPing(ping.token);
    } else if (type === FrameType.pong) {
      const pong = this.decode(type, () => kubebus.l2.Pong.decode(payload));
      if (pong === null) return;
      this.keepalive.handlePong(now, pong.token);
      this.output.onControlReceived(pong.controlReceived);
    } else if (type === FrameType.control) this.output.onControl(payload);
    else if ((type & CRITICAL) !== 0) this.fail('ERR_FRAME_UNKNOWN_CRITICAL', `unknown critical frame type ${type}`);
    else this.ignored++;
  }

  /** Spurious calls are harmless. */
  handleTimeout(now: Micros): void {
    if (this.state === 'over') return;
    if (this.state !== 'open') {
      if (now >= this.handshakeDeadline)
        this.fail('ERR_HELLO_TIMEOUT', 'the peer did not finish the handshake in time');
      return;
    }
    if (this.keepalive.isDead(now)) {
      const seconds = Math.round(this.keepalive.silence(now) / 1_000_000);
      this.over(new KubeBusError('ERR_PEER_DEAD', `nothing heard for ${seconds} s`, { side: 'remote' }), null);
    } else if (this.keepalive.wantsPing(now)) this.sendPing(now);
  }

  pollDeadline(): Micros {
    return this.state === 'open' ? this.keepalive.nextDeadline() : this.handshakeDeadline;
  }

  /** The listener lets the peer in. */
  accept(now: Micros): void {
    if (this.state !== 'judging') return;
    this.sendHello();
    this.open(now);
  }

  /** Tells the peer why and ends. */
  fail(code: ErrorCode, message: string, cause?: unknown): void {
    this.close(new KubeBusError(code, message, cause === undefined ? {} : { cause }));
  }

  close(reason: KubeBusError, info: Partial<GoodbyeInfo> = {}): void {
    if (this.state === 'over') return;
    this.output.sendFrame(FrameType.goodbye, goodbyePayload(reason.code, reason.message, info));
    this.over(reason, null);
  }

  /** The transport is gone, or the driver gave up. */
  over(reason: KubeBusError, goodbye: GoodbyeInfo | null): void {
    if (this.state === 'over') return;
    this.state = 'over';
    this.output.onOver(reason, goodbye);
  }

  sendPing(now: Micros): void {
    const token = this.keepalive.ping(now);
    const controlReceived = this.output.controlReceived();
    this.output.sendFrame(FrameType.ping, kubebus.l2.Ping.encode({ token, controlReceived }).finish());
  }

  sendPong(token: number): void {
    const controlReceived = this.output.controlReceived();
    this.output.sendFrame(FrameType.pong, kubebus.l2.Pong.encode({ token, controlReceived }).finish());
  }

  private sendHello(): void {
    const { keepalive, offload, partialChecksums, repair = false, ...rest } = this.local;
    const payload = kubebus.l2.Hello.encode({
      ...rest,
      versions: [PROTOCOL_VERSION],
      features:
        (offload ? FEATURE_OFFLOAD : 0) | (partialChecksums ? FEATURE_CHECKSUMS : 0) | (repair ? FEATURE_REPAIR : 0),
      keepaliveMs: keepalive.interval / MS,
      deadAfterMs: keepalive.deadAfter / MS,
    }).finish();
    this.output.sendFrame(FrameType.hello, payload);
  }

  private handleHello(now: Micros, payload: Uint8Array): void {
    if (this.state !== 'hello') return this.fail('ERR_FRAME_MALFORMED', 'a second hello');
    const m = this.decode(FrameType.hello, () => kubebus.l2.Hello.decode(payload));
    if (m === null) return;
    if (!m.versions.includes(PROTOCOL_VERSION)) {
      return this.fail(
        'ERR_VERSION',
        `this side speaks version ${PROTOCOL_VERSION}, the peer ${m.versions.slice(0, 8).join(', ') || 'none'}`,
      );
    }
    if (m.instance.length < 8 || m.instance.length > 32 || !isName(m.node) || !isName(m.tenant) || m.mtu < MIN_MTU) {
      return this.fail(
        'ERR_HELLO_MALFORMED',
        `a field of the hello is out of range (mtu at least ${MIN_MTU}, names, instance)`,
      );
    }
    const { identity } = this;
    // The cloud's certificate names a cloud, not a tenant's node: the dialer's transport has checked it.
    if (
      this.role === 'listener' &&
      identity.authenticated &&
      (identity.tenant !== m.tenant || identity.node !== m.node)
    ) {
      const claimed = `${m.tenant}/${m.node}`;
      return this.fail(
        'ERR_IDENTITY_MISMATCH',
        `the hello names ${claimed}, the certificate ${identity.tenant}/${identity.node}`,
      );
    }
    this.peer = {
      tenant: m.tenant,
      node: m.node,
      // Copies: the payload lies in a buffer that is used again.
      instance: Uint8Array.from(m.instance),
      mtu: m.mtu,
      offload: (m.features & FEATURE_OFFLOAD) !== 0,
      partialChecksums: (m.features & FEATURE_CHECKSUMS) !== 0,
      repair: (m.features & FEATURE_REPAIR) !== 0,
      connection: m.connection,
      connections: m.connections,
      session: m.session,
      keepalive: { interval: m.keepaliveMs * MS, deadAfter: m.deadAfterMs * MS },
      agent: printable(m.agent, 200),
    };
    if (this.role === 'dialer') return this.open(now);
    this.state = 'judging';
    this.output.onHello(this.peer);
  }

  private open(now: Micros): void {
    const peer = this.peer!;
    this.mtu = Math.min(this.local.mtu, peer.mtu);
    this.offload = this.local.offload && peer.offload;
    this.partialChecksums = this.offload || (this.local.partialChecksums && peer.partialChecksums);
    this.repair = this.local.repair === true && peer.repair === true;
    this.state = 'open';
    this.output.onOpen(peer);
    if (this.state !== 'open') return;
    this.keepalive.handleBytes(now);
    this.sendPing(now);
  }

  private handleGoodbye(payload: Uint8Array): void {
    const m = this.decode(FrameType.goodbye, () => kubebus.l2.Goodbye.decode(payload));
    if (m === null) return;
    const code = isErrorCode(m.code) ? m.code : 'ERR_PEER_GOODBYE';
    const text = printable(m.message, MAX_GOODBYE_TEXT) || 'the peer closed the link';
    this.over(new KubeBusError(code, text, { side: 'remote' }), {
      retryAfterMs: Math.min(m.retryAfterMs, MAX_RETRY_AFTER_MS),
      permanent: m.permanent,
      addresses: m.addresses.slice(0, MAX_GOODBYE_ADDRESSES).filter((a) => a.length <= MAX_ADDRESS_TEXT),
    });
  }

  /** Null: the bytes are no such message, and the connection is over. */
  private decode<M>(type: number, decode: () => M): M | null {
    try {
      return decode();
    } catch (cause) {
      const code = this.state === 'open' ? 'ERR_FRAME_MALFORMED' : 'ERR_HELLO_MALFORMED';
      this.fail(code, `frame of type ${type} cannot be decoded`, cause);
      return null;
    }
  }
}

/** Names of tenants and nodes: DNS labels (RFC 1123 §2.1), for they become host names. */
export function isName(name: string): boolean {
  return /^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/.test(name);
}

export function sameBytes(a: Uint8Array, b: Uint8Array): boolean {
  return a.length === b.length && a.every((x, i) => x === b[i]);
}

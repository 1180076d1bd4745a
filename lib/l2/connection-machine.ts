// Core: the life of one connection between "bytes flow" and "over": hello both ways, negotiation, keepalive, goodbye.
//
//   dialer    hello ->            <- hello (chosen version)        open
//   listener            hello ->  judged  -> hello                 open
//   either    goodbye(code, message) -> closes; the other side shows the reason to its user

import {
  ERROR_CODES,
  type ErrorCode,
  JOIN_ERROR_CODES,
  KubeBusError,
  L2_ERROR_CODES,
  L3_ERROR_CODES,
  type Micros,
  MS,
} from '../core/index.js';
import { kubebus } from './gen/messages.js';
import { Keepalive, type KeepaliveOptions } from './keepalive.js';
import type { PeerIdentity } from './transport.js';
import { CRITICAL, FrameType } from './wire/frame.js';

export const PROTOCOL_VERSION = 1;
/** Bit 0 of Hello.features: takes super-packets and partial checksums. */
export const FEATURE_OFFLOAD = 1;
/** Smallest MTU a link may have: RFC 8200 §5. */
export const MIN_MTU = 1280;

/** What one side says of itself. */
export interface HelloInfo {
  readonly tenant: string;
  readonly node: string;
  readonly instance: Uint8Array;
  readonly mtu: number;
  readonly offload: boolean;
  readonly connection: number;
  readonly connections: number;
  readonly keepalive: KeepaliveOptions;
  readonly agent: string;
}

export interface GoodbyeInfo {
  readonly retryAfterMs: number;
  readonly permanent: boolean;
}

export interface MachineOutput {
  sendFrame(type: number, payload: Uint8Array): void;
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
    try {
      if (type === FrameType.hello) this.handleHello(now, payload);
      else if (type === FrameType.goodbye) this.handleGoodbye(payload);
      else if (this.state !== 'open') this.fail('ERR_FRAME_MALFORMED', `frame of type ${type} before the hello`);
      else if (type === FrameType.ping) {
        const { token } = kubebus.l2.Ping.decode(payload);
        this.output.sendFrame(FrameType.pong, kubebus.l2.Pong.encode({ token }).finish());
      } else if (type === FrameType.pong) this.keepalive.handlePong(now, kubebus.l2.Pong.decode(payload).token);
      else if (type === FrameType.control) this.output.onControl(payload);
      else if ((type & CRITICAL) !== 0) this.fail('ERR_FRAME_UNKNOWN_CRITICAL', `unknown critical frame type ${type}`);
      else this.ignored++;
    } catch (cause) {
      this.fail(
        this.state === 'open' ? 'ERR_FRAME_MALFORMED' : 'ERR_HELLO_MALFORMED',
        `frame of type ${type} cannot be decoded`,
        cause,
      );
    }
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
    const goodbye = { code: reason.code, message: reason.message, ...info };
    this.output.sendFrame(FrameType.goodbye, kubebus.l2.Goodbye.encode(goodbye).finish());
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
    this.output.sendFrame(FrameType.ping, kubebus.l2.Ping.encode({ token }).finish());
  }

  private sendHello(): void {
    const { keepalive, offload, ...rest } = this.local;
    const payload = kubebus.l2.Hello.encode({
      ...rest,
      versions: [PROTOCOL_VERSION],
      features: offload ? FEATURE_OFFLOAD : 0,
      keepaliveMs: keepalive.interval / MS,
      deadAfterMs: keepalive.deadAfter / MS,
    }).finish();
    this.output.sendFrame(FrameType.hello, payload);
  }

  private handleHello(now: Micros, payload: Uint8Array): void {
    if (this.state !== 'hello') return this.fail('ERR_FRAME_MALFORMED', 'a second hello');
    const m = kubebus.l2.Hello.decode(payload);
    if (!m.versions.includes(PROTOCOL_VERSION)) {
      return this.fail(
        'ERR_VERSION',
        `this side speaks version ${PROTOCOL_VERSION}, the peer ${m.versions.join(', ') || 'none'}`,
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
      connection: m.connection,
      connections: m.connections,
      keepalive: { interval: m.keepaliveMs * MS, deadAfter: m.deadAfterMs * MS },
      agent: m.agent.slice(0, 200),
    };
    if (this.role === 'dialer') return this.open(now);
    this.state = 'judging';
    this.output.onHello(this.peer);
  }

  private open(now: Micros): void {
    const peer = this.peer!;
    this.mtu = Math.min(this.local.mtu, peer.mtu);
    this.offload = this.local.offload && peer.offload;
    this.state = 'open';
    this.output.onOpen(peer);
    if (this.state !== 'open') return;
    this.keepalive.handleBytes(now);
    this.sendPing(now);
  }

  private handleGoodbye(payload: Uint8Array): void {
    const m = kubebus.l2.Goodbye.decode(payload);
    const code = isErrorCode(m.code) ? m.code : 'ERR_PEER_GOODBYE';
    const reason = new KubeBusError(code, m.message.slice(0, 1000) || 'the peer closed the link', { side: 'remote' });
    this.over(reason, { retryAfterMs: m.retryAfterMs, permanent: m.permanent });
  }
}

/** Names of tenants and nodes: DNS labels (RFC 1123 §2.1), for they become host names. */
export function isName(name: string): boolean {
  return /^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/.test(name);
}

function isErrorCode(code: string): code is ErrorCode {
  return code in ERROR_CODES || code in L2_ERROR_CODES || code in L3_ERROR_CODES || code in JOIN_ERROR_CODES;
}

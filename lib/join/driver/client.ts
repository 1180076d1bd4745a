// Edge: the node's side of joining: asks for the CA and compares its hash, enrolls with a token, renews with its certificate.

import { createHash, createPrivateKey, X509Certificate } from 'node:crypto';
import type { Duplex } from 'node:stream';
import { type Clock, type ErrorCode, isErrorCode, KubeBusError, type Micros, SECOND } from '../../core/index.js';
import {
  decodeAnswer,
  encodeRequest,
  JOIN_PROTOCOL,
  type JoinAnswer,
  type JoinRequest,
  MessageReader,
} from '../messages.js';
import { sameSecret, type Token } from '../token.js';

/** How a join service is reached: transports/tcp.ts has one. */
export type ServiceDialer = (
  address: string,
  secure: { protocol: string; ca?: string; cert?: string; key?: string; unverified?: boolean },
  signal: AbortSignal,
) => Promise<Duplex>;

export interface Certified {
  readonly tenant: string;
  readonly node: string;
  /** PEM. */
  readonly certificate: string;
  readonly authority: string;
  readonly addresses: readonly string[];
}

export interface JoinClientOptions {
  readonly dial: ServiceDialer;
  readonly clock: Clock;
  /** For one exchange, the TLS handshake included. **Default:** 15 s. */
  readonly timeout?: Micros;
}

/** A refusal of the cloud; `retryAfterMs` 0: trying again is of no use. */
export class JoinRefused extends KubeBusError {
  constructor(
    code: ErrorCode,
    message: string,
    readonly retryAfterMs: number,
  ) {
    super(code, message, { side: 'remote' });
  }
}

export class JoinClient {
  constructor(private readonly options: JoinClientOptions) {}

  /** The CA's certificate (PEM) if its hash is the token's; otherwise ERR_CA_MISMATCH. Nothing secret is said on the way. */
  async authority(address: string, token: Token, signal: AbortSignal): Promise<string> {
    const answer = await this.exchange(address, { unverified: true }, { type: 'describe' }, signal);
    if (answer.type !== 'description') throw unexpected();
    const hash = createHash('sha256').update(answer.authority).digest();
    if (!sameSecret(hash, token.authority)) {
      throw new KubeBusError(
        'ERR_CA_MISMATCH',
        `the CA of ${address} has the hash ${hash.toString('hex').slice(0, 16)}..., the token wants ${Buffer.from(token.authority).toString('hex').slice(0, 16)}...`,
        { side: 'remote' },
      );
    }
    return parse(answer.authority).toString();
  }

  /** `ca`: what `authority` returned. The secret is sent only after the certificate of `address` was verified against it. */
  async enroll(
    address: string,
    ca: string,
    ask: { token: Token; node: string; suggestion: string; request: Uint8Array; key: string },
    signal: AbortSignal,
  ): Promise<Certified> {
    const { token, node, suggestion, request } = ask;
    const answer = await this.exchange(
      address,
      { ca },
      { type: 'enroll', token: token.id, secret: token.secret, node, suggestion, request },
      signal,
    );
    return checked(answer, ca, ask.key, node === '' ? {} : { node });
  }

  async renew(
    address: string,
    held: { tenant: string; node: string; certificate: string; key: string; authority: string },
    signal: AbortSignal,
  ): Promise<Certified> {
    const { certificate: cert, key, authority: ca, tenant, node } = held;
    const answer = await this.exchange(address, { ca, cert, key }, { type: 'renew' }, signal);
    return checked(answer, ca, key, { tenant, node });
  }

  private async exchange(
    address: string,
    secure: { ca?: string; cert?: string; key?: string; unverified?: boolean },
    request: JoinRequest,
    signal: AbortSignal,
  ): Promise<JoinAnswer> {
    const { clock, dial, timeout = 15 * SECOND } = this.options;
    const late = new AbortController();
    const timer = clock.at(clock.now() + timeout, () => late.abort());
    const ends = AbortSignal.any([signal, late.signal]);
    try {
      const socket = await dial(address, { protocol: JOIN_PROTOCOL, ...secure }, ends);
      const answer = await ask(socket, encodeRequest(request), ends);
      if (answer.type === 'refusal') throw refusal(answer);
      return answer;
    } catch (error) {
      if (signal.aborted) throw new KubeBusError('ERR_ABORTED', 'joining was aborted', { cause: signal.reason });
      if (late.signal.aborted)
        throw new KubeBusError('ERR_JOIN_TIMEOUT', `no answer from ${address} in time`, { cause: error });
      throw error;
    } finally {
      timer.cancel();
    }
  }
}

function ask(socket: Duplex, request: Uint8Array, signal: AbortSignal): Promise<JoinAnswer> {
  return new Promise((resolve, reject) => {
    const reader = new MessageReader();
    const aborted = () => settle(new Error('aborted'));
    const settle = (error: Error | null, answer?: JoinAnswer) => {
      signal.removeEventListener('abort', aborted);
      socket.removeAllListeners('data');
      socket.destroy();
      if (error === null) resolve(answer!);
      else reject(error);
    };
    socket.on('data', (chunk: Buffer) => {
      try {
        const message = reader.push(chunk);
        if (message !== null) settle(null, decodeAnswer(message));
      } catch (error) {
        settle(error as Error);
      }
    });
    const gone = (cause?: Error) =>
      settle(
        new KubeBusError('ERR_CONNECT', 'the cloud closed the connection without an answer', { side: 'remote', cause }),
      );
    socket.on('error', gone);
    socket.once('close', () => gone());
    signal.addEventListener('abort', aborted);
    if (signal.aborted) return aborted();
    socket.write(request);
  });
}

/** The certificate is for our key, from our CA, for the name we want, and says what a link will say. */
function checked(answer: JoinAnswer, ca: string, key: string, wanted: { tenant?: string; node?: string }): Certified {
  if (answer.type !== 'issued') throw unexpected();
  const cert = parse(answer.certificate);
  const authority = new X509Certificate(ca);
  const wrong = (what: string) =>
    new KubeBusError('ERR_CERTIFICATE', `the certificate that the cloud issued ${what}`, { side: 'remote' });
  if (!authority.raw.equals(answer.authority)) throw wrong('comes with another CA than the one that was pinned');
  if (!cert.checkIssued(authority) || !cert.verify(authority.publicKey)) throw wrong('is not signed by the pinned CA');
  if (!cert.checkPrivateKey(createPrivateKey(key))) throw wrong('is for another key than ours');
  const named = [...(cert.subjectAltName ?? '').matchAll(/(?:^|, )URI:kubebus:\/\/([a-z0-9-]+)\/([a-z0-9-]+)(?=,|$)/g)];
  const [, tenant = '', node = ''] = named[0] ?? [];
  if (named.length !== 1) throw wrong('does not name exactly one node');
  if ((wanted.tenant ?? tenant) !== tenant || (wanted.node ?? node) !== node) throw wrong(`is for ${tenant}/${node}`);
  return { tenant, node, certificate: cert.toString(), authority: ca, addresses: answer.addresses };
}

function refusal(answer: Extract<JoinAnswer, { type: 'refusal' }>): JoinRefused {
  const code = isErrorCode(answer.code) ? answer.code : 'ERR_JOIN_MALFORMED';
  return new JoinRefused(code, answer.message || 'the cloud refused without a reason', answer.retryAfterMs);
}

function parse(der: Uint8Array): X509Certificate {
  try {
    return new X509Certificate(der);
  } catch (cause) {
    throw new KubeBusError('ERR_JOIN_MALFORMED', 'the cloud sent no certificate where one belongs', {
      side: 'remote',
      cause,
    });
  }
}

function unexpected(): KubeBusError {
  return new KubeBusError('ERR_JOIN_MALFORMED', 'the cloud answered something else than was asked', { side: 'remote' });
}

// Edge: the node's side of joining: asks for the CA, compares its hash and enrolls with a token, all on one connection; renews with its
// certificate.

import { createHash, createPrivateKey, type KeyObject, X509Certificate } from 'node:crypto';
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

/** A connection to a join service. */
export interface ServiceSocket extends Duplex {
  /**
   * Of a connection dialled `unverified`: throws ERR_CERTIFICATE unless the certificate with which this very TLS session was opened is a
   * cloud's, for the host that was dialled, valid now, and signed by `ca` (PEM). Until then nothing secret may be said on it.
   */
  verify(ca: string): void;
}

/** How a join service is reached: transports/tcp.ts has one. */
export type ServiceDialer = (
  address: string,
  secure: { protocol: string; ca?: string; cert?: string; key?: string; unverified?: boolean },
  signal: AbortSignal,
) => Promise<ServiceSocket>;

export interface Certified {
  readonly tenant: string;
  readonly node: string;
  /** PEM; of the CAs one or several. */
  readonly certificate: string;
  readonly authority: string;
  readonly addresses: readonly string[];
  /** When the certificate ends. Milliseconds since the epoch. */
  readonly expires: number;
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

  /**
   * Throws ERR_CA_MISMATCH where the cloud's CA is not the token's. The secret is sent only after the hash of the CA was compared with the
   * token's, and the certificate of this very connection verified against that CA.
   */
  enroll(
    address: string,
    ask: { token: Token; node: string; suggestion: string; request: Uint8Array; key: KeyObject },
    signal: AbortSignal,
  ): Promise<Certified> {
    const { token, node, suggestion, request, key } = ask;
    return this.conversation(address, { unverified: true }, signal, async (exchange, socket) => {
      const described = await exchange({ type: 'describe' });
      if (described.type !== 'description') throw unexpected();
      const authority = pinned(described.authority, token, address);
      const ca = authority.toString();
      socket.verify(ca);
      const { id, secret } = token;
      const answer = await exchange({ type: 'enroll', token: id, secret, node, suggestion, request });
      return checked(answer, { authorities: [authority], key }, node === '' ? {} : { node });
    });
  }

  async renew(
    address: string,
    held: { tenant: string; node: string; certificate: string; key: string; authority: string },
    signal: AbortSignal,
  ): Promise<Certified> {
    const { certificate: cert, key, authority: ca, tenant, node } = held;
    return this.conversation(address, { ca, cert, key }, signal, async (exchange) => {
      const answer = await exchange({ type: 'renew' });
      return checked(answer, { authorities: certificates(ca), key: createPrivateKey(key) }, { tenant, node });
    });
  }

  /** One connection: each request of `talk` gets its answer, a refusal as the error that it is. */
  private async conversation(
    address: string,
    secure: { ca?: string; cert?: string; key?: string; unverified?: boolean },
    signal: AbortSignal,
    talk: (exchange: (request: JoinRequest) => Promise<JoinAnswer>, socket: ServiceSocket) => Promise<Certified>,
  ): Promise<Certified> {
    const { clock, dial, timeout = 15 * SECOND } = this.options;
    const late = new AbortController();
    const timer = clock.at(clock.now() + timeout, () => late.abort());
    const ends = AbortSignal.any([signal, late.signal]);
    let socket: ServiceSocket | null = null;
    try {
      const open = await dial(address, { protocol: JOIN_PROTOCOL, ...secure }, ends);
      socket = open;
      const exchange = async (request: JoinRequest) => {
        const answer = await ask(open, encodeRequest(request), ends);
        if (answer.type === 'refusal') throw refusal(answer);
        return answer;
      };
      return await talk(exchange, open);
    } catch (error) {
      if (signal.aborted) throw new KubeBusError('ERR_ABORTED', 'joining was aborted', { cause: signal.reason });
      if (late.signal.aborted)
        throw new KubeBusError('ERR_JOIN_TIMEOUT', `no answer from ${address} in time`, { cause: error });
      throw error;
    } finally {
      timer.cancel();
      socket?.on('error', () => {});
      socket?.destroy();
    }
  }
}

/** Writes one request and reads one answer. */
function ask(socket: Duplex, request: Uint8Array, signal: AbortSignal): Promise<JoinAnswer> {
  return new Promise((resolve, reject) => {
    const reader = new MessageReader();
    const settle = (error: Error | null, answer?: JoinAnswer) => {
      signal.removeEventListener('abort', aborted);
      socket.off('data', onData).off('error', gone).off('close', onClose);
      if (error === null) resolve(answer!);
      else reject(error);
    };
    const aborted = () => settle(new Error('aborted'));
    const onData = (chunk: Buffer) => {
      try {
        const message = reader.push(chunk);
        if (message !== null) settle(null, decodeAnswer(message));
      } catch (error) {
        settle(error as Error);
      }
    };
    const gone = (cause?: Error) =>
      settle(
        new KubeBusError('ERR_CONNECT', 'the cloud closed the connection without an answer', { side: 'remote', cause }),
      );
    const onClose = () => gone();
    socket.on('data', onData).on('error', gone).on('close', onClose);
    signal.addEventListener('abort', aborted);
    if (signal.aborted) return aborted();
    if (socket.destroyed) return gone();
    socket.write(request);
  });
}

/** The CA's certificate, if its hash is the token's. */
function pinned(der: Uint8Array, token: Token, address: string): X509Certificate {
  const hash = createHash('sha256').update(der).digest();
  if (sameSecret(hash, token.authority)) return parse(der);
  const [theirs, ours] = [hash, Buffer.from(token.authority)].map((bytes) => bytes.toString('hex').slice(0, 16));
  throw new KubeBusError(
    'ERR_CA_MISMATCH',
    `the CA of ${address} has the hash ${theirs}..., the token wants ${ours}...`,
    { side: 'remote' },
  );
}

/** Those in a PEM text. */
function certificates(pem: string): X509Certificate[] {
  const texts = pem.match(/-----BEGIN CERTIFICATE-----[\s\S]+?-----END CERTIFICATE-----/g) ?? [];
  return texts.map((text) => new X509Certificate(text));
}

/** The certificate is for our key, from our CA, for the name we want, and says what a link will say. */
function checked(
  answer: JoinAnswer,
  ours: { authorities: readonly X509Certificate[]; key: KeyObject },
  wanted: { tenant?: string; node?: string },
): Certified {
  if (answer.type !== 'issued') throw unexpected();
  const { authorities, key } = ours;
  const cert = parse(answer.certificate);
  const wrong = (what: string) =>
    new KubeBusError('ERR_CERTIFICATE', `the certificate that the cloud issued ${what}`, { side: 'remote' });
  if (!authorities.some((ca) => ca.raw.equals(answer.authority)))
    throw wrong('comes with another CA than the one that was pinned');
  // Whoever has the pinned CA's word may be told of its successor.
  const trusted = [answer.authority, ...answer.trusted].map(parse);
  if (!trusted.every((ca) => ca.ca)) throw wrong('comes with a CA that is none');
  if (!trusted.some((ca) => cert.checkIssued(ca) && cert.verify(ca.publicKey)))
    throw wrong('is not signed by the pinned CA');
  if (!cert.checkPrivateKey(key)) throw wrong('is for another key than ours');
  const named = [...(cert.subjectAltName ?? '').matchAll(/(?:^|, )URI:kubebus:\/\/([a-z0-9-]+)\/([a-z0-9-]+)(?=,|$)/g)];
  const [, tenant = '', node = ''] = named[0] ?? [];
  if (named.length !== 1) throw wrong('does not name exactly one node');
  if ((wanted.tenant ?? tenant) !== tenant || (wanted.node ?? node) !== node) throw wrong(`is for ${tenant}/${node}`);
  const expires = Date.parse(cert.validTo);
  return {
    tenant,
    node,
    certificate: cert.toString(),
    authority: trusted.map(String).join(''),
    addresses: answer.addresses,
    expires,
  };
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

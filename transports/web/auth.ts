// Core: certificates on both sides for transports whose TLS cannot ask the client for one (WebTransport over HTTP/2, a
// WebSocket behind somebody's TLS). Said in the first bytes of the stream, before any frame:
//
//   dialer    "kbA1", nonce (32), binding (32)                                  ->
//   listener  <- 0, nonce (32), certificate, signature over (label L, transcript)
//   dialer    certificate, signature over (label D, transcript)                 ->
//   listener  <- 0                                                              then frames
//
// Instead of a 0 the listener may send 1 and a text: why it refuses.
//
// The transcript is SHA-256 over both nonces, the certificates so far and the *binding*: the SHA-256 of the TLS certificate
// that the dialer saw, and that the listener knows for its own (RFC 5929 §4.1, tls-server-end-point). Somebody in the
// middle shows the dialer another TLS certificate: the listener refuses that binding, or, where it was replaced on the way,
// signs another one than the dialer verifies. Nothing was disclosed but a nonce. The dialer shows who it is only after it has verified the listener.
//
// Certificates are DER, signatures as crypto.sign makes them (ECDSA with SHA-256); both with a length of 16 bits before them.

import { createHash, createPrivateKey, randomBytes, sign, verify, X509Certificate } from 'node:crypto';
import net from 'node:net';
import { KubeBusError } from '../../lib/core/index.js';
import type { PeerIdentity, TlsMaterial } from '../../lib/l2/transport.js';
import { cloudIdentity, nodeIdentity } from '../identity.js';

const MAGIC = Buffer.from('kbA1');
const NONCE = 32;
const BINDING = 32;
const OK = Buffer.of(0);
const HELLO = MAGIC.length + NONCE + BINDING;
/** Of one certificate or signature. */
const MAX_FIELD = 8 * 1024;
const LABELS = { dialer: 'kubebus link dialer\0', listener: 'kubebus link listener\0' };
/** id-kp-serverAuth, id-kp-clientAuth: RFC 5280 §4.2.1.12. */
const USAGE = { dialer: '1.3.6.1.5.5.7.3.2', listener: '1.3.6.1.5.5.7.3.1' };

export interface AuthOptions {
  readonly role: 'dialer' | 'listener';
  readonly tls: TlsMaterial;
  /** SHA-256 of TLS certificates: the one seen (dialer), or those that end at this listener. */
  readonly bindings: readonly Uint8Array[];
  /** Host name or address that the cloud's certificate has to be for; the dialer's side. */
  readonly host?: string;
  /** For reasons: who is at the other end. */
  readonly where: string;
}

type Step = 'magic' | 'answer' | 'proof' | 'verdict' | 'done' | 'failed';

export class AuthMachine {
  /** Who the other end is, once `step` is 'done'. */
  identity: PeerIdentity | null = null;
  error: KubeBusError | null = null;
  step: Step;
  private readonly ours: Buffer = randomBytes(NONCE);
  private theirs: Buffer = Buffer.alloc(0);
  private binding: Uint8Array = new Uint8Array(0);
  private readonly certificate: Buffer;
  private listenerCertificate: Buffer = Buffer.alloc(0);
  private input: Buffer = Buffer.alloc(0);
  private output: Buffer[] = [];

  /** `now` in milliseconds since the epoch: certificates are judged by it. */
  constructor(
    private readonly options: AuthOptions,
    private readonly now: number,
  ) {
    this.certificate = new X509Certificate(options.tls.cert).raw;
    this.step = options.role === 'dialer' ? 'answer' : 'magic';
    if (options.role === 'dialer') {
      this.binding = options.bindings[0]!;
      this.output.push(MAGIC, this.ours, Buffer.from(this.binding));
    }
  }

  /** Any bytes, however cut. What comes after the last message is left in `rest`. */
  handleBytes(bytes: Uint8Array): void {
    if (this.step === 'done' || this.step === 'failed') return;
    this.input = Buffer.concat([this.input, bytes]);
    let before: Step;
    do {
      before = this.step;
      try {
        this.advance();
      } catch (error) {
        this.fail(
          error instanceof KubeBusError
            ? error
            : new KubeBusError('ERR_CERTIFICATE', `${this.options.where}: ${(error as Error).message}`, {
                side: 'remote',
              }),
        );
      }
    } while (this.step !== before && this.isOpen());
    if (this.isOpen() && this.input.length > 2 * (MAX_FIELD + 2) + NONCE) {
      this.fail(new KubeBusError('ERR_FRAME_TOO_LONG', 'the proof of identity is longer than allowed'));
    }
  }

  /** What is to be sent now. */
  pollOutput(): Uint8Array | null {
    if (this.output.length === 0) return null;
    const out = Buffer.concat(this.output);
    this.output = [];
    return out;
  }

  /** Bytes that belong to the stream behind the handshake. */
  get rest(): Uint8Array {
    return this.input;
  }

  private isOpen(): boolean {
    return this.step !== 'done' && this.step !== 'failed';
  }

  private advance(): void {
    if (this.step === 'magic') this.readMagic();
    else if (this.step === 'answer') this.readAnswer();
    else if (this.step === 'proof') this.readProof();
    else if (this.step === 'verdict') this.readVerdict();
  }

  private readMagic(): void {
    const seen = this.input.subarray(0, MAGIC.length);
    if (!MAGIC.subarray(0, seen.length).equals(seen)) throw this.foreign();
    if (this.input.length < HELLO) return;
    this.theirs = Buffer.from(this.input.subarray(MAGIC.length, MAGIC.length + NONCE));
    this.binding = Buffer.from(this.input.subarray(MAGIC.length + NONCE, HELLO));
    this.input = this.input.subarray(HELLO);
    if (!this.options.bindings.some((known) => Buffer.from(known).equals(this.binding))) {
      throw new KubeBusError(
        'ERR_CERTIFICATE',
        'the peer sees another TLS certificate than ours: somebody is in between',
        {
          side: 'remote',
        },
      );
    }
    this.listenerCertificate = this.certificate;
    this.output.push(OK, this.ours, field(this.certificate), field(this.sign(this.transcript())));
    this.step = 'proof';
  }

  private readAnswer(): void {
    if (this.isRefused()) return;
    const fields = takeFields(this.input, 1 + NONCE, 2);
    if (fields === null) return;
    const [certificate, signature] = fields.values as [Buffer, Buffer];
    this.theirs = Buffer.from(this.input.subarray(1, 1 + NONCE));
    this.input = this.input.subarray(fields.end);
    this.listenerCertificate = Buffer.from(certificate);
    const peer = this.check(certificate, 'listener');
    if (!verify('sha256', labelled('listener', this.transcript()), peer.publicKey, signature)) {
      throw new KubeBusError(
        'ERR_CERTIFICATE',
        `${this.options.where}: the TLS connection does not end at the cloud (somebody is in between), or its proof is wrong`,
        { side: 'remote' },
      );
    }
    this.output.push(field(this.certificate), field(this.sign(this.transcript(this.certificate))));
    this.step = 'verdict';
  }

  private readProof(): void {
    const fields = takeFields(this.input, 0, 2);
    if (fields === null) return;
    const [certificate, signature] = fields.values as [Buffer, Buffer];
    this.input = this.input.subarray(fields.end);
    const peer = this.check(certificate, 'dialer');
    if (!verify('sha256', labelled('dialer', this.transcript(certificate)), peer.publicKey, signature)) {
      throw new KubeBusError('ERR_CERTIFICATE', 'the peer does not have the key of its certificate', {
        side: 'remote',
      });
    }
    this.output.push(OK);
    this.step = 'done';
  }

  private readVerdict(): void {
    if (this.isRefused() || this.input.length === 0) return;
    this.input = this.input.subarray(1);
    this.step = 'done';
  }

  /** Throws the listener's reason once it is there in full. True: it is still on its way. */
  private isRefused(): boolean {
    if (this.input.length === 0 || this.input[0] === OK[0]) return false;
    const text = takeFields(this.input, 1, 1);
    if (text === null) return true;
    throw new KubeBusError('ERR_CERTIFICATE', text.values[0]!.toString('utf8').slice(0, 500), { side: 'remote' });
  }

  /** The certificate of the other end, judged: CA, dates, purpose, name. */
  private check(der: Buffer, role: 'dialer' | 'listener'): X509Certificate {
    const { tls, host, where } = this.options;
    let certificate: X509Certificate;
    try {
      certificate = new X509Certificate(der);
    } catch {
      throw refusal(where, 'it cannot be read');
    }
    const authorities = splitPem(tls.ca).map((pem) => new X509Certificate(pem));
    if (!authorities.some((ca) => ca.ca && certificate.checkIssued(ca) && certificate.verify(ca.publicKey))) {
      throw refusal(where, 'it is not signed by our CA');
    }
    if (this.now < Date.parse(certificate.validFrom)) throw refusal(where, 'it is not valid yet: check the clocks');
    if (this.now > Date.parse(certificate.validTo)) throw refusal(where, 'it has expired: renew it');
    // Node calls the extended key usage so.
    if (!(certificate.keyUsage ?? []).includes(USAGE[role]))
      throw refusal(where, 'it is not made for this side (key usage)');
    const fields = { subjectaltname: certificate.subjectAltName, valid_to: certificate.validTo };
    const identity = role === 'listener' ? cloudIdentity(fields) : nodeIdentity(fields);
    if (identity === null)
      throw refusal(
        where,
        role === 'listener' ? "it is not a cloud's" : 'it names no node (URI kubebus://tenant/node)',
      );
    if (role === 'listener' && host !== undefined) {
      const fits = net.isIP(host) === 0 ? certificate.checkHost(host) : certificate.checkIP(host);
      if (fits === undefined) throw refusal(where, 'it is for another host name or address');
    }
    this.identity = { ...identity, serial: certificate.serialNumber.toLowerCase() };
    return certificate;
  }

  private transcript(dialerCertificate?: Buffer): Buffer {
    const [dialer, listener] = this.options.role === 'dialer' ? [this.ours, this.theirs] : [this.theirs, this.ours];
    const hash = createHash('sha256').update(dialer).update(listener).update(this.binding);
    hash.update(field(this.listenerCertificate));
    if (dialerCertificate !== undefined) hash.update(field(dialerCertificate));
    return hash.digest();
  }

  private sign(transcript: Buffer): Buffer {
    return sign('sha256', labelled(this.options.role, transcript), createPrivateKey(this.options.tls.key));
  }

  private foreign(): KubeBusError {
    return new KubeBusError('ERR_FRAME_MALFORMED', 'the peer does not speak this protocol', { side: 'remote' });
  }

  private fail(error: KubeBusError): void {
    this.identity = null;
    this.error = error;
    // A dialer has nothing to say to a cloud that it does not trust, nor a listener to what is no dialer.
    if (this.options.role === 'listener' && error.code !== 'ERR_FRAME_MALFORMED')
      this.output.push(Buffer.of(1), field(Buffer.from(error.message).subarray(0, 500)));
    this.step = 'failed';
  }
}

/** SHA-256 of a certificate, DER or PEM: what streams are bound to. */
export function bindingOf(certificate: string | Uint8Array): Uint8Array {
  return createHash('sha256').update(new X509Certificate(certificate).raw).digest();
}

function refusal(where: string, what: string): KubeBusError {
  return new KubeBusError('ERR_CERTIFICATE', `certificate of ${where}: ${what}`);
}

function labelled(role: 'dialer' | 'listener', transcript: Buffer): Buffer {
  return Buffer.concat([Buffer.from(LABELS[role]), transcript]);
}

function field(bytes: Uint8Array): Buffer {
  const out = Buffer.allocUnsafe(2 + bytes.length);
  out.writeUInt16BE(bytes.length, 0);
  out.set(bytes, 2);
  return out;
}

/** `count` fields from `start`; null: not all there yet. Throws when one is announced longer than allowed. */
function takeFields(input: Buffer, start: number, count: number): { values: Buffer[]; end: number } | null {
  const values: Buffer[] = [];
  let off = start;
  for (let i = 0; i < count; i++) {
    if (input.length < off + 2) return null;
    const length = input.readUInt16BE(off);
    if (length > MAX_FIELD)
      throw new KubeBusError('ERR_FRAME_TOO_LONG', 'the proof of identity is longer than allowed', { side: 'remote' });
    if (input.length < off + 2 + length) return null;
    values.push(input.subarray(off + 2, off + 2 + length));
    off += 2 + length;
  }
  return { values, end: off };
}

function splitPem(text: string): string[] {
  return text.match(/-----BEGIN CERTIFICATE-----[\s\S]+?-----END CERTIFICATE-----/g) ?? [];
}

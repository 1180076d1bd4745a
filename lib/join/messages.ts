// Core: the messages of the join protocol as checked values, and their frames: 4 bytes of length, then the message.

import { KubeBusError } from '../core/index.js';
import { isName } from '../l2/index.js';
import { kubebus } from './gen/messages.js';
import { TOKEN_ID_BYTES, TOKEN_SECRET_BYTES } from './token.js';

/** The name in ALPN (RFC 7301). */
export const JOIN_PROTOCOL = 'kubebus-join/1';
export const JOIN_VERSION = 1;
/** Longest message either side takes. */
export const MAX_MESSAGE = 16 * 1024;
/** CAs beside the one that signed the cloud's certificate. */
const MAX_TRUSTED = 4;

export type JoinRequest =
  | { readonly type: 'describe' }
  | {
      readonly type: 'enroll';
      readonly token: Uint8Array;
      readonly secret: Uint8Array;
      readonly node: string;
      readonly suggestion: string;
      readonly request: Uint8Array;
    }
  | { readonly type: 'renew' };

export type JoinAnswer =
  | { readonly type: 'description'; readonly authority: Uint8Array }
  | {
      readonly type: 'issued';
      readonly certificate: Uint8Array;
      readonly authority: Uint8Array;
      /** Further CAs to trust from now on. */
      readonly trusted: readonly Uint8Array[];
      readonly addresses: readonly string[];
    }
  | { readonly type: 'refusal'; readonly code: string; readonly message: string; readonly retryAfterMs: number };

const malformed = (what: string, cause?: unknown) =>
  new KubeBusError('ERR_JOIN_MALFORMED', what, { side: 'remote', ...(cause === undefined ? {} : { cause }) });

export function encodeRequest(request: JoinRequest, versions: readonly number[] = [JOIN_VERSION]): Uint8Array {
  const { type, ...body } = request;
  return frame(kubebus.join.Request.encode({ versions: [...versions], [type]: body }).finish());
}

/** Throws ERR_JOIN_MALFORMED or ERR_VERSION. */
export function decodeRequest(bytes: Uint8Array): JoinRequest {
  let m: kubebus.join.Request;
  try {
    m = kubebus.join.Request.decode(bytes);
  } catch (cause) {
    throw malformed('the request cannot be decoded', cause);
  }
  if (!m.versions.includes(JOIN_VERSION)) {
    const theirs = m.versions.slice(0, 16).join(', ') || 'none';
    throw new KubeBusError('ERR_VERSION', `the cloud speaks version ${JOIN_VERSION} of joining, the node ${theirs}`, {
      side: 'remote',
    });
  }
  if (m.body === 'describe') return { type: 'describe' };
  if (m.body === 'renew') return { type: 'renew' };
  if (m.body !== 'enroll') throw malformed('the request asks for nothing that this version knows');
  const { token, secret, node, suggestion, request } = m.enroll as kubebus.join.Enroll;
  if (token.length !== TOKEN_ID_BYTES || secret.length !== TOKEN_SECRET_BYTES)
    throw malformed('token or secret have the wrong length');
  if (node !== '' && !isName(node)) throw malformed('the name of the node is no DNS label');
  if (suggestion !== '' && !isName(suggestion)) throw malformed('the suggested name is no DNS label');
  if (request.length === 0) throw malformed('the certificate request is missing');
  return { type: 'enroll', token, secret, node, suggestion, request };
}

export function encodeAnswer(answer: JoinAnswer): Uint8Array {
  const { type, ...body } = answer;
  return frame(kubebus.join.Answer.encode({ version: JOIN_VERSION, [type]: body }).finish());
}

/** Throws ERR_JOIN_MALFORMED, or ERR_VERSION where the answer has a version that was not offered. */
export function decodeAnswer(bytes: Uint8Array): JoinAnswer {
  let m: kubebus.join.Answer;
  try {
    m = kubebus.join.Answer.decode(bytes);
  } catch (cause) {
    throw malformed('the answer cannot be decoded', cause);
  }
  // A refusal is shown whatever the version: it says what is wrong with it.
  if (m.body === 'refusal') {
    const { code, message, retryAfterMs } = m.refusal as kubebus.join.Refusal;
    return { type: 'refusal', code: code.slice(0, 64), message: printable(message).slice(0, 1000), retryAfterMs };
  }
  if (m.version !== JOIN_VERSION)
    throw new KubeBusError('ERR_VERSION', `the cloud answers with version ${m.version}, which was not offered`, {
      side: 'remote',
    });
  if (m.body === 'description') {
    const { authority } = m.description as kubebus.join.Description;
    if (authority.length === 0) throw malformed('the answer lacks the certificate of the CA');
    return { type: 'description', authority };
  }
  if (m.body !== 'issued') throw malformed('the answer is none that this version knows');
  const { certificate, authority, addresses, trusted } = m.issued as kubebus.join.Issued;
  if (certificate.length === 0 || authority.length === 0) throw malformed('the answer lacks a certificate');
  if (trusted.length > MAX_TRUSTED) throw malformed(`the answer names more than ${MAX_TRUSTED} further CAs`);
  return { type: 'issued', certificate, authority, trusted, addresses };
}

/** Collects exactly one message from any split of bytes. */
export class MessageReader {
  private bytes = new Uint8Array(0);

  /** The message once it is whole. Throws ERR_JOIN_MALFORMED when it is too long, or followed by anything. */
  push(chunk: Uint8Array): Uint8Array | null {
    if (this.bytes.length + chunk.length > 4 + MAX_MESSAGE) throw malformed(`more than ${MAX_MESSAGE} bytes`);
    const all = new Uint8Array(this.bytes.length + chunk.length);
    all.set(this.bytes);
    all.set(chunk, this.bytes.length);
    this.bytes = all;
    if (all.length < 4) return null;
    const length = new DataView(all.buffer).getUint32(0);
    if (length > MAX_MESSAGE) throw malformed(`a message of ${length} bytes is longer than ${MAX_MESSAGE}`);
    if (all.length > 4 + length) throw malformed('bytes follow the message');
    return all.length === 4 + length ? all.subarray(4) : null;
  }
}

function frame(message: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(4 + message.length);
  new DataView(bytes.buffer).setUint32(0, message.length);
  bytes.set(message, 4);
  return bytes;
}

/** A peer's text goes to terminals and logs. */
function printable(text: string): string {
  return text.replace(/[\p{Cc}\p{Cf}\u2028\u2029]/gu, '?');
}

// Core: the string that `kubebus token create` prints: where to join, which CA to expect, and a secret.
//
//   kbt1_ base64url( Token (proto/join.proto) | CRC-32 of it )

import { KubeBusError } from '../core/index.js';
import { kubebus } from './gen/messages.js';

export interface Token {
  readonly addresses: readonly string[];
  /** SHA-256 of the DER of the CA's certificate. */
  readonly authority: Uint8Array;
  /** Names the token in lists and logs; no secret. */
  readonly id: Uint8Array;
  readonly secret: Uint8Array;
}

export const TOKEN_ID_BYTES = 8;
/** 192 bits: nobody guesses it, so a plain hash of it may be stored. */
export const TOKEN_SECRET_BYTES = 24;
const PREFIX = 'kbt1_';
const MAX_TEXT = 4096;
const ALPHABET = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_';

export function formatToken(token: Token): string {
  const body = kubebus.join.Token.encode({ ...token, addresses: [...token.addresses] }).finish();
  const bytes = new Uint8Array(body.length + 4);
  bytes.set(body);
  new DataView(bytes.buffer).setUint32(body.length, crc32(body));
  return PREFIX + toBase64Url(bytes);
}

/** Throws ERR_TOKEN_MALFORMED; the message never holds a part of the text. */
export function parseToken(text: string): Token {
  const wrong = (what: string) => new KubeBusError('ERR_TOKEN_MALFORMED', `the token ${what}`);
  const trimmed = text.trim();
  const version = /^kbt(\d+)_/.exec(trimmed)?.[1];
  if (version !== undefined && version !== '1')
    throw wrong(`has the format ${version}, this program knows 1: upgrade it`);
  if (version === undefined) throw wrong(`does not begin with ${PREFIX}`);
  const bytes = trimmed.length > MAX_TEXT ? null : fromBase64Url(trimmed.slice(PREFIX.length));
  if (bytes === null || bytes.length < 5) throw wrong('is damaged: was all of it copied?');
  const body = bytes.subarray(0, bytes.length - 4);
  if (new DataView(bytes.buffer).getUint32(body.length) !== crc32(body))
    throw wrong('is damaged: was all of it copied?');
  let token: Token;
  try {
    token = kubebus.join.Token.decode(body);
  } catch {
    throw wrong('is damaged: was all of it copied?');
  }
  const { addresses, authority, id, secret } = token;
  if (authority.length !== 32 || id.length !== TOKEN_ID_BYTES || secret.length !== TOKEN_SECRET_BYTES)
    throw wrong('has a field of the wrong length');
  if (addresses.length === 0) throw wrong('names no address of a cloud');
  return { addresses, authority, id, secret };
}

/** In constant time for what is compared: how many bytes agree cannot be learnt from how long it takes. */
export function sameSecret(a: Uint8Array, b: Uint8Array): boolean {
  let difference = a.length ^ b.length;
  for (let i = 0; i < a.length; i++) difference |= a[i]! ^ (b[i] ?? 0);
  return difference === 0;
}

export function toHex(bytes: Uint8Array): string {
  return Array.from(bytes, (b) => b.toString(16).padStart(2, '0')).join('');
}

/** Of what toHex made. */
export function fromHex(text: string): Uint8Array {
  return Uint8Array.from(text.match(/../g) ?? [], (pair) => Number.parseInt(pair, 16));
}

/** RFC 4648 §5, without padding. */
function toBase64Url(bytes: Uint8Array): string {
  let text = '';
  for (let i = 0; i < bytes.length; i += 3) {
    const [a, b = 0, c = 0] = bytes.subarray(i, i + 3) as unknown as number[];
    const four = [a! >> 2, ((a! & 3) << 4) | (b >> 4), ((b & 15) << 2) | (c >> 6), c & 63];
    for (const index of four.slice(0, bytes.length - i + 1)) text += ALPHABET[index];
  }
  return text;
}

function fromBase64Url(text: string): Uint8Array | null {
  if (text.length % 4 === 1) return null;
  const bytes = new Uint8Array(Math.floor((text.length * 3) / 4));
  let bits = 0;
  let held = 0;
  let at = 0;
  for (const char of text) {
    const value = ALPHABET.indexOf(char);
    if (value < 0) return null;
    bits = (bits << 6) | value;
    held += 6;
    if (held >= 8) {
      held -= 8;
      bytes[at++] = (bits >> held) & 0xff;
    }
  }
  return bytes;
}

/** ISO-HDLC (the one of Ethernet and zip): against slips of copying, not of attackers. */
function crc32(bytes: Uint8Array): number {
  let crc = 0xffffffff;
  for (const byte of bytes) {
    crc ^= byte;
    for (let k = 0; k < 8; k++) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0);
  }
  return (crc ^ 0xffffffff) >>> 0;
}

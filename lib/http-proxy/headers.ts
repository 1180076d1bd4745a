// Header fields of a message that is passed on: what must not travel, and what a proxy adds.
// Read first: RFC 9110 §7.6 (forwarding, Connection, Via), RFC 7239 (Forwarded). Headers are flat lists: name, value, name, value.

import { type Caller, formatCaller } from './access.js';

/** RFC 9110 §7.6.1: fields of one connection. Proxy-* are for the first proxy; Expect is answered or renewed by us. */
const HOP_BY_HOP = new Set([
  'connection',
  'keep-alive',
  'proxy-connection',
  'proxy-authenticate',
  'proxy-authorization',
  'te',
  'transfer-encoding',
  'upgrade',
  'expect',
  'http2-settings',
]);

/** Names of ours; also with underscores, which CGI-like servers cannot tell from hyphens. */
const OURS = /^x[-_]kubebus[-_]/;
/** What the first trusted proxy says; from strangers it is dropped, also with underscores. */
const CLAIMS = /^(?:forwarded|x[-_]forwarded[-_].*|x[-_]real[-_]ip|x[-_]original[-_].*|x[-_]rewrite[-_]url)$/;

/** Hops of a request through KubeBus proxies before it is called a loop: a way takes two, a service that calls on takes two more. */
export const MAX_HOPS = 16;
const PSEUDONYM = '1.1 kubebus';

/** What the entry proxy knows of the caller's side. */
export interface Origin {
  readonly proto: 'http' | 'https';
  /** Authority that the caller asked for. */
  readonly host: string;
  /** Address of the caller. */
  readonly address: string;
  readonly prefix: string;
}

export interface RequestRules {
  /** What came from the caller as Forwarded and X-Forwarded-* is kept and extended. */
  readonly trustClaims: boolean;
  /** Told to the next hop as X-Forwarded-* and Forwarded. null: they are there already. */
  readonly origin: Origin | null;
  /** Host for the next hop; null: as the caller said. */
  readonly host: string | null;
  /** X-KubeBus-*, in pairs. */
  readonly extra: readonly string[];
  readonly requestId: string;
}

export interface RequestFields {
  /** Ready to send, except for framing: Content-Length is kept, Transfer-Encoding is not. */
  readonly headers: string[];
  /** Proxies of ours that it came through already. */
  readonly hops: number;
  /** The caller understands trailers (RFC 9110 §10.1.4). */
  readonly trailers: boolean;
}

/** Connection options besides the usual ones: fields that must not be passed on. null: none. */
function listed(raw: readonly string[]): Set<string> | null {
  let names: Set<string> | null = null;
  for (let i = 0; i < raw.length; i += 2) {
    const name = raw[i]!;
    if (name.length !== 10 || name.toLowerCase() !== 'connection') continue;
    const value = raw[i + 1]!;
    if (value === 'keep-alive' || value === 'close' || value === 'Upgrade') continue;
    for (const option of value.split(',')) {
      const token = option.trim().toLowerCase();
      // Content-Length and Host are ours to keep: a caller that lists them would change the message's meaning.
      if (token === '' || token === 'content-length' || token === 'host') continue;
      names ??= new Set();
      names.add(token);
    }
  }
  return names;
}

export function requestFields(raw: readonly string[], rules: RequestRules): RequestFields {
  const drop = listed(raw);
  const headers: string[] = [];
  let hops = 0;
  let via = '';
  let cookie = '';
  let trailers = false;
  let forwardedFor = '';
  let forwarded = '';
  let prefix = '';
  let host = rules.host;
  for (let i = 0; i < raw.length; i += 2) {
    const name = raw[i]!;
    const value = raw[i + 1]!;
    const lower = name.toLowerCase();
    switch (lower) {
      case 'host':
        host ??= value;
        continue;
      case 'te':
        if (/(?:^|[\s,])trailers/i.test(value)) trailers = true;
        continue;
      case 'via':
        via = via === '' ? value : `${via}, ${value}`;
        continue;
      case 'cookie':
        // RFC 9113 §8.2.3: several fields of HTTP/2 are one in HTTP/1.1.
        cookie = cookie === '' ? value : `${cookie}; ${value}`;
        continue;
      case 'x-request-id':
        continue;
    }
    if (HOP_BY_HOP.has(lower) || lower.charCodeAt(0) === 0x3a || drop?.has(lower)) continue;
    if (lower.charCodeAt(0) === 0x78 || lower.charCodeAt(0) === 0x66) {
      if (OURS.test(lower)) continue;
      if (CLAIMS.test(lower) && rules.origin !== null) {
        if (!rules.trustClaims) continue;
        if (lower === 'forwarded') {
          forwarded = forwarded === '' ? value : `${forwarded}, ${value}`;
          continue;
        }
        if (lower === 'x-forwarded-for') {
          forwardedFor = forwardedFor === '' ? value : `${forwardedFor}, ${value}`;
          continue;
        }
        if (lower === 'x-forwarded-prefix') {
          prefix = value;
          continue;
        }
      }
    }
    headers.push(name, value);
  }
  if (via !== '') hops = via.split(PSEUDONYM).length - 1;
  if (host !== null) headers.push('host', host);
  if (cookie !== '') headers.push('cookie', cookie);
  if (trailers) headers.push('te', 'trailers');
  // RFC 9110 §7.6.3: a gateway must send Via in what it passes towards the origin.
  headers.push('via', via === '' ? PSEUDONYM : `${via}, ${PSEUDONYM}`, 'x-request-id', rules.requestId);
  if (rules.origin !== null)
    addOrigin(headers, { ...rules.origin, prefix: prefix + rules.origin.prefix }, forwardedFor, forwarded);
  for (const text of rules.extra) headers.push(text);
  return { headers, hops, trailers };
}

function addOrigin(headers: string[], origin: Origin, forwardedFor: string, forwarded: string): void {
  const has = (name: string) => headers.some((text, i) => i % 2 === 0 && text.toLowerCase() === name);
  const claimed = forwardedFor !== '' || forwarded !== '';
  const via = [forwardedFor, origin.address].filter((text) => text !== '').join(', ');
  if (via !== '') headers.push('x-forwarded-for', via);
  if (!claimed || !has('x-forwarded-proto')) headers.push('x-forwarded-proto', origin.proto);
  if (!claimed || !has('x-forwarded-host')) headers.push('x-forwarded-host', origin.host);
  if (origin.prefix !== '') headers.push('x-forwarded-prefix', origin.prefix);
  const element = `for=${forwardedNode(origin.address)};host=${quote(origin.host)};proto=${origin.proto}`;
  headers.push('forwarded', forwarded === '' ? element : `${forwarded}, ${element}`);
}

/** RFC 7239 §6: an IPv6 address stands in brackets and quotes. */
function forwardedNode(address: string): string {
  if (address === '') return 'unknown';
  return address.includes(':') ? `"[${address}]"` : address;
}

/** RFC 7239 §4: a value that is no token is a quoted string. */
function quote(text: string): string {
  if (/^[!#$%&'*+\-.^_`|~0-9A-Za-z]+$/.test(text)) return text;
  return `"${text.replace(/["\\]/g, '\\$&')}"`;
}

/** Headers of the caller's identity for the service; nothing for the Internet. */
export function identityFields(caller: Caller): string[] {
  const kind = ['x-kubebus-caller', caller.kind];
  return caller.kind === 'tenant' ? [...kind, 'x-kubebus-tenant', caller.tenant, 'x-kubebus-node', caller.node] : kind;
}

/** Headers from an entry proxy to the server proxy. */
export function hopFields(address: string, caller: Caller | null): string[] {
  const fields = ['x-kubebus-address', address];
  return caller === null ? fields : [...fields, 'x-kubebus-caller', formatCaller(caller)];
}

/** Whether a response's field is passed on. `listed`: what its Connection field names. */
export function passesInResponse(lower: string, listedNames: ReadonlySet<string> | null): boolean {
  return !HOP_BY_HOP.has(lower) && !OURS.test(lower) && !listedNames?.has(lower);
}

/** RFC 9110 §6.5.1: what decides about routing, framing or who calls is no trailer. */
const NO_TRAILER = new Set([...HOP_BY_HOP, 'content-length', 'host', 'via', 'trailer', 'x-request-id']);

/** Trailers that are passed on. */
export function trailerFields(raw: readonly string[]): string[] {
  const kept: string[] = [];
  for (let i = 0; i < raw.length; i += 2) {
    const lower = raw[i]!.toLowerCase();
    if (!NO_TRAILER.has(lower) && !OURS.test(lower) && !CLAIMS.test(lower)) kept.push(raw[i]!, raw[i + 1]!);
  }
  return kept;
}

export { listed as connectionOptions };

/** The value of a field in a flat list; undefined: not there. With several, the first. */
export function field(raw: readonly string[], name: string): string | undefined {
  for (let i = 0; i < raw.length; i += 2) {
    const key = raw[i]!;
    if (key.length === name.length && key.toLowerCase() === name) return raw[i + 1];
  }
  return undefined;
}

/** How often a field stands in a flat list. */
export function countField(raw: readonly string[], name: string): number {
  let n = 0;
  for (let i = 0; i < raw.length; i += 2) {
    const key = raw[i]!;
    if (key.length === name.length && key.toLowerCase() === name) n++;
  }
  return n;
}

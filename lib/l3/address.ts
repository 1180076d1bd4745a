// Addresses and prefixes as text, for configuration and API. Inside the layer an address is 4 or 16 bytes; nothing
// here is on the packet path.

import { IPv4, IPv6 } from 'ip-num';
import { KubeBusError } from '../core/index.js';

/** A CIDR prefix: 4 or 16 bytes with all host bits zero, and the number of leading bits that count. */
export interface Prefix {
  readonly address: Uint8Array;
  readonly length: number;
}

/** Parses '10.80.0.7' or 'fd80::7'. Throws ERR_ADDRESS; zone ids and leading zeros are refused. */
export function parseAddress(text: string): Uint8Array {
  try {
    // ip-num takes a zone id ('fe80::1%eth0') and drops it: an overlay address has none.
    if (text.includes('%')) throw new Error('zone ids have no meaning in the overlay');
    return text.includes(':') ? bigToBytes(new IPv6(text).getValue(), 16) : bigToBytes(new IPv4(text).getValue(), 4);
  } catch (cause) {
    throw new KubeBusError('ERR_ADDRESS', `not an IP address: ${JSON.stringify(text)}`, { cause });
  }
}

/** True for text that parseAddress takes. */
export function isAddress(text: string): boolean {
  try {
    parseAddress(text);
    return true;
  } catch {
    return false;
  }
}

/** '10.80.0.7', or the canonical text of RFC 5952 §4 for IPv6. */
export function formatAddress(address: Uint8Array): string {
  if (address.length === 4) return address.join('.');
  if (address.length !== 16)
    throw new KubeBusError('ERR_ADDRESS', `an address has 4 or 16 bytes, not ${address.length}`);
  const groups = Array.from({ length: 8 }, (_, i) => (address[i * 2]! << 8) | address[i * 2 + 1]!);
  // RFC 5952 §5: an address known to embed IPv4 is written mixed; the mapped prefix is the one we can know.
  if (groups.slice(0, 5).every((g) => g === 0) && groups[5] === 0xffff)
    return `::ffff:${address.subarray(12).join('.')}`;
  // RFC 5952 §4.2: '::' takes the longest run of two or more zero groups, the first of equals.
  let best = 0;
  let bestLength = 1;
  for (let i = 0; i < 8; i++) {
    let n = 0;
    while (i + n < 8 && groups[i + n] === 0) n++;
    if (n > bestLength) {
      best = i;
      bestLength = n;
    }
    if (n > 0) i += n - 1;
  }
  const hex = (part: number[]) => part.map((g) => g.toString(16)).join(':');
  if (bestLength === 1) return hex(groups);
  return `${hex(groups.slice(0, best))}::${hex(groups.slice(best + bestLength))}`;
}

/**
 * Parses '10.1.0.0/16', 'fd80::/64', or an address alone (its host prefix, /32 or /128). Host bits are cleared:
 * '10.1.2.3/16' is 10.1.0.0/16. Throws ERR_ADDRESS.
 */
export function parsePrefix(text: string): Prefix {
  const slash = text.indexOf('/');
  if (slash < 0) return hostPrefix(parseAddress(text));
  const digits = text.slice(slash + 1);
  const address = parseAddress(text.slice(0, slash));
  // Checked here and not by ip-num, which takes '08'.
  if (!/^(0|[1-9]\d{0,2})$/.test(digits) || Number(digits) > address.length * 8) {
    throw new KubeBusError('ERR_ADDRESS', `not a prefix length: ${JSON.stringify(text)}`);
  }
  return makePrefix(address, Number(digits));
}

export function formatPrefix(prefix: Prefix): string {
  return `${formatAddress(prefix.address)}/${prefix.length}`;
}

/** A prefix of a copy of `address` with the host bits cleared. Throws ERR_ADDRESS for impossible lengths. */
export function makePrefix(address: Uint8Array, length: number): Prefix {
  const bits = address.length * 8;
  if ((bits !== 32 && bits !== 128) || !Number.isInteger(length) || length < 0 || length > bits) {
    throw new KubeBusError('ERR_ADDRESS', `no prefix: ${address.length} bytes, length ${length}`);
  }
  const copy = Uint8Array.from(address);
  for (let i = 0; i < copy.length; i++) {
    const keep = Math.min(8, Math.max(0, length - i * 8));
    copy[i]! &= 0xff00 >> keep;
  }
  return { address: copy, length };
}

/** The /32 or /128 of an address. */
export function hostPrefix(address: Uint8Array): Prefix {
  return makePrefix(address, address.length * 8);
}

export function sameAddress(a: Uint8Array, b: Uint8Array): boolean {
  return compareAddress(a, b) === 0;
}

/** Orders IPv4 before IPv6, then by value. */
export function compareAddress(a: Uint8Array, b: Uint8Array): number {
  if (a.length !== b.length) return a.length - b.length;
  for (let i = 0; i < a.length; i++) if (a[i] !== b[i]) return a[i]! - b[i]!;
  return 0;
}

/** Orders by address, then the shorter prefix first. */
export function comparePrefix(a: Prefix, b: Prefix): number {
  return compareAddress(a.address, b.address) || a.length - b.length;
}

export function samePrefix(a: Prefix, b: Prefix): boolean {
  return comparePrefix(a, b) === 0;
}

/** True when every address of `inner` is in `outer`. */
export function prefixContains(outer: Prefix, inner: Prefix): boolean {
  return inner.length >= outer.length && prefixHas(outer, inner.address);
}

export function prefixHas(prefix: Prefix, address: Uint8Array): boolean {
  if (prefix.address.length !== address.length) return false;
  const whole = prefix.length >>> 3;
  for (let i = 0; i < whole; i++) if (prefix.address[i] !== address[i]) return false;
  const rest = prefix.length & 7;
  return rest === 0 || ((prefix.address[whole]! ^ address[whole]!) & (0xff00 >> rest) & 0xff) === 0;
}

/** True when the two have an address in common, that is, when one contains the other. */
export function prefixesOverlap(a: Prefix, b: Prefix): boolean {
  return prefixContains(a, b) || prefixContains(b, a);
}

/** A short string that is equal exactly for equal prefixes: a Map key. */
export function prefixKey(prefix: Prefix): string {
  return String.fromCharCode(prefix.length, ...prefix.address);
}

/** Likewise for addresses. */
export function addressKey(address: Uint8Array): string {
  return String.fromCharCode(...address);
}

function bigToBytes(value: bigint, length: number): Uint8Array {
  const bytes = new Uint8Array(length);
  for (let i = length - 1, rest = value; i >= 0; i--, rest >>= 8n) bytes[i] = Number(rest & 0xffn);
  return bytes;
}

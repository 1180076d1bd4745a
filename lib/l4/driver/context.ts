// Edge: what all sockets of one node share, and how they find addresses.

import { isIP } from 'node:net';
import { formatAddress, type HostPorts, parseAddress } from '../../l3/index.js';
import type { Driver } from '../driver.js';

/** Who the other end of a connection is, as its certificate says. */
export interface Peer {
  readonly tenant: string;
  readonly node: string;
}

/** Addresses of a node name such as `edge-2` or `edge-2.acme.kubebus`; empty: there is no such node. Never asks the Internet's DNS. */
export type Resolver = (name: string) => readonly string[] | Promise<readonly string[]>;

export interface SocketContext {
  readonly driver: Driver;
  readonly resolver: Resolver;
  readonly peerOf: (address: string) => Peer | undefined;
  /** Calls `fn` whenever `peerOf` may know more; returns what ends that. */
  readonly onPeers?: (fn: () => void) => () => void;
  /** Where the kernel has the same addresses; null: nobody else has them. */
  readonly hostPorts: HostPorts | null;
}

const V4_MAPPED = /^::ffff:(\d+\.\d+\.\d+\.\d+)$/i;

/** "IPv4" or "IPv6" as Node's address objects have it. */
export function familyOf(address: Uint8Array | string): 'IPv4' | 'IPv6' {
  if (typeof address === 'string') return address.includes(':') ? 'IPv6' : 'IPv4';
  return address.length === 4 ? 'IPv4' : 'IPv6';
}

/**
 * The address to speak to when the caller says `text`. The unspecified and the loopback addresses mean this node, as on a
 * host; null: we have no address of that family.
 */
export function destination(context: SocketContext, text: string): Uint8Array | null {
  const mapped = V4_MAPPED.exec(text);
  const address = parseAddress(stripZone(mapped?.[1] ?? text));
  if (!meansSelf(address)) return address;
  const { addresses } = context.driver.endpoint;
  return addresses.find((a) => a.length === address.length) ?? addresses[0] ?? null;
}

/**
 * The address to bind to: null for the unspecified one. `'missing'`: it is not an address of this node.
 */
export function bindAddress(context: SocketContext, text: string): Uint8Array | null | 'missing' {
  const address = parseAddress(stripZone(V4_MAPPED.exec(text)?.[1] ?? text));
  if (address.every((b) => b === 0)) return null;
  if (meansSelf(address)) {
    const own = context.driver.endpoint.addresses;
    return own.find((a) => a.length === address.length) ?? own[0] ?? 'missing';
  }
  return context.driver.stack.isLocal(address) ? address : 'missing';
}

/** Unspecified, 127.0.0.0/8 or ::1. */
function meansSelf(address: Uint8Array): boolean {
  if (address.length === 4) return address[0] === 127 || address.every((b) => b === 0);
  return address.every((b, i) => b === 0 || (i === 15 && b === 1));
}

function stripZone(text: string): string {
  const i = text.indexOf('%');
  return i < 0 ? text : text.slice(0, i);
}

/** Addresses of a host name: this node for `localhost`, otherwise what the resolver says. `family` 0: both. */
export async function resolve(context: SocketContext, name: string, family: 0 | 4 | 6): Promise<readonly string[]> {
  const lower = name.toLowerCase().replace(/\.$/, '');
  const { addresses } = context.driver.endpoint;
  const found =
    lower === 'localhost' || lower.endsWith('.localhost')
      ? addresses.map(formatAddress)
      : await context.resolver(lower);
  return family === 0 ? found : found.filter((a) => isIP(a) === family);
}

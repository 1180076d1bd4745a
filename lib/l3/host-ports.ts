// Edge: which ports the host's kernel uses on the addresses that a node with a TUN device shares with it. Linux: /proc/net.

import { readFileSync } from 'node:fs';

export interface HostPorts {
  /**
   * A program listens (TCP) or is bound (UDP) at this port of the address, or of any address; `address` null: of any of
   * `shared`. What the system does not tell is not in use.
   */
  inUse(protocol: 'tcp' | 'udp', address: Uint8Array | null, port: number): boolean;
  /** First and last of a range that the kernel does not take ports from by itself. */
  readonly ephemeral: readonly [number, number];
}

const LISTEN = '0A';
/** What Linux' own range leaves when nobody has changed it. */
const BESIDE_LINUX: readonly [number, number] = [61_000, 65_535];
/** A range that is smaller is not worth having. */
const LEAST = 1_024;

export function hostPorts(shared: () => readonly Uint8Array[]): HostPorts {
  return {
    ephemeral: beside(read('/proc/sys/net/ipv4/ip_local_port_range')),
    inUse(protocol, address, port) {
      const addresses = address === null ? shared() : [address];
      for (const file of [protocol, `${protocol}6`]) {
        for (const bound of boundTo(read(`/proc/net/${file}`), port, protocol === 'tcp' ? LISTEN : null)) {
          if (bound.every((b) => b === 0) || addresses.some((a) => a.length === bound.length && same(a, bound)))
            return true;
        }
      }
      return false;
    },
  };
}

/** A range above, or below, what the kernel gives out. */
export function beside(range: string): readonly [number, number] {
  const [low, high] = range.trim().split(/\s+/).map(Number);
  if (low === undefined || high === undefined || !(low > 0 && high >= low)) return BESIDE_LINUX;
  if (65_535 - high >= LEAST) return [high + 1, 65_535];
  if (low - 1_024 >= LEAST) return [1_024, low - 1];
  return BESIDE_LINUX;
}

/** Local addresses of the sockets in a table of /proc/net with this port, and this state unless null. */
export function boundTo(table: string, port: number, state: string | null): Uint8Array[] {
  const found: Uint8Array[] = [];
  const wanted = port.toString(16).toUpperCase().padStart(4, '0');
  for (const line of table.split('\n')) {
    const match = /^\s*\d+: ([0-9A-F]+):([0-9A-F]{4}) \S+ ([0-9A-F]{2}) /.exec(line);
    if (match === null || match[2] !== wanted || (state !== null && match[3] !== state)) continue;
    found.push(addressOf(match[1]!));
  }
  return found;
}

/** The kernel writes words of four bytes in the order of the host, which is little-endian wherever we run. */
function addressOf(hex: string): Uint8Array {
  const bytes = new Uint8Array(hex.length / 2);
  for (let i = 0; i < bytes.length; i++) {
    bytes[(i & ~3) + 3 - (i & 3)] = Number.parseInt(hex.slice(2 * i, 2 * i + 2), 16);
  }
  return bytes;
}

function same(a: Uint8Array, b: Uint8Array): boolean {
  return a.every((byte, i) => byte === b[i]);
}

function read(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}

// Addresses of a tenant's nodes: one per family out of the tenant's pools, kept by node name for ever.

import { KubeBusError } from '../core/index.js';
import { addressKey, formatAddress, formatPrefix, type Prefix, parseAddress, prefixHas } from './address.js';
import { notUnicast, overlapping } from './route-registry.js';

/** What an AddressPool remembers, as plain JSON: addresses by node name. */
export type AddressRecord = Record<string, string[]>;

export interface AddressPoolOptions {
  /** The tenant's pools; the earlier one of a family is filled first. */
  readonly pools: readonly Prefix[];
  /** Addresses that are given to these nodes and to nobody else. */
  readonly reservations?: Readonly<Record<string, readonly Uint8Array[]>>;
  /** The cloud's own addresses. **Default:** the first host address of the first pool of each family. */
  readonly gateway?: readonly Uint8Array[];
  /** Nodes that are remembered; a further one is refused with ERR_NODE_LIMIT. **Default:** 65536. */
  readonly maxNodes?: number;
}

/** Offsets searched in a pool; a /64 is never full before memory is. */
const MAX_OFFSET = 2 ** 48;

interface Pool {
  readonly prefix: Prefix;
  /** Offsets that may be given out: [first, end). */
  readonly first: number;
  readonly end: number;
  next: number;
  /** A search found nothing, and nothing was given back since. */
  full: boolean;
}

export class AddressPool {
  /** The cloud's own addresses in the tenant, one per family. */
  readonly gateway: readonly Uint8Array[];
  private readonly pools: Pool[];
  private readonly nodes = new Map<string, Uint8Array[]>();
  /** Node by address; '' for the gateway. */
  private readonly owners = new Map<string, string>();
  private readonly reserved = new Map<string, readonly Uint8Array[]>();
  /** Changes with every change of the record. */
  revision = 0;

  private readonly maxNodes: number;

  /** Throws ERR_INVALID_ARGUMENT for pools that cannot be, and for reservations that collide or lie outside the pools. */
  constructor(options: AddressPoolOptions) {
    checkPools(options.pools);
    this.maxNodes = options.maxNodes ?? 65_536;
    this.pools = options.pools.map(makePool);
    this.gateway =
      options.gateway ??
      [4, 16].flatMap((bytes) => {
        const pool = this.pools.find((p) => p.prefix.address.length === bytes);
        return pool === undefined ? [] : [addressAt(pool.prefix, pool.first)];
      });
    for (const address of this.gateway) this.owners.set(addressKey(address), '');
    for (const [node, addresses] of Object.entries(options.reservations ?? {})) {
      for (const address of addresses) {
        const text = formatAddress(address);
        const owner = this.owners.get(addressKey(address));
        if (owner !== undefined) {
          throw new KubeBusError(
            'ERR_INVALID_ARGUMENT',
            `${text} is reserved for ${node} and for ${owner || 'the cloud'}`,
          );
        }
        if (!this.usable(address)) {
          throw new KubeBusError(
            'ERR_INVALID_ARGUMENT',
            `${text}, reserved for ${node}, is no host address of the tenant's pools`,
          );
        }
        this.owners.set(addressKey(address), node);
      }
      this.reserved.set(node, addresses);
    }
  }

  get prefixes(): readonly Prefix[] {
    return this.pools.map((p) => p.prefix);
  }

  /** Nodes that have an address. */
  get size(): number {
    return this.nodes.size;
  }

  /** All nodes with their addresses, in the order of the record. */
  all(): Iterable<readonly [node: string, addresses: readonly Uint8Array[]]> {
    return this.nodes;
  }

  addressesOf(node: string): readonly Uint8Array[] {
    return this.nodes.get(node) ?? [];
  }

  /** Node that has the address; undefined if none does. */
  ownerOf(address: Uint8Array): string | undefined {
    return this.owners.get(addressKey(address)) || undefined;
  }

  /**
   * The node's addresses, one per family that has a pool: its reservation, else what it had before, else what it wants
   * if that is free (a node that remembers its address meets a cloud that lost its record), else the next free one.
   * Throws ERR_POOL_EXHAUSTED or ERR_NODE_LIMIT.
   */
  assign(node: string, wanted: readonly Uint8Array[] = []): readonly Uint8Array[] {
    const had = this.nodes.get(node) ?? [];
    if (had.length === 0 && this.nodes.size >= this.maxNodes) {
      const text = `the tenant has ${this.maxNodes} nodes already, also counting those that are away: no room for ${node}`;
      throw new KubeBusError('ERR_NODE_LIMIT', text);
    }
    const result: Uint8Array[] = [];
    for (const bytes of [4, 16]) {
      const pools = this.pools.filter((p) => p.prefix.address.length === bytes);
      if (pools.length === 0) continue;
      const ofFamily = (a: Uint8Array) => a.length === bytes;
      const address =
        this.reserved.get(node)?.find(ofFamily) ??
        had.find(ofFamily) ??
        wanted.find((a) => ofFamily(a) && this.usable(a) && !this.owners.has(addressKey(a))) ??
        this.nextFree(pools);
      if (address === undefined) {
        const names = pools.map((p) => formatPrefix(p.prefix)).join(', ');
        throw new KubeBusError('ERR_POOL_EXHAUSTED', `no free address for ${node} in ${names}`);
      }
      result.push(Uint8Array.from(address));
    }
    if (result.length !== had.length || result.some((a, i) => addressKey(a) !== addressKey(had[i]!))) {
      this.forget(node);
      this.nodes.set(node, result);
      for (const address of result) this.owners.set(addressKey(address), node);
      this.revision++;
    }
    return result;
  }

  /** Gives the node's addresses back, reservations excepted. */
  forget(node: string): boolean {
    const had = this.nodes.get(node);
    if (had === undefined) return false;
    this.nodes.delete(node);
    const keep = new Set((this.reserved.get(node) ?? []).map(addressKey));
    for (const address of had) if (!keep.has(addressKey(address))) this.owners.delete(addressKey(address));
    for (const pool of this.pools) pool.full = false;
    this.revision++;
    return true;
  }

  snapshot(): AddressRecord {
    return Object.fromEntries([...this.nodes].map(([node, addresses]) => [node, addresses.map(formatAddress)]));
  }

  /**
   * Takes a snapshot back. What no longer fits the configuration (other pools, an address now reserved for another) is left out;
   * returns those nodes. Throws ERR_STATE where it is not a snapshot at all.
   */
  restore(record: unknown): string[] {
    if (typeof record !== 'object' || record === null || Array.isArray(record)) throw notARecord(record);
    const changed: string[] = [];
    for (const [node, texts] of Object.entries(record)) {
      if (!Array.isArray(texts) || !texts.every((t): t is string => typeof t === 'string')) throw notARecord(texts);
      let addresses: Uint8Array[];
      try {
        addresses = texts.map(parseAddress);
      } catch (cause) {
        throw new KubeBusError('ERR_STATE', `the address record of ${node} is damaged`, { cause });
      }
      const good = addresses.filter((a) => this.usable(a) && (this.owners.get(addressKey(a)) ?? node) === node);
      if (good.length < addresses.length) changed.push(node);
      if (good.length === 0) continue;
      this.nodes.set(node, good);
      for (const address of good) this.owners.set(addressKey(address), node);
    }
    this.revision++;
    return changed;
  }

  /** A host address of one of the pools. */
  private usable(address: Uint8Array): boolean {
    return this.pools.some((pool) => {
      if (!prefixHas(pool.prefix, address)) return false;
      const offset = offsetOf(pool.prefix, address);
      return offset >= pool.first && (offset < pool.end || pool.end === MAX_OFFSET);
    });
  }

  private nextFree(pools: readonly Pool[]): Uint8Array | undefined {
    for (const pool of pools) {
      if (pool.full) continue;
      // From where the last search ended, so that an address just given back rests as long as possible.
      for (let tried = pool.end - pool.first; tried > 0; tried--) {
        const address = addressAt(pool.prefix, pool.next);
        pool.next = pool.next + 1 < pool.end ? pool.next + 1 : pool.first;
        if (!this.owners.has(addressKey(address))) return address;
      }
      pool.full = true;
    }
    return undefined;
  }
}

function checkPools(pools: readonly Prefix[]): void {
  const wrong = (what: string) => new KubeBusError('ERR_INVALID_ARGUMENT', what);
  for (const [i, pool] of pools.entries()) {
    const text = formatPrefix(pool);
    const impossible = notUnicast(pool);
    if (impossible !== undefined)
      throw wrong(`the pool ${text} has addresses of ${formatPrefix(impossible)} in it, which are no host's`);
    const other = overlapping(pools.slice(0, i), pool);
    if (other !== undefined) throw wrong(`the pools ${formatPrefix(other)} and ${text} overlap`);
    // The first pool of a family also has the cloud's own address in it.
    const { first, end } = makePool(pool);
    const own = pools.findIndex((p) => p.address.length === pool.address.length) === i ? 1 : 0;
    if (end - first <= own) throw wrong(`the pool ${text} is too small: no address is left for a node`);
  }
}

function makePool(prefix: Prefix): Pool {
  const hostBits = prefix.address.length * 8 - prefix.length;
  const size = Math.min(2 ** hostBits, MAX_OFFSET);
  // RFC 1122 §3.2.1.3: neither the network's nor the broadcast address is a host's; a /31 (RFC 3021) and a /32 have none.
  // RFC 4291 §2.6.1: the first address of an IPv6 subnet is the routers' anycast address.
  const v4 = prefix.address.length === 4;
  const first = hostBits >= 2 ? 1 : 0;
  const end = v4 && hostBits >= 2 ? size - 1 : size;
  return { prefix, first, end, next: first, full: false };
}

function addressAt(prefix: Prefix, offset: number): Uint8Array {
  const address = Uint8Array.from(prefix.address);
  for (let i = address.length - 1, rest = offset; rest > 0; i--, rest = Math.floor(rest / 256))
    address[i]! |= rest % 256;
  return address;
}

function offsetOf(prefix: Prefix, address: Uint8Array): number {
  let offset = 0;
  for (let i = 0; i < address.length; i++) {
    const host = 0xff >> Math.min(8, Math.max(0, prefix.length - i * 8));
    offset = offset * 256 + (address[i]! & host);
  }
  return offset;
}

function notARecord(value: unknown): KubeBusError {
  return new KubeBusError('ERR_STATE', `not an address record: ${JSON.stringify(value)?.slice(0, 60)}`);
}

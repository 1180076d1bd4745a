// A port: where a router takes packets from and hands them to. One per link, one for the host (the TUN device), one
// for this process (the endpoint).

import type { Micros, Slab } from '../core/index.js';
import type { Prefix } from './address.js';

/** What stands behind a port and takes packets from the router. */
export interface PortSink {
  /** Whole packet frames back to back; never blocks; retains the slab as long as it needs the bytes. */
  send(slab: Slab, start: number, end: number): void;
}

/** `link`: another node, TTL counts and the source is checked. `host`: the kernel of this host, through a TUN device. */
export type PortKind = 'link' | 'host';

export interface PortOptions {
  /** For logs and statistics. */
  readonly name: string;
  readonly kind: PortKind;
  readonly sink: PortSink;
  /** Largest IP packet in bytes, not counting super-packets. */
  readonly mtu: number;
  /** The far side takes super-packets and partial checksums. **Default:** false. */
  readonly offload?: boolean;
  /** It takes partial checksums on ordinary packets. **Default:** as `offload`. */
  readonly partialChecksums?: boolean;
  /** **Default:** true. */
  readonly up?: boolean;
  /** Prefixes that packets from this port may have as source; null: any unicast address. **Default:** [] for a link, null for the host. */
  readonly sources?: readonly Prefix[] | null;
}

/** What may change in the life of a port. `offload` alone changes `partialChecksums` likewise. */
export interface PortChange {
  readonly mtu?: number;
  readonly offload?: boolean;
  readonly partialChecksums?: boolean;
  readonly up?: boolean;
}

/** Handle of a port, made by Vrf.addPort. */
export interface Port {
  readonly id: number;
  readonly name: string;
  readonly kind: PortKind | 'local';
  readonly mtu: number;
  readonly offload: boolean;
  readonly partialChecksums: boolean;
  readonly up: boolean;
  /** Packets that wait for a port that is not up are dropped with an ICMP error. */
  update(change: PortChange): void;
  setSources(sources: readonly Prefix[] | null): void;
  /** Whole packet frames from this port. Changes them in place (TTL). `now` drives the ICMP rate limits. */
  handlePackets(now: Micros, slab: Slab, start: number, end: number): void;
}

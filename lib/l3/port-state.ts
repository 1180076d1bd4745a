// A port as its VRF holds it: settings, flow cache, counters.

import type { Micros, Slab } from '../core/index.js';
import type { Prefix } from './address.js';
import type { TokenBucket } from './icmp.js';
import type { Port, PortChange, PortKind, PortSink } from './port.js';
import { PrefixSet } from './route-table.js';

/** What a port needs of its VRF. */
export interface PortOwner {
  handle(now: Micros, ingress: PortState, slab: Slab, start: number, end: number): void;
  changed(): void;
}

export interface PortStats {
  readonly packetsIn: number;
  readonly bytesIn: number;
  /** Bytes of frames, headers included; a super-packet is one packet. */
  readonly bytesOut: number;
  readonly packetsOut: number;
}

export class PortState implements Port {
  mtu: number;
  offload: boolean;
  partialChecksums: boolean;
  up: boolean;
  sources: PrefixSet | null;
  packetsIn = 0;
  bytesIn = 0;
  packetsOut = 0;
  bytesOut = 0;
  // The last flow from this port and where it went: valid while `cached` is the VRF's generation. A run of one flow costs a comparison.
  cached4 = -1;
  source4 = 0;
  destination4 = 0;
  egress4: PortState | null = null;
  cached6 = -1;
  readonly flow6 = new Int32Array(8);
  egress6: PortState | null = null;

  constructor(
    private readonly owner: PortOwner,
    readonly id: number,
    readonly name: string,
    readonly kind: PortKind | 'local',
    readonly sink: PortSink,
    options: {
      mtu: number;
      offload: boolean;
      partialChecksums?: boolean;
      up: boolean;
      sources: readonly Prefix[] | null;
    },
    readonly limiter: TokenBucket,
  ) {
    this.mtu = options.mtu;
    this.offload = options.offload;
    this.partialChecksums = options.partialChecksums ?? options.offload;
    this.up = options.up;
    this.sources = options.sources === null ? null : new PrefixSet(options.sources);
  }

  update(change: PortChange): void {
    this.mtu = change.mtu ?? this.mtu;
    this.partialChecksums = change.partialChecksums ?? change.offload ?? this.partialChecksums;
    this.offload = change.offload ?? this.offload;
    this.up = change.up ?? this.up;
    this.owner.changed();
  }

  setSources(sources: readonly Prefix[] | null): void {
    this.sources = sources === null ? null : new PrefixSet(sources);
    this.owner.changed();
  }

  handlePackets(now: Micros, slab: Slab, start: number, end: number): void {
    this.owner.handle(now, this, slab, start, end);
  }

  stats(): PortStats {
    const { packetsIn, bytesIn, packetsOut, bytesOut } = this;
    return { packetsIn, bytesIn, packetsOut, bytesOut };
  }
}

// What a VRF counts, by name. Every dropped packet is in exactly one of the `drop` counters.

const NAMES = [
  /** Packets handed to a port, to the endpoint, or answered in place. */
  'forwarded',
  'delivered',
  'echo-replies',
  'icmp-errors-sent',
  /** Errors that the rate limit or the rules of RFC 1812 §4.3.2.7 kept back. */
  'icmp-errors-suppressed',
  'super-packets-segmented',
  'checksums-completed',
  'fragments-made',
  /** Not an IP packet, or one whose lengths, checksum or offload fields do not fit. */
  'drop-malformed',
  'drop-spoofed-source',
  'drop-no-route',
  'drop-ttl-exceeded',
  'drop-too-big',
  'drop-port-down',
  /** The route leads back to where the packet came from. */
  'drop-loop',
  /** Multicast, broadcast, loopback, link-local or unspecified: nothing that this router carries. */
  'drop-not-unicast',
  /** RFC 7126 §4.3 and §4.4: source-routed packets are not forwarded. */
  'drop-source-route',
  /** For a local address where nothing takes such packets. */
  'drop-no-listener',
  /** The queue of packets that the endpoint sent to itself is full. */
  'drop-local-queue',
] as const;

export type CounterName = (typeof NAMES)[number];

/** Index of each counter. */
export const Count = Object.fromEntries(NAMES.map((name, i) => [name, i])) as Record<CounterName, number>;

export class Counters {
  readonly values = new Float64Array(NAMES.length);

  get(name: CounterName): number {
    return this.values[Count[name]]!;
  }

  /** Sum of all drop counters. */
  get dropped(): number {
    return NAMES.reduce((sum, name, i) => (name.startsWith('drop-') ? sum + this.values[i]! : sum), 0);
  }

  snapshot(): Record<CounterName, number> {
    return Object.fromEntries(NAMES.map((name, i) => [name, this.values[i]!])) as Record<CounterName, number>;
  }
}

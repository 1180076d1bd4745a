// Numbers that IPv4 and IPv6 share: "Assigned Internet Protocol Numbers" of IANA.

export const Protocol = {
  hopByHop: 0,
  icmp: 1,
  tcp: 6,
  udp: 17,
  routing: 43,
  fragment: 44,
  esp: 50,
  authentication: 51,
  icmpv6: 58,
  none: 59,
  destinationOptions: 60,
} as const;

/** 4 or 6; anything else is no IP packet. `p` is the first byte of the packet. */
export function ipVersion(buf: Uint8Array, p: number): number {
  return buf[p]! >>> 4;
}

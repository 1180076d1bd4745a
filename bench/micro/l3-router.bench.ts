// Forwarding in memory, link to link through one VRF of 100 nodes: source check, header checksum, lookup, TTL, runs.

import { HEADER, putHeader, Slab } from '../../lib/core/index.js';
import { parseAddress, parsePrefix } from '../../lib/l3/address.js';
import type { Port } from '../../lib/l3/port.js';
import { Router } from '../../lib/l3/router.js';
import { putIpv4 } from '../../lib/l3/wire/ipv4.js';
import { putIpv6 } from '../../lib/l3/wire/ipv6.js';
import type { MicroBench, MicroCase } from './shape.js';

const NODES = 100;

function vrfOfNodes(): Port[] {
  const vrf = new Router().addVrf('bench');
  vrf.setAddresses([parseAddress('10.80.0.1'), parseAddress('fd80::1')]);
  return Array.from({ length: NODES }, (_, i) => {
    const own = [parsePrefix(`10.80.1.${i}`), parsePrefix(`fd80::1:${i}`)];
    const port = vrf.addPort({
      name: `n${i}`,
      kind: 'link',
      mtu: 1400,
      offload: true,
      sources: own,
      sink: { send() {} },
    });
    for (const prefix of own) vrf.addStaticRoute(prefix, port);
    return port;
  });
}

function forward(name: string, version: 4 | 6, size: number, destinations: number, packets: number): MicroCase {
  const ports = vrfOfNodes();
  const frame = HEADER + size;
  const fresh = Buffer.alloc(packets * frame);
  for (let i = 0; i < packets; i++) {
    const to = 1 + (i % destinations);
    putHeader(fresh, i * frame, 0, 0, 0, size);
    const p = i * frame + HEADER;
    if (version === 4) putIpv4(fresh, p, 17, size, parseAddress('10.80.1.0'), parseAddress(`10.80.1.${to}`), 255);
    else putIpv6(fresh, p, 17, size, parseAddress('fd80::1:0'), parseAddress(`fd80::1:${to}`), 255);
  }
  const slab = Slab.of(Buffer.from(fresh));
  let passes = 0;
  return {
    name,
    unit: 'packet',
    bytes: size,
    ops: packets,
    fn() {
      // The TTL goes down each time: a fresh copy before it ends.
      if (++passes % 250 === 0) fresh.copy(slab.bytes);
      ports[0]!.handlePackets(passes, slab, 0, fresh.length);
    },
  };
}

export default {
  name: 'l3-router',
  setup: (smoke) => {
    const n = smoke ? 10 : 1_000;
    return [
      forward('IPv4, 64 bytes, one destination', 4, 64, 1, n),
      forward('IPv4, 64 bytes, 90 destinations in turn', 4, 64, 90, n),
      forward('IPv4, 1400 bytes, one destination', 4, 1_400, 1, Math.ceil(n / 5)),
      forward('IPv6, 64 bytes, one destination', 6, 64, 1, n),
      forward('IPv6, 64 bytes, 90 destinations in turn', 6, 64, 90, n),
    ];
  },
} satisfies MicroBench;

// Core: which packets are repaired when their datagram is lost, and which never wait for another. Repaired, and kept in order with
// their flow, is what a lost packet slows down: TCP with data, or with a flag that opens or ends a connection. Bare acknowledgements
// follow each other and replace the one before; UDP, ICMP and the rest have their own rules about loss and time, and keep them.

import { getU16, HEADER } from '../core/index.js';
import { flowHash } from './flow-hash.js';

export const LANES = 256;
/** What has no lane: sent as it is, delivered as it comes. */
export const NO_LANE = -1;

const TCP = 6;
/** FIN, SYN, RST. */
const EDGE_FLAGS = 0x07;

/** Lane of the packet whose frame starts at `off`; any bytes give some answer. */
export function repairLane(buf: Uint8Array, off: number, length: number): number {
  const ip = off + HEADER;
  if (length < 40) return NO_LANE;
  const version = buf[ip]! >>> 4;
  let tcp: number;
  if (version === 4) {
    if (buf[ip + 9] !== TCP || (getU16(buf, ip + 6) & 0x3fff) !== 0) return NO_LANE; // not TCP, or a fragment
    tcp = (buf[ip]! & 15) * 4;
  } else if (version === 6 && buf[ip + 6] === TCP) tcp = 40;
  else return NO_LANE;
  if (tcp + 20 > length) return NO_LANE;
  const payload = tcp + (buf[ip + tcp + 12]! >>> 4) * 4;
  if (payload >= length && (buf[ip + tcp + 13]! & EDGE_FLAGS) === 0) return NO_LANE;
  return flowHash(buf, off, length) % LANES;
}

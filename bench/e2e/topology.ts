// The bench's network: figure 7 without the VMs. The cloud's kernel does not forward between the edges, so whatever
// passes goes through the overlay.
//
//     edge1 10.71.1.2 ---veth--- 10.71.1.1 cloud 10.71.2.1 ---veth--- 10.71.2.2 edge2
import { readFileSync, writeFileSync } from 'node:fs';
import { Lab } from '../../examples/lab/netns.js';
import { CLOUD, EDGES, hubAddress } from './subjects.js';

const ALLOWED = '/proc/sys/net/ipv4/tcp_allowed_congestion_control';

/** Lets namespaces use a congestion control for the time of the run. Returns what puts the list back. */
export function allowCongestionControl(name: string): () => void {
  const before = readFileSync(ALLOWED, 'utf8').trim();
  if (before.split(/\s+/).includes(name)) return () => {};
  writeFileSync(ALLOWED, `${before} ${name}`);
  const restore = () => writeFileSync(ALLOWED, before);
  process.on('exit', restore);
  return () => {
    process.off('exit', restore);
    restore();
  };
}

export async function bringUp(prefix: string, congestion: string): Promise<Lab> {
  const lab = new Lab(prefix);
  try {
    for (const ns of [CLOUD, ...EDGES]) await lab.ns(ns, { congestion, ipv6: false });
    for (const [index, edge] of EDGES.entries()) {
      const n = index + 1;
      await lab.veth(edge, 'up0', [`10.71.${n}.2/24`], CLOUD, `down${n}`, [`${hubAddress(n)}/24`]);
    }
    return lab;
  } catch (error) {
    await lab.down();
    throw error;
  }
}

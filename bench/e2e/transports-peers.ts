// Processes of transports-peer.ts, and the certificates that they use.

import { fileURLToPath } from 'node:url';
import { cloudNames, createAuthority, nodeNames, save } from '../../lib/join/driver/pki.js';
import { PeerProcess } from './peer-process.js';
import type { Order } from './transports-peer.js';

const PEER = fileURLToPath(new URL('./transports-peer.ts', import.meta.url));

export type Peer = PeerProcess<Order>;

/** In the namespace of this full name; without one in ours. */
export const startPeer = (namespace?: string): Peer => PeerProcess.start<Order>(PEER, namespace);

/** ca.crt, cloud.* for the hub at `host`, NODE.* for each node. */
export async function certificates(dir: string, hosts: readonly string[], nodes: readonly string[]): Promise<void> {
  const ca = await createAuthority('bench');
  await save(dir, 'ca', ca);
  await save(
    dir,
    'cloud',
    await ca.issue({ name: 'cloud', days: 1, names: cloudNames('cloud', [...hosts]), server: true }),
  );
  for (const node of nodes) {
    await save(dir, node, await ca.issue({ name: node, days: 1, names: nodeNames('acme', node, []) }));
  }
}

// The seam to lib/cloud.ts: who may have links, as whoever signs the nodes' certificates sees it.

import type { KubeBusError } from '../core/index.js';
import type { PeerIdentity } from '../l2/index.js';

/** A node some of whose certificates count no longer: its links are to be judged again. */
export interface Outcast {
  readonly tenant: string;
  readonly node: string;
}

export interface CloudAuthority {
  /** Why this peer must not have a link, or null. */
  judge(peer: PeerIdentity): KubeBusError | null;
  /** Milliseconds since the epoch at which the node's newest certificate ends; 0 where none is known. */
  certifiedUntil(tenant: string, node: string): number;
  /** Returns a function that ends the subscription. */
  onOutcast(listener: (outcast: Outcast) => void): () => void;
}

// Edge: who the other end is. The names of a node that has just joined can be a moment behind its first packets.

import { MS } from '../../core/index.js';
import type { Peer, SocketContext } from './context.js';

/** Who has the address: at once where that is known, otherwise as soon as it is, and undefined after `timeoutMs`. */
export function identify(context: SocketContext, address: string, timeoutMs: number): Promise<Peer | undefined> {
  const known = context.peerOf(address);
  const { onPeers, driver } = context;
  if (known !== undefined || onPeers === undefined) return Promise.resolve(known);
  return new Promise((resolve) => {
    const finish = (peer: Peer | undefined) => {
      timer.cancel();
      stop();
      resolve(peer);
    };
    const stop = onPeers(() => {
      const peer = context.peerOf(address);
      if (peer !== undefined) finish(peer);
    });
    const timer = driver.clock.at(driver.now() + timeoutMs * MS, () => finish(undefined));
  });
}

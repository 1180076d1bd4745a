// The file descriptor of a socket of node:net, and what is asked of the system by it.

import type net from 'node:net';
import { loadNative } from '../../native/loader.mjs';

const IPPROTO_TCP = 6;
const TCP_NOTSENT_LOWAT = 25;
/** Bytes that the kernel holds without having sent them: what waits longer waits in the link's fair queue instead. */
const NOTSENT_BYTES = 128 * 1024;

/** -1 where there is none (any more). The field is Node's own, as long as there are descriptors. */
export function descriptorOf(socket: net.Socket): number {
  type Handle = { fd?: number; _parent?: { fd?: number } } | null | undefined;
  const handle = (socket as unknown as { _handle?: Handle })._handle;
  // A TLS handle wraps the TCP handle.
  const fd = handle?.fd ?? -1;
  return fd >= 0 ? fd : (handle?._parent?.fd ?? -1);
}

/** Keeps the kernel's send queue short (where the addon is there to ask for it), so that a ping overtakes bulk in our queue. */
export function limitUnsent(socket: net.Socket): void {
  const fd = descriptorOf(socket);
  if (fd >= 0) loadNative()?.setSocketOption(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, NOTSENT_BYTES);
}

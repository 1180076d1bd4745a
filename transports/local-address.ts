// A connection whose local address left this host is dead, but nobody says so: what it sends has nowhere to go, and the peer's
// keepalive would find out half a minute later. Looked at once a second, for all dialled connections of the process.

import dgram from 'node:dgram';
import { isIPv6 } from 'node:net';
import { networkInterfaces } from 'node:os';

const EVERY_MS = 1_000;
/** An address that is away for a moment (a DHCP renewal) does no harm. */
const PATIENCE = 2;

interface Watched {
  readonly address: string;
  readonly gone: () => void;
  missing: number;
}

const watched = new Set<Watched>();
let timer: NodeJS.Timeout | null = null;

/** Calls `gone` once when this host has had no such address for two looks in a row. Returns a function that ends it. */
export function watchLocalAddress(address: string | undefined, gone: () => void): () => void {
  if (address === undefined) return () => {};
  const entry: Watched = { address: plain(address), gone, missing: 0 };
  watched.add(entry);
  if (timer === null) {
    timer = setInterval(look, EVERY_MS);
    timer.unref();
  }
  return () => {
    watched.delete(entry);
    if (watched.size > 0 || timer === null) return;
    clearInterval(timer);
    timer = null;
  };
}

function look(): void {
  const present = new Set<string>();
  for (const list of Object.values(networkInterfaces())) for (const { address } of list ?? []) present.add(address);
  for (const entry of [...watched]) {
    entry.missing = present.has(entry.address) ? 0 : entry.missing + 1;
    if (entry.missing === PATIENCE) confirm(entry);
  }
}

/** Interfaces whose cable is out are not listed, though their addresses are there: a connection survives that. */
function confirm(entry: Watched): void {
  const socket = dgram.createSocket(isIPv6(entry.address) ? 'udp6' : 'udp4');
  socket.once('error', (error: NodeJS.ErrnoException) => {
    socket.close();
    if (error.code !== 'EADDRNOTAVAIL') entry.missing = 0;
    else if (watched.delete(entry)) entry.gone();
  });
  socket.bind({ address: entry.address, port: 0, exclusive: true }, () => {
    socket.close();
    entry.missing = 0;
  });
}

/** Without the scope of a link-local address, and IPv4 as IPv4. */
function plain(address: string): string {
  return address.replace(/%.*$/, '').replace(/^::ffff:(?=\d+\.)/i, '');
}

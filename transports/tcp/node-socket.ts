// Connected sockets of node:net and node:tls.

import type net from 'node:net';
import type { Duplex } from 'node:stream';
import tls from 'node:tls';
import type { ByteStream, PeerIdentity } from '../../lib/l2/transport.js';
import type { Connected, Shown } from './connected.js';
import { NodeStream } from './node-stream.js';

export class NodeSocket implements Connected {
  readonly shown: Shown | null;

  constructor(private readonly socket: net.Socket) {
    this.shown = socket instanceof tls.TLSSocket ? shownBy(socket) : null;
  }

  get address(): string {
    return this.socket.remoteAddress ?? '';
  }

  get remote(): string {
    return endOf(this.socket);
  }

  get localAddress(): string | undefined {
    return this.socket.localAddress;
  }

  stream(identity: PeerIdentity, remote: string): ByteStream {
    return new NodeStream(this.socket, identity, remote);
  }

  duplex(): Duplex {
    return this.socket;
  }

  destroy(): void {
    this.socket.on('error', () => {});
    this.socket.destroy();
  }

  onClosed(closed: () => void): void {
    if (this.socket.closed) closed();
    else this.socket.once('close', closed);
  }
}

export const endOf = (socket: net.Socket) => `${socket.remoteAddress}:${socket.remotePort}`;

function shownBy(socket: tls.TLSSocket): Shown {
  // Without a certificate: an object with nothing in it, or null.
  const fields = (socket.getPeerCertificate() ?? {}) as Partial<tls.PeerCertificate>;
  return {
    raw: fields.raw ?? null,
    fields,
    fault: socket.authorized ? null : socket.authorizationError,
    protocol: socket.alpnProtocol || '',
    // Node calls a resumed TLS 1.3 session authorized though it shows no certificate. Nodes never resume.
    resumed: socket.isSessionReused(),
  };
}

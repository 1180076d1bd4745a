// Edge: what the stack sees of a bound datagram socket.

import { formatAddress } from '../../l3/index.js';
import type { IcmpKind } from '../tcp/types.js';
import type { UdpBinding } from '../udp.js';
import type { RemoteInfo } from './dgram-options.js';

/** Who takes the datagrams. */
export interface Receiver {
  onDatagram(message: Buffer, info: RemoteInfo): void;
  onError(): void;
}

export class Binding implements UdpBinding {
  peer: { readonly address: Uint8Array; readonly port: number } | null = null;
  ttl = 64;
  private error: string | null = null;

  constructor(
    private readonly receiver: Receiver,
    readonly address: Uint8Array | null,
    readonly family: 0 | 4 | 6,
    readonly port: number,
    readonly reuse: boolean,
  ) {}

  takeError(): string | null {
    const { error } = this;
    this.error = null;
    return error;
  }

  onDatagram(buf: Uint8Array, start: number, end: number, src: number, addressLength: number, port: number): void {
    const address = formatAddress(buf.subarray(src, src + addressLength));
    const family = addressLength === 4 ? 'IPv4' : 'IPv6';
    const message = Buffer.allocUnsafe(end - start);
    message.set(buf.subarray(start, end));
    this.receiver.onDatagram(message, { address, family, port, size: end - start });
  }

  onIcmp(kind: IcmpKind): void {
    // Linux: only what is hard for a datagram socket is told.
    this.error =
      kind === 'port-unreachable' ? 'ECONNREFUSED' : kind === 'network-unreachable' ? 'ENETUNREACH' : 'EHOSTUNREACH';
    this.receiver.onError();
  }
}

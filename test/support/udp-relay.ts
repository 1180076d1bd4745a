// A UDP relay between a client and a server: it can change its outgoing port (a NAT that rebinds), lose and swallow.
import dgram from 'node:dgram';
import { once } from 'node:events';

export interface UdpRelay {
  readonly port: number;
  readonly forwarded: { up: number; down: number };
  /** Ports by which the server has seen the client. */
  readonly seen: ReadonlySet<number>;
  /** Says which packets pass; counted per direction from 0. */
  pass: (up: boolean, index: number, bytes: number) => boolean;
  /** From now on the server sees the client at another port. */
  rebind(): Promise<void>;
  close(): void;
}

export async function udpRelay(target: number): Promise<UdpRelay> {
  const front = dgram.createSocket('udp4');
  front.bind(0, '127.0.0.1');
  await once(front, 'listening');
  let client = 0;
  const forwarded = { up: 0, down: 0 };
  const seen = new Set<number>();
  let back: dgram.Socket;
  const relay: UdpRelay = {
    port: front.address().port,
    forwarded,
    seen,
    pass: () => true,
    async rebind() {
      const next = dgram.createSocket('udp4');
      next.on('message', (data) => {
        if (next === back && relay.pass(false, forwarded.down++, data.length)) front.send(data, client, '127.0.0.1');
      });
      next.bind(0, '127.0.0.1');
      await once(next, 'listening');
      seen.add(next.address().port);
      const old = back;
      back = next;
      old?.close();
    },
    close() {
      front.close();
      back.close();
    },
  };
  await relay.rebind();
  front.on('message', (data, from) => {
    client = from.port;
    if (relay.pass(true, forwarded.up++, data.length)) back.send(data, target, '127.0.0.1');
  });
  return relay;
}

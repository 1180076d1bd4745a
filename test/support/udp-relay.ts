// A UDP relay between clients and a server: it can change its outgoing ports (a NAT that rebinds), lose and swallow.
import dgram from 'node:dgram';
import { once } from 'node:events';

export interface UdpRelay {
  readonly port: number;
  /** Port of the server; may change. */
  target: number;
  readonly forwarded: { up: number; down: number };
  /** Ports by which the server has seen clients. */
  readonly seen: ReadonlySet<number>;
  /** Says which packets pass; counted per direction from 0. */
  pass: (up: boolean, index: number, bytes: number) => boolean;
  /** From now on the server sees each client at another port. */
  rebind(): void;
  close(): void;
}

/** `port`: where clients reach it; rejects when it is taken. **Default:** a free one. */
export async function udpRelay(target: number, port = 0): Promise<UdpRelay> {
  const front = dgram.createSocket('udp4');
  front.bind(port, '127.0.0.1');
  await once(front, 'listening');
  const forwarded = { up: 0, down: 0 };
  const seen = new Set<number>();
  const backs = new Map<number, dgram.Socket>();
  const backFor = (client: number): dgram.Socket => {
    const known = backs.get(client);
    if (known !== undefined) return known;
    const back = dgram.createSocket('udp4');
    backs.set(client, back);
    back.on('message', (data) => {
      if (backs.get(client) === back && relay.pass(false, forwarded.down++, data.length))
        front.send(data, client, '127.0.0.1');
    });
    back.bind(0, '127.0.0.1', () => seen.add(back.address().port));
    return back;
  };
  const closeBacks = () => {
    for (const back of backs.values()) back.close();
    backs.clear();
  };
  const relay: UdpRelay = {
    port: front.address().port,
    target,
    forwarded,
    seen,
    pass: () => true,
    rebind: closeBacks,
    close() {
      front.close();
      closeBacks();
    },
  };
  front.on('message', (data, from) => {
    if (relay.pass(true, forwarded.up++, data.length)) backFor(from.port).send(data, relay.target, '127.0.0.1');
  });
  return relay;
}

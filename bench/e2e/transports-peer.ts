// A hub or a node of the transports bench in a process of its own, in whatever namespace it was started. Takes orders and answers
// over IPC; see Peer in transports-peers.ts.

import { readFileSync } from 'node:fs';
import type { Socket } from 'node:net';
import { join as path } from 'node:path';
import { KubeBusCloud, KubeBusNode } from '../../lib/index.js';
import type { TlsMaterial, Transport } from '../../lib/l2/transport.js';
import { quicTransport } from '../../transports/quic.js';
import { tcpTransport } from '../../transports/tcp.js';
import { webSocketTransport } from '../../transports/websocket.js';
import { webTransport } from '../../transports/webtransport.js';
import { asNode, echo, requestResponse } from './l4-app.js';

export type Kind = 'tcp' | 'quic' | 'webtransport' | 'websocket';
export type QuicCongestion = 'cubic' | 'bbr' | 'reno';

export interface TransportOrder {
  readonly kind: Kind;
  /** Folder with ca.crt and NAME.crt, NAME.key of every process. */
  readonly pki: string;
  readonly name: string;
  readonly congestion?: QuicCongestion;
}

export type Order =
  | (TransportOrder & { readonly do: 'hub'; readonly host: string })
  | (TransportOrder & {
      readonly do: 'join';
      readonly cloud: string;
      readonly connections: number;
      readonly tun?: string;
    })
  | { readonly do: 'sink' }
  | { readonly do: 'counts' }
  | { readonly do: 'send'; readonly host: string; readonly port: number; readonly flows: number }
  | { readonly do: 'echo' }
  | { readonly do: 'latency'; readonly host: string; readonly port: number; readonly seconds: number }
  | { readonly do: 'leave' };

export interface Counts {
  /** Milliseconds. */
  readonly at: number;
  /** Received by the sink. */
  readonly bytes: number;
  /** CPU seconds of the process so far. */
  readonly cpu: number;
}

let node: KubeBusNode | null = null;
let cloud: KubeBusCloud | null = null;
let bytes = 0;
const sockets: Socket[] = [];
const net = () => asNode(node!.net);

function transport(order: TransportOrder, host?: string): Transport {
  const file = (name: string) => readFileSync(path(order.pki, name), 'utf8');
  const tls: TlsMaterial = { ca: file('ca.crt'), cert: file(`${order.name}.crt`), key: file(`${order.name}.key`) };
  const options = { tls, ...(host === undefined ? {} : { listen: { host, port: 0 } }) };
  switch (order.kind) {
    case 'tcp':
      return tcpTransport(options);
    case 'quic':
      return quicTransport({ ...options, ...(order.congestion && { congestion: order.congestion }) });
    case 'webtransport':
      return webTransport(options);
    case 'websocket':
      return webSocketTransport(options);
  }
}

async function obey(order: Order): Promise<unknown> {
  switch (order.do) {
    case 'hub':
      cloud = await KubeBusCloud.start({
        transports: [transport(order, order.host)],
        tenants: { acme: { pools: ['10.80.0.0/24'] } },
      });
      return cloud.addresses;
    case 'join':
      node = await KubeBusNode.join({
        cloud: [order.cloud],
        transport: transport(order),
        tenant: 'acme',
        node: order.name,
        connections: order.connections,
        ...(order.tun === undefined ? {} : { tun: { name: order.tun } }),
      });
      return node.addresses[0];
    case 'sink':
      return new Promise((resolve) => {
        const server = net().createServer((socket) => {
          socket.on('error', () => socket.destroy());
          socket.on('data', (data) => {
            bytes += data.length;
          });
        });
        server.listen(0, () => resolve((server.address() as { port: number }).port));
      });
    case 'counts': {
      const { user, system } = process.cpuUsage();
      return { at: performance.now(), bytes, cpu: (user + system) / 1e6 } satisfies Counts;
    }
    case 'send': {
      const chunk = Buffer.alloc(65_536, 7);
      for (let i = 0; i < order.flows; i++) {
        const socket = net().connect({ host: order.host, port: order.port });
        const fill = () => {
          while (!socket.destroyed && socket.write(chunk));
        };
        socket.on('connect', fill).on('drain', fill);
        socket.on('error', () => socket.destroy());
        sockets.push(socket);
      }
      return null;
    }
    case 'echo':
      return echo(net());
    case 'latency':
      for (const socket of sockets.splice(0)) socket.destroy();
      return requestResponse(net(), order.host, order.port, order.seconds);
    case 'leave':
      await node?.stop();
      await cloud?.stop();
      node = cloud = null;
      return null;
  }
}

process.on('message', (order: Order) => {
  obey(order).then(
    (result) => process.send!({ result }),
    (error: unknown) => process.send!({ error: error instanceof Error ? error.message : String(error) }),
  );
});
process.on('disconnect', () => process.exit(0));

// One end of a connection in a process of its own, in whatever namespace it was started: the kernel's sockets, or a node that
// joins the overlay without a device. Takes orders and answers over IPC; see Peer in l4-overlay.ts.

import { readFileSync } from 'node:fs';
import * as nodeNet from 'node:net';
import { KubeBusNode } from '../../lib/index.js';
import { tcpTransport } from '../../transports/tcp.js';
import { asNode, connectionRate, echo, iperfClient, type NetApi, requestResponse } from './l4-app.js';

export interface JoinOrder {
  readonly cloud: string;
  readonly tenant: string;
  readonly node: string;
  /** None: insecure. */
  readonly tls?: { readonly cert: string; readonly key: string; readonly ca: string };
}

export type Order =
  | { readonly do: 'kernel' }
  | ({ readonly do: 'join' } & JoinOrder)
  | { readonly do: 'echo'; readonly host?: string }
  | { readonly do: 'iperf'; readonly host: string; readonly seconds: number; readonly reverse: boolean }
  | { readonly do: 'latency'; readonly host: string; readonly port: number; readonly seconds: number }
  | {
      readonly do: 'connections';
      readonly host: string;
      readonly port: number;
      readonly seconds: number;
      readonly parallel: number;
    };

let net: NetApi = nodeNet;

async function join(order: JoinOrder): Promise<string> {
  const { cloud, tenant, node, tls } = order;
  const file = (path: string) => readFileSync(path, 'utf8');
  const security =
    tls === undefined
      ? { insecure: true as const }
      : { tls: { cert: file(tls.cert), key: file(tls.key), ca: file(tls.ca) } };
  const joined = await KubeBusNode.join({ cloud: [cloud], transport: tcpTransport(security), tenant, node });
  net = asNode(joined.net);
  return joined.addresses[0]!;
}

function obey(order: Order): Promise<unknown> {
  switch (order.do) {
    case 'kernel':
      return Promise.resolve(null);
    case 'join':
      return join(order);
    case 'echo':
      return echo(net, order.host);
    case 'iperf':
      return iperfClient(net, order.host, 5201, order.seconds, order.reverse);
    case 'latency':
      return requestResponse(net, order.host, order.port, order.seconds);
    case 'connections':
      return connectionRate(net, order.host, order.port, order.seconds, order.parallel);
  }
}

process.on('message', (order: Order) => {
  obey(order).then(
    (result) => process.send!({ result }),
    (error: unknown) => process.send!({ error: error instanceof Error ? error.message : String(error) }),
  );
});
process.on('disconnect', () => process.exit(0));

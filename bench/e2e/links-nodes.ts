// Many nodes of links-fleet.ts in a process of their own. Takes orders and answers over IPC.

import { once } from 'node:events';
import { join } from 'node:path';
import tls from 'node:tls';
import { KubeBusNode } from '../../lib/index.js';
import { tcpTransport } from '../../transports/tcp.js';

export interface NodeOf {
  readonly name: string;
  /** Of a node with a certificate; none: insecure. */
  readonly tls?: { readonly ca: string; readonly cert: string; readonly key: string };
  /** Of a node that joins by token. */
  readonly token?: string;
}

export type FleetOrder =
  | {
      /** `bare`: a TLS connection and no more. */
      readonly do: 'join' | 'bare';
      readonly port: number;
      readonly dir: string;
      readonly parallel: number;
      readonly nodes: NodeOf[];
    }
  | { readonly do: 'back' }
  | { readonly do: 'stop' };

/** Milliseconds since the epoch, one for each node: its link is up, and the hub has answered its ping. */
export interface Back {
  readonly up: number[];
  readonly answered: number[];
}

const nodes: KubeBusNode[] = [];
const sockets: tls.TLSSocket[] = [];

async function connectBare(port: number, { tls: pem }: NodeOf): Promise<tls.TLSSocket> {
  const socket = tls.connect({ host: '127.0.0.1', port, ...pem, minVersion: 'TLSv1.3', servername: '' });
  // The byte that the server says once it has seen our certificate.
  await once(socket, 'data');
  socket.on('error', () => {});
  return socket;
}

function joinOne(port: number, dir: string, { name, tls, token }: NodeOf): Promise<KubeBusNode> {
  if (token !== undefined) return KubeBusNode.join({ token, node: name, stateDir: join(dir, name) });
  return KubeBusNode.join({
    cloud: [`kubebus://127.0.0.1:${port}`],
    transport: tcpTransport(tls === undefined ? { insecure: true } : { tls }),
    tenant: 'acme',
    node: name,
  });
}

async function joinAll(order: Extract<FleetOrder, { readonly nodes: NodeOf[] }>): Promise<number> {
  const waiting = [...order.nodes];
  const worker = async () => {
    for (let next = waiting.shift(); next !== undefined; next = waiting.shift()) {
      if (order.do === 'bare') sockets.push(await connectBare(order.port, next));
      else nodes.push(await joinOne(order.port, order.dir, next));
    }
  };
  await Promise.all(Array.from({ length: order.parallel }, worker));
  return Date.now();
}

async function back(): Promise<Back> {
  const up: number[] = [];
  const answered: number[] = [];
  await Promise.all(
    nodes.map(async (node) => {
      await once(node, 'up');
      up.push(Date.now());
      // It drops what comes from addresses that it has not assigned: an answer says that it has.
      while ((await node.ping(node.gateway[0]!, { count: 1, timeoutMs: 1_000 })).lost > 0);
      answered.push(Date.now());
    }),
  );
  return { up, answered };
}

async function stop(): Promise<null> {
  await Promise.all(nodes.splice(0).map((node) => node.stop()));
  return null;
}

process.on('message', (order: FleetOrder) => {
  const done = order.do === 'back' ? back() : order.do === 'stop' ? stop() : joinAll(order);
  done.then(
    (result) => process.send!({ result }),
    (error: unknown) => process.send!({ error: error instanceof Error ? error.message : String(error) }),
  );
});
process.on('disconnect', () => process.exit(0));

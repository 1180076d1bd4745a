// The real stack in one process: a cloud with gateways, nodes of two tenants over the memory transport, and helpers to speak HTTP to it.

import { once } from 'node:events';
import http from 'node:http';
import net from 'node:net';
import { type CloudOptions, KubeBusCloud, KubeBusNode, type NodeOptions } from '../../../lib/index.js';
import { memoryTransport } from '../../../transports/memory.js';

export interface World {
  readonly cloud: KubeBusCloud;
  readonly nodes: Map<string, KubeBusNode>;
  readonly gateway: number;
  readonly plane: number;
  join(name: string, options?: Partial<NodeOptions>): Promise<KubeBusNode>;
  node(name: string): KubeBusNode;
  /** Starts an HTTP server on loopback; resolves with its URL. */
  serve(handler: http.RequestListener): Promise<{ url: string; server: http.Server }>;
  close(): Promise<void>;
}

/** `nodes`: 'tenant/node'. */
export async function makeWorld(nodes: readonly string[], options: Partial<CloudOptions> = {}): Promise<World> {
  const transport = memoryTransport();
  const cloud = await KubeBusCloud.start({
    transports: [transport],
    tenants: {
      acme: { pools: ['10.80.0.0/16'] },
      globex: { pools: ['10.80.0.0/16'] },
      initech: { pools: ['10.80.0.0/16'] },
    },
    gateways: [
      { host: '127.0.0.1', port: 0, domains: ['example.test'] },
      { host: '127.0.0.1', port: 0, callers: 'plane' },
    ],
    ...options,
  });
  const joined = new Map<string, KubeBusNode>();
  const servers: http.Server[] = [];
  const join = async (name: string, more: Partial<NodeOptions> = {}) => {
    const [tenant, node] = name.split('/') as [string, string];
    const made = await KubeBusNode.join({ cloud: cloud.addresses, transport, tenant, node, ...more });
    joined.set(name, made);
    return made;
  };
  for (const name of nodes) await join(name);
  return {
    cloud,
    nodes: joined,
    gateway: cloud.gateways[0]!.port,
    plane: cloud.gateways.at(-1)!.port,
    join,
    node: (name) => joined.get(name)!,
    async serve(handler) {
      const server = http.createServer(handler).listen(0, '127.0.0.1');
      servers.push(server);
      await once(server, 'listening');
      return { url: `http://127.0.0.1:${(server.address() as net.AddressInfo).port}`, server };
    },
    async close() {
      for (const server of servers) {
        server.closeAllConnections();
        server.close();
      }
      await Promise.all([...joined.values()].map((node) => node.stop()));
      await cloud.stop();
    },
  };
}

/** Resolves once `check` holds, looking again whenever the node's or cloud's list may have changed. */
export async function until(check: () => boolean): Promise<void> {
  while (!check()) await new Promise((resolve) => setImmediate(resolve));
}

export interface Answer {
  readonly status: number;
  readonly headers: http.IncomingHttpHeaders;
  readonly rawHeaders: readonly string[];
  readonly trailers: NodeJS.Dict<string>;
  readonly body: Buffer;
  readonly text: string;
}

export async function ask(
  port: number,
  path: string,
  options: http.RequestOptions & { body?: string | Buffer } = {},
): Promise<Answer> {
  const { body, ...more } = options;
  const req = http.request({ host: '127.0.0.1', port, path, agent: false, ...more });
  req.end(body);
  const [res] = (await once(req, 'response')) as [http.IncomingMessage];
  const parts: Buffer[] = [];
  for await (const part of res) parts.push(part as Buffer);
  const whole = Buffer.concat(parts);
  return {
    status: res.statusCode!,
    headers: res.headers,
    rawHeaders: res.rawHeaders,
    trailers: res.trailers,
    body: whole,
    text: whole.toString(),
  };
}

/** Sends bytes as they are; resolves with all that came back until the other side ended. */
export async function raw(port: number, text: string): Promise<string> {
  const socket = net.connect(port, '127.0.0.1');
  socket.on('error', () => {});
  socket.write(text, 'latin1');
  let back = '';
  socket.setEncoding('latin1');
  socket.on('data', (chunk: string) => {
    back += chunk;
  });
  await once(socket, 'close');
  return back;
}

// One process of the http bench: a proxy alone (ours, or http-proxy), or the cloud or the edge of the whole way. Says its port, then serves.
// It runs what users run: the compiled package, without the compiler's helpers in front of every function.

import { readFileSync } from 'node:fs';
import http from 'node:http';
import { connect } from 'node:net';
import { join } from 'node:path';
import { KubeBusCloud, KubeBusNode } from 'kubebus';
import { ClientProxy, Upstream } from 'kubebus/http-proxy';
import { tcpTransport } from 'kubebus/transports/tcp';

const [role, dir = '', target = '', cloudAddress = ''] = process.argv.slice(2);
const say = (message) => process.send?.(message);
const pem = (file) => readFileSync(join(dir, file), 'utf8');
process.on('disconnect', () => process.exit(0));

if (role === 'http-proxy') {
  const { default: httpProxy } = await import('http-proxy');
  const proxy = httpProxy.createProxyServer({
    target,
    agent: new http.Agent({ keepAlive: true, maxSockets: 256 }),
    xfwd: true,
  });
  proxy.on('error', (_error, _req, res) => res.destroy());
  const server = http.createServer((req, res) => proxy.web(req, res));
  server.listen(0, '127.0.0.1', () => say({ port: server.address().port }));
} else if (role === 'bare') {
  // node:http and undici joined, and nothing else: what is left for us to win or lose.
  const { Client } = await import('undici');
  const free = [];
  const server = http.createServer((req, res) => {
    const client = free.pop() ?? new Client(target);
    client.dispatch(
      { method: req.method, path: req.url, headers: ['host', 'service'], body: null, reset: false },
      {
        onConnect() {},
        onHeaders(status, raw, _resume, text) {
          res.writeHead(
            status,
            text,
            raw.map((bytes) => bytes.toString('latin1')),
          );
          return true;
        },
        onData: (chunk) => res.write(chunk),
        onComplete() {
          res.end();
          free.push(client);
        },
        onError: () => res.destroy(),
      },
    );
  });
  server.listen(0, '127.0.0.1', () => say({ port: server.address().port }));
} else if (role === 'client-proxy') {
  const { port, hostname } = new URL(target);
  const upstream = new Upstream(target, (callback) => {
    const socket = connect({ host: hostname, port: Number(port), noDelay: true });
    const failed = (error) => callback(error, null);
    socket.once('error', failed);
    socket.once('connect', () => {
      socket.removeListener('error', failed);
      callback(null, socket);
    });
  });
  const proxy = new ClientProxy({
    route: (address) => ({ address, upstream, tellCaller: false }),
    identify: () => ({ kind: 'internet' }),
  });
  say(await proxy.listen({ host: '127.0.0.1', port: 0 }));
} else if (role === 'cloud') {
  const tls = { ca: pem('ca.crt'), cert: pem('cloud.crt'), key: pem('cloud.key') };
  const cloud = await KubeBusCloud.start({
    transports: [tcpTransport({ listen: { host: '127.0.0.1', port: 0 }, tls })],
    tenants: { acme: { pools: ['10.80.0.0/16'] } },
    gateways: [{ host: '127.0.0.1', port: 0 }],
  });
  say({ port: cloud.gateways[0].port, address: cloud.addresses[0] });
} else {
  const tls = { ca: pem('ca.crt'), cert: pem('acme-edge-1.crt'), key: pem('acme-edge-1.key') };
  const node = await KubeBusNode.join({
    cloud: [cloudAddress],
    transport: tcpTransport({ tls }),
    tenant: 'acme',
    node: 'edge-1',
  });
  node.publish('web', target, { public: true });
  await node.services.ready();
  say({ port: 0 });
}

// The transports that must pass test/compliance/transport.ts. One more is a few lines here.

import { cloudNames, createAuthority, nodeNames } from '../../lib/join/driver/pki.js';
import { memoryTransport } from '../../transports/memory.js';
import { quicTransport } from '../../transports/quic.js';
import { tcpTransport } from '../../transports/tcp.js';
import { webSocketTransport } from '../../transports/websocket.js';
import { webTransport } from '../../transports/webtransport.js';
import { transportCompliance } from '../compliance/transport.js';

const listen = { host: '127.0.0.1', port: 0 };
/** The discard port: nobody listens there. */
const nobody = 'kubebus://127.0.0.1:9';

transportCompliance('memory', () => {
  const transport = memoryTransport();
  return Promise.resolve({ listener: transport, dialer: transport });
});

transportCompliance('tcp, plain', () =>
  Promise.resolve({
    listener: tcpTransport({ insecure: true, listen }),
    dialer: tcpTransport({ insecure: true }),
    nobody,
  }),
);

transportCompliance("tcp, plain, by Node's sockets", () =>
  Promise.resolve({
    listener: tcpTransport({ insecure: true, listen, native: false }),
    dialer: tcpTransport({ insecure: true, native: false }),
    nobody,
  }),
);

const pki = (async () => {
  const ca = await createAuthority('test CA');
  const cloud = await ca.issue({ name: 'hub', days: 1, names: cloudNames('hub', ['127.0.0.1']), server: true });
  const node = await ca.issue({ name: 'e1', days: 1, names: nodeNames('acme', 'edge-1', ['10.1.0.0/16']) });
  return { ca: ca.cert, cloud, node };
})();

transportCompliance('tcp, TLS', async () => {
  const { ca, cloud, node } = await pki;
  return {
    listener: tcpTransport({ tls: { ...cloud, ca }, listen }),
    dialer: tcpTransport({ tls: { ...node, ca } }),
    identities: { node: { tenant: 'acme', node: 'edge-1' }, cloud: 'hub' },
    nobody,
  };
});

transportCompliance("tcp, TLS, by Node's sockets", async () => {
  const { ca, cloud, node } = await pki;
  return {
    listener: tcpTransport({ tls: { ...cloud, ca }, listen, native: false }),
    dialer: tcpTransport({ tls: { ...node, ca }, native: false }),
    identities: { node: { tenant: 'acme', node: 'edge-1' }, cloud: 'hub' },
    nobody,
  };
});

transportCompliance("tcp, TLS, the addon calls Node's sockets", async () => {
  const { ca, cloud, node } = await pki;
  return {
    listener: tcpTransport({ tls: { ...cloud, ca }, listen, native: false }),
    dialer: tcpTransport({ tls: { ...node, ca } }),
    identities: { node: { tenant: 'acme', node: 'edge-1' }, cloud: 'hub' },
    nobody,
  };
});

transportCompliance("tcp, TLS, Node's sockets call the addon", async () => {
  const { ca, cloud, node } = await pki;
  return {
    listener: tcpTransport({ tls: { ...cloud, ca }, listen }),
    dialer: tcpTransport({ tls: { ...node, ca }, native: false }),
    identities: { node: { tenant: 'acme', node: 'edge-1' }, cloud: 'hub' },
    nobody,
  };
});

transportCompliance('quic', async () => {
  const { ca, cloud, node } = await pki;
  return {
    listener: quicTransport({ tls: { ...cloud, ca }, listen }),
    dialer: quicTransport({ tls: { ...node, ca } }),
    identities: { node: { tenant: 'acme', node: 'edge-1' }, cloud: 'hub' },
  };
});

transportCompliance('webtransport', async () => {
  const { ca, cloud, node } = await pki;
  return {
    listener: webTransport({ tls: { ...cloud, ca }, listen }),
    dialer: webTransport({ tls: { ...node, ca } }),
    identities: { node: { tenant: 'acme', node: 'edge-1' }, cloud: 'hub' },
  };
});

transportCompliance('websocket', async () => {
  const { ca, cloud, node } = await pki;
  return {
    listener: webSocketTransport({ tls: { ...cloud, ca }, listen }),
    dialer: webSocketTransport({ tls: { ...node, ca } }),
    identities: { node: { tenant: 'acme', node: 'edge-1' }, cloud: 'hub' },
    nobody,
  };
});

// The QUIC transport: TLS 1.3 with certificates on both sides inside QUIC (RFC 9000, 9001). Packets travel as datagrams
// (RFC 9221), so one lost packet holds up no other; control, and what fits no datagram, on a stream. The connection
// survives a change of the node's address. Needs the optional package @matrixai/quic.

import { X509Certificate } from 'node:crypto';
import { lookup } from 'node:dns/promises';
import net from 'node:net';
import { KubeBusError, type Micros, MS, SECOND } from '../lib/core/index.js';
import type {
  AcceptHandler,
  ByteStream,
  Listener,
  PeerIdentity,
  TlsMaterial,
  TlsSource,
  Transport,
} from '../lib/l2/transport.js';
import { cloudIdentity, material, nodeIdentity } from './identity.js';
import { checkLimits } from './limits.js';
import { QuicEndpoint } from './quic/endpoint.js';
import { type Engine, type EngineConfig, loadEngine } from './quic/engine.js';
import { DEFAULT_PORT, parseHostPort } from './tcp.js';

export interface QuicOptions {
  /** Where `listen` binds, in UDP. **Default:** 0.0.0.0 and port 7443; port 0 takes a free one. */
  readonly listen?: { readonly host?: string; readonly port?: number };
  /** This side's certificate and key, and the CA that signs the other's: texts, or a source of them that may change. */
  readonly tls: TlsMaterial | TlsSource;
  /** Largest UDP payload, 1200 to 65527; datagrams, and so the MTU of the link, are 52 bytes smaller. **Default:** 1350. */
  readonly udpPayload?: number;
  /** Congestion control of the whole connection. **Default:** 'bbr'. */
  readonly congestion?: 'cubic' | 'bbr' | 'reno';
  /** QUIC's own silence limit, behind the link's keepalive. **Default:** 60 s. */
  readonly idleTimeout?: Micros;
  /** Time for the handshake. **Default:** 5 s. */
  readonly handshakeTimeout?: Micros;
  /** Handshakes in progress; beyond, first packets are dropped. From a quarter of it on, addresses are validated first. **Default:** 256. */
  readonly handshakes?: number;
  /** Datagrams that wait, in each direction. **Default:** 4096. */
  readonly datagramQueue?: number;
}

/** Of one stream, and of the connection: what a peer that is not read can make us hold. */
const STREAM_WINDOW = 1024 * 1024;
const MAX_STREAM_WINDOW = 4 * 1024 * 1024;

export function quicTransport(options: QuicOptions): Transport {
  const { udpPayload = 1350 } = options;
  checkLimits(options);
  if (!Number.isInteger(udpPayload) || udpPayload < 1200 || udpPayload > 65_527) {
    throw new KubeBusError('ERR_INVALID_ARGUMENT', `udpPayload must be 1200 to 65527, not ${udpPayload}`);
  }
  return {
    name: 'quic',
    listen: (handler) => listen(options, handler),
    dial: (address, signal) => dial(options, address, signal),
  };
}

function makeConfig(engine: Engine, options: QuicOptions): EngineConfig {
  const { ca, key, cert } = material(options.tls);
  const pem = (text: string) => Buffer.from(text);
  const config = engine.Config.withBoringSslCtx(true, false, pem(ca), [pem(key)], [pem(cert)], null);
  const queue = options.datagramQueue ?? 4096;
  config.setApplicationProtos(['kubebus/1']);
  config.setMaxIdleTimeout((options.idleTimeout ?? 60 * SECOND) / MS);
  config.setMaxRecvUdpPayloadSize(65_527);
  config.setMaxSendUdpPayloadSize(options.udpPayload ?? 1350);
  config.setInitialMaxData(2 * STREAM_WINDOW);
  config.setInitialMaxStreamDataBidiLocal(STREAM_WINDOW);
  config.setInitialMaxStreamDataBidiRemote(STREAM_WINDOW);
  config.setInitialMaxStreamsBidi(1);
  config.setMaxStreamWindow(MAX_STREAM_WINDOW);
  config.setMaxConnectionWindow(MAX_STREAM_WINDOW);
  config.enableDgram(true, queue, queue);
  config.setDisableActiveMigration(false);
  config.setActiveConnectionIdLimit(4);
  // The engine would note for each packet the time at which pacing wants it sent, and leave the waiting to us, who cannot read that
  // time through the binding: round trips come out too short, and with them bbr's window shrinks to nothing.
  config.enablePacing(false);
  config.setCcAlgorithmName(options.congestion ?? 'bbr');
  return config;
}

function endpointOptions(engine: Engine, options: QuicOptions) {
  return {
    engine,
    udpPayload: options.udpPayload ?? 1350,
    handshakes: options.handshakes ?? 256,
    handshakeTimeout: (options.handshakeTimeout ?? 5 * SECOND) / MS,
    secret: () => material(options.tls).key,
  };
}

async function dial(options: QuicOptions, address: string, signal: AbortSignal): Promise<ByteStream> {
  const engine = await loadEngine();
  const { host, port } = parseHostPort(address);
  const where = `${host.includes(':') ? `[${host}]` : host}:${port}`;
  const ip = await resolve(host, where);
  // The engine checks DNS names; an address in the certificate it would never match, so that is checked below.
  const name = net.isIP(host) === 0 ? host : null;
  let settle: (error: Error | null, stream?: ByteStream) => void = () => {};
  const result = new Promise<ByteStream>((resolve, reject) => {
    settle = (error, stream) => (error === null ? resolve(stream!) : reject(error));
  });
  const [endpoint, connection] = await QuicEndpoint.connect(
    {
      ...endpointOptions(engine, options),
      config: () => makeConfig(engine, options),
      identify: (der) => cloudOf(der, name === null ? host : null, where),
      onReady: (stream) => settle(null, stream),
      onRefused: (code, message) => settle(dialError(code, message, where)),
    },
    ip,
    port,
    name,
  );
  const aborted = () => {
    settle(new KubeBusError('ERR_CONNECT', `cannot connect to ${where}: no answer in time`));
    connection.destroy();
    void endpoint.close();
  };
  if (signal.aborted) aborted();
  else signal.addEventListener('abort', aborted, { once: true });
  try {
    return await result;
  } finally {
    signal.removeEventListener('abort', aborted);
  }
}

async function resolve(host: string, where: string): Promise<string> {
  if (net.isIP(host) !== 0) return host;
  try {
    return (await lookup(host)).address;
  } catch (cause) {
    throw new KubeBusError('ERR_CONNECT', `cannot connect to ${where}: ${(cause as Error).message}`, { cause });
  }
}

function dialError(code: string, message: string, where: string): KubeBusError {
  return code === 'ERR_CERTIFICATE'
    ? new KubeBusError('ERR_CERTIFICATE', message)
    : new KubeBusError('ERR_CONNECT', `cannot connect to ${where}: ${message}`);
}

async function listen(options: QuicOptions, handler: AcceptHandler): Promise<Listener> {
  const engine = await loadEngine();
  const { host = '0.0.0.0', port = DEFAULT_PORT } = options.listen ?? {};
  const { tls } = options;
  let config = makeConfig(engine, options);
  const unsubscribe =
    'onChange' in tls
      ? tls.onChange(() => {
          config = makeConfig(engine, options);
        })
      : () => {};
  let endpoint: QuicEndpoint;
  try {
    endpoint = await QuicEndpoint.listen(
      {
        ...endpointOptions(engine, options),
        config: () => config,
        identify: nodeOf,
        onReady: (stream) => handler.onStream(stream),
        onRefused: (code, message, remote) => handler.onRefused(code, message, remote),
      },
      host,
      port,
    );
  } catch (cause) {
    unsubscribe();
    throw new KubeBusError('ERR_CONNECT', `cannot listen on UDP ${host}:${port}: ${(cause as Error).message}`, {
      cause,
    });
  }
  const { local } = endpoint;
  const shown = local.host.includes(':') ? `[${local.host}]` : local.host;
  return {
    address: `kubebus://${shown}:${local.port}?transport=quic`,
    close: () => {
      unsubscribe();
      // Streams end by themselves after their goodbye; what is still there a second later is cut off.
      const cut = setTimeout(() => endpoint.destroyAll(), 1_000);
      return endpoint.close().finally(() => clearTimeout(cut));
    },
  };
}

function fields(der: Uint8Array | undefined): X509Certificate | null {
  return der === undefined ? null : new X509Certificate(der);
}

function cloudOf(der: Uint8Array | undefined, ip: string | null, where: string): PeerIdentity {
  const x = fields(der);
  const identity = x && cloudIdentity({ subjectaltname: x.subjectAltName, valid_to: x.validTo });
  if (identity === null || x === null) {
    throw new KubeBusError('ERR_CERTIFICATE', `the certificate of ${where} is not a cloud's (no kubebus-cloud: name)`);
  }
  if (ip !== null && x.checkIP(ip) === undefined) {
    throw new KubeBusError('ERR_CERTIFICATE', `certificate of ${where}: it is for another host name or address`);
  }
  return identity;
}

function nodeOf(der: Uint8Array | undefined): PeerIdentity {
  const x = fields(der);
  const identity =
    x && nodeIdentity({ subjectaltname: x.subjectAltName, valid_to: x.validTo, serialNumber: x.serialNumber });
  if (identity === null) {
    throw new KubeBusError('ERR_CERTIFICATE', 'the certificate names no node (URI kubebus://tenant/node)');
  }
  return identity;
}

// Which transports a command uses: `--transport`, `--proxy`, and where a cloud listens with each.

import { type Command, InvalidArgumentError, Option } from 'commander';
import type { TlsMaterial, TlsSource, Transport } from '../../lib/l2/index.js';
import { anyTransport } from '../../transports/any.js';
import { parseProxy } from '../../transports/proxy.js';
import { quicTransport } from '../../transports/quic.js';
import { type TcpOptions, tcpTransport } from '../../transports/tcp.js';
import { webSocketTransport } from '../../transports/websocket.js';
import { webTransport } from '../../transports/webtransport.js';
import { UsageError } from './common.js';

export type TransportName = 'tcp' | 'quic' | 'webtransport' | 'websocket';
const NAMES: readonly TransportName[] = ['tcp', 'quic', 'webtransport', 'websocket'];

export interface TransportFlags {
  readonly transport: readonly TransportName[];
}

export interface NodeTransportFlags extends TransportFlags {
  readonly outboundProxy?: string;
}

export interface CloudTransportFlags extends TransportFlags {
  readonly listen: { host: string; port: number };
  readonly webtransportListen?: { host: string; port: number };
  readonly websocketListen?: { host: string; port: number };
}

/** What `security()` or the cloud's own authority gives. */
type Credentials = Pick<TcpOptions, 'tls' | 'insecure' | 'services'>;

function names(text: string): TransportName[] {
  const list = text.split(',').map((part) => part.trim());
  const wrong = list.find((part) => !NAMES.includes(part as TransportName));
  if (wrong !== undefined)
    throw new InvalidArgumentError(`no transport is called ${wrong || '""'} (${NAMES.join(', ')})`);
  if (new Set(list).size < list.length) throw new InvalidArgumentError('a transport is there twice');
  return list as TransportName[];
}

function proxy(text: string): string {
  try {
    parseProxy(text);
  } catch (error) {
    throw new InvalidArgumentError((error as Error).message);
  }
  return text;
}

const transportOption = (description: string) =>
  new Option('--transport <names>', description).argParser(names).default(['tcp'] as TransportName[], 'tcp');

export function nodeTransportOptions(command: Command): void {
  command
    .addOption(
      transportOption(`how to reach the cloud, the first that works is taken: ${NAMES.join(', ')} (comma-separated)`),
    )
    .option(
      '--outbound-proxy <url>',
      'proxy of this network, for tcp and websocket: http://[user:password@]host:port, https:// or socks5://',
      proxy,
    );
}

export function cloudTransportOptions(
  command: Command,
  listenAddress: (text: string) => { host: string; port: number },
): void {
  command
    .addOption(
      transportOption('what to listen with: tcp, quic (UDP, same port), webtransport, websocket (comma-separated)'),
    )
    .option('--webtransport-listen <host:port>', 'where webtransport listens; a port of its own', listenAddress)
    .option(
      '--websocket-listen <host:port>',
      'where websocket listens; a port of its own, 443 as a rule',
      listenAddress,
    );
}

export function nodeTransport(flags: NodeTransportFlags, credentials: Credentials): Transport {
  const proxied = flags.outboundProxy === undefined ? {} : { proxy: flags.outboundProxy };
  const proxiable = flags.transport.some((name) => name === 'tcp' || name === 'websocket');
  if (flags.outboundProxy !== undefined && !proxiable)
    throw new UsageError("option '--outbound-proxy' is for tcp and websocket, and '--transport' names neither");
  const made = flags.transport.map((name) => {
    if (name === 'tcp') return tcpTransport({ ...credentials, ...proxied });
    const tls = secured(name, credentials);
    if (name === 'quic') return quicTransport({ tls });
    return name === 'webtransport' ? webTransport({ tls }) : webSocketTransport({ tls, ...proxied });
  });
  return made.length === 1 ? made[0]! : anyTransport({ transports: made });
}

/** Transports that share no port with another. */
const OWN_PORT = { webtransport: 'webtransportListen', websocket: 'websocketListen' } as const;

export function cloudTransports(flags: CloudTransportFlags, credentials: Credentials): Transport[] {
  for (const [name, flag] of Object.entries(OWN_PORT)) {
    if (flags[flag] !== undefined && !flags.transport.includes(name as TransportName))
      throw new UsageError(`option '--${name}-listen' needs '${name}' in '--transport'`);
  }
  return flags.transport.map((name) => {
    if (name === 'tcp') return tcpTransport({ listen: flags.listen, ...credentials });
    const tls = secured(name, credentials);
    if (name === 'quic') return quicTransport({ listen: flags.listen, tls });
    const listen = flags[OWN_PORT[name]];
    if (listen === undefined)
      throw new UsageError(`option '--${name}-listen' is missing: ${name} needs a port of its own`);
    return name === 'webtransport' ? webTransport({ listen, tls }) : webSocketTransport({ listen, tls });
  });
}

function secured(name: TransportName, credentials: Credentials): TlsMaterial | TlsSource {
  if (credentials.tls === undefined)
    throw new UsageError(`option '--insecure' is for the transport tcp only: ${name} is never without certificates`);
  return credentials.tls;
}

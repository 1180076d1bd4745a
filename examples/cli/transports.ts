// Which transports a command uses: `--transport`, `--proxy`, and where a cloud listens with each.

import { type Command, InvalidArgumentError } from 'commander';
import type { TlsMaterial, TlsSource, Transport } from '../../lib/l2/index.js';
import { anyTransport } from '../../transports/any.js';
import { parseProxy } from '../../transports/proxy.js';
import { quicTransport } from '../../transports/quic.js';
import { type TcpOptions, tcpTransport } from '../../transports/tcp.js';
import { webTransport } from '../../transports/webtransport.js';
import { UsageError } from './common.js';

export type TransportName = 'tcp' | 'quic' | 'webtransport';
const NAMES: readonly TransportName[] = ['tcp', 'quic', 'webtransport'];

export interface TransportFlags {
  readonly transport: readonly TransportName[];
}

export interface NodeTransportFlags extends TransportFlags {
  readonly outboundProxy?: string;
}

export interface CloudTransportFlags extends TransportFlags {
  readonly listen: { host: string; port: number };
  readonly webtransportListen?: { host: string; port: number };
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

export function nodeTransportOptions(command: Command): void {
  command
    .option(
      '--transport <names>',
      `how to reach the cloud, the first that works is taken: ${NAMES.join(', ')} (comma-separated)`,
      names,
      ['tcp'] as TransportName[],
    )
    .option(
      '--outbound-proxy <url>',
      'proxy of this network for tcp: http://[user:password@]host:port, https:// or socks5://',
      proxy,
    );
}

export function cloudTransportOptions(
  command: Command,
  listenAddress: (text: string) => { host: string; port: number },
): void {
  command
    .option(
      '--transport <names>',
      'what to listen with: tcp, quic (UDP, same port), webtransport (comma-separated)',
      names,
      ['tcp'] as TransportName[],
    )
    .option('--webtransport-listen <host:port>', 'where webtransport listens; a port of its own', listenAddress);
}

export function nodeTransport(flags: NodeTransportFlags, credentials: Credentials): Transport {
  const proxied = flags.outboundProxy === undefined ? {} : { proxy: flags.outboundProxy };
  if (flags.outboundProxy !== undefined && !flags.transport.includes('tcp'))
    throw new UsageError("option '--outbound-proxy' is for the transport tcp only, which '--transport' does not name");
  const made = flags.transport.map((name) => {
    if (name === 'tcp') return tcpTransport({ ...credentials, ...proxied });
    const tls = secured(name, credentials);
    return name === 'quic' ? quicTransport({ tls }) : webTransport({ tls });
  });
  return made.length === 1 ? made[0]! : anyTransport({ transports: made });
}

export function cloudTransports(flags: CloudTransportFlags, credentials: Credentials): Transport[] {
  const { listen, webtransportListen } = flags;
  if (webtransportListen !== undefined && !flags.transport.includes('webtransport'))
    throw new UsageError("option '--webtransport-listen' needs 'webtransport' in '--transport'");
  return flags.transport.map((name) => {
    if (name === 'tcp') return tcpTransport({ listen, ...credentials });
    const tls = secured(name, credentials);
    if (name === 'quic') return quicTransport({ listen, tls });
    if (webtransportListen === undefined)
      throw new UsageError("option '--webtransport-listen' is missing: webtransport needs a port of its own");
    return webTransport({ listen: webtransportListen, tls });
  });
}

function secured(name: TransportName, credentials: Credentials): TlsMaterial | TlsSource {
  if (credentials.tls === undefined)
    throw new UsageError(`option '--insecure' is for the transport tcp only: ${name} is never without certificates`);
  return credentials.tls;
}

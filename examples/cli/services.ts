// Options of the HTTP layer for `kubebus cloud`, `edge` and `router`, and the command `kubebus services`.

import { createWriteStream, openSync } from 'node:fs';
import { Command, InvalidArgumentError } from 'commander';
import type { Logger } from '../../lib/core/index.js';
import { LocalService, prometheusText, readForward, type Traffic } from '../../lib/http-proxy/index.js';
import type {
  AccessEntry,
  GatewayOptions,
  KubeBusCloud,
  KubeBusNode,
  ListedService,
  PublishOptions,
} from '../../lib/index.js';
import { host, hostPort, type Io, integer, list, message, name, table, text, UsageError } from './common.js';
import { readStatus } from './status.js';

interface Publication {
  readonly name: string;
  readonly urls: readonly string[];
  readonly options: PublishOptions;
}

interface Forward {
  readonly host: string;
  readonly port: number;
  readonly target: string;
}

interface ListenerFlags {
  readonly proxy?: readonly { host: string; port: number }[];
  readonly socks?: readonly { host: string; port: number }[];
  readonly forward?: readonly Forward[];
  readonly accessLog?: string;
}

export interface NodeServiceFlags extends ListenerFlags {
  readonly publish?: readonly Publication[];
}

export interface CloudServiceFlags extends ListenerFlags {
  readonly gateway?: readonly { host: string; port: number }[];
  readonly gatewayCert?: string;
  readonly gatewayKey?: string;
  readonly gatewayDomain?: readonly string[];
  readonly gatewayRedirect?: { host: string; port: number };
  readonly gatewayTrust?: boolean;
  readonly clientRate?: number;
  readonly tenantRate?: number;
}

/** `name=url[,url...][,public][,grant=tenant][,health=/path][,host=target][,port=N]` */
export function publication(value: string): Publication {
  const [, service, rest] = /^([^=]*)=(.+)$/.exec(value) ?? [];
  if (service === undefined || rest === undefined)
    throw new InvalidArgumentError(`not name=url[,public][,grant=tenant]: ${value}`);
  const urls: string[] = [];
  const grant: string[] = [];
  let options: PublishOptions = {};
  for (const part of rest.split(',')) {
    const [, key, setting] = /^(public|grant|health|host|port)(?:=(.*))?$/.exec(part) ?? [];
    if (key === undefined) urls.push(/^[a-z]+:/.test(part) ? part : `http://${part}`);
    else if (key === 'public' && setting === undefined) options = { ...options, public: true };
    else if (key === 'grant' && setting !== undefined && setting !== '') grant.push(name(setting));
    else if (key === 'health' && setting?.startsWith('/')) options = { ...options, health: { path: setting } };
    else if (key === 'host' && (setting === 'target' || setting === 'caller')) options = { ...options, host: setting };
    else if (key === 'port' && setting !== undefined) options = { ...options, port: integer(1, 65_535)(setting) };
    else throw new InvalidArgumentError(`${part} in ${value}`);
  }
  if (urls.length === 0) throw new InvalidArgumentError(`the URL is missing: ${value}`);
  // What it would refuse after joining is said before.
  checked(() => new LocalService(name(service), urls, { ...options, health: false }, () => {}).close());
  return { name: name(service), urls, options: { ...options, grant } };
}

/** Runs `check`; what it throws is a mistake in the option's value. */
function checked(check: () => unknown): void {
  try {
    check();
  } catch (error) {
    throw error instanceof InvalidArgumentError ? error : new InvalidArgumentError(message(error));
  }
}

/** `[host:]port=tenant/node:port` or `[host:]port=tenant/node/service`; on loopback unless it says otherwise. */
export function forward(value: string): Forward {
  const [, at, target] = /^([^=]+)=(\S+)$/.exec(value) ?? [];
  if (at === undefined || target === undefined) throw new InvalidArgumentError(`not port=tenant/node:port: ${value}`);
  checked(() => readForward(target, ''));
  return { ...loopbackPort(at), target };
}

function loopbackPort(value: string): { host: string; port: number } {
  return /^\d+$/.test(value) ? { host: '127.0.0.1', port: integer(0, 65_535)(value) } : hostPort(value);
}

function listenerOptions(command: Command): Command {
  return command
    .option(
      '--proxy <[host:]port>',
      'HTTP proxy to the services of the overlay, for programs of this host (repeatable)',
      list(loopbackPort),
    )
    .option(
      '--socks <[host:]port>',
      'SOCKS5 proxy to the overlay, for programs of this host (repeatable)',
      list(loopbackPort),
    )
    .option(
      '--forward <[host:]port=target>',
      'port of this host that leads to tenant/node:port or to a tcp service tenant/node/name (repeatable)',
      list(forward),
    )
    .option('--access-log <file>', "one JSON line per request; '-' for standard output", text);
}

export function nodeServiceOptions(command: Command): Command {
  return listenerOptions(
    command.option(
      '--publish <name=url,...>',
      'offer a service, e.g. camera=http://127.0.0.1:8080[,public][,grant=tenant][,health=/path] (repeatable)',
      list(publication),
    ),
  );
}

export function cloudServiceOptions(command: Command): Command {
  return listenerOptions(
    command
      .option('--gateway <host:port>', 'where the Internet reaches public services (repeatable)', list(hostPort))
      .option(
        '--gateway-cert <file>',
        'certificate chain of the gateway (PEM): serves HTTPS; read again when it changes',
        text,
      )
      .option('--gateway-key <file>', 'its private key (PEM)', text)
      .option('--gateway-domain <domain>', 'serve <service>.<node>.<tenant>.<domain> as well (repeatable)', list(host))
      .option('--gateway-redirect <host:port>', 'answer there with a redirect to https', hostPort)
      .option('--gateway-trust', 'a proxy in front is trusted: keep its Forwarded and X-Forwarded-*')
      .option('--client-rate <n>', 'requests per second and client address', integer(1, 1_000_000))
      .option('--tenant-rate <n>', 'requests per second and tenant', integer(1, 1_000_000)),
  );
}

const GATEWAY_ONLY = ['gatewayCert', 'gatewayDomain', 'gatewayTrust', 'clientRate', 'tenantRate'] as const;

/** The gateways of the flags. **Throws** UsageError. */
export function gatewaysOf(o: CloudServiceFlags): GatewayOptions[] {
  const { gateway = [], gatewayCert: cert, gatewayKey: key, gatewayRedirect } = o;
  if ((cert === undefined) !== (key === undefined))
    throw new UsageError("options '--gateway-cert' and '--gateway-key' go together");
  const alone = GATEWAY_ONLY.find((option) => o[option] !== undefined);
  if (gateway.length === 0 && alone !== undefined)
    throw new UsageError(`option '--${alone.replace(/[A-Z]/g, (c) => `-${c.toLowerCase()}`)}' needs '--gateway'`);
  if (gatewayRedirect !== undefined && (cert === undefined || gateway.length === 0))
    throw new UsageError("option '--gateway-redirect' needs '--gateway' with a certificate");
  const common = {
    ...(o.gatewayDomain === undefined ? {} : { domains: o.gatewayDomain }),
    ...(o.gatewayTrust === true ? { trustForwarded: true } : {}),
    ...(o.clientRate === undefined ? {} : { clientRate: { perSecond: o.clientRate } }),
    ...(o.tenantRate === undefined ? {} : { tenantRate: { perSecond: o.tenantRate } }),
  };
  const gateways: GatewayOptions[] = gateway.map((at) => ({
    ...at,
    ...common,
    ...(cert === undefined || key === undefined ? {} : { tls: { cert, key } }),
  }));
  if (gatewayRedirect !== undefined) gateways.push({ ...gatewayRedirect, redirectToHttps: gateway[0]!.port });
  return gateways;
}

/** The access log of the flags. **Throws** UsageError. */
export function accessLogOf(
  o: ListenerFlags,
  out: NodeJS.WritableStream,
  logger: Logger,
): { accessLog?: (entry: AccessEntry) => void } {
  if (o.accessLog === undefined) return {};
  const stream = o.accessLog === '-' ? out : logFile(o.accessLog, logger);
  return { accessLog: (entry) => stream.write(`${JSON.stringify(entry)}\n`) };
}

function logFile(path: string, logger: Logger): NodeJS.WritableStream {
  let fd: number;
  try {
    fd = openSync(path, 'a');
  } catch (error) {
    throw new UsageError(`option '--access-log': cannot write ${path}: ${(error as NodeJS.ErrnoException).code}`);
  }
  // A disk that is full ends the log, not what it is about.
  const failed = (error: Error) => logger.error({ path, err: error }, 'the access log ends here');
  return createWriteStream(path, { fd }).on('error', failed);
}

export interface OpenListener {
  readonly kind: string;
  readonly address: string;
}

const shown = ({ address, port }: { address: string; port: number }) =>
  address.includes(':') ? `[${address}]:${port}` : `${address}:${port}`;

/** Publishes and opens what the flags say. */
export async function startNodeServices(node: KubeBusNode, o: NodeServiceFlags): Promise<OpenListener[]> {
  for (const { name, urls, options } of o.publish ?? []) node.publish(name, urls, options);
  const { services } = node;
  const open: OpenListener[] = [];
  for (const at of o.proxy ?? []) open.push({ kind: 'proxy', address: shown((await services.listen(at)).address) });
  for (const at of o.socks ?? []) open.push({ kind: 'socks', address: shown((await services.socks(at)).address) });
  for (const { host, port, target } of o.forward ?? []) {
    open.push({ kind: `forward ${target}`, address: shown((await services.forward({ host, port }, target)).address) });
  }
  return open;
}

export async function startCloudServices(cloud: KubeBusCloud, o: CloudServiceFlags): Promise<OpenListener[]> {
  const { services } = cloud;
  const open: OpenListener[] = cloud.gateways.map((at) => ({ kind: 'gateway', address: shown(at) }));
  for (const at of o.proxy ?? []) {
    open.push({ kind: 'proxy', address: shown((await services.listen({ ...at, callers: 'plane' })).address) });
  }
  for (const at of o.socks ?? []) open.push({ kind: 'socks', address: shown((await services.socks(at)).address) });
  for (const { host, port, target } of o.forward ?? []) {
    open.push({ kind: `forward ${target}`, address: shown((await services.forward({ host, port }, target)).address) });
  }
  return open;
}

interface HttpStatus {
  readonly services: ListedService[];
  readonly traffic: Traffic[];
  readonly refused: Readonly<Record<string, number>>;
}

export function servicesCommand(io: Io): Command {
  return new Command('services')
    .description('list the services that a running cloud, edge or router knows, with health and traffic')
    .requiredOption('--socket <path>', 'its --status-socket', text)
    .option('--format <format>', 'table, json or prometheus', format, 'table')
    .action(async ({ socket, format }: { socket: string; format: string }) => {
      const { http } = (await readStatus(socket)) as { http?: HttpStatus };
      if (http === undefined) throw new UsageError("option '--socket': that process has not joined yet");
      if (format === 'json') io.out.write(`${JSON.stringify(http.services, null, 2)}\n`);
      else if (format === 'prometheus') io.out.write(prometheusText(http.traffic, Object.entries(http.refused)));
      else io.out.write(serviceTable(http.services));
    });
}

function format(value: string): string {
  if (!['table', 'json', 'prometheus'].includes(value))
    throw new InvalidArgumentError(`not table, json or prometheus: ${value}`);
  return value;
}

function serviceTable(services: readonly ListedService[]): string {
  const rows = services.map((s) => [
    `${s.tenant}/${s.node}/${s.name}`,
    s.kind === 'tcp' ? `tcp:${s.port}` : 'http',
    s.online ? (s.healthy ? 'up' : 'down') : 'offline',
    s.public ? 'public' : s.grants.length > 0 ? s.grants.join(',') : 'tenant',
    String(s.instances),
    String(s.traffic?.requests ?? 0),
    bytes((s.traffic?.bytesIn ?? 0) + (s.traffic?.bytesOut ?? 0)),
  ]);
  return table(['service', 'kind', 'state', 'open to', 'instances', 'requests', 'bytes'], rows);
}

function bytes(n: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];
  let value = n;
  let unit = 0;
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024;
    unit++;
  }
  return `${unit === 0 ? value : value.toFixed(1)} ${units[unit]}`;
}

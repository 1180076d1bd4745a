// `kubebus cloud`

import { isIP, type Server } from 'node:net';
import { Command, InvalidArgumentError, Option } from 'commander';
import type { Logger } from '../../lib/core/index.js';
import { KubeBusCloud, type TenantOptions } from '../../lib/index.js';
import { type JoinAuthority, openJoinAuthority } from '../../lib/join/index.js';
import type { RateLimit } from '../../lib/l2/index.js';
import { AddressPool, parsePrefix } from '../../lib/l3/index.js';
import { DEFAULT_PORT, parseHostPort } from '../../transports/tcp.js';
import { adminPath, serveAdmin } from './admin.js';
import {
  device,
  host,
  hostPort,
  type Io,
  integer,
  list,
  logLevel,
  makeLogger,
  message,
  name,
  prefix,
  text,
  twice,
  UsageError,
  untilStopped,
} from './common.js';
import { applyPriority, type PriorityFlags, priorityOptions } from './priority.js';
import {
  accessLogOf,
  type CloudServiceFlags,
  cloudServiceOptions,
  gatewaysOf,
  startCloudServices,
} from './services.js';
import { serveStatus } from './status.js';
import { checkGatewayPair, cloudOf, dateProblem, live, security, type TlsFiles } from './tls-files.js';
import { duration } from './token.js';
import { type CloudTransportFlags, cloudTransportOptions, cloudTransports } from './transports.js';

interface CloudFlags extends TlsFiles, CloudTransportFlags, CloudServiceFlags, PriorityFlags {
  readonly listen: { host: string; port: number };
  readonly tenant?: readonly { tenant: string; pools: string[] }[];
  readonly tun?: readonly { tenant: string; device?: string }[];
  readonly state?: string;
  readonly host?: readonly PublicHost[];
  readonly nodeLifetime?: number;
  readonly rate?: readonly TenantRate[];
  readonly nodeRate?: readonly TenantRate[];
  readonly mtu: number;
  readonly name?: string;
  readonly statusSocket?: string;
  readonly logLevel: string;
}

function tenantPools(text: string): { tenant: string; pools: string[] } {
  const [, tenant, list] = /^([^=]*)=([^=]+)$/.exec(text) ?? [];
  if (tenant === undefined || list === undefined) throw new InvalidArgumentError(`not tenant=pool,pool: ${text}`);
  const pools = list.split(',').map(prefix);
  try {
    // Refused here rather than at the start, so that the message names the option.
    new AddressPool({ pools: pools.map(parsePrefix) });
  } catch (error) {
    throw new InvalidArgumentError(message(error));
  }
  return { tenant: name(tenant), pools };
}

interface TenantRate {
  readonly tenant: string;
  readonly rate: RateLimit;
}

/** 500k, 10M, 1G: bits per second. Returns bytes per second. */
function bits(text: string): number {
  const [, number, unit = ''] = /^(\d{1,6}(?:\.\d{1,3})?)([kMG]?)$/.exec(text) ?? [];
  const rate = (Number(number) * { '': 1, k: 1e3, M: 1e6, G: 1e9 }[unit as '' | 'k' | 'M' | 'G']) / 8;
  if (!(rate >= 1_000))
    throw new InvalidArgumentError(`not bits per second such as 500k, 10M or 1G (at least 8k): ${text}`);
  return rate;
}

/** tenant=up, or tenant=up/down. */
function tenantRate(text: string): TenantRate {
  const [, tenant, up, down = up] = /^([^=]+)=([^/]+)(?:\/(.+))?$/.exec(text) ?? [];
  if (tenant === undefined) throw new InvalidArgumentError(`not tenant=rate or tenant=up/down: ${text}`);
  return { tenant: name(tenant), rate: { up: bits(up!), down: bits(down!) } };
}

interface Goodbye {
  readonly retryAfterMs: number;
  readonly addresses: readonly string[];
}

/** A cloud that is told to stop is mostly restarted at once. */
const RETRY_AFTER_MS = 1_000;

interface PublicHost {
  readonly host: string;
  readonly port?: number;
}

/** host, host:port, address, [v6]:port. */
function publicHost(text: string): PublicHost {
  if (isIP(text) !== 0) return { host: text };
  const [, v6, plain, port] = /^(?:\[([^\]]+)\]|([^:]+))(?::(\d{1,5}))?$/.exec(text) ?? [];
  const found = host(v6 ?? plain ?? text);
  return port === undefined ? { host: found } : { host: found, port: integer(1, 65_535)(port) };
}

function tenantTun(text: string): { tenant: string; device?: string } {
  const at = text.indexOf('=');
  if (at < 0) return { tenant: name(text) };
  return { tenant: name(text.slice(0, at)), device: device(text.slice(at + 1)) };
}

export function cloudCommand(io: Io): Command {
  const command = new Command('cloud')
    .description('run KubeBus@Cloud: accept the nodes of one or more tenants and route between them')
    .addOption(
      new Option('--listen <host:port>', 'address to listen on')
        .argParser(hostPort)
        .default({ host: '0.0.0.0', port: DEFAULT_PORT }, `0.0.0.0:${DEFAULT_PORT}`),
    )
    .option(
      '--tenant <name=pools>',
      'a tenant and its edge pools, e.g. acme=10.80.0.0/16,fd80::/64 (repeatable)',
      list(tenantPools),
    )
    .option('--cert <file>', 'certificate of the cloud (PEM)', text)
    .option('--key <file>', 'its private key (PEM)', text)
    .option('--ca <file>', 'certificate of the CA that signs the nodes (PEM)', text)
    .option('--insecure', 'no encryption and no certificates: for closed networks and measurements only')
    .option(
      '--tun <tenant[=device]>',
      "put this host on the tenant's overlay (needs CAP_NET_ADMIN; repeatable)",
      list(tenantTun),
    )
    .option('--state <dir>', 'folder for the address book, and for the CA where no --cert is given', text)
    .option(
      '--host <host[:port]>',
      'name or address under which nodes reach this cloud, which then signs them itself (repeatable)',
      list(publicHost),
    )
    .option(
      '--rate <tenant=up[/down]>',
      'bits per second of all nodes of a tenant together, from them and to them, e.g. acme=100M/200M (repeatable)',
      list(tenantRate),
    )
    .option('--node-rate <tenant=up[/down]>', 'bits per second of each node of a tenant (repeatable)', list(tenantRate))
    .option('--node-lifetime <time>', 'validity of the certificates that nodes get and renew (default: 7d)', duration)
    .option('--mtu <bytes>', 'largest IP packet of the overlays', integer(1280, 65_535), 1400)
    .option('--name <name>', 'name of this cloud (default: the one in its certificate)', name)
    .option('--status-socket <path>', 'unix socket for `kubebus status`', text)
    .option('--log-level <level>', 'debug, info, warn, error or silent', logLevel, 'info')
    .option('--config <file>', 'YAML file with the same options (flags win)')
    .action((flags: CloudFlags) => run(flags, io));
  for (const option of priorityOptions()) command.addOption(option);
  cloudTransportOptions(command, hostPort);
  return cloudServiceOptions(command);
}

async function run(o: CloudFlags, io: Io): Promise<void> {
  if (o.tenant === undefined)
    throw new UsageError("option '--tenant' is missing: name at least one tenant and its pool");
  const names = o.tenant.map((t) => t.tenant);
  const again = twice(names);
  if (again !== undefined)
    throw new UsageError(`option '--tenant': ${again} is there twice: give all its pools at once`);
  const tuns = (o.tun ?? []).map((t) => t.tenant);
  const stranger = tuns.find((tenant) => !names.includes(tenant));
  if (stranger !== undefined) throw new UsageError(`option '--tun': no '--tenant' named ${stranger}`);
  const tunAgain = twice(tuns);
  if (tunAgain !== undefined) throw new UsageError(`option '--tun': ${tunAgain} is there twice`);
  for (const option of ['rate', 'nodeRate'] as const) {
    const flag = option === 'rate' ? '--rate' : '--node-rate';
    const rated = (o[option] ?? []).map((r) => r.tenant);
    const unknown = rated.find((tenant) => !names.includes(tenant));
    if (unknown !== undefined) throw new UsageError(`option '${flag}': no '--tenant' named ${unknown}`);
    const double = twice(rated);
    if (double !== undefined) throw new UsageError(`option '${flag}': ${double} is there twice`);
  }
  const tenants = Object.fromEntries(
    o.tenant.map(({ tenant, pools }): [string, TenantOptions] => {
      const tun = o.tun?.find((t) => t.tenant === tenant);
      const rate = o.rate?.find((r) => r.tenant === tenant)?.rate;
      const nodeRate = o.nodeRate?.find((r) => r.tenant === tenant)?.rate;
      return [
        tenant,
        {
          pools,
          ...(tun === undefined ? {} : { tun: tun.device === undefined ? true : { name: tun.device } }),
          ...(rate === undefined ? {} : { rate }),
          ...(nodeRate === undefined ? {} : { nodeRate }),
        },
      ];
    }),
  );
  const prioritize = applyPriority(io, o);
  const logger = makeLogger(o.logLevel, io.out);
  let dialled: readonly string[] = [];
  const authority = await ownAuthority(o, names, () => dialled, logger);
  try {
    await serve(o, io, tenants, logger, authority, {
      onAddresses: (addresses) => {
        dialled = addresses;
      },
      prioritize,
    });
  } finally {
    await authority?.close();
  }
  logger.info({}, 'cloud stopped');
}

/** The CA in the state folder, where `--host` asks for it. */
async function ownAuthority(
  o: CloudFlags,
  tenants: readonly string[],
  addresses: () => readonly string[],
  logger: Logger,
): Promise<JoinAuthority | null> {
  const { state, host: hosts } = o;
  if (hosts === undefined) {
    if (o.nodeLifetime !== undefined) throw new UsageError("option '--node-lifetime' needs '--host'");
    return null;
  }
  const other = (['insecure', 'cert', 'key', 'ca'] as const).find((option) => o[option] !== undefined);
  if (other !== undefined)
    throw new UsageError(
      `option '--host' makes no sense with '--${other}': with it the cloud makes its own certificates`,
    );
  if (state === undefined) throw new UsageError("option '--host' needs '--state': a folder for the CA");
  return openJoinAuthority({
    stateDir: state,
    hosts: hosts.map((h) => h.host),
    addresses,
    tenants,
    logger,
    ...(o.name === undefined ? {} : { name: o.name }),
    ...(o.nodeLifetime === undefined ? {} : { nodeLifetimeMs: o.nodeLifetime }),
  });
}

interface Hooks {
  readonly onAddresses: (addresses: readonly string[]) => void;
  readonly prioritize: ReturnType<typeof applyPriority>;
}

async function serve(
  o: CloudFlags,
  io: Io,
  tenants: Readonly<Record<string, TenantOptions>>,
  logger: Logger,
  authority: JoinAuthority | null,
  { onAddresses, prioritize }: Hooks,
): Promise<void> {
  const instead = " (or give '--state' and '--host', and the cloud makes its own; or '--insecure')";
  const files = authority === null ? security(o, instead) : null;
  const certificate = files?.certificate ?? null;
  const own = certificate === null ? 'cloud' : cloudOf(o.cert!, certificate);
  if (certificate !== null && o.name !== undefined && o.name !== own)
    throw new UsageError(`option '--name': the certificate names the cloud ${own}`);
  const problem = certificate === null ? null : dateProblem(certificate);
  if (problem !== null) logger.warn({ option: 'cert' }, problem);
  const gateways = gatewaysOf(o);
  if (o.gatewayCert !== undefined && o.gatewayKey !== undefined) checkGatewayPair(o.gatewayCert, o.gatewayKey);
  const transport =
    authority === null ? live(o, files!.transport, logger) : { tls: authority.tls, services: [authority.service] };
  const cloud = await KubeBusCloud.start({
    transports: cloudTransports(o, transport),
    tenants,
    name: o.name ?? own,
    mtu: o.mtu,
    logger,
    gateways,
    http: accessLogOf(o, io.out, logger),
    ...(o.state === undefined ? {} : { stateDir: o.state }),
    ...(authority === null ? {} : { authority }),
  });
  const { port } = parseHostPort(cloud.addresses[0]!);
  onAddresses((o.host ?? []).map((h) => `kubebus://${isIP(h.host) === 6 ? `[${h.host}]` : h.host}:${h.port ?? port}`));
  const drained = new AbortController();
  let goodbye: Goodbye = { retryAfterMs: RETRY_AFTER_MS, addresses: [] };
  const servers: Server[] = [];
  const endPriority = prioritize(() => cloud.carried, logger);
  try {
    if (o.statusSocket !== undefined) servers.push(await serveStatus(o.statusSocket, () => cloud.stats()));
    if (o.state !== undefined) {
      const drain = (options: Goodbye) => {
        goodbye = options;
        drained.abort();
      };
      servers.push(await serveAdmin(adminPath(o.state), { cloud, authority, drain }));
    }
    const listeners = await startCloudServices(cloud, o);
    const { addresses } = cloud;
    const names = Object.keys(tenants);
    logger.info({ addresses, tenants: names, ...(listeners.length > 0 ? { listeners } : {}) }, 'cloud up');
    await untilStopped(AbortSignal.any([io.stop, drained.signal]));
  } finally {
    endPriority();
    for (const server of servers) server.close();
    await cloud.stop(undefined, goodbye.retryAfterMs, goodbye.addresses);
  }
}

// `kubebus cloud`

import { Command, InvalidArgumentError } from 'commander';
import { KubeBusCloud } from '../../lib/index.js';
import { DEFAULT_PORT, tcpTransport } from '../../transports/tcp.js';
import {
  hostPort,
  integer,
  list,
  logLevel,
  makeLogger,
  name,
  prefix,
  security,
  stayAlive,
  stopOnSignal,
  type TlsFiles,
  UsageError,
} from './common.js';
import { serveStatus } from './status.js';

interface CloudFlags extends TlsFiles {
  readonly listen: { host: string; port: number };
  readonly tenant?: readonly { tenant: string; pools: string[] }[];
  readonly tun?: readonly { tenant: string; device?: string }[];
  readonly state?: string;
  readonly mtu: number;
  readonly name: string;
  readonly statusSocket?: string;
  readonly logLevel: string;
}

function tenantPools(text: string): { tenant: string; pools: string[] } {
  const [tenant = '', pools = ''] = text.split('=', 2);
  if (pools === '') throw new InvalidArgumentError(`not tenant=pool,pool: ${text}`);
  return { tenant: name(tenant), pools: pools.split(',').map(prefix) };
}

function tenantTun(text: string): { tenant: string; device?: string } {
  const [tenant = '', device] = text.split('=', 2);
  return { tenant: name(tenant), ...(device === undefined ? {} : { device }) };
}

export function cloudCommand(): Command {
  return new Command('cloud')
    .description('run KubeBus@Cloud: accept the nodes of one or more tenants and route between them')
    .option('--listen <host:port>', 'address to listen on', hostPort, { host: '0.0.0.0', port: DEFAULT_PORT })
    .option(
      '--tenant <name=pools>',
      'a tenant and its edge pools, e.g. acme=10.80.0.0/16,fd80::/64 (repeatable)',
      list(tenantPools),
    )
    .option('--cert <file>', 'certificate of the cloud (PEM)')
    .option('--key <file>', 'its private key (PEM)')
    .option('--ca <file>', 'certificate of the CA that signs the nodes (PEM)')
    .option('--insecure', 'no encryption and no certificates: for closed networks and measurements only')
    .option(
      '--tun <tenant[=device]>',
      "put this host on the tenant's overlay (needs CAP_NET_ADMIN; repeatable)",
      list(tenantTun),
    )
    .option('--state <dir>', 'folder for the address book')
    .option('--mtu <bytes>', 'largest IP packet of the overlays', integer(1280, 65_535), 1400)
    .option('--name <name>', 'name of this cloud', name, 'cloud')
    .option('--status-socket <path>', 'unix socket for `kubebus status`')
    .option('--log-level <level>', 'debug, info, warn, error or silent', logLevel, 'info')
    .option('--config <file>', 'YAML file with the same options (flags win)')
    .action(run);
}

async function run(o: CloudFlags): Promise<void> {
  if (o.tenant === undefined)
    throw new UsageError("option '--tenant' is missing: name at least one tenant and its pool");
  const tenants = Object.fromEntries(
    o.tenant.map(({ tenant, pools }) => {
      const tun = o.tun?.find((t) => t.tenant === tenant);
      return [
        tenant,
        { pools, ...(tun === undefined ? {} : { tun: tun.device === undefined ? true : { name: tun.device } }) },
      ];
    }),
  );
  const stranger = o.tun?.find((t) => !(t.tenant in tenants));
  if (stranger !== undefined) throw new UsageError(`option '--tun': no '--tenant' named ${stranger.tenant}`);
  const logger = makeLogger(o.logLevel);
  const cloud = await KubeBusCloud.start({
    transports: [tcpTransport({ listen: o.listen, ...security(o) })],
    tenants,
    name: o.name,
    mtu: o.mtu,
    logger,
    ...(o.state === undefined ? {} : { stateDir: o.state }),
  });
  stopOnSignal(() => cloud.stop());
  if (o.statusSocket !== undefined) await serveStatus(o.statusSocket, () => cloud.stats());
  logger.info({ addresses: cloud.addresses, tenants: Object.keys(tenants) }, 'cloud up');
  stayAlive();
}

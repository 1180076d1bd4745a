// `kubebus edge` and `kubebus router`: the same node; a router advertises what lies behind it.

import { X509Certificate } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { Command, InvalidArgumentError } from 'commander';
import { type Advertisement, KubeBusNode } from '../../lib/index.js';
import { nodeIdentity } from '../../transports/identity.js';
import { tcpTransport } from '../../transports/tcp.js';
import {
  cloudAddress,
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
import { startSnat } from './snat.js';
import { serveStatus } from './status.js';

interface NodeFlags extends TlsFiles {
  readonly cloud?: readonly string[];
  readonly tenant?: string;
  readonly node?: string;
  readonly tun?: boolean | string;
  readonly connections: number;
  readonly advertise?: readonly Advertisement[];
  readonly snat?: boolean;
  readonly state?: string;
  readonly mtu: number;
  readonly statusSocket?: string;
  readonly logLevel: string;
}

function advertisement(text: string): Advertisement {
  const match = /^(.+\/\d+)(?::(vm|container))?(?:@(\d+))?$/.exec(text);
  if (match === null) throw new InvalidArgumentError(`not prefix[:vm|container][@metric]: ${text}`);
  const kind = match[2] === 'container' ? 'container' : 'vm';
  return { prefix: prefix(match[1]!), kind, ...(match[3] === undefined ? {} : { metric: Number(match[3]) }) };
}

export function nodeCommand(kind: 'edge' | 'router'): Command {
  const command = new Command(kind)
    .description(
      kind === 'edge'
        ? 'run a node: dial the cloud and join the overlay of the tenant'
        : 'run the virtual router of a VM subnet: a node that advertises the VM and container subnets behind it',
    )
    .option('--cloud <address>', 'where the cloud is, e.g. kubebus://hub.example:7443 (repeatable)', list(cloudAddress))
    .option('--cert <file>', 'certificate of this node (PEM)')
    .option('--key <file>', 'its private key (PEM)')
    .option('--ca <file>', 'certificate of the CA that signs the cloud (PEM)')
    .option('--insecure', 'no encryption and no certificates; needs --tenant and --node')
    .option('--tenant <name>', 'tenant of this node (with --insecure)', name)
    .option('--node <name>', 'name of this node (with --insecure)', name)
    .option('--tun [device]', 'put this host on the overlay (needs CAP_NET_ADMIN)')
    .option('--connections <n>', 'connections of the link', integer(1, 64), 1)
    .option(
      '--advertise <prefix[:kind][@metric]>',
      'a subnet behind this node, e.g. 10.1.0.0/24:vm (repeatable)',
      list(advertisement),
    )
    .option('--state <dir>', 'folder where the node remembers its addresses')
    .option('--mtu <bytes>', 'largest IP packet', integer(1280, 65_535), 1400)
    .option('--status-socket <path>', 'unix socket for `kubebus status`')
    .option('--log-level <level>', 'debug, info, warn, error or silent', logLevel, 'info')
    .option('--config <file>', 'YAML file with the same options (flags win)')
    .action((flags: NodeFlags) => run(kind, flags));
  if (kind === 'router')
    command.option('--snat', "translate sources to this host's address towards the advertised subnets");
  return command;
}

/** Who we are: in the certificate, or on the command line where there is none. */
function identity(o: NodeFlags): { tenant: string; node: string } {
  if (o.insecure === true) {
    const missing = (['tenant', 'node'] as const).find((option) => o[option] === undefined);
    if (missing !== undefined)
      throw new UsageError(`option '--${missing}' is missing: with '--insecure' no certificate names it`);
    return { tenant: o.tenant!, node: o.node! };
  }
  const { cert } = (security(o) as { tls: { cert: string } }).tls;
  let found: ReturnType<typeof nodeIdentity>;
  try {
    const { subjectAltName, validTo } = new X509Certificate(cert);
    found = nodeIdentity({ subjectaltname: subjectAltName, valid_to: validTo });
  } catch {
    throw new UsageError(`option '--cert': ${o.cert} is no certificate (PEM)`);
  }
  if (found === null) throw new UsageError(`option '--cert': ${o.cert} names no node (made with 'kubebus ca node'?)`);
  for (const option of ['tenant', 'node'] as const) {
    if (o[option] !== undefined && o[option] !== found[option]) {
      throw new UsageError(`option '--${option}': the certificate is for ${found.tenant}/${found.node}`);
    }
  }
  return found;
}

async function run(kind: 'edge' | 'router', o: NodeFlags): Promise<void> {
  if (o.cloud === undefined)
    throw new UsageError("option '--cloud' is missing: the address of the cloud, kubebus://host:port");
  const { tenant, node } = identity(o);
  if (kind === 'router') {
    if (o.advertise === undefined)
      throw new UsageError("option '--advertise' is missing: a router needs the subnets behind it");
    if (o.snat && !o.tun) throw new UsageError("option '--snat' needs '--tun'");
  }
  const logger = makeLogger(o.logLevel);
  const abort = new AbortController();
  let stop = async () => abort.abort();
  stopOnSignal(() => stop());
  const running = await KubeBusNode.join({
    cloud: o.cloud,
    transport: tcpTransport(security(o)),
    tenant,
    node,
    connections: o.connections,
    advertise: o.advertise ?? [],
    tun: typeof o.tun === 'string' ? { name: o.tun } : o.tun === true,
    mtu: o.mtu,
    logger,
    signal: abort.signal,
    ...(o.state === undefined ? {} : { stateDir: o.state }),
  });
  stop = () => running.stop();
  if (kind === 'router') {
    if (o.tun) warnWithoutForwarding(o.advertise!, (text) => logger.warn({}, text));
    if (o.snat) {
      const prefixes = o.advertise!.map((a) => a.prefix);
      const snat = await startSnat(running.device!, prefixes, (reason) =>
        logger.error({}, `source NAT is gone: ${reason}`),
      );
      stop = () => {
        snat.stop();
        return running.stop();
      };
    }
  }
  if (o.statusSocket !== undefined) await serveStatus(o.statusSocket, () => running.stats());
  logger.info({ tenant, node, addresses: running.addresses, device: running.device }, `${kind} up`);
  stayAlive();
}

function warnWithoutForwarding(advertise: readonly Advertisement[], warn: (text: string) => void): void {
  const check = (v6: boolean, path: string, setting: string) => {
    if (!advertise.some((a) => a.prefix.includes(':') === v6)) return;
    if (readFileSync(path, 'utf8').trim() === '0')
      warn(`this host does not forward: set it with 'sysctl -w ${setting}=1'`);
  };
  check(false, '/proc/sys/net/ipv4/ip_forward', 'net.ipv4.ip_forward');
  check(true, '/proc/sys/net/ipv6/conf/all/forwarding', 'net.ipv6.conf.all.forwarding');
}

// `kubebus edge` and `kubebus router`: the same node; a router advertises what lies behind it.

import { readFileSync } from 'node:fs';
import { Command, InvalidArgumentError } from 'commander';
import { silentLogger } from '../../lib/core/index.js';
import { type Advertisement, KubeBusNode, type NodeOptions } from '../../lib/index.js';
import { NodeIdentity, parseToken } from '../../lib/join/index.js';
import { formatPrefix, notUnicast, parsePrefix } from '../../lib/l3/index.js';
import { serviceDialer } from '../../transports/tcp.js';
import {
  cloudAddress,
  device,
  type Io,
  integer,
  list,
  logLevel,
  makeLogger,
  name,
  prefix,
  text,
  twice,
  UsageError,
  untilStopped,
} from './common.js';
import { applyPriority, type PriorityFlags, priorityOptions } from './priority.js';
import { accessLogOf, type NodeServiceFlags, nodeServiceOptions, startNodeServices } from './services.js';
import { checkSnat, startSnat } from './snat.js';
import { serveStatus } from './status.js';
import { dateProblem, live, nodeOf, type Security, security, type TlsFiles } from './tls-files.js';
import { type NodeTransportFlags, nodeTransport, nodeTransportOptions } from './transports.js';

interface NodeFlags extends TlsFiles, NodeTransportFlags, NodeServiceFlags, PriorityFlags {
  readonly join?: string;
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
  const metric = match[3] === undefined ? {} : { metric: integer(0, 65_535)(match[3]) };
  const subnet = prefix(match[1]!);
  const impossible = notUnicast(parsePrefix(subnet));
  if (impossible !== undefined)
    throw new InvalidArgumentError(`${subnet} has addresses of ${formatPrefix(impossible)} in it, which are no host's`);
  return { prefix: subnet, kind, ...metric };
}

export function nodeCommand(kind: 'edge' | 'router', io: Io): Command {
  const command = new Command(kind)
    .description(
      kind === 'edge'
        ? 'run a node: dial the cloud and join the overlay of the tenant'
        : 'run the virtual router of a VM subnet: a node that advertises the VM and container subnets behind it',
    )
    .option(
      '--join <token>',
      "what 'kubebus token create' printed, or - to read it from standard input; needs --state",
      text,
    )
    .option('--cloud <address>', 'where the cloud is, e.g. kubebus://hub.example:7443 (repeatable)', list(cloudAddress))
    .option('--cert <file>', 'certificate of this node (PEM)', text)
    .option('--key <file>', 'its private key (PEM)', text)
    .option('--ca <file>', 'certificate of the CA that signs the cloud (PEM)', text)
    .option('--insecure', 'no encryption and no certificates; needs --tenant and --node')
    .option('--tenant <name>', 'tenant of this node (with --insecure)', name)
    .option('--node <name>', 'name of this node (with --insecure, or with --join where the token leaves it open)', name)
    .option('--tun [device]', 'put this host on the overlay (needs CAP_NET_ADMIN)', device)
    .option('--connections <n>', 'connections of the link', integer(1, 64), 1)
    .option(
      '--advertise <prefix[:kind][@metric]>',
      'a subnet behind this node, e.g. 10.1.0.0/24:vm (repeatable)',
      list(advertisement),
    )
    .option('--state <dir>', 'folder where the node keeps its certificate (with --join) and its addresses', text)
    .option('--mtu <bytes>', 'largest IP packet', integer(1280, 65_535), 1400)
    .option('--status-socket <path>', 'unix socket for `kubebus status`', text)
    .option('--log-level <level>', 'debug, info, warn, error or silent', logLevel, 'info')
    .option('--config <file>', 'YAML file with the same options (flags win)')
    .action((flags: NodeFlags) => run(kind, flags, io));
  for (const option of priorityOptions()) command.addOption(option);
  nodeTransportOptions(command);
  nodeServiceOptions(command);
  if (kind === 'router')
    command.option('--snat', "translate sources to this host's address towards the advertised subnets");
  return command;
}

/** Who we are: in the certificate, or on the command line where there is none. */
function identity(o: NodeFlags, certificate: Security['certificate']): { tenant: string; node: string } {
  if (certificate === null) {
    const missing = (['tenant', 'node'] as const).find((option) => o[option] === undefined);
    if (missing !== undefined)
      throw new UsageError(`option '--${missing}' is missing: with '--insecure' no certificate names it`);
    return { tenant: o.tenant!, node: o.node! };
  }
  const found = nodeOf(o.cert!, certificate);
  for (const option of ['tenant', 'node'] as const) {
    if (o[option] !== undefined && o[option] !== found[option]) {
      throw new UsageError(`option '--${option}': the certificate is for ${found.tenant}/${found.node}`);
    }
  }
  return { tenant: found.tenant, node: found.node };
}

type Common = Pick<NodeOptions, 'connections' | 'advertise' | 'tun' | 'mtu' | 'logger' | 'signal' | 'http'>;

interface Who {
  /** As far as it is known before joining. */
  readonly name: { readonly tenant?: string; readonly node?: string };
  readonly warning: string | null;
  start(common: Common): Promise<KubeBusNode>;
}

/** With a token, or as what an earlier token made of this state folder. */
function joins(o: NodeFlags): o is NodeFlags & { state: string } {
  const other = (['cloud', 'cert', 'key', 'ca', 'insecure', 'tenant'] as const).find(
    (option) => o[option] !== undefined,
  );
  if (o.join === undefined) return other === undefined && o.state !== undefined && NodeIdentity.isIn(o.state);
  if (other !== undefined) throw new UsageError(`option '--${other}' makes no sense with '--join': the token says it`);
  if (o.state === undefined) throw new UsageError("option '--join' needs '--state': a folder for key and certificate");
  return true;
}

async function byToken(o: NodeFlags & { state: string }, io: Io): Promise<Who> {
  const token = o.join === '-' ? await readToken(io) : o.join;
  if (token !== undefined) {
    try {
      parseToken(token);
    } catch (error) {
      throw new UsageError(`option '--join': ${(error as Error).message}`);
    }
  }
  const { state: stateDir, node } = o;
  return {
    name: node === undefined ? {} : { node },
    warning: null,
    start: (common) =>
      KubeBusNode.join({
        ...common,
        stateDir,
        transport: (tls) => nodeTransport(o, { tls }),
        dialService: serviceDialer(o.outboundProxy),
        ...(token === undefined ? {} : { token }),
        ...(node === undefined ? {} : { node }),
      }),
  };
}

async function readToken(io: Io): Promise<string> {
  let read = '';
  for await (const chunk of io.in ?? []) {
    read += chunk;
    if (read.length > 8192) break;
  }
  return read.trim();
}

async function byFiles(o: NodeFlags): Promise<Who> {
  const { cloud, state } = o;
  if (cloud === undefined)
    throw new UsageError("option '--cloud' is missing: the address of the cloud, kubebus://host:port (or '--join')");
  const { transport, certificate } = security(o);
  const name = identity(o, certificate);
  // Mistakes are said before anything starts.
  nodeTransport(o, transport);
  return {
    name,
    warning: certificate === null ? null : dateProblem(certificate),
    start: (common) =>
      KubeBusNode.join({
        ...common,
        ...name,
        cloud,
        transport: nodeTransport(o, live(o, transport, common.logger ?? silentLogger)),
        ...(state === undefined ? {} : { stateDir: state }),
      }),
  };
}

async function run(kind: 'edge' | 'router', o: NodeFlags, io: Io): Promise<void> {
  const who = await (joins(o) ? byToken(o, io) : byFiles(o));
  const advertise = o.advertise ?? [];
  const prefixAgain = twice(advertise.map((a) => a.prefix));
  if (prefixAgain !== undefined) throw new UsageError(`option '--advertise': ${prefixAgain} is there twice`);
  const serviceAgain = twice((o.publish ?? []).map((p) => p.name));
  if (serviceAgain !== undefined)
    throw new UsageError(`option '--publish': ${serviceAgain} is there twice: give all its URLs at once`);
  if (kind === 'router') {
    if (advertise.length === 0)
      throw new UsageError("option '--advertise' is missing: a router needs the subnets behind it");
    if (o.snat && !o.tun) throw new UsageError("option '--snat' needs '--tun'");
    if (o.snat) await checkSnat();
  }
  const prioritize = applyPriority(io, o);
  // From here on: while nothing is connected, nothing else keeps the process alive.
  const stopped = untilStopped(io.stop);
  const logger = makeLogger(o.logLevel, io.out);
  if (who.warning !== null) logger.warn({ option: 'cert' }, who.warning);
  let running: KubeBusNode | null = null;
  // Undone from the last to the first, however this ends.
  const ends: (() => unknown)[] = [];
  try {
    // Before joining: the state of a node that cannot reach its cloud is asked for most.
    if (o.statusSocket !== undefined) {
      const status = await serveStatus(o.statusSocket, () => running?.stats() ?? { ...who.name, state: 'connecting' });
      ends.push(() => status.close());
    }
    running = await who.start({
      connections: o.connections,
      advertise,
      tun: typeof o.tun === 'string' ? { name: o.tun } : o.tun === true,
      mtu: o.mtu,
      logger,
      signal: io.stop,
      http: accessLogOf(o, io.out, logger),
    });
    const joined = running;
    ends.push(() => joined.stop());
    ends.push(prioritize(() => joined.carried, logger));
    if (kind === 'router' && o.tun) {
      warnWithoutForwarding(advertise, (text) => logger.warn({}, text));
      if (o.snat) {
        const prefixes = advertise.map((a) => a.prefix);
        const lost = (reason: string) => logger.error({}, `source NAT is gone: ${reason}`);
        const snat = await startSnat(joined.device!, prefixes, lost);
        ends.push(() => snat.stop());
      }
    }
    const listeners = await startNodeServices(joined, o);
    const { tenant, node, addresses, device } = joined;
    logger.info({ tenant, node, addresses, device, ...(listeners.length > 0 ? { listeners } : {}) }, `${kind} up`);
    await Promise.race([stopped, sentAway(joined), deviceLost(joined)]);
  } catch (error) {
    if (!io.stop.aborted || error instanceof UsageError) throw error;
  } finally {
    for (const end of ends.reverse()) await end();
  }
  logger.info({}, `${kind} stopped`);
}

/** Rejects when the cloud says that this node need not come again. */
function sentAway(running: KubeBusNode): Promise<never> {
  return new Promise((_, reject) => {
    running.on('down', (reason) => {
      if (running.link.state === 'closed' && reason?.side === 'remote') reject(reason);
    });
  });
}

/** Rejects when the TUN device is gone: the host is off the overlay, and only a new start brings it back. */
function deviceLost(running: KubeBusNode): Promise<never> {
  return new Promise((_, reject) => {
    running.on('error', (error) => {
      if (error.code === 'ERR_TUN_LOST') reject(error);
    });
  });
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

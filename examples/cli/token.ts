// `kubebus token` and `kubebus node`: who may join a running cloud that signs its own nodes.

import { Command, InvalidArgumentError, Option } from 'commander';
import { isName } from '../../lib/l2/index.js';
import { adminPath, askAdmin, DEFAULT_STATE } from './admin.js';
import { cloudAddress, type Io, integer, list, name, prefix, table, text } from './common.js';

interface Where {
  readonly state: string;
}

const UNITS: Readonly<Record<string, number>> = { s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 };

/** More is a slip of the finger: no CA of ours is valid for longer. */
const MOST = 3650 * UNITS.d!;

/** '90s', '15m', '1h', '7d', in milliseconds. */
export function duration(text: string): number {
  const [, number, unit] = /^(\d{1,6})([smhd])$/.exec(text) ?? [];
  const ms = Number(number) * (UNITS[unit ?? ''] ?? Number.NaN);
  if (!(ms > 0)) throw new InvalidArgumentError(`not a time such as 90s, 15m, 1h or 7d: ${text}`);
  if (ms > MOST) throw new InvalidArgumentError(`more than 3650d: ${text}`);
  return ms;
}

function tenantNode(text: string): [string, string] {
  const parts = text.split('/');
  if (parts.length !== 2 || !parts.every(isName)) throw new InvalidArgumentError(`not tenant/node: ${text}`);
  return parts as [string, string];
}

function withState(command: Command): Command {
  return command.option('--state <dir>', 'state folder of the running cloud', text, DEFAULT_STATE);
}

export function tokenCommand(io: Io): Command {
  const token = new Command('token').description('make, list and revoke the tokens with which nodes join');
  withState(token.command('create'))
    .description('make a token and print it: the one thing that a new node needs')
    .requiredOption('--tenant <name>', 'tenant of the node', name)
    .option('--node <name>', 'only for this node; it replaces an earlier device of that name', name)
    .addOption(
      new Option('--ttl <time>', 'valid for so long: 90s, 15m, 1h, 7d').argParser(duration).default(UNITS.h, '1h'),
    )
    .option('--routes <prefix,...>', 'subnets that the node may advertise (repeatable)', list(prefixes))
    .option('--uses <n>', 'devices that may join with it', integer(1, 1_000_000), 1)
    .option('--json', 'print id and time of expiry too')
    .action(
      async (
        o: Where & { tenant: string; node?: string; ttl: number; routes?: string[][]; uses: number; json?: boolean },
      ) => {
        const scope = {
          tenant: o.tenant,
          ttlMs: o.ttl,
          uses: o.uses,
          routes: o.routes?.flat() ?? [],
          ...(o.node === undefined ? {} : { node: o.node }),
        };
        const made = (await askAdmin(adminPath(o.state), 'POST', '/tokens', scope)) as { token: string };
        io.out.write(o.json === true ? `${JSON.stringify(made)}\n` : `${made.token}\n`);
      },
    );
  withState(token.command('list'))
    .description('the tokens, without their secrets')
    .option('--json', 'as JSON')
    .action(async (o: Where & { json?: boolean }) => {
      const tokens = (await askAdmin(adminPath(o.state), 'GET', '/tokens')) as Record<string, unknown>[];
      if (o.json === true) return void io.out.write(`${JSON.stringify(tokens, null, 2)}\n`);
      const rows = tokens.map((t) => {
        const used = t.used as { node: string }[];
        const who = `${t.tenant}/${t.node ?? '*'}`;
        const uses = `${used.length}/${t.uses}`;
        return [String(t.id), String(t.state), who, uses, String(t.expires), used.map((u) => u.node).join(',')];
      });
      io.out.write(table(['ID', 'STATE', 'FOR', 'USED', 'EXPIRES', 'BY'], rows));
    });
  withState(token.command('revoke'))
    .description('nobody joins with it any more; who has joined stays (see kubebus node revoke)')
    .argument('<id>', 'its id, from the list')
    .action(async (id: string, o: Where) => {
      await askAdmin(adminPath(o.state), 'DELETE', `/tokens/${encodeURIComponent(id)}`);
      io.out.write(`token ${id} revoked\n`);
    });
  return token;
}

export function nodesCommand(io: Io): Command {
  const node = new Command('node').description('list the nodes that joined, revoke them, allow them again');
  withState(node.command('list'))
    .description('the nodes that joined with a token')
    .option('--json', 'as JSON')
    .action(async (o: Where & { json?: boolean }) => {
      const nodes = (await askAdmin(adminPath(o.state), 'GET', '/nodes')) as Record<string, unknown>[];
      if (o.json === true) return void io.out.write(`${JSON.stringify(nodes, null, 2)}\n`);
      const rows = nodes.map((n) => [
        `${n.tenant}/${n.node}`,
        String(n.state),
        (n.routes as string[]).join(','),
        String(n.certificateExpires ?? '-'),
      ]);
      io.out.write(table(['NODE', 'STATE', 'ROUTES', 'CERTIFICATE UNTIL'], rows));
    });
  for (const [what, text] of [
    ['revoke', 'disconnect it at once; it stays out, over restarts too'],
    ['allow', 'undo revoke'],
  ] as const) {
    withState(node.command(what))
      .description(text)
      .argument('<tenant/node>', 'the node', tenantNode)
      .action(async ([tenant, name]: [string, string], o: Where) => {
        await askAdmin(adminPath(o.state), 'POST', `/nodes/${tenant}/${name}/${what}`);
        io.out.write(`${tenant}/${name} ${what === 'revoke' ? 'revoked' : 'allowed again'}\n`);
      });
  }
  return node;
}

export function drainCommand(io: Io): Command {
  return withState(new Command('drain'))
    .description('stop a running cloud, and tell its nodes when and where to come back')
    .addOption(
      new Option('--retry-after <time>', 'when nodes are to dial again').argParser(duration).default(UNITS.s, '1s'),
    )
    .option(
      '--to <address>',
      'where to, with the same CA, e.g. kubebus://hub2.example:7443 (repeatable)',
      list(cloudAddress),
    )
    .action(async (o: Where & { retryAfter: number; to?: string[] }) => {
      const goodbye = { retryAfterMs: o.retryAfter, addresses: o.to ?? [] };
      const { draining } = (await askAdmin(adminPath(o.state), 'POST', '/drain', goodbye)) as { draining: number };
      io.out.write(`the cloud stops; ${draining} nodes are told\n`);
    });
}

function prefixes(text: string): string[] {
  return text.split(',').map(prefix);
}

// `kubebus ca`: a CA and the certificates of clouds and nodes.

import { Argument, Command } from 'commander';
import type { RotationStep } from '../../lib/join/driver/authorities.js';
import { host, type Io, integer, list, message, name, prefix, text, UsageError } from './common.js';

// The certificate library is large: only this command loads it.
const pki = () => import('../../lib/join/driver/pki.js');

export function caCommand(io: Io): Command {
  const ca = new Command('ca').description('make a CA and certificates for clouds and nodes');
  ca.command('init')
    .description('make a new CA: ca.crt and ca.key')
    .requiredOption('--dir <folder>', 'where to', text)
    .option('--name <text>', 'name of the CA', text, 'KubeBus CA')
    .option('--days <n>', 'validity', integer(1, 36_500), 3650)
    .action(async (o: { dir: string; name: string; days: number }) => {
      const { createAuthority, save } = await pki();
      await write(io, o.dir, 'ca', async () => save(o.dir, 'ca', await createAuthority(o.name, o.days)));
    });
  ca.command('cloud')
    .description("make a cloud's certificate: NAME.crt and NAME.key")
    .requiredOption('--dir <folder>', 'folder of the CA', text)
    .requiredOption('--host <host>', 'name or address under which nodes dial it (repeatable)', list(host))
    .option('--name <name>', 'name of the cloud', name, 'cloud')
    .option('--days <n>', 'validity', integer(1, 3650), 365)
    .action(async (o: { dir: string; host: string[]; name: string; days: number }) => {
      const { cloudNames, loadAuthority, save } = await pki();
      const issue = async () => {
        const authority = await loadAuthority(o.dir);
        await save(
          o.dir,
          o.name,
          await authority.issue({ name: o.name, days: o.days, names: cloudNames(o.name, o.host), server: true }),
        );
      };
      await write(io, o.dir, o.name, issue);
    });
  ca.command('node')
    .description("make a node's certificate: TENANT-NODE.crt and TENANT-NODE.key")
    .requiredOption('--dir <folder>', 'folder of the CA', text)
    .requiredOption('--tenant <name>', 'tenant', name)
    .requiredOption('--node <name>', 'node', name)
    .option('--prefix <prefix>', 'subnet that the node may advertise (repeatable)', list(prefix))
    .option('--days <n>', 'validity', integer(1, 3650), 90)
    .action(async (o: { dir: string; tenant: string; node: string; prefix?: string[]; days: number }) => {
      const { nodeNames, loadAuthority, save } = await pki();
      const file = `${o.tenant}-${o.node}`;
      const issue = async () => {
        const authority = await loadAuthority(o.dir);
        const names = nodeNames(o.tenant, o.node, o.prefix ?? []);
        await save(o.dir, file, await authority.issue({ name: `${o.tenant}/${o.node}`, days: o.days, names }));
      };
      await write(io, o.dir, file, issue);
    });
  ca.command('rotate')
    .description('replace the CA of a hub that signs its nodes, in three steps; start the hub again after each')
    .addArgument(
      new Argument('<step>', 'begin: make the next one; switch: once all nodes have renewed; finish').choices(
        Object.keys(NEXT),
      ),
    )
    .option('--state <folder>', 'state folder of the hub', text, '/var/lib/kubebus')
    .option('--force', 'switch: also while nodes have not been told of it; they will need a token')
    .action(async (step: RotationStep, o: { state: string; force?: true }) => {
      const { rotateAuthority } = await import('../../lib/join/driver/authorities.js');
      await rotateAuthority(o.state, step, o.force === true);
      io.out.write(`${NEXT[step]}\n`);
    });
  return ca;
}

const NEXT: Readonly<Record<RotationStep, string>> = {
  begin:
    "start the hub again; when all nodes have renewed their certificates (two thirds of their life), 'kubebus ca rotate switch'",
  switch: "start the hub again; when no certificate of the old CA is in use any more, 'kubebus ca rotate finish'",
  finish: 'start the hub again: the old CA counts no longer',
};

async function write(io: Io, dir: string, file: string, work: () => Promise<void>): Promise<void> {
  try {
    await work();
  } catch (error) {
    const { code, path } = error as NodeJS.ErrnoException;
    if (code === 'EEXIST') throw new UsageError(`option '--dir': ${path} exists already and is not overwritten`);
    if (code === 'ENOENT')
      throw new UsageError(`option '--dir': no CA in ${dir}: run 'kubebus ca init --dir ${dir}' first`);
    if (code === 'ENOTDIR') throw new UsageError(`option '--dir': ${dir} is no folder`);
    throw new Error(`cannot write ${file} in ${dir}: ${message(error)}`);
  }
  io.out.write(`${dir}/${file}.crt\n${dir}/${file}.key\n`);
}

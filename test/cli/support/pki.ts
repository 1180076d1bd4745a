// Certificates for the tests of the commands: good ones, and one of each kind of bad one.

import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type Authority, cloudNames, createAuthority, nodeNames, save } from '../../../lib/join/driver/pki.js';

export interface Pki {
  readonly dir: string;
  readonly ca: Authority;
  file(name: string): string;
  /** `now`: when it was issued, in milliseconds since the epoch. */
  node(tenant: string, node: string, prefixes?: readonly string[], days?: number, now?: number): Promise<void>;
  /** --cert, --key and --ca of NAME. */
  flags(name: string, ca?: string): string[];
  remove(): Promise<void>;
}

/** ca, cloud (for 127.0.0.1), and another CA as other-ca. */
export async function makePki(): Promise<Pki> {
  const dir = await mkdtemp(join(tmpdir(), 'kubebus-cli-'));
  const ca = await createAuthority('test CA');
  await save(dir, 'ca', ca);
  const names = cloudNames('hub', ['127.0.0.1', 'localhost']);
  await save(dir, 'cloud', await ca.issue({ name: 'hub', days: 1, names, server: true }));
  const file = (name: string) => join(dir, name);
  return {
    dir,
    ca,
    file,
    async node(tenant, node, prefixes = [], days = 1, now = Date.now()) {
      const names = nodeNames(tenant, node, prefixes);
      await save(dir, `${tenant}-${node}`, await ca.issue({ name: node, days, names, now }));
    },
    flags: (name, authority = 'ca') => [
      ...['--cert', file(`${name}.crt`)],
      ...['--key', file(`${name}.key`)],
      ...['--ca', file(`${authority}.crt`)],
    ],
    remove: () => rm(dir, { recursive: true, force: true }),
  };
}

export async function writeFiles(pki: Pki, files: Readonly<Record<string, string>>): Promise<void> {
  for (const [name, text] of Object.entries(files)) await writeFile(pki.file(name), text);
}

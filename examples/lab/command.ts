// How the lab, the benches and the kernel tests start the `kubebus` command: one place that knows where it is.
import { existsSync, readdirSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Daemon, Lab, RunOptions } from './netns.js';
import { must } from './netns.js';

const here = dirname(fileURLToPath(import.meta.url));
const compiled = here.includes(`${join('dist', 'examples')}`);
const root = join(here, compiled ? '../../..' : '../..');

/**
 * Program and first arguments of `kubebus`. The compiled one where it is newer than every source (what users run: no
 * compiler in the process, less memory), otherwise the source through tsx.
 */
export function kubebusCommand(): readonly string[] {
  const built = join(root, 'dist/examples/kubebus.js');
  if (
    existsSync(built) &&
    statSync(built).mtimeMs >= newest(['lib', 'transports', 'examples'].map((dir) => join(root, dir)))
  ) {
    return [process.execPath, built];
  }
  return [process.execPath, '--import', import.meta.resolve('tsx'), join(root, 'examples/kubebus.ts')];
}

/** Is the compiled command current? The benches build it when it is not. */
export const isBuilt = (): boolean => kubebusCommand().length === 2;

function newest(paths: readonly string[]): number {
  let latest = 0;
  for (const path of paths) {
    if (!existsSync(path)) continue;
    const stat = statSync(path);
    if (stat.isDirectory()) latest = Math.max(latest, newest(readdirSync(path).map((name) => join(path, name))));
    else latest = Math.max(latest, stat.mtimeMs);
  }
  return latest;
}

/** Starts a long-running `kubebus` in a namespace. */
export function kubebus(lab: Lab, ns: string, args: readonly string[], options?: RunOptions): Daemon {
  const [program, ...first] = kubebusCommand();
  return lab.spawn(ns, program!, [...first, ...args], options);
}

/** Runs a short `kubebus` command (such as `ca`) to its end in this namespace. */
export function kubebusRun(args: readonly string[]): Promise<string> {
  const [program, ...first] = kubebusCommand();
  return must(program!, [...first, ...args]);
}

export interface PkiNode {
  readonly tenant: string;
  readonly node: string;
  readonly prefixes?: readonly string[];
}

/** A CA, the cloud's certificate for `hosts` and one per node, made by `kubebus ca`. Files: DIR/ca.crt, cloud.crt, TENANT-NODE.crt and .key. */
export async function nodePki(dir: string, hosts: readonly string[], nodes: readonly PkiNode[]): Promise<void> {
  await kubebusRun(['ca', 'init', '--dir', dir]);
  await kubebusRun(['ca', 'cloud', '--dir', dir, '--name', 'cloud', ...hosts.flatMap((host) => ['--host', host])]);
  await Promise.all(
    nodes.map(({ tenant, node, prefixes = [] }) =>
      kubebusRun([
        ...['ca', 'node', '--dir', dir, '--tenant', tenant, '--node', node],
        ...prefixes.flatMap((prefix) => ['--prefix', prefix]),
      ]),
    ),
  );
}

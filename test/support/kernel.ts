// For tests that need the machine: root, a TUN device, programs of the system. Elsewhere they skip and say what is missing;
// with KUBEBUS_REQUIRE_ALL=1 they fail instead.
import { existsSync } from 'node:fs';
import test, { type ExecutionContext } from 'ava';
import { has, run } from '../../examples/lab/netns.js';
import { openTun } from '../../lib/l3/tun.js';

/** What is missing to work with namespaces, TUN devices and these programs; null: nothing. */
export function missing(...programs: string[]): string | null {
  if (process.platform !== 'linux' || process.getuid?.() !== 0) return 'Linux and root';
  const program = ['ip', 'ping', ...programs].find((name) => !has(name));
  if (program !== undefined) return `the program ${program}`;
  if (!existsSync('/dev/net/tun')) return '/dev/net/tun';
  try {
    openTun({ name: 'kbprobe%d' }).close();
    return null;
  } catch (error) {
    return (error as Error).message;
  }
}

/** `test.serial` where nothing is missing. */
export function kernelTest(absent: string | null) {
  return (title: string, body: (t: ExecutionContext) => Promise<void> | void): void => {
    if (absent === null) test.serial(title, body);
    else if (process.env.KUBEBUS_REQUIRE_ALL === '1') test(title, (t) => t.fail(`needs ${absent}`));
    else test.skip(`${title} (needs ${absent})`, body);
  };
}

/** Namespaces and devices of this process' own. */
export const unique = (name: string): string => `kbt${process.pid}${name}`;

/** Everything that a run of ours could leave in the system, by a prefix. */
export async function remains(prefix: string): Promise<string[]> {
  const namespaces = (await run('ip', ['netns', 'list'])).stdout.split('\n').map((line) => line.split(' ')[0] ?? '');
  const devices = [...(await run('ip', ['-o', 'link'])).stdout.matchAll(/^\d+: ([^:@]+)/gm)].map((match) => match[1]!);
  return [...namespaces, ...devices].filter((name) => name.startsWith(prefix));
}

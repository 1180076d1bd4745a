// `npm run lab` from start to end, two of them side by side, and what is left afterwards: nothing.
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { fileURLToPath } from 'node:url';
import type { ExecutionContext } from 'ava';
import { run, until } from '../../examples/lab/netns.js';
import { kernelTest, missing } from '../support/kernel.js';

const check = kernelTest(missing('nft', 'bridge', 'unshare', 'mount'));
const root = fileURLToPath(new URL('../..', import.meta.url));

interface Running {
  readonly child: ChildProcess;
  readonly output: () => string;
  readonly errors: () => string;
  /** Exit code, or the signal's name. */
  readonly ended: Promise<number | string>;
}

/** As a user starts it, with a process group of its own: npm and what it runs get Ctrl-C as from a terminal. */
function lab(t: ExecutionContext, args: readonly string[], wrapper: readonly string[] = []): Running {
  const [program, ...rest] = [...wrapper, 'npm', 'run', '-s', 'lab', '--', ...args];
  const child = spawn(program!, rest, { cwd: root, stdio: ['ignore', 'pipe', 'pipe'], detached: true });
  // A test that fails in the middle leaves no lab behind.
  t.teardown(() => {
    if (child.exitCode === null && child.signalCode === null) process.kill(-child.pid!, 'SIGTERM');
  });
  let [output, errors] = ['', ''];
  child.stdout.setEncoding('utf8').on('data', (text: string) => (output += text));
  child.stderr.setEncoding('utf8').on('data', (text: string) => (errors += text));
  const ended = once(child, 'close').then(([code, signal]) => (code ?? signal) as number | string);
  return { child, output: () => output, errors: () => errors, ended };
}

const prefixOf = (running: Running): string => /namespaces (kblab\d+-)/.exec(running.output())![1]!;

/** Namespaces and folders of a lab. */
async function remains(prefix: string): Promise<string[]> {
  const namespaces = (await run('ip', ['netns', 'list'])).stdout.split('\n').map((line) => line.split(' ')[0]!);
  return [...namespaces, ...readdirSync(tmpdir())].filter((name) => name.startsWith(prefix));
}

interface Document {
  readonly results: {
    readonly matrix: { rtt: Record<string, Record<string, number | null>>; ipv6: { answered: number; pairs: number } };
    readonly filtered?: number;
  }[];
}

check('the matrix, the filter without and with source NAT, and a second lab beside it until Ctrl-C', async (t) => {
  t.timeout(150_000);
  const kept = lab(t, ['--keep', '--count', '1']);
  await until('the first lab to stay up', 60_000, () => {
    if (kept.child.exitCode !== null) throw new Error(kept.errors());
    return kept.output().includes('stays up until Ctrl-C');
  });
  const prefix = prefixOf(kept);
  t.is((await remains(prefix)).length, 13, '12 namespaces and a folder');
  t.regex(kept.output(), /IPv4: 56 of 56 pairs answer; IPv6: 56 of 56; KubeBus adds \d+\.\d+ ms/);

  const filter = lab(t, ['--filter', '--json', '--count', '1']);
  t.is(await filter.ended, 0, filter.errors());
  const [without, snat] = (JSON.parse(filter.output()) as Document).results;
  const silent = ({ matrix }: Document['results'][number]) =>
    Object.entries(matrix.rtt).flatMap(([from, row]) =>
      Object.entries(row).flatMap(([to, ms]) => (ms === null ? [`${from}>${to}`] : [])),
    );
  const overlay = ['cloud', 'edge1', 'edge2'];
  const others = ['master', 'vm2', 'pod2'];
  const out = others.flatMap((from) => overlay.map((to) => `${from}>${to}`));
  const inn = overlay.flatMap((from) => others.map((to) => `${from}>${to}`));
  t.deepEqual(silent(without!).sort(), [...inn, ...out].sort(), 'only the router and its own container are reached');
  t.deepEqual(silent(snat!).sort(), out.sort(), 'everything is reached; only VMs cannot begin');
  t.true(without!.filtered! > 0 && snat!.filtered! > 0);

  t.is((await remains(prefix)).length, 13, 'the first lab is untouched by the end of the second');
  process.kill(-kept.child.pid!, 'SIGINT');
  t.not(await kept.ended, 0);
  await until('the first lab to be gone', 10_000, async () => (await remains(prefix)).length === 0);
});

check('ended in the middle of its start by SIGTERM, and by a failing step', async (t) => {
  t.timeout(120_000);
  const stopped = lab(t, ['--count', '1']);
  await until('its processes to start', 60_000, () => stopped.output().includes('- processes:'));
  const prefix = prefixOf(stopped);
  t.is((await remains(prefix)).length, 13);
  process.kill(-stopped.child.pid!, 'SIGTERM');
  await stopped.ended;
  await until('the lab to be gone', 10_000, async () => (await remains(prefix)).length === 0);

  // /dev/net/tun is there, but is no TUN device: the first process fails.
  const broken = lab(t, [], ['unshare', '-m', 'sh', '-ec', 'mount --bind /dev/null /dev/net/tun; exec "$@"', 'sh']);
  t.is(await broken.ended, 1);
  t.regex(broken.errors(), /lab: cloud-node ended \(1\) without/);
  t.regex(broken.errors(), /TUN/, 'the log of the process is shown');
  t.regex(broken.output(), /taking everything down/);
  t.deepEqual(await remains(prefixOf(broken)), []);
});

check('a mistake on the command line is one line and exit code 2', async (t) => {
  const wrong = lab(t, ['--cuont', '3']);
  t.is(await wrong.ended, 2);
  t.regex(wrong.errors(), /^lab: unknown option '--cuont'/);
  t.is(wrong.errors().trim().split('\n').length, 1);
});

// `npm run lab`: the paper's figure 7 with figure 3's container subnet in network namespaces, the real processes in them,
// and the matrix of round-trip times by the system's ping. Everything is taken down again, whatever ends it. Needs root.
import { spawn } from 'node:child_process';
import { existsSync, readdirSync } from 'node:fs';
import { Command, CommanderError, InvalidArgumentError } from 'commander';
import { type Figure7, figure7, filtered, startRouter, statusSocket } from './figure7.js';
import { type Matrix, measure, show } from './matrix.js';
import { has, Lab } from './netns.js';

interface LabFlags {
  readonly filter?: boolean;
  readonly snat?: boolean;
  readonly keep?: boolean;
  readonly shell?: string;
  readonly json?: boolean;
  readonly count: number;
}

const PREFIX = /^kblab(\d+)-/;

/** What is missing here, with what to do about it; undefined when the lab can run. */
function obstacle(): string | undefined {
  if (process.platform !== 'linux') return 'the lab needs Linux network namespaces';
  if (process.getuid?.() !== 0) return 'the lab needs root: sudo npm run lab';
  const packages = { ip: 'iproute2', bridge: 'iproute2', ping: 'iputils-ping', nft: 'nftables', sysctl: 'procps' };
  for (const [program, name] of Object.entries(packages)) {
    if (!has(program)) return `the program '${program}' is missing: apt-get install ${name}`;
  }
  return existsSync('/dev/net/tun') ? undefined : '/dev/net/tun is missing: modprobe tun';
}

/** Labs whose process was killed: their namespaces are removed. Those of running labs stay. */
function removeLeftovers(): string[] {
  const names = existsSync('/run/netns') ? readdirSync('/run/netns') : [];
  const dead = new Set(
    names.flatMap((name) => {
      const pid = PREFIX.exec(name)?.[1];
      return pid === undefined || existsSync(`/proc/${pid}`) ? [] : [`kblab${pid}-`];
    }),
  );
  return [...dead].flatMap((prefix) => Lab.clean(prefix));
}

async function main(flags: LabFlags): Promise<void> {
  const reason = obstacle();
  if (reason !== undefined) throw new Error(reason);
  const say = (line: string) => void (flags.json ? process.stderr : process.stdout).write(`${line}\n`);
  const left = removeLeftovers();
  if (left.length > 0) say(`removed what a killed lab left behind: ${left.join(', ')}`);
  const lab = new Lab(`kblab${process.pid}-`);
  say(`- namespaces ${lab.prefix}*, logs in ${lab.work}`);
  let failed = true;
  try {
    const net = await figure7(lab, { ...flags, progress: (step) => say(`- ${step}`) });
    const results: { title: string; matrix: Matrix; filtered?: number }[] = [];
    const matrix = async (title: string) => {
      const before = flags.filter ? await filtered(lab) : 0;
      const result = { title, matrix: await measure(lab, net.hosts, flags.count) };
      const dropped = flags.filter ? { filtered: (await filtered(lab)) - before } : {};
      results.push({ ...result, ...dropped });
      say(`\n== ${title}\n\n${show(result.matrix)}`);
      if (flags.filter) say(`The VM subnet's filter dropped ${dropped.filtered} packets with foreign sources.`);
    };
    await matrix(
      flags.filter ? `The VM subnet filters foreign sources, ${flags.snat ? '' : 'no '}source NAT` : 'All pairs',
    );
    if (flags.filter && !flags.snat) {
      await net.router.stop();
      const router = startRouter(lab, ['--snat']);
      await router.logged(/router up/, 30_000);
      await lab.waitPing('edge1', '10.1.0.11');
      await lab.waitPing('edge2', '10.1.0.11');
      await lab.waitPing('cloud', '10.1.0.11');
      await matrix('The same with `kubebus router --snat`');
    }
    if (flags.json) process.stdout.write(`${JSON.stringify({ hosts: net.hosts, results })}\n`);
    if (flags.shell !== undefined) await shell(lab, net, flags.shell);
    else if (flags.keep) await stay(lab, say);
    failed = false;
  } finally {
    if (failed) process.stderr.write(`${lab.logs()}\n`);
    say('\ntaking everything down');
    await lab.down();
  }
}

/** Until a signal comes; the Lab's own handler takes everything down. */
function stay(lab: Lab, say: (line: string) => void): Promise<never> {
  say(`
The network stays up until Ctrl-C. In another terminal, as root, for example:
  ip netns exec ${lab.full('edge1')} ping 10.2.2.2
  ip netns exec ${lab.full('pod2')} bash
  npx kubebus status --socket ${statusSocket(lab, 'cloud')}
Logs: ${lab.work}`);
  return new Promise(() => setInterval(() => {}, 0x7fffffff));
}

function shell(lab: Lab, net: Figure7, host: string): Promise<void> {
  if (!net.hosts.some(({ name }) => name === host)) {
    throw new InvalidArgumentError(
      `option '--shell': no host ${host}: ${net.hosts.map(({ name }) => name).join(', ')}`,
    );
  }
  return new Promise((resolve) => {
    const program = process.env.SHELL ?? '/bin/sh';
    spawn('ip', ['netns', 'exec', lab.full(host), program], { stdio: 'inherit' }).on('close', () => resolve());
  });
}

function count(text: string): number {
  const value = Number(text);
  if (!/^\d+$/.test(text) || value < 1 || value > 1000)
    throw new InvalidArgumentError(`not a number from 1 to 1000: ${text}`);
  return value;
}

const command = new Command('lab')
  .description('figure 7 in network namespaces: starts it, prints the round-trip times of all pairs, takes it down')
  .option('--filter', 'the VM subnet drops foreign source addresses: without source NAT, then with it')
  .option('--snat', 'the router translates sources from the start')
  .option('--keep', 'stay up until Ctrl-C')
  .option('--shell [host]', 'open a shell on a host; the network stays until it ends')
  .option('--count <n>', 'pings per pair', count, 10)
  .option('--json', 'the matrices as one JSON document on standard output')
  .exitOverride()
  .configureOutput({ writeErr() {} })
  .action((flags: Omit<LabFlags, 'shell'> & { shell?: string | true }) =>
    main({ ...flags, ...(flags.shell === true ? { shell: 'edge1' } : {}) } as LabFlags),
  );

try {
  await command.parseAsync();
} catch (error) {
  if (error instanceof CommanderError && error.exitCode === 0) process.exit(0);
  const text = error instanceof Error ? error.message.replace(/^error: /, '') : String(error);
  process.stderr.write(`lab: ${error instanceof CommanderError ? text.replace(/\s*\n\s*/g, ' ') : text}\n`);
  process.exit(error instanceof CommanderError ? 2 : 1);
}

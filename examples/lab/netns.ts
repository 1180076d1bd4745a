// Networks of Linux network namespaces for the lab, the benches and the kernel tests: create, run commands in them,
// and leave nothing behind. Needs root and iproute2. Everything a Lab makes carries its prefix, and it ends only
// processes that live in its own namespaces.
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { closeSync, existsSync, mkdtempSync, openSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { systemEnvironment } from '../../lib/l3/index.js';

export interface RunResult {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
  readonly timedOut: boolean;
}

export interface RunOptions {
  /** Milliseconds until the command is killed; default 30 s. */
  readonly timeoutMs?: number;
  readonly env?: NodeJS.ProcessEnv;
  readonly cwd?: string;
}

/** Commands that run now: a lab that goes down in the middle of a step takes them along. */
const running = new Set<ChildProcess>();

/** Runs a command to its end. Never rejects: a command that cannot start has code null and says why in stderr. */
export function run(command: string, args: readonly string[], options: RunOptions = {}): Promise<RunResult> {
  return new Promise((resolve) => {
    const out: Buffer[] = [];
    const err: Buffer[] = [];
    let timedOut = false;
    const child = spawn(command, args, {
      stdio: ['ignore', 'pipe', 'pipe'],
      detached: true, // Ctrl-C is for us; we end the children in our own order
      env: options.env ?? systemEnvironment(),
      ...(options.cwd ? { cwd: options.cwd } : {}),
    });
    running.add(child);
    const timer = setTimeout(() => {
      timedOut = true;
      signalGroup(child, 'SIGKILL');
    }, options.timeoutMs ?? 30_000);
    child.stdout.on('data', (chunk: Buffer) => out.push(chunk));
    child.stderr.on('data', (chunk: Buffer) => err.push(chunk));
    child.on('error', (error) => err.push(Buffer.from(error.message)));
    child.on('close', (code) => {
      clearTimeout(timer);
      running.delete(child);
      resolve({ code, stdout: Buffer.concat(out).toString(), stderr: Buffer.concat(err).toString(), timedOut });
    });
  });
}

/** Runs a command to its end and throws with its output when it fails. */
export async function must(command: string, args: readonly string[], options?: RunOptions): Promise<string> {
  const result = await run(command, args, options);
  if (result.code !== 0) {
    throw new Error(
      `${command} ${args.join(' ')}: exit ${result.code}: ${result.stderr.trim() || result.stdout.trim()}`,
    );
  }
  return result.stdout;
}

/** Is the program on the PATH? */
export function has(program: string): boolean {
  return systemEnvironment()
    .PATH!.split(':')
    .some((dir) => existsSync(join(dir, program)));
}

/** Polls until `probe` gives something else than undefined or false; throws `what` after `timeoutMs`. */
export async function until<T>(
  what: string,
  timeoutMs: number,
  probe: () => T | undefined | false | Promise<T | undefined | false>,
  everyMs = 50,
): Promise<T> {
  const end = performance.now() + timeoutMs;
  for (;;) {
    const value = await probe();
    if (value !== undefined && value !== false) return value;
    if (performance.now() >= end) throw new Error(`timed out after ${timeoutMs} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, everyMs));
  }
}

/** A long-running process in a namespace; its output is in a file. */
export class Daemon {
  exitCode: number | null | undefined;
  /** Name of the signal that ended it. */
  exitSignal: string | null = null;
  private readonly done: Promise<void>;

  constructor(
    readonly name: string,
    readonly logFile: string,
    private readonly child: ChildProcess,
  ) {
    this.done = new Promise((resolve) => {
      child.on('error', () => {
        this.exitCode = null;
        resolve();
      });
      child.on('exit', (code, signal) => {
        this.exitCode = code;
        this.exitSignal = signal;
        resolve();
      });
    });
  }

  get pid(): number {
    return this.child.pid ?? -1;
  }

  get running(): boolean {
    return this.exitCode === undefined;
  }

  get log(): string {
    return existsSync(this.logFile) ? readFileSync(this.logFile, 'utf8') : '';
  }

  kill(signal: NodeJS.Signals): void {
    if (this.running) signalGroup(this.child, signal);
  }

  /** SIGTERM (or another), and SIGKILL when that does not end it in time. Resolves when it is gone. */
  async stop(signal: NodeJS.Signals = 'SIGTERM', timeoutMs = 5_000): Promise<number | null | undefined> {
    this.kill(signal);
    const timer = setTimeout(() => this.kill('SIGKILL'), timeoutMs);
    await this.done;
    clearTimeout(timer);
    return this.exitCode;
  }

  /** Resolves with the exit code; throws when it still runs after `timeoutMs`. */
  async exited(timeoutMs: number): Promise<number | null> {
    const code = await until(`${this.name} to exit:\n${this.log}`, timeoutMs, () =>
      this.running ? undefined : { code: this.exitCode ?? null },
    );
    return code.code;
  }

  /** Resolves with the match when the log has one; throws early when the process ends without it. */
  async logged(pattern: RegExp, timeoutMs: number): Promise<RegExpExecArray> {
    let ended = false;
    return until(`${this.name} to log ${pattern}; its log:\n${this.log}`, timeoutMs, () => {
      const match = pattern.exec(this.log);
      if (match) return match;
      if (ended)
        throw new Error(`${this.name} ended (${this.exitCode ?? this.exitSignal}) without ${pattern}:\n${this.log}`);
      ended = !this.running; // one more look: the log may have been written just before the end
      return undefined;
    });
  }
}

export class Lab {
  /** Directory for configuration and logs, removed by down(). */
  readonly work: string;
  private readonly names = new Set<string>();
  private readonly daemons: Daemon[] = [];
  private readonly undo: (() => void)[] = [];
  private count = 0;
  private isDown = false;
  private readonly onExit = () => this.downSync();
  private readonly onSignal = (signal: NodeJS.Signals) => {
    this.downSync();
    process.exit(signal === 'SIGINT' ? 130 : 143);
  };

  /**
   * @param prefix in front of every namespace's name; leftovers of a killed run with the same prefix are removed.
   */
  constructor(readonly prefix: string) {
    Lab.clean(prefix);
    this.work = mkdtempSync(join(tmpdir(), `${prefix}`));
    process.on('exit', this.onExit);
    process.on('SIGINT', this.onSignal);
    process.on('SIGTERM', this.onSignal);
    process.on('SIGHUP', this.onSignal);
  }

  /** Full name of a namespace, as `ip netns` shows it. */
  full(ns: string): string {
    return this.prefix + ns;
  }

  /** Creates a namespace with its loopback up and without reverse-path filter. */
  async ns(ns: string, options: { congestion?: string; forward?: boolean; ipv6?: boolean } = {}): Promise<void> {
    await must('ip', ['netns', 'add', this.full(ns)]);
    this.names.add(ns);
    await this.ip(ns, 'link', 'set', 'lo', 'up');
    const settings = ['net.ipv4.conf.all.rp_filter=0', 'net.ipv4.conf.default.rp_filter=0'];
    settings.push(`net.ipv4.ip_forward=${options.forward ? 1 : 0}`);
    if (options.ipv6 === false) {
      settings.push('net.ipv6.conf.all.disable_ipv6=1', 'net.ipv6.conf.default.disable_ipv6=1');
    } else {
      // Addresses usable at once: duplicate detection would cost every set-up a second.
      settings.push('net.ipv6.conf.default.accept_dad=0', 'net.ipv6.conf.all.accept_dad=0');
      settings.push(`net.ipv6.conf.all.forwarding=${options.forward ? 1 : 0}`);
    }
    if (options.congestion) settings.push(`net.ipv4.tcp_congestion_control=${options.congestion}`);
    await this.sysctl(ns, ...settings);
  }

  /** A cable between two namespaces: each end's device name and addresses with prefix length. */
  async veth(
    a: string,
    deviceA: string,
    addressesA: readonly string[],
    b: string,
    deviceB: string,
    addressesB: readonly string[],
  ): Promise<void> {
    const [nsA, nsB] = [this.full(a), this.full(b)];
    await must('ip', [
      ...['link', 'add', deviceA, 'netns', nsA, 'type', 'veth'],
      ...['peer', 'name', deviceB, 'netns', nsB],
    ]);
    for (const [ns, device, addresses] of [
      [a, deviceA, addressesA],
      [b, deviceB, addressesB],
    ] as const) {
      await this.address(ns, device, ...addresses);
      await this.ip(ns, 'link', 'set', 'dev', device, 'up');
    }
  }

  /** A switch in a namespace, with what hangs on it: devices of the namespace. */
  async bridge(ns: string, device: string, addresses: readonly string[], ports: readonly string[]): Promise<void> {
    await this.ip(ns, 'link', 'add', device, 'type', 'bridge', 'forward_delay', '0', 'mcast_snooping', '0');
    await this.address(ns, device, ...addresses);
    for (const port of ports) await this.ip(ns, 'link', 'set', 'dev', port, 'master', device);
    await this.ip(ns, 'link', 'set', 'dev', device, 'up');
  }

  /** Adds addresses (with prefix length) to a device. */
  async address(ns: string, device: string, ...addresses: string[]): Promise<void> {
    for (const address of addresses) {
      await this.ip(ns, 'addr', 'add', address, 'dev', device, ...(address.includes(':') ? ['nodad'] : []));
    }
  }

  /** `ip -n NS ...`; throws when it fails. */
  ip(ns: string, ...args: string[]): Promise<string> {
    return must('ip', ['-n', this.full(ns), ...args]);
  }

  sysctl(ns: string, ...settings: string[]): Promise<string> {
    return this.must(ns, 'sysctl', ['-qw', ...settings]);
  }

  /** Loads a ruleset into the namespace (`nft -f`). */
  async nft(ns: string, ruleset: string): Promise<void> {
    await this.must(ns, 'nft', [ruleset]);
  }

  run(ns: string, command: string, args: readonly string[] = [], options?: RunOptions): Promise<RunResult> {
    return run('ip', ['netns', 'exec', this.full(ns), command, ...args], options);
  }

  must(ns: string, command: string, args: readonly string[] = [], options?: RunOptions): Promise<string> {
    return must('ip', ['netns', 'exec', this.full(ns), command, ...args], options);
  }

  /** Starts a process in the namespace. `ip netns exec` replaces itself, so the pid is the command's own. */
  spawn(ns: string, command: string, args: readonly string[] = [], options: RunOptions = {}): Daemon {
    const name = `${ns}-${command.split('/').pop()}`;
    const logFile = join(this.work, `${++this.count}-${name}.log`);
    const log = openSync(logFile, 'a');
    const child = spawn('ip', ['netns', 'exec', this.full(ns), command, ...args], {
      stdio: ['ignore', log, log],
      detached: true,
      env: options.env ?? systemEnvironment(),
      ...(options.cwd ? { cwd: options.cwd } : {}),
    });
    closeSync(log);
    const daemon = new Daemon(name, logFile, child);
    this.daemons.push(daemon);
    return daemon;
  }

  /** Process ids of everything that runs in the namespace. */
  pids(ns: string): number[] {
    return pidsOf(this.full(ns));
  }

  /** Has the namespace a device of this name? */
  hasDevice(ns: string, device: string): boolean {
    return spawnSync('ip', ['-n', this.full(ns), 'link', 'show', device], { stdio: 'ignore' }).status === 0;
  }

  waitDevice(ns: string, device: string, timeoutMs = 10_000): Promise<unknown> {
    return until(`device ${device} in ${ns}\n${this.logs()}`, timeoutMs, () => this.hasDevice(ns, device));
  }

  /** Global addresses of a device, IPv4 first, without prefix length. */
  async addresses(ns: string, device: string): Promise<string[]> {
    const result = await run('ip', ['-n', this.full(ns), '-j', 'addr', 'show', 'dev', device]);
    if (result.code !== 0) return [];
    const links = JSON.parse(result.stdout) as { addr_info?: { family: string; scope: string; local: string }[] }[];
    return links
      .flatMap((link) => link.addr_info ?? [])
      .filter((info) => info.scope === 'global')
      .sort((x, y) => x.family.localeCompare(y.family))
      .map((info) => info.local);
  }

  /** Until one ping is answered. */
  async waitPing(ns: string, address: string, timeoutMs = 20_000): Promise<void> {
    await until(`${ns} to reach ${address}\n${this.logs()}`, timeoutMs, async () => {
      const result = await this.run(ns, 'ping', ['-c1', '-W1', '-q', address]);
      return result.code === 0;
    });
  }

  /** Until something listens on the TCP port. */
  waitListen(ns: string, port: number, timeoutMs = 5_000): Promise<unknown> {
    return until(
      `a listener on port ${port} in ${ns}\n${this.logs()}`,
      timeoutMs,
      async () => (await this.run(ns, 'ss', ['-ltnH', `sport = :${port}`])).stdout.trim() !== '',
      20,
    );
  }

  /** The last lines of every daemon's log, for messages of failure. */
  logs(lines = 8): string {
    return this.daemons
      .map((daemon) => ({ daemon, tail: daemon.log.trim().split('\n').slice(-lines).join('\n') }))
      .filter(({ tail }) => tail !== '')
      .map(
        ({ daemon, tail }) =>
          `-- ${daemon.name} (${daemon.running ? 'running' : `exit ${daemon.exitCode ?? daemon.exitSignal}`})\n${tail}`,
      )
      .join('\n');
  }

  /** Called by down(), last registered first; must not throw and must be synchronous, since it also runs at exit. */
  onDown(undo: () => void): void {
    this.undo.push(undo);
  }

  /** Ends the processes in order, removes namespaces and files. */
  async down(): Promise<void> {
    for (const daemon of [...this.daemons].reverse()) daemon.kill('SIGTERM');
    await Promise.all(this.daemons.map((daemon) => daemon.stop('SIGTERM', 3_000)));
    this.downSync();
  }

  /** Forgets the namespaces: they stay, and so do the processes in them (`--keep`). */
  leave(): void {
    this.isDown = true;
    this.release();
  }

  private downSync(): void {
    if (this.isDown) return;
    this.isDown = true;
    this.release();
    for (const child of running) signalGroup(child, 'SIGKILL');
    for (const undo of this.undo.reverse()) undo();
    for (const ns of this.names) removeNamespace(this.full(ns));
    rmSync(this.work, { recursive: true, force: true });
  }

  private release(): void {
    process.off('exit', this.onExit);
    process.off('SIGINT', this.onSignal);
    process.off('SIGTERM', this.onSignal);
    process.off('SIGHUP', this.onSignal);
  }

  /** Removes every namespace whose name starts with `prefix`, with the processes in it. Returns their names. */
  static clean(prefix: string): string[] {
    const names = existsSync('/run/netns') ? readdirSync('/run/netns').filter((name) => name.startsWith(prefix)) : [];
    for (const name of names) removeNamespace(name);
    return names;
  }
}

function pidsOf(fullName: string): number[] {
  const result = spawnSync('ip', ['netns', 'pids', fullName], { encoding: 'utf8' });
  return result.status === 0 ? result.stdout.trim().split('\n').filter(Boolean).map(Number) : [];
}

function removeNamespace(fullName: string): void {
  for (let round = 0; round < 20; round++) {
    const pids = pidsOf(fullName);
    if (pids.length === 0) break;
    for (const pid of pids) {
      try {
        process.kill(pid, round < 8 ? 'SIGTERM' : 'SIGKILL');
      } catch {
        // gone already
      }
    }
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 100);
  }
  spawnSync('ip', ['netns', 'del', fullName], { stdio: 'ignore' });
}

/** The process group: a program that runs others (a shell, tsx) takes them along. */
function signalGroup(child: ChildProcess, signal: NodeJS.Signals): void {
  if (child.pid === undefined) return;
  try {
    process.kill(-child.pid, signal);
  } catch {
    child.kill(signal);
  }
}

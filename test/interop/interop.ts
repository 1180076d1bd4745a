// What the tests against real programs share: whether this machine can run them, and a world: a namespace whose kernel is
// on an overlay through a TUN device, with a rootless node of ours on the same overlay (host.ts).

import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { ExecutionContext } from 'ava';
import { openTun } from '../../lib/l3/tun.js';
import { Capture, expertErrors } from '../support/tshark.js';
import type { HostOptions, HostReady, HostRequest } from './host.js';

const HOST = fileURLToPath(new URL('./host.ts', import.meta.url));
let count = 0;

export function missing(tools: readonly string[]): string | null {
  if (process.getuid?.() !== 0) return 'root';
  for (const tool of tools) {
    try {
      execFileSync('which', [tool], { stdio: 'ignore', env: { PATH: `${process.env.PATH}:/usr/sbin:/sbin` } });
    } catch {
      return tool;
    }
  }
  try {
    openTun({ name: 'kbprobe%d' }).close();
  } catch (error) {
    return (error as Error).message;
  }
  return null;
}

/** True: the test was skipped, or failed for want of a tool where none may be missing. */
export function skipped(t: ExecutionContext, absent: string | null): boolean {
  if (absent === null) return false;
  if (process.env.KUBEBUS_REQUIRE_ALL === '1') t.fail(`needs ${absent}`);
  else t.log(`skipped: needs ${absent}`);
  t.pass();
  return true;
}

export class Interop {
  ready!: HostReady;
  readonly directory = mkdtempSync(join(tmpdir(), 'kubebus-interop-'));
  readonly namespace = `kbi${process.pid}-${++count}`;
  private readonly children: ChildProcess[] = [];
  private host!: ChildProcess;
  private capture: Capture | null = null;
  private stopped = false;

  /** Everything is taken down with the test; the capture of the whole run may then hold no protocol error. */
  static async start(t: ExecutionContext, options: Partial<HostOptions> = {}): Promise<Interop> {
    const world = new Interop();
    t.teardown(() => world.down(t));
    execFileSync('ip', ['netns', 'add', world.namespace]);
    execFileSync('ip', ['-n', world.namespace, 'link', 'set', 'lo', 'up']);
    const settings: HostOptions = { mtu: 1400, offload: true, seed: 1, ...options };
    const host = world.spawn([process.execPath, '--import', 'tsx', HOST, JSON.stringify(settings)], 'ipc');
    world.host = host;
    world.ready = (await world.answer()) as HostReady;
    world.capture = await Capture.start(world.namespace, world.ready.device, join(world.directory, 'run.pcapng'));
    return world;
  }

  async ask(request: HostRequest): Promise<unknown> {
    this.host.send(request);
    return this.answer();
  }

  /** Several requests at the same time; their answers in order. */
  async askAll(requests: readonly HostRequest[]): Promise<unknown> {
    return this.ask({ do: 'all', requests });
  }

  /** Ends the capture before the end of the test, to look into it. */
  async stopCapture(): Promise<void> {
    await this.capture?.stop();
    this.stopped = true;
  }

  /** A program in the namespace that goes on until the end of the test. */
  spawn(command: readonly string[], ipc?: 'ipc'): ChildProcess {
    const child = spawn('ip', ['netns', 'exec', this.namespace, ...command], {
      stdio: ['ignore', 'pipe', 'inherit', ...(ipc === undefined ? [] : (['ipc'] as const))],
    });
    this.children.push(child);
    return child;
  }

  /** A program in the namespace, to its end; its output. Rejects when it fails. */
  async run(command: readonly string[], input?: Uint8Array): Promise<Buffer> {
    const child = spawn('ip', ['netns', 'exec', this.namespace, ...command], { stdio: ['pipe', 'pipe', 'pipe'] });
    this.children.push(child);
    child.stdin.on('error', () => {});
    child.stdin.end(input);
    const out: Buffer[] = [];
    const err: Buffer[] = [];
    child.stdout.on('data', (data: Buffer) => out.push(data));
    child.stderr.on('data', (data: Buffer) => err.push(data));
    const [code] = (await once(child, 'close')) as [number | null];
    if (code !== 0) throw new Error(`${command.join(' ')}: exit ${code}\n${Buffer.concat([...err, ...out])}`);
    return Buffer.concat(out);
  }

  /** Until the kernel of the namespace listens on this port. */
  async listening(port: number): Promise<void> {
    for (;;) {
      const out = await this.run(['ss', '-ltnH', `sport = :${port}`]);
      if (out.length > 0) return;
    }
  }

  private async answer(): Promise<unknown> {
    const ended = new AbortController();
    const message = once(this.host, 'message', { signal: ended.signal }) as Promise<
      [{ value?: unknown; error?: string }]
    >;
    const exit = (code: number | null) => ended.abort(new Error(`the host process ended with ${code}`));
    this.host.once('exit', exit);
    const [{ value, error }] = await message;
    this.host.off('exit', exit);
    if (error !== undefined) throw new Error(error);
    return value;
  }

  private async down(t: ExecutionContext): Promise<void> {
    if (!this.stopped) await this.capture?.stop();
    for (const child of this.children) child.kill('SIGKILL');
    // What they have started themselves.
    const pids = execFileSync('ip', ['netns', 'pids', this.namespace], { encoding: 'utf8' });
    for (const pid of pids.split('\n').filter(Boolean)) process.kill(Number(pid), 'SIGKILL');
    const errors = this.capture === null ? '' : expertErrors(this.capture.file);
    execFileSync('ip', ['netns', 'del', this.namespace]);
    rmSync(this.directory, { recursive: true, force: true });
    if (errors !== '') throw new Error(`${t.title}: tshark's expert analysis found\n${errors}`);
  }
}

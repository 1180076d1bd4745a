// Processes of transports-peer.ts, and the certificates that they use.

import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { cloudNames, createAuthority, nodeNames, save } from '../../lib/join/driver/pki.js';
import type { Order } from './transports-peer.js';

const PEER = fileURLToPath(new URL('./transports-peer.ts', import.meta.url));

export class Peer {
  private settle: (reply: { result?: unknown; error?: string }) => void = () => {};

  private constructor(private readonly child: ChildProcess) {
    child.on('message', (reply: { result?: unknown; error?: string }) => this.settle(reply));
    child.on('exit', (code) => this.settle({ error: `the process ended with code ${code}` }));
  }

  /** In the namespace of this full name; without one in ours. */
  static start(namespace?: string): Peer {
    const node = [process.execPath, '--import', import.meta.resolve('tsx'), PEER];
    const [command, ...args] = namespace === undefined ? node : ['ip', 'netns', 'exec', namespace, ...node];
    return new Peer(spawn(command!, args, { stdio: ['ignore', 'ignore', 'inherit', 'ipc'] }));
  }

  /** One order at a time. */
  async ask<T>(order: Order, timeoutMs = 30_000): Promise<T> {
    const timer = setTimeout(() => this.settle({ error: `no answer in ${timeoutMs / 1_000} s` }), timeoutMs);
    const reply = new Promise<{ result?: unknown; error?: string }>((resolve) => {
      this.settle = resolve;
    });
    this.child.send(order);
    const { result, error } = await reply;
    clearTimeout(timer);
    if (error !== undefined) throw new Error(`${order.do}: ${error}`);
    return result as T;
  }

  async stop(): Promise<void> {
    if (this.child.exitCode !== null || this.child.signalCode !== null) return;
    const gone = once(this.child, 'exit');
    if (this.child.connected) this.child.disconnect();
    else this.child.kill('SIGKILL');
    await gone;
  }
}

/** ca.crt, cloud.* for the hub at `host`, NODE.* for each node. */
export async function certificates(dir: string, hosts: readonly string[], nodes: readonly string[]): Promise<void> {
  const ca = await createAuthority('bench');
  await save(dir, 'ca', ca);
  await save(
    dir,
    'cloud',
    await ca.issue({ name: 'cloud', days: 1, names: cloudNames('cloud', [...hosts]), server: true }),
  );
  for (const node of nodes) {
    await save(dir, node, await ca.issue({ name: node, days: 1, names: nodeNames('acme', node, []) }));
  }
}

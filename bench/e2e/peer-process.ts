// A process of a program of the bench that takes orders by messages, in a namespace or beside us.

import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';

interface Reply {
  readonly result?: unknown;
  readonly error?: string;
}

export class PeerProcess<Order extends { readonly do: string }> {
  private settle: (reply: Reply) => void = () => {};

  private constructor(private readonly child: ChildProcess) {
    child.on('message', (reply: Reply) => this.settle(reply));
    child.on('exit', (code) => this.settle({ error: `the process ended with code ${code}` }));
  }

  /** `program` in the namespace of this full name; without one in ours. */
  static start<Order extends { readonly do: string }>(program: string, namespace?: string): PeerProcess<Order> {
    const node = [process.execPath, '--import', import.meta.resolve('tsx'), program];
    const [command, ...args] = namespace === undefined ? node : ['ip', 'netns', 'exec', namespace, ...node];
    return new PeerProcess<Order>(spawn(command!, args, { stdio: ['ignore', 'ignore', 'inherit', 'ipc'] }));
  }

  /** One order at a time. */
  async ask<T>(order: Order, timeoutMs = 60_000): Promise<T> {
    const timer = setTimeout(() => this.settle({ error: `no answer in ${timeoutMs / 1_000} s` }), timeoutMs);
    const reply = new Promise<Reply>((resolve) => {
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

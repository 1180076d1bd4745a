// Clouds and nodes as a program composes them (lib/cloud.ts, lib/node.ts) on a virtual clock and in memory. Only files are real.

import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { ExecutionContext } from 'ava';
import { type Logger, MS, seededRandom } from '../../../lib/core/index.js';
import { type CloudOptions, KubeBusCloud, KubeBusNode, type NodeOptions } from '../../../lib/index.js';
import { memoryTransport } from '../../../transports/memory.js';
import { World } from '../../l3/support/net.js';

export class Overlay {
  readonly world = new World();
  readonly transport = memoryTransport('hub', this.world.defer);
  /** What the clouds and nodes logged: [level, code, text]. */
  readonly log: string[] = [];
  private readonly random = seededRandom(7);

  constructor(private readonly t: ExecutionContext) {}

  async cloud(options: Partial<CloudOptions> = {}): Promise<KubeBusCloud> {
    const tenants = { acme: { pools: ['10.80.0.0/16', 'fd80::/64'] } };
    const { world: clock, transport, random } = this;
    const start = KubeBusCloud.start({
      transports: [transport],
      tenants,
      clock,
      random,
      logger: this.logger,
      ...options,
    });
    const cloud = await this.settle(start);
    this.t.teardown(() => this.settle(cloud.stop()).catch(() => {}));
    return cloud;
  }

  async join(node: string, options: Partial<NodeOptions> = {}): Promise<KubeBusNode> {
    const joined = await this.settle(KubeBusNode.join(this.nodeOptions(node, options)));
    this.t.teardown(() => this.settle(joined.stop()));
    return joined;
  }

  nodeOptions(node: string, options: Partial<NodeOptions> = {}): NodeOptions {
    const { world: clock, transport, random } = this;
    return {
      cloud: ['kubebus://hub'],
      transport,
      tenant: 'acme',
      node,
      clock,
      random,
      logger: this.logger,
      ...options,
    };
  }

  /** Lets time go by, ten milliseconds at a time, until `work` is done. */
  async settle<T>(work: Promise<T>): Promise<T> {
    let done = false;
    const end = work.finally(() => {
      done = true;
    });
    end.catch(() => {});
    while (!done) await this.step();
    return end;
  }

  /** Lets time go by until `what` holds. */
  async until(what: () => boolean): Promise<void> {
    while (!what()) await this.step();
  }

  async pass(micros: number): Promise<void> {
    const end = this.world.now() + micros;
    while (this.world.now() < end) await this.step();
  }

  async ping(from: KubeBusNode, to: string): Promise<boolean> {
    const { lost } = await this.settle(from.ping(to, { count: 1, timeoutMs: 500 }));
    return lost === 0;
  }

  private async step(): Promise<void> {
    this.world.run(10 * MS);
    // Files and promises are real: they get their turn between the steps.
    await new Promise((resolve) => setImmediate(resolve));
  }

  private readonly logger: Logger = (() => {
    const note = (level: string) => (fields: object, text: string) => {
      const { code = '', err } = fields as { code?: string; err?: { message: string } };
      this.log.push(`${level} ${code} ${text} ${err?.message ?? ''}`.trim());
    };
    return { debug: note('debug'), info: note('info'), warn: note('warn'), error: note('error') };
  })();
}

export async function folder(t: ExecutionContext): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), 'kubebus-composition-'));
  t.teardown(() => rm(dir, { recursive: true, force: true }));
  return dir;
}

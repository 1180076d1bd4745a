// A cloud with its own CA on a port of the loopback, as `kubebus cloud --state` makes it.

import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { ExecutionContext } from 'ava';
import type { Logger } from '../../lib/core/index.js';
import { KubeBusCloud } from '../../lib/index.js';
import { type JoinAuthority, type JoinAuthorityOptions, openJoinAuthority } from '../../lib/join/index.js';
import { tcpTransport } from '../../transports/tcp.js';

export async function folder(t: ExecutionContext): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), 'kubebus-join-'));
  t.teardown(() => rm(dir, { recursive: true, force: true }));
  return dir;
}

export interface TestCloud {
  readonly cloud: KubeBusCloud;
  readonly authority: JoinAuthority;
  readonly address: string;
  stop(): Promise<void>;
}

export interface TestCloudOptions extends Partial<JoinAuthorityOptions> {
  readonly port?: number;
  readonly expiryCheckMs?: number;
}

export async function startCloud(
  t: ExecutionContext,
  stateDir: string,
  options: TestCloudOptions = {},
): Promise<TestCloud> {
  const { port = 0, expiryCheckMs, ...rest } = options;
  let address = '';
  const authority = await openJoinAuthority({
    stateDir,
    hosts: ['127.0.0.1'],
    addresses: () => [address],
    tenants: ['acme', 'blue'],
    ...rest,
  });
  const cloud = await KubeBusCloud.start({
    transports: [
      tcpTransport({ listen: { host: '127.0.0.1', port }, tls: authority.tls, services: [authority.service] }),
    ],
    tenants: { acme: { pools: ['10.80.0.0/16'] }, blue: { pools: ['10.80.0.0/16'] } },
    stateDir,
    authority,
    ...(expiryCheckMs === undefined ? {} : { expiryCheckMs }),
    ...(rest.logger === undefined ? {} : { logger: rest.logger }),
    ...(rest.date === undefined ? {} : { date: rest.date }),
  });
  address = cloud.addresses[0]!;
  const stop = async () => {
    await cloud.stop();
    await authority.close();
  };
  t.teardown(stop);
  return { cloud, authority, address, stop };
}

/** Keeps every line, to look for what must not be there. */
export class LogLines implements Logger {
  readonly lines: string[] = [];
  private readonly keep = (fields: object, message: string) => {
    const text = JSON.stringify(fields, (_key, v: unknown) => (v instanceof Error ? `${v.message} ${v.stack}` : v));
    this.lines.push(`${message} ${text}`);
  };
  debug = this.keep;
  info = this.keep;
  warn = this.keep;
  error = this.keep;
}

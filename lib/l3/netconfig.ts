// Edge: addresses, MTU and routes of a device, through iproute2. Idempotent: what is there already is no error. A device
// that vanishes takes its addresses and routes along, so nothing has to be cleaned up after a crash.

import { spawn } from 'node:child_process';
import { KubeBusError } from '../core/index.js';
import { formatAddress, formatPrefix, type Prefix } from './address.js';
import { withNetAdmin } from './tun.js';

/**
 * Of the routes that we set. Above that of a directly connected subnet (0 and, for IPv6, 256): a host that stands in a subnet
 * which a router also advertises goes on reaching its neighbours directly. With a metric of their own our routes also
 * never replace one of the administrator's, which would be missing once ours are gone.
 */
export const ROUTE_METRIC = 512;

export interface DeviceConfig {
  /** With prefix length: '10.80.0.5/32'. */
  readonly addresses: readonly string[];
  readonly mtu: number;
  /** Packets the device's queue holds. **Default:** 1000. */
  readonly txqueuelen?: number;
}

/** Sets MTU and addresses and brings the device up. Throws ERR_TUN with what `ip` said, or what is missing. */
export async function configureDevice(name: string, config: DeviceConfig): Promise<void> {
  // No link-local address: the overlay has no multicast, so solicitations and reports would only be dropped. Ignored where
  // the kernel has no IPv6.
  await ip([`link set dev ${name} addrgenmode none`], true);
  await ip([
    `link set dev ${name} mtu ${config.mtu} txqueuelen ${config.txqueuelen ?? 1000} up`,
    ...config.addresses.map((a) => addressLine(a, name)),
  ]);
}

export interface DeviceChange {
  readonly addAddresses?: readonly string[];
  readonly removeAddresses?: readonly string[];
  readonly addRoutes?: readonly Prefix[];
  readonly removeRoutes?: readonly Prefix[];
  /** Source address of packets of this host on these routes. */
  readonly source?: { readonly v4?: string; readonly v6?: string };
  readonly mtu?: number;
}

/** Adds and removes addresses and routes of a device, many at once. Removing what is not there is no error. */
export async function changeDevice(name: string, change: DeviceChange): Promise<void> {
  const source = (prefix: Prefix) => {
    const address = prefix.address.length === 4 ? change.source?.v4 : change.source?.v6;
    return address === undefined ? '' : ` src ${address}`;
  };
  const remove = [
    ...(change.removeRoutes ?? []).map((p) => `route del ${formatPrefix(p)} dev ${name} metric ${ROUTE_METRIC}`),
    ...(change.removeAddresses ?? []).map((a) => `address del ${a} dev ${name}`),
  ];
  if (remove.length > 0) await ip(remove, true);
  const add = [
    ...(change.mtu === undefined ? [] : [`link set dev ${name} mtu ${change.mtu}`]),
    ...(change.addAddresses ?? []).map((a) => addressLine(a, name)),
    ...(change.addRoutes ?? []).map(
      (p) => `route replace ${formatPrefix(p)} dev ${name} metric ${ROUTE_METRIC}${source(p)}`,
    ),
  ];
  if (add.length > 0) await ip(add);
}

/** What the host's kernel is told of the overlay. Changes go through one queue, in order. */
export class HostNetwork {
  private queue: Promise<void> = Promise.resolve();
  private source: { v4?: string; v6?: string } = {};
  private failure: KubeBusError | null = null;
  private closed = false;

  /** Brings the device up. */
  constructor(
    readonly device: string,
    private mtuNow: number,
    private readonly onError: (error: KubeBusError) => void,
  ) {
    this.enqueue(() => configureDevice(device, { addresses: [], mtu: mtuNow }));
  }

  /** `all`: the addresses after the change; the first of each family becomes the source of what this host sends. */
  addresses(added: readonly Uint8Array[], removed: readonly Uint8Array[], all: readonly Uint8Array[]): void {
    const host = (a: Uint8Array) => `${formatAddress(a)}/${a.length * 8}`;
    const v4 = all.find((a) => a.length === 4);
    const v6 = all.find((a) => a.length === 16);
    this.source = { ...(v4 && { v4: formatAddress(v4) }), ...(v6 && { v6: formatAddress(v6) }) };
    this.change({ addAddresses: added.map(host), removeAddresses: removed.map(host) });
  }

  routes(added: readonly Prefix[], removed: readonly Prefix[]): void {
    this.change({ addRoutes: added, removeRoutes: removed, source: this.source });
  }

  mtu(mtu: number): void {
    if (mtu === this.mtuNow) return;
    this.mtuNow = mtu;
    this.change({ mtu });
  }

  /** Resolves when everything asked for so far is done; rejects when something of it failed. */
  async settled(): Promise<void> {
    await this.queue;
    const { failure } = this;
    this.failure = null;
    if (failure !== null) throw failure;
  }

  /** The device goes away, and what was configured with it. */
  close(): void {
    this.closed = true;
  }

  private change(change: DeviceChange): void {
    this.enqueue(() => changeDevice(this.device, change));
  }

  private enqueue(task: () => Promise<void>): void {
    this.queue = this.queue
      .then(() => (this.closed ? undefined : task()))
      .catch((cause: unknown) => {
        if (this.closed) return;
        const error = cause instanceof KubeBusError ? cause : new KubeBusError('ERR_TUN', String(cause), { cause });
        this.failure ??= error;
        this.onError(error);
      });
  }
}

const addressLine = (address: string, device: string): string =>
  `address replace ${address} dev ${device}${address.includes(':') ? ' nodad' : ''}`;

/**
 * The environment for programs of the system: without the folders that npm puts in front of the PATH (packages have
 * commands named like nftables' `nft`), and with those of administration, which a user's PATH may lack.
 */
export function systemEnvironment(): NodeJS.ProcessEnv {
  const own = (process.env.PATH ?? '').split(':').filter((dir) => dir !== '' && !dir.includes('/node_modules/'));
  return { ...process.env, PATH: [...new Set([...own, '/usr/sbin', '/sbin', '/usr/bin', '/bin'])].join(':') };
}

/** One `ip -batch -` for all commands. `force`: goes on after a failing line and ignores it. */
function ip(commands: readonly string[], force = false): Promise<void> {
  return new Promise((resolve, reject) => {
    const child = withNetAdmin(() =>
      spawn('ip', [...(force ? ['-force'] : []), '-batch', '-'], {
        stdio: ['pipe', 'ignore', 'pipe'],
        env: systemEnvironment(),
      }),
    );
    let stderr = '';
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      if (stderr.length < 4096) stderr += text;
    });
    child.on('error', (cause) =>
      reject(
        new KubeBusError('ERR_TUN', "the program 'ip' (package iproute2) is needed to configure the TUN device", {
          cause,
        }),
      ),
    );
    child.on('close', (code) => {
      if (code === 0 || force) resolve();
      else reject(new KubeBusError('ERR_TUN', `cannot configure the device: ${stderr.trim().split('\n')[0]}`));
    });
    child.stdin.on('error', () => {});
    child.stdin.end(`${commands.join('\n')}\n`);
  });
}

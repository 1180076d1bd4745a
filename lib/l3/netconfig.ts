// Edge: addresses, MTU and routes of a device, through iproute2. Idempotent: what is there already is no error. A device
// that vanishes takes its addresses and routes along, so nothing has to be cleaned up after a crash.

import { spawn } from 'node:child_process';
import { KubeBusError } from '../core/index.js';
import { formatPrefix, type Prefix } from './address.js';

export interface DeviceConfig {
  /** With prefix length: '10.80.0.5/32'. */
  readonly addresses: readonly string[];
  readonly mtu: number;
  /** Packets the device's queue holds. **Default:** 1000. */
  readonly txqueuelen?: number;
}

/** Sets MTU and addresses and brings the device up. Throws ERR_TUN with what `ip` said. */
export async function configureDevice(name: string, config: DeviceConfig): Promise<void> {
  await ip([
    `link set dev ${name} mtu ${config.mtu} txqueuelen ${config.txqueuelen ?? 1000} up`,
    ...config.addresses.map((a) => `address replace ${a} dev ${name}${a.includes(':') ? ' nodad' : ''}`),
  ]);
}

/** Adds and removes addresses and routes of a device, many at once. Removing what is not there is no error. */
export async function changeDevice(
  name: string,
  change: {
    readonly addAddresses?: readonly string[];
    readonly removeAddresses?: readonly string[];
    readonly addRoutes?: readonly Prefix[];
    readonly removeRoutes?: readonly Prefix[];
    /** Source address of packets of this host on these routes. */
    readonly source?: { readonly v4?: string; readonly v6?: string };
    readonly mtu?: number;
  },
): Promise<void> {
  const source = (prefix: Prefix) => {
    const address = prefix.address.length === 4 ? change.source?.v4 : change.source?.v6;
    return address === undefined ? '' : ` src ${address}`;
  };
  const remove = [
    ...(change.removeRoutes ?? []).map((p) => `route del ${formatPrefix(p)} dev ${name}`),
    ...(change.removeAddresses ?? []).map((a) => `address del ${a} dev ${name}`),
  ];
  if (remove.length > 0) await ip(remove, true);
  const add = [
    ...(change.mtu === undefined ? [] : [`link set dev ${name} mtu ${change.mtu}`]),
    ...(change.addAddresses ?? []).map((a) => `address replace ${a} dev ${name}${a.includes(':') ? ' nodad' : ''}`),
    ...(change.addRoutes ?? []).map((p) => `route replace ${formatPrefix(p)} dev ${name}${source(p)}`),
  ];
  if (add.length > 0) await ip(add);
}

/** One `ip -batch -` for all commands. `force`: goes on after a failing line and ignores it. */
function ip(commands: readonly string[], force = false): Promise<void> {
  return new Promise((resolve, reject) => {
    const child = spawn('ip', [...(force ? ['-force'] : []), '-batch', '-'], { stdio: ['pipe', 'ignore', 'pipe'] });
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

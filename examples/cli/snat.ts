// Source NAT at the virtual router (PAPER D4): in clusters that drop foreign source addresses the VMs see the router's.

import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { KubeBusError } from '../../lib/core/index.js';
import { systemEnvironment, withNetAdmin } from '../../lib/l3/index.js';

export interface Snat {
  stop(): void;
}

const failed = (what: string) => new KubeBusError('ERR_TUN', `source NAT (nftables): ${what}`);
const NOT_THERE = "the program 'nft' is not there: install nftables";

/** Throws when source NAT is not to be had here: before the node joins, not after. */
export async function checkSnat(): Promise<void> {
  const nft = spawn('nft', ['--version'], { stdio: 'ignore', env: systemEnvironment() });
  const [code] = await once(nft, 'close').catch(() => [-1]);
  if (code !== 0) throw failed(NOT_THERE);
}

/**
 * Masquerades what comes from `device` towards `prefixes`. The table belongs to an `nft` process of ours (flags owner): the
 * kernel removes it when that process ends, and it ends when we do, however we end.
 */
export async function startSnat(
  device: string,
  prefixes: readonly string[],
  onLost: (reason: string) => void,
): Promise<Snat> {
  const sets = [
    ['ip', prefixes.filter((p) => !p.includes(':'))],
    ['ip6', prefixes.filter((p) => p.includes(':'))],
  ] as const;
  const rules = sets.flatMap(([family, list]) =>
    list.length === 0 ? [] : [`iifname "${device}" ${family} daddr { ${list.join(', ')} } masquerade`],
  );
  const table = `kubebus_${process.pid}`;
  const script = [
    `add table inet ${table} { flags owner; }`,
    `add chain inet ${table} post { type nat hook postrouting priority srcnat; }`,
    ...rules.map((rule) => `add rule inet ${table} post ${rule}`),
  ];
  const nft: ChildProcess = withNetAdmin(() =>
    spawn('nft', ['-i'], { stdio: ['pipe', 'pipe', 'pipe'], env: systemEnvironment() }),
  );
  let output = '';
  for (const stream of [nft.stdout!, nft.stderr!]) {
    stream.setEncoding('utf8').on('data', (text: string) => {
      output = (output + text).slice(-4096);
    });
  }
  nft.stdin!.on('error', () => {});
  nft.stdin!.write(`${script.join('\n')}\nlist tables\n`);
  const started = async () => {
    while (!output.includes(`table inet ${table}`) && !output.includes('Error')) await once(nft.stdout!, 'data');
  };
  const error = new Promise<never>((_, reject) => {
    nft.once('error', () => reject(failed(NOT_THERE)));
    nft.once('close', () => reject(failed(output.trim() || 'nft ended')));
  });
  error.catch(() => {});
  await Promise.race([started(), error]);
  if (output.includes('Error')) {
    nft.kill();
    throw failed(output.trim().split('\n')[0] ?? '');
  }
  let stopping = false;
  nft.on('close', () => {
    if (!stopping) onLost('the nft process that holds the rules ended');
  });
  return {
    stop() {
      stopping = true;
      nft.stdin!.end();
      nft.kill();
    },
  };
}

// Round-trip times of all pairs by the system's `ping`, and what KubeBus adds to the way through the cloud (figure 8).
import { CLOUD_UNDERLAY, type Host } from './figure7.js';
import type { Lab } from './netns.js';

export interface Matrix {
  readonly hosts: readonly string[];
  /** Milliseconds by [from][to]: the median; null: no answer. */
  readonly rtt: Record<string, Record<string, number | null>>;
  /** Round trip from each host to the cloud beside the overlay. */
  readonly toCloud: Record<string, number>;
  /** rtt - (toCloud[from] + toCloud[to]); null where there is no answer or the pair is inside the cluster. */
  readonly added: Record<string, Record<string, number | null>>;
  /** Pairs that answer over IPv6, and pairs in all. */
  readonly ipv6: { readonly answered: number; readonly pairs: number };
}

export async function measure(lab: Lab, hosts: readonly Host[], count = 10): Promise<Matrix> {
  const pairs = hosts.flatMap((from) => hosts.filter((to) => to !== from).map((to) => ({ from, to })));
  // First who answers at all, many at once; it also resolves neighbours, so that the figures hold no ARP.
  const answers4 = await all(pairs, 8, ({ from, to }) => answers(lab, from.name, to.v4));
  const answers6 = await all(pairs, 8, ({ from, to }) => answers(lab, from.name, to.v6));
  const toCloud: Record<string, number> = { cloud: 0 };
  for (const { name } of hosts) {
    if (name !== 'cloud') toCloud[name] = (await ping(lab, name, CLOUD_UNDERLAY, count)) ?? Number.NaN;
  }
  const rtt: Matrix['rtt'] = {};
  const added: Matrix['added'] = {};
  for (const [i, { from, to }] of pairs.entries()) {
    const value = answers4[i] ? await ping(lab, from.name, to.v4, count) : null;
    const overlay = !(from.cluster && to.cluster);
    (rtt[from.name] ??= {})[to.name] = value;
    (added[from.name] ??= {})[to.name] =
      value === null || !overlay ? null : value - (toCloud[from.name]! + toCloud[to.name]!);
  }
  return {
    hosts: hosts.map((host) => host.name),
    rtt,
    toCloud,
    added,
    ipv6: { answered: answers6.filter(Boolean).length, pairs: pairs.length },
  };
}

/** The two tables as text. */
export function show(matrix: Matrix): string {
  const { hosts, rtt, toCloud, added, ipv6 } = matrix;
  const table = (cell: (from: string, to: string) => string) => {
    const rows = hosts.map((from) => [from, ...hosts.map((to) => (from === to ? '' : cell(from, to)))]);
    return [['', ...hosts], ...rows].map((row) => row.map((text) => text.padStart(8)).join('')).join('\n');
  };
  const answered = hosts.flatMap((from) => Object.values(rtt[from] ?? {})).filter((value) => value !== null).length;
  const extra = hosts.flatMap((from) => Object.values(added[from] ?? {})).filter((value) => value !== null);
  return [
    'RTT in ms (median), row to column; x: no answer',
    table((from, to) => number(rtt[from]?.[to] ?? null, 'x')),
    '',
    `RTT to the cloud beside the overlay: ${hosts
      .filter((host) => host !== 'cloud')
      .map((host) => `${host} ${number(toCloud[host]!, 'x')}`)
      .join(', ')}`,
    '',
    'What KubeBus adds: overlay RTT minus (RTT to the cloud + RTT from it); -: the pair is inside the cluster',
    table((from, to) => number(added[from]?.[to] ?? null, rtt[from]?.[to] === null ? 'x' : '-')),
    '',
    `IPv4: ${answered} of ${ipv6.pairs} pairs answer; IPv6: ${ipv6.answered} of ${ipv6.pairs}` +
      (extra.length === 0 ? '' : `; KubeBus adds ${number(median(extra), '-')} ms (median)`),
  ].join('\n');
}

const number = (value: number | null, none: string): string => (value === null ? none : value.toFixed(3));

async function answers(lab: Lab, from: string, to: string): Promise<boolean> {
  return (await lab.run(from, 'ping', ['-n', '-q', '-c', '1', '-W', '1', to])).code === 0;
}

/** Median round trip in milliseconds, or null. */
async function ping(lab: Lab, from: string, to: string, count: number): Promise<number | null> {
  const { stdout } = await lab.run(from, 'ping', ['-n', '-c', String(count), '-i', '0.01', '-W', '1', to]);
  const times = [...stdout.matchAll(/time=([\d.]+) ms/g)].map((match) => Number(match[1]));
  return times.length === 0 ? null : median(times);
}

function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[sorted.length >> 1]!;
}

/** Runs `work` on all items, at most `width` at a time; results in order. */
async function all<T, R>(items: readonly T[], width: number, work: (item: T) => Promise<R>): Promise<R[]> {
  const results: R[] = [];
  const queue = items.entries();
  const worker = async () => {
    for (const [i, item] of queue) results[i] = await work(item);
  };
  await Promise.all(Array.from({ length: width }, worker));
  return results;
}

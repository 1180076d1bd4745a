// Results as tables, and into docs/benchmarks.md between its markers.

import { readFileSync, writeFileSync } from 'node:fs';
import { cpus, release, totalmem } from 'node:os';
import type { Sample } from './e2e/measure.js';
import type { VpnReport, VpnRow } from './e2e/vpn.js';
import type { MicroResult } from './micro/shape.js';

type Cells = readonly (readonly string[])[];

export function markdown(header: readonly string[], rows: Cells): string {
  const line = (cells: readonly string[]) => `| ${cells.join(' | ')} |`;
  return [line(header), line(header.map(() => '---')), ...rows.map(line)].join('\n');
}

/** Columns aligned for a terminal. */
export function text(header: readonly string[], rows: Cells): string {
  const all = [header, ...rows];
  const widths = header.map((_, i) => Math.max(...all.map((row) => row[i]!.length)));
  return all
    .map((row) => row.map((cell, i) => (i === 0 ? cell.padEnd(widths[i]!) : cell.padStart(widths[i]!))).join('  '))
    .join('\n');
}

export const MICRO_HEADER = ['bench', 'case', 'unit', 'M/s', 'ns each', 'GB/s', '± %'] as const;

export function microRows(results: readonly MicroResult[]): string[][] {
  return results.map((r) => [
    r.bench,
    r.name,
    r.unit,
    (r.opsPerSecond / 1e6).toPrecision(3),
    r.nsPerOp.toPrecision(3),
    r.gigabytesPerSecond?.toFixed(2) ?? '',
    r.rme?.toFixed(1) ?? '',
  ]);
}

type Figure = Exclude<keyof Sample, 'failures'>;

const VPN_COLUMNS: readonly (readonly [string, Figure, number])[] = [
  ['TCP Gbit/s', 'tcpGbps', 3],
  ['both ways', 'tcpBothGbps', 3],
  ['4 streams', 'tcp4Gbps', 3],
  ['daemons cpu-s/GB', 'cpuPerGb', 2],
  ['hub cpu-s/GB', 'hubCpuPerGb', 2],
  ['64 B flood kpps', 'floodPps', 0],
  ['64 B paced kpps', 'pacedPps', 0],
  ['RTT p50 ms', 'rttP50', 3],
  ['RTT p99 ms', 'rttP99', 2],
  ['loaded p50 ms', 'loadedP50', 2],
  ['loaded p99 ms', 'loadedP99', 2],
  ['edge MiB peak', 'edgePeak', 0],
  ['hub MiB peak', 'hubPeak', 0],
  ['foreign load %', 'foreignPercent', 0],
];

export const VPN_HEADER = [
  'subject',
  'version',
  'encryption',
  'hops',
  ...VPN_COLUMNS.map(([title]) => title),
  'TCP, x nebula',
];

/** Median of a figure over the repetitions. */
function median(row: VpnRow, figure: Figure): number | undefined {
  const values = numbers(row, figure);
  return values[values.length >> 1];
}

function numbers(row: VpnRow, figure: Figure): number[] {
  return row.samples
    .flatMap((sample) => sample[figure] ?? [])
    .map((value) => (figure.endsWith('Pps') ? value / 1000 : value))
    .sort((a, b) => a - b);
}

export function vpnRows(report: VpnReport): string[][] {
  return report.rows.map((row) => {
    const reference = report.rows.find((r) => r.subject === 'nebula' && r.hops === row.hops);
    const [own, theirs] = [median(row, 'tcpGbps'), reference && median(reference, 'tcpGbps')];
    const cells = VPN_COLUMNS.map(([, figure, digits]) => {
      const values = numbers(row, figure);
      const middle = values[values.length >> 1];
      if (middle === undefined) return '-';
      const range = values.length > 1 ? ` [${values[0]!.toFixed(digits)}-${values.at(-1)!.toFixed(digits)}]` : '';
      return `${middle.toFixed(digits)}${range}`;
    });
    const ratio = own === undefined || theirs === undefined ? '-' : (own / theirs).toFixed(2);
    return [row.title, row.version, row.encryption, String(row.hops), ...cells, ratio];
  });
}

export function machine(): string {
  const list = cpus();
  return `${list.length} x ${list[0]?.model ?? 'unknown'}, ${Math.round(totalmem() / 2 ** 30)} GiB, kernel ${release()}, Node ${process.version}`;
}

/** Replaces what stands between `<!-- NAME -->` and `<!-- /NAME -->` in docs/benchmarks.md. */
export function updateDocs(name: string, content: string): void {
  const path = new URL('../docs/benchmarks.md', import.meta.url);
  const page = readFileSync(path, 'utf8');
  const [open, close] = [`<!-- ${name} -->`, `<!-- /${name} -->`];
  const [start, end] = [page.indexOf(open), page.indexOf(close)];
  if (start < 0 || end < start) throw new Error(`docs/benchmarks.md has no part ${open}`);
  const stamp = `${new Date().toISOString().slice(0, 10)}, ${machine()}`;
  writeFileSync(path, `${page.slice(0, start + open.length)}\n\n${stamp}\n\n${content}\n\n${page.slice(end)}`);
}

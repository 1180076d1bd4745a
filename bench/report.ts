// Turns results into tables: for the terminal, and as Markdown for docs/benchmarks.md.

import type { HttpReport } from './e2e/http.js';
import type { L4Report } from './e2e/l4.js';
import type { LinksFigure } from './e2e/links.js';
import type { Sample } from './e2e/measure.js';
import type { TransportsReport } from './e2e/transports.js';
import type { VpnReport, VpnRow } from './e2e/vpn.js';
import type { MicroResult } from './micro/shape.js';

export interface Machine {
  readonly cpu: string;
  readonly cores: number;
  readonly memoryGiB: number;
  readonly kernel: string;
  readonly node: string;
  readonly os: string;
}

export interface Report {
  readonly date: string;
  readonly commit: string;
  readonly machine: Machine;
  readonly micro?: MicroResult[];
  readonly vpn?: VpnReport;
  readonly links?: readonly LinksFigure[];
  readonly fleet?: readonly LinksFigure[];
  readonly transports?: TransportsReport;
  readonly l4?: L4Report;
  readonly http?: HttpReport;
}

type Figure = {
  readonly head: string;
  readonly digits: number;
  readonly of: (sample: Sample) => number | undefined;
  /** Which end of the peers is the best one; none: no ratio. */
  readonly best?: 'high' | 'low';
};

const THROUGHPUT: readonly Figure[] = [
  { head: 'TCP Gbit/s', digits: 3, of: (s) => s.tcpGbps, best: 'high' },
  { head: 'both ways', digits: 3, of: (s) => s.tcpBothGbps, best: 'high' },
  { head: '4 streams', digits: 3, of: (s) => s.tcp4Gbps, best: 'high' },
  { head: 'retransmits', digits: 0, of: (s) => s.tcpRetransmits },
  { head: 'CPU s/GB', digits: 2, of: (s) => s.cpuPerGb, best: 'low' },
  { head: 'of it hub', digits: 2, of: (s) => s.hubCpuPerGb, best: 'low' },
];
const PACKETS: readonly Figure[] = [
  { head: '64 B flood kpps', digits: 1, of: (s) => thousand(s.floodPps), best: 'high' },
  { head: 'paced kpps, 1 % loss', digits: 1, of: (s) => thousand(s.pacedPps), best: 'high' },
  { head: 'RTT p50 ms', digits: 3, of: (s) => s.rttP50, best: 'low' },
  { head: 'RTT p99', digits: 3, of: (s) => s.rttP99, best: 'low' },
  { head: 'loaded p50 ms', digits: 2, of: (s) => s.loadedP50, best: 'low' },
  { head: 'loaded p99', digits: 2, of: (s) => s.loadedP99, best: 'low' },
];
const MEMORY: readonly Figure[] = [
  { head: 'edge RSS MiB', digits: 0, of: (s) => s.edgeRss },
  { head: 'edge peak', digits: 0, of: (s) => s.edgePeak },
  { head: 'hub RSS MiB', digits: 0, of: (s) => s.hubRss },
  { head: 'hub peak', digits: 0, of: (s) => s.hubPeak },
  { head: 'foreign load %', digits: 0, of: (s) => s.foreignPercent },
];

function thousand(value: number | undefined): number | undefined {
  return value === undefined ? undefined : value / 1000;
}

function values(row: VpnRow, figure: Figure): number[] {
  return row.samples
    .map(figure.of)
    .filter((value): value is number => value !== undefined)
    .sort((a, b) => a - b);
}

/** The middle one; the mean of the two middle ones where their number is even. */
export function median(sorted: readonly number[]): number | undefined {
  if (sorted.length === 0) return undefined;
  const half = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[half] : (sorted[half - 1]! + sorted[half]!) / 2;
}

function cell(row: VpnRow, figure: Figure): string {
  const all = values(row, figure);
  const middle = median(all);
  if (middle === undefined) return '-';
  const show = (value: number) => value.toFixed(figure.digits);
  return all.length === 1 ? show(middle) : `${show(middle)} [${show(all[0]!)}-${show(all.at(-1)!)}]`;
}

const isOurs = (row: VpnRow) => row.subject.startsWith('kubebus');
// The kernel's own forwarding is a limit, not a peer.
const isPeer = (row: VpnRow) => !isOurs(row) && !row.subject.startsWith('kernel');

/** Rows of ratios: each of ours against every peer and against the best one of each figure. */
function ratioRows(rows: readonly VpnRow[], figures: readonly Figure[]): string[][] {
  const out: string[][] = [];
  for (const ours of rows.filter(isOurs)) {
    const peers = rows.filter((row) => row.hops === ours.hops && isPeer(row));
    if (peers.length === 0) continue;
    const against = (title: string, reference: (figure: Figure) => number | undefined) =>
      out.push([
        `${ours.title} / ${title}`,
        String(ours.hops),
        ...figures.map((figure) => {
          const own = median(values(ours, figure));
          const other = figure.best ? reference(figure) : undefined;
          return own === undefined || !other ? '-' : `${(own / other).toFixed(2)} x`;
        }),
      ]);
    for (const peer of peers) against(peer.title, (figure) => median(values(peer, figure)));
    if (peers.length > 1) {
      against('best peer of each', (figure) => {
        const medians = peers.map((peer) => median(values(peer, figure))).filter((value) => value !== undefined);
        if (medians.length === 0) return undefined;
        return figure.best === 'high' ? Math.max(...medians) : Math.min(...medians);
      });
    }
  }
  return out;
}

export function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const widths = head.map((title, column) => Math.max(title.length, ...rows.map((row) => (row[column] ?? '').length)));
  const render = (row: readonly string[]) =>
    `| ${widths.map((width, column) => (row[column] ?? '').padEnd(width)).join(' | ')} |`;
  return [render(head), `| ${widths.map((width) => '-'.repeat(width)).join(' | ')} |`, ...rows.map(render)].join('\n');
}

/** How many samples the cells have: `3 samples`, `2 to 3 samples`. */
function counts(rows: readonly VpnRow[]): string {
  const sizes = rows.flatMap((row) =>
    [...THROUGHPUT, ...PACKETS].map((figure) => values(row, figure).length).filter((n) => n > 0),
  );
  const [least, most] = [Math.min(...sizes), Math.max(...sizes)];
  return `${least === most ? most : `${least} to ${most}`} sample${most === 1 ? '' : 's'}`;
}

export function vpnTables(report: VpnReport): string {
  const sections: string[] = [];
  const rows = [...report.rows].sort((a, b) => b.hops - a.hops);
  sections.push(
    table(
      ['subject', 'version', 'encryption', 'path'],
      [...new Map(rows.map((row) => [row.subject, row])).values()].map((row) => [
        row.title,
        row.version,
        row.encryption,
        row.how,
      ]),
    ),
  );
  for (const [title, figures, ratios] of [
    ['Throughput and CPU time', THROUGHPUT, true],
    ['Small packets and latency', PACKETS, true],
    ['Memory of one process', MEMORY, false],
  ] as const) {
    const head = ['subject', 'hops', ...figures.map((figure) => figure.head)];
    sections.push(
      `${title}\n\n${table(
        head,
        rows.map((row) => [row.title, String(row.hops), ...figures.map((figure) => cell(row, figure))]),
      )}`,
    );
    const compared = ratios ? ratioRows(rows, figures) : [];
    if (compared.length > 0) sections.push(`${title}: ratios of the medians\n\n${table(head, compared)}`);
  }
  const failures = rows.flatMap((row) =>
    row.samples.flatMap((sample) => sample.failures.map((why) => `- ${row.title}, ${row.hops} hops: ${why}`)),
  );
  if (failures.length > 0) sections.push(`Not measured:\n\n${[...new Set(failures)].join('\n')}`);
  sections.push(
    `Congestion control ${report.congestion} in every namespace; cells are medians [min-max] of ${counts(rows)}, ` +
      `subjects in turn with new daemons each time; TCP runs of ${report.seconds} s; ${report.minutes.toFixed(1)} minutes in all, in ${report.sittings} sitting${report.sittings === 1 ? '' : 's'}. ` +
      'CPU is that of all daemons, with the system time spent for them; loaded RTT is that of ping while one iperf3 stream fills the same path.',
  );
  return sections.join('\n\n');
}

export function microTable(results: readonly MicroResult[]): string {
  const rate = (value: number) =>
    value >= 1e6 ? `${(value / 1e6).toFixed(2)} M` : value >= 1e3 ? `${(value / 1e3).toFixed(1)} k` : value.toFixed(1);
  return table(
    ['bench', 'case', 'per second', 'ns each', 'GB/s', 'error'],
    results.map((r) => [
      r.bench,
      r.name,
      `${rate(r.opsPerSecond)} ${r.unit}s`,
      r.nsPerOp.toFixed(1),
      r.gigabytesPerSecond?.toFixed(2) ?? '',
      r.rme === undefined ? '' : `±${r.rme.toFixed(1)} %`,
    ]),
  );
}

export function linksTable(figures: readonly LinksFigure[]): string {
  return table(
    ['figure', 'TLS', 'insecure'],
    figures.map(({ figure, values }) => [figure, ...values]),
  );
}

/** Median, with the ends where there are several. */
function spread(values: readonly number[], digits: number): string {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = median(sorted);
  if (middle === undefined) return '-';
  const show = (value: number) => value.toFixed(digits);
  return sorted.length === 1 ? show(middle) : `${show(middle)} [${show(sorted[0]!)}-${show(sorted.at(-1)!)}]`;
}

export function transportsTable(report: TransportsReport): string {
  const rows = report.loopback.map((row) => [
    row.transport,
    spread(row.gbps, 3),
    spread(row.cpu, 2),
    spread(row.hubCpu, 2),
    spread(row.p50, 0),
    spread(row.p99, 0),
  ]);
  const head = ['transport', 'Gbit/s', 'CPU s/GB', 'of it hub', 'RTT p50 us', 'RTT p99 us'];
  return `${table(head, rows)}\n\n${repetitions(report)}`;
}

export function lossyTable(report: TransportsReport): string {
  const { lossy } = report;
  const middle = (values: readonly number[]) => median([...values].sort((a, b) => a - b));
  const rows = lossy.map((row) => {
    // The first row of as many flows with the same control inside: one TCP connection with cubic.
    const base = lossy.find((other) => other.flows === row.flows && other.inner === row.inner)!;
    const ratio = middle(row.mbps)! / middle(base.mbps)!;
    return [row.link, `${row.flows} x ${row.inner}`, spread(row.mbps, 2), row === base ? '' : `${ratio.toFixed(2)} x`];
  });
  const head = ['link', 'flows inside', 'goodput Mbit/s', 'by one TCP connection'];
  return `${table(head, rows)}\n\n${repetitions(report)}`;
}

function repetitions({ reps, seconds }: TransportsReport): string {
  return `${reps} repetition${reps === 1 ? '' : 's'} in turn, ${seconds} s each; median [min-max].`;
}

export function l4Table(report: L4Report): string {
  const rows = report.rows.map(({ figure, value, against, ratio, bar, reached }) => [
    figure,
    value,
    against ?? '',
    ratio === undefined ? '' : `${ratio.toFixed(2)} x`,
    bar ?? '',
    bar === undefined ? '' : reached ? 'yes' : 'NO',
  ]);
  const parts = [table(['figure', 'ours', 'compared with', 'ratio', 'bar', 'reached'], rows)];
  if (report.skipped.length > 0) parts.push(`Not measured:\n\n${report.skipped.map((line) => `- ${line}`).join('\n')}`);
  parts.push(`${report.reps} repetitions in turn, ${report.seconds} s each; median [min-max], ratios of the medians.`);
  return parts.join('\n\n');
}

export function machineLine(report: Report): string {
  const { cpu, cores, memoryGiB, kernel, node, os } = report.machine;
  return `${report.date}, commit ${report.commit}; ${cores} x ${cpu}, ${memoryGiB} GiB, ${os}, Linux ${kernel}, Node ${node}`;
}

/** The text with the part between `<!-- NAME -->` and `<!-- /NAME -->` replaced; appended where the marks are missing. */
export function replaceSection(text: string, name: string, body: string): string {
  const open = `<!-- ${name} -->`;
  const close = `<!-- /${name} -->`;
  const section = `${open}\n\n${body}\n\n${close}`;
  const from = text.indexOf(open);
  const to = text.indexOf(close);
  if (from < 0 || to < from) return `${text.trimEnd()}\n\n## ${name}\n\n${section}\n`;
  return text.slice(0, from) + section + text.slice(to + close.length);
}

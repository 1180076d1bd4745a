// npm run bench -- [name...]: see --help. Micro-benches (bench/micro/*.bench.ts) and the end-to-end ones (bench/e2e).
import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { cpus, release, totalmem } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Command, InvalidArgumentError, Option } from 'commander';
import { httpBench, httpTable } from './e2e/http.js';
import { L4_PARTS, type L4Part, l4 } from './e2e/l4.js';
import { links } from './e2e/links.js';
import { fleetFigures } from './e2e/links-fleet.js';
import { FIGURES, type Figure } from './e2e/measure.js';
import { TRANSPORT_PARTS, transports } from './e2e/transports.js';
import { chooseSubjects, type VpnReport, vpn, vpnObstacle } from './e2e/vpn.js';
import type { MicroResult } from './micro/shape.js';
import {
  l4Table,
  linksTable,
  lossyTable,
  machineLine,
  microTable,
  type Report,
  replaceSection,
  transportsTable,
  vpnTables,
} from './report.js';

const here = dirname(fileURLToPath(import.meta.url));
const microFiles = readdirSync(join(here, 'micro'))
  .filter((file) => file.endsWith('.bench.ts'))
  .sort();
const microNames = microFiles.map((file) => file.replace('.bench.ts', ''));
const known = ['micro', ...microNames, 'vpn', 'links', 'transports', 'l4', 'http'];

const list = (text: string) => text.split(',').filter(Boolean);
const positive = (text: string) => {
  const value = Number(text);
  if (!(value > 0)) throw new InvalidArgumentError('must be a number above 0');
  return value;
};

const count = (text: string) => {
  if (!/^\d+$/.test(text)) throw new InvalidArgumentError('must be a whole number');
  return Number(text);
};
const figureList = (text: string) =>
  list(text).map((name) => {
    const figure = FIGURES.find((known) => known === name);
    if (figure === undefined) throw new InvalidArgumentError(`known: ${FIGURES.join(', ')}`);
    return figure;
  });

interface Options {
  json?: boolean;
  smoke?: boolean;
  list?: boolean;
  updateDocs?: boolean;
  markdown?: boolean;
  peers: string[];
  variants: ('tls' | 'insecure')[];
  hops: string[];
  reps: number;
  seconds?: number;
  cc: string;
  full?: boolean;
  figures: Figure[];
  run?: string;
  minutes: number;
  tries: number;
  quiet: number;
  links: number;
  edges: number;
  fleet: number;
  parts: string[];
}

const program = new Command('bench')
  .description('Measures KubeBus. Without a name: all micro-benches, links, transports, l4, http and (as root) vpn.')
  .argument('[name...]', `one or more of: ${known.join(', ')}`)
  .option('--list', 'print the names and end')
  .option('--json', 'print the results as JSON, and nothing else, on standard output')
  .option('--markdown', 'print the tables for docs/benchmarks.md')
  .option('--update-docs', 'write the tables into docs/benchmarks.md')
  .option('--smoke', 'everything once and as short as possible: shows that it runs, not how fast')
  .option('--seconds <n>', 'length of a micro case (default 1) and of a TCP run (default 3; l4: 2)', positive)
  .option('--peers <names>', 'vpn: peers to compare with', list, [
    'nebula',
    'wireguard-go',
    'openvpn',
    'tinc',
    'kernel',
  ])
  .option('--variants <names>', 'vpn: of KubeBus, tls and insecure', list, ['tls', 'insecure'])
  .option('--hops <n,n>', 'vpn: 2 = edge-hub-edge, 1 = edge-hub', list, ['2', '1'])
  .option(
    '--reps <n>',
    'vpn, transports, l4 and http: repetitions; 0 with --run only shows what the file of vpn has',
    count,
    3,
  )
  .option('--cc <name>', 'vpn: TCP congestion control in every namespace', 'cubic')
  .option('--figures <names>', `vpn: of ${FIGURES.join(', ')}`, figureList, [...FIGURES])
  .option('--run <file>', 'vpn: add to the samples in this file and show all: one run in several sittings')
  .option('--full', 'vpn: all figures on one hop too')
  .option('--minutes <n>', 'vpn: begin no repetition that would end later', positive, 18)
  .option('--tries <n>', 'vpn: how often a figure is taken at most when other work runs', positive, 2)
  .option('--quiet <seconds>', 'vpn: longest wait for an idle machine before a figure', positive, 5)
  .addOption(new Option('--links <n>', 'links: idle links; 0: without').argParser(count).default(2_000))
  .addOption(
    new Option('--fleet <n>', 'links: nodes in processes of their own; 0: without').argParser(count).default(2_000),
  )
  .option('--parts <names>', `l4: of ${L4_PARTS.join(', ')}; transports: of ${TRANSPORT_PARTS.join(', ')}`, list, [
    ...L4_PARTS,
  ])
  .addOption(new Option('--edges <n>', 'links: edges of the restart').argParser(positive).default(200));
program.parse();
const options = program.opts<Options>();
const names = program.args;

for (const name of names)
  if (!known.includes(name)) program.error(`unknown bench '${name}'; known: ${known.join(', ')}`, { exitCode: 2 });
if (options.list) {
  process.stdout.write(`${known.join('\n')}\n`);
  process.exit(0);
}
const wants = (name: string) => names.length === 0 || names.includes(name);
const log = (line: string) => process.stderr.write(`${line}\n`);
const smoke = options.smoke === true;

const report: {
  -readonly [K in keyof Report]: Report[K];
} = {
  date: new Date().toISOString().slice(0, 16).replace('T', ' '),
  commit: git('rev-parse', '--short', 'HEAD') || 'unknown',
  machine: {
    cpu: cpus()[0]?.model.trim() || 'unknown CPU',
    cores: cpus().length,
    memoryGiB: Math.round(totalmem() / 2 ** 30),
    kernel: release(),
    node: process.version,
    os: osName(),
  },
};
let failed = false;

const micro = microNames.filter((name) => wants('micro') || names.includes(name));
if (micro.length > 0) {
  const results = micro.flatMap((name) => runMicro(name));
  report.micro = results;
  if (!options.json) process.stdout.write(`\n${microTable(results)}\n\n`);
}

if (wants('links')) {
  log('links');
  try {
    if (options.links > 0) {
      report.links = await links({
        links: smoke ? 50 : options.links,
        edges: smoke ? 10 : options.edges,
        outageMs: smoke ? 500 : 5_000,
        log,
      });
      if (!options.json) process.stdout.write(`\n${linksTable(report.links)}\n\n`);
    }
    if (options.fleet > 0) {
      report.fleet = await fleetFigures(smoke ? 20 : options.fleet, smoke ? 500 : 5_000, log);
      if (!options.json) process.stdout.write(`\n${linksTable(report.fleet)}\n\n`);
    }
  } catch (error) {
    failed = true;
    log(`links: FAILED: ${(error as Error).message}`);
  }
}

if (wants('transports')) {
  log('transports');
  const chosen = TRANSPORT_PARTS.filter((part) => options.parts.includes(part));
  try {
    report.transports = await transports({
      parts: chosen.length > 0 ? chosen : TRANSPORT_PARTS,
      reps: smoke ? 1 : options.reps,
      seconds: smoke ? 0.3 : (options.seconds ?? 3),
      smoke,
      log,
    });
    const { loopback, lossy } = report.transports;
    if (!options.json && loopback.length > 0) process.stdout.write(`\n${transportsTable(report.transports)}\n\n`);
    if (!options.json && lossy.length > 0) process.stdout.write(`\n${lossyTable(report.transports)}\n\n`);
  } catch (error) {
    failed = true;
    log(`transports: FAILED: ${(error as Error).message}`);
  }
}

if (wants('l4')) {
  log('l4');
  const given = options.parts.filter((part) => !(TRANSPORT_PARTS as readonly string[]).includes(part));
  for (const part of given)
    if (!(L4_PARTS as readonly string[]).includes(part)) program.error(`unknown part '${part}'`, { exitCode: 2 });
  try {
    const { reps, seconds = 2 } = options;
    const brief = smoke && program.getOptionValueSource('parts') === 'default';
    const parts = brief ? given.filter((part) => part !== 'compare') : given;
    report.l4 = await l4({ parts: parts as L4Part[], reps, seconds, smoke, log });
    if (!options.json) process.stdout.write(`\n${l4Table(report.l4)}\n\n`);
  } catch (error) {
    failed = true;
    log(`l4: FAILED: ${(error as Error).message}`);
  }
}

if (wants('http')) {
  log('http');
  try {
    report.http = await httpBench({ seconds: options.seconds ?? 2, reps: options.reps, smoke, log });
    if (!options.json) process.stdout.write(`\n${httpTable(report.http)}\n\n`);
  } catch (error) {
    failed = true;
    log(`http: FAILED: ${(error as Error).message}`);
  }
}

if (wants('vpn')) {
  const obstacle = vpnObstacle();
  if (obstacle !== undefined) log(`vpn: skipped: ${obstacle}`);
  else await runVpn();
}

if (report.micro || report.links || report.fleet || report.transports || report.l4 || report.http || report.vpn)
  finish();
process.exit(failed ? 1 : 0);

function runMicro(name: string): MicroResult[] {
  log(name);
  const seconds = smoke ? 0 : (options.seconds ?? 1);
  const child = spawnSync(
    process.execPath,
    [
      '--expose-gc',
      '--import',
      import.meta.resolve('tsx'),
      join(here, 'micro/child.ts'),
      join(here, `micro/${name}.bench.ts`),
      String(seconds),
    ],
    { encoding: 'utf8', stdio: ['ignore', 'pipe', 'inherit'], timeout: 300_000 },
  );
  if (child.status !== 0) {
    failed = true;
    log(`${name}: FAILED (${child.status ?? child.signal})`);
  }
  return child.stdout
    .split('\n')
    .filter(Boolean)
    .map((text) => JSON.parse(text) as MicroResult);
}

async function runVpn(): Promise<void> {
  log('vpn');
  const peers = smoke && !program.getOptionValueSource('peers')?.startsWith('cli') ? ['nebula'] : options.peers;
  const variants = smoke ? (['tls'] as const) : options.variants;
  try {
    chooseSubjects({ peers, variants });
  } catch (error) {
    program.error((error as Error).message, { exitCode: 2 });
  }
  try {
    const result = await vpn({
      peers,
      variants,
      hops: options.hops.map(Number),
      reps: smoke ? 1 : options.reps,
      seconds: smoke ? 1 : (options.seconds ?? 3),
      congestion: options.cc,
      full: options.full === true,
      minutes: options.minutes,
      tries: smoke ? 1 : options.tries,
      quietMs: smoke ? 0 : options.quiet * 1000,
      figures: smoke ? options.figures.filter((figure) => figure !== 'paced') : options.figures,
      earlier: options.run !== undefined && existsSync(options.run) ? readRun(options.run) : undefined,
      log,
    });
    report.vpn = result;
    if (options.run !== undefined) writeFileSync(options.run, `${JSON.stringify(result)}\n`);
    // A peer that does not start is a gap in the table; KubeBus not starting is a failure.
    failed ||= result.rows.some(
      (row) => row.subject.startsWith('kubebus') && row.samples.some((sample) => sample.failures.length > 0),
    );
    if (!options.json) process.stdout.write(`\n${vpnTables(result)}\n\n`);
  } catch (error) {
    failed = true;
    log(`vpn: FAILED: ${(error as Error).message}`);
  }
}

function readRun(file: string): VpnReport {
  try {
    return JSON.parse(readFileSync(file, 'utf8')) as VpnReport;
  } catch (error) {
    throw new Error(`--run ${file}: ${(error as Error).message}`);
  }
}

function finish(): void {
  const json = `${JSON.stringify(report, null, 2)}\n`;
  const directory = join(here, 'results');
  mkdirSync(directory, { recursive: true });
  writeFileSync(join(directory, `${report.date.replace(/[ :]/g, '-')}.json`), json);
  if (options.json) process.stdout.write(json);
  const sections: [string, string][] = [];
  if (report.vpn) sections.push(['vpn', vpnTables(report.vpn)]);
  if (report.links) sections.push(['links', linksTable(report.links)]);
  if (report.fleet) sections.push(['fleet', linksTable(report.fleet)]);
  const { transports: beside } = report;
  if (beside && beside.loopback.length > 0) sections.push(['transports', transportsTable(beside)]);
  if (beside && beside.lossy.length > 0) sections.push(['lossy', lossyTable(beside)]);
  if (report.l4) sections.push(['l4', l4Table(report.l4)]);
  if (report.http) sections.push(['http', httpTable(report.http)]);
  if (report.micro) sections.push(['micro', microTable(report.micro)]);
  const body = (section: string) => `Measured ${machineLine(report)}.\n\n${section}`;
  if (options.markdown)
    for (const [name, section] of sections) process.stdout.write(`## ${name}\n\n${body(section)}\n\n`);
  if (options.updateDocs) {
    const file = join(here, '../docs/benchmarks.md');
    let text = readFileSync(file, 'utf8');
    for (const [name, section] of sections) text = replaceSection(text, name, body(section));
    writeFileSync(file, text);
    log('docs/benchmarks.md written');
  }
}

function git(...args: string[]): string {
  try {
    return execFileSync('git', args, { cwd: here, encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }).trim();
  } catch {
    return '';
  }
}

function osName(): string {
  try {
    return /^PRETTY_NAME="?([^"\n]*)/m.exec(readFileSync('/etc/os-release', 'utf8'))?.[1] ?? process.platform;
  } catch {
    return process.platform;
  }
}

// npm run bench -- [name...] [--list] [--json] [--smoke] [--update-docs] [options of vpn]
// Names: micro, a micro bench of bench/micro, vpn, links. Without a name: micro and links.

import { spawn } from 'node:child_process';
import { mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { links } from './e2e/links.js';
import { missingPrograms, SUBJECTS } from './e2e/subjects.js';
import { vpn, vpnObstacle } from './e2e/vpn.js';
import type { MicroResult } from './micro/shape.js';
import { MICRO_HEADER, machine, markdown, microRows, text, updateDocs, VPN_HEADER, vpnRows } from './report.js';

const here = fileURLToPath(new URL('.', import.meta.url));
const MICRO = readdirSync(join(here, 'micro'))
  .filter((file) => file.endsWith('.bench.ts'))
  .map((file) => basename(file, '.bench.ts'))
  .sort();

const { values: o, positionals } = readCommandLine();
const names = positionals.length > 0 ? positionals : o.smoke ? ['micro', 'links', 'vpn'] : ['micro', 'links'];
const log = (line: string) => process.stderr.write(`${line}\n`);

if (o.list) {
  console.log(
    [...MICRO, 'micro (all of these)', 'links', `vpn (peers: ${SUBJECTS.map((s) => s.name).join(', ')})`].join('\n'),
  );
  process.exit(0);
}
const unknown = names.find((name) => ![...MICRO, 'micro', 'links', 'vpn'].includes(name));
if (unknown !== undefined) {
  log(`bench: unknown name '${unknown}'; see --list`);
  process.exit(2);
}

const results: Record<string, unknown> = { date: new Date().toISOString(), machine: machine() };
const micro = names.includes('micro') ? MICRO : MICRO.filter((name) => names.includes(name));
if (micro.length > 0) {
  const measured: MicroResult[] = [];
  for (const name of micro) measured.push(...(await runMicro(name)));
  results.micro = measured;
  show('micro', MICRO_HEADER, microRows(measured));
}
if (names.includes('links')) {
  const report = await links({ smoke: o.smoke, log });
  results.links = report;
  show(
    'links',
    ['figure', 'value'],
    report.map((row) => [row.figure, row.value]),
  );
}
if (names.includes('vpn')) {
  const obstacle = vpnObstacle();
  if (obstacle !== undefined) log(`bench vpn: skipped, ${obstacle}`);
  else {
    const report = await vpn(vpnOptions());
    results.vpn = report;
    show('vpn', VPN_HEADER, vpnRows(report));
    const failures = report.rows.flatMap((row) =>
      row.samples.flatMap((sample) => sample.failures.map((f) => `${row.subject}: ${f}`)),
    );
    for (const failure of failures) log(`  failed: ${failure}`);
    // A peer that fails is a remark; a figure of ours that cannot be had is a failure.
    if (failures.some((failure) => failure.startsWith('kubebus'))) process.exitCode = 1;
  }
}
mkdirSync(join(here, 'results'), { recursive: true });
writeFileSync(join(here, 'results', `${Date.now()}.json`), JSON.stringify(results, null, 2));
if (o.json) console.log(JSON.stringify(results, null, 2));

function show(name: string, header: readonly string[], rows: readonly (readonly string[])[]): void {
  if (!o.json) console.log(`\n${name}\n${text(header, rows)}`);
  if (o['update-docs']) updateDocs(name, markdown(header, rows));
}

function runMicro(name: string): Promise<MicroResult[]> {
  const args = [
    '--import',
    'tsx',
    '--expose-gc',
    join(here, 'micro/child.ts'),
    join(here, 'micro', `${name}.bench.ts`),
    o.smoke ? '0' : o.seconds,
  ];
  const child = spawn(process.execPath, args, { stdio: ['ignore', 'pipe', 'inherit'] });
  const measured: MicroResult[] = [];
  createInterface({ input: child.stdout }).on('line', (line) => measured.push(JSON.parse(line) as MicroResult));
  return new Promise((resolve, reject) => {
    child.on('close', (code) =>
      code === 0 ? resolve(measured) : reject(new Error(`bench ${name} ended with code ${code}`)),
    );
  });
}

function vpnOptions() {
  const number = (text: string | undefined, usual: number) => (text === undefined ? usual : Number(text));
  const smokePeer = SUBJECTS.find((s) => s.name === 'nebula' && missingPrograms(s).length === 0);
  const peers = (o.peers ?? (o.smoke && smokePeer ? smokePeer.name : '')).split(',').filter((p) => p !== '');
  return {
    peers,
    variants: (o.variants ?? (o.smoke ? 'tls' : 'tls,insecure')).split(',') as ('tls' | 'insecure')[],
    hops: (o.hops ?? (o.smoke ? '2' : '2,1')).split(',').map(Number),
    reps: number(o.reps, 1),
    seconds: o.smoke ? 1 : number(o.seconds, 5),
    congestion: o.cc ?? 'cubic',
    full: o.full,
    minutes: number(o.minutes, 18),
    tries: o.smoke ? 1 : number(o.tries, 2),
    quietMs: o.smoke ? 0 : 10_000,
    log,
  };
}

function readCommandLine() {
  const flag = { type: 'boolean', default: false } as const;
  const value = { type: 'string' } as const;
  try {
    return parseArgs({
      allowPositionals: true,
      options: {
        list: flag,
        json: flag,
        smoke: flag,
        full: flag,
        'update-docs': flag,
        peers: value,
        variants: value,
        hops: value,
        reps: value,
        seconds: { type: 'string', default: '3' },
        cc: value,
        minutes: value,
        tries: value,
      },
    });
  } catch (error) {
    process.stderr.write(`bench: ${(error as Error).message}\n`);
    process.exit(2);
  }
}

// The import rules of docs/architecture.md, checked on the import lines.

import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import test from 'ava';

const root = join(dirname(fileURLToPath(import.meta.url)), '../..');

interface Import {
  readonly from: string;
  readonly line: number;
  readonly to: string;
  readonly typeOnly: boolean;
}

const files = ['lib', 'transports'].flatMap((dir) =>
  readdirSync(join(root, dir), { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith('.ts') && !name.endsWith('.d.ts'))
    .map((name) => `${dir}/${name}`),
);

const imports: Import[] = files.flatMap((from) => {
  const text = readFileSync(join(root, from), 'utf8');
  const found: Import[] = [];
  for (const match of text.matchAll(/^(?:import|export)\s(?:[^'";]*?\sfrom\s)?'([^']+)'|\bimport\('([^']+)'\)/gm)) {
    const target = match[1] ?? match[2]!;
    const to = target.startsWith('.')
      ? relative(root, join(root, dirname(from), target)).replace(/\.js$/, '.ts')
      : target;
    const line = text.slice(0, match.index).split('\n').length;
    found.push({ from, line, to, typeOnly: /^(?:import|export)\s+type\b/.test(match[0]) });
  }
  return found;
});

const COMPOSITION = ['index', 'cloud', 'cloud-options', 'tenant', 'node', 'node-options'].map(
  (name) => `lib/${name}.ts`,
);
/** Joining stands beside the layers: it may use the index of any, and none imports it. */
const isComposition = (file: string) => COMPOSITION.includes(file) || file.startsWith('lib/join/');
const LAYERS = ['core', 'l2', 'l3', 'l4', 'http-proxy'];
const layerOf = (file: string) => /^lib\/([^/]+)\//.exec(file)?.[1];
const at = (i: Import) => `${i.from}:${i.line} imports ${i.to}`;

const EDGE = [
  /(^|\/)driver\.ts$/,
  /\/driver\//,
  /^lib\/core\/(clock|race|random|slab)\.ts$/,
  /^lib\/l3\/(tun|netconfig|state-file|host-ports)\.ts$/,
  /^lib\/l4\/(net|socket|server|dgram|net-like)\.ts$/,
  /^lib\/l2\/middleware\/pcap\.ts$/,
  /^lib\/(index|cloud|tenant|node|node-options)\.ts$/,
  /^transports\//,
];
const isCore = (file: string) => !EDGE.some((pattern) => pattern.test(file)) && !file.includes('/gen/');

test('imports go to the next layer down and to core', (t) => {
  t.true(imports.length > 200, 'the import lines are found');
  const wrong = imports.filter(({ from, to }) => {
    const source = layerOf(from);
    const target = layerOf(to);
    if (source === undefined || target === undefined || source === target || isComposition(from)) return false;
    return target !== 'core' && LAYERS.indexOf(target) !== LAYERS.indexOf(source) - 1;
  });
  t.deepEqual(wrong.map(at), []);
});

test("another layer is imported through its index.ts; l4 may also use l3's wire formats", (t) => {
  const wrong = imports.filter(({ from, to }) => {
    const source = layerOf(from);
    const target = layerOf(to);
    if (target === undefined || source === target || from.startsWith('transports/')) return false;
    return !(to === `lib/${target}/index.ts` || (source === 'l4' && to.startsWith('lib/l3/wire/')));
  });
  t.deepEqual(wrong.map(at), []);
});

test('lib imports no transport, example, bench or test; native only from lib/l3/tun.ts; transports only the seam and core', (t) => {
  const wrong = imports.filter(({ from, to }) => {
    if (from.startsWith('transports/')) {
      return to.startsWith('lib/') && to !== 'lib/l2/transport.ts' && to !== 'lib/core/index.ts';
    }
    if (to.startsWith('native/')) return from !== 'lib/l3/tun.ts';
    // Whoever has only a token needs a transport from somewhere.
    if (from === 'lib/join/driver/default-transport.ts' && to === 'transports/tcp.ts') return false;
    return /^(transports|examples|bench|test|scripts)\//.test(to);
  });
  t.deepEqual(wrong.map(at), []);
});

test('protocol cores do no I/O: no node: modules, timers, clocks or chance of their own', (t) => {
  const wrong = imports.filter((i) => isCore(i.from) && i.to.startsWith('node:') && !i.typeOnly).map(at);
  const forbidden =
    /\b(setTimeout|setInterval|setImmediate|Date\.now|new Date|Math\.random|process\.|performance\.now|EventEmitter|async |await )/;
  for (const file of files.filter(isCore)) {
    readFileSync(join(root, file), 'utf8')
      .split('\n')
      .forEach((line, i) => {
        const code = line.replace(/\/\/.*$|^\s*\*.*$|^\s*\/\*.*$/, '');
        const hit = forbidden.exec(code);
        if (hit !== null) wrong.push(`${file}:${i + 1} uses ${hit[1]}`);
      });
  }
  t.deepEqual(wrong, []);
});

test('no cycles of imports', (t) => {
  const next = new Map<string, string[]>();
  for (const { from, to, typeOnly } of imports) {
    if (!typeOnly && existsSync(join(root, to))) next.set(from, [...(next.get(from) ?? []), to]);
  }
  const done = new Set<string>();
  const cycles: string[] = [];
  const visit = (file: string, path: readonly string[]) => {
    if (path.includes(file)) {
      cycles.push([...path.slice(path.indexOf(file)), file].join(' -> '));
      return;
    }
    if (done.has(file)) return;
    for (const to of next.get(file) ?? []) visit(to, [...path, file]);
    done.add(file);
  };
  for (const file of files) visit(file, []);
  t.deepEqual(cycles, []);
});

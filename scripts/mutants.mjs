// `npm run mutants [-- WORD...]`: breaks every rule of test/mutants/l4.mutants, one at a time and in a copy, and sees which tests turn red.
// With words: only rules that contain one of them, and docs/l4-rules.md stays as it is. All of them take about an hour. Exit code 1: a
// rule that no test notices. `--check`: only whether the list fits the code and the page.
import { spawnSync } from 'node:child_process';
import { cpSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const LIST = join(root, 'test/mutants/l4.mutants');
/** In this order, and the next only when nothing turned red: the fast ones first. */
const STAGES = [
  ['test/l4/drill/drill.test.ts'],
  [
    'test/l4/stack.test.ts',
    'test/l4/tcp/connection.test.ts',
    'test/l4/tcp/reassembler.test.ts',
    'test/l4/tcp/scoreboard.test.ts',
    'test/l4/tcp/rack.test.ts',
    'test/l4/tcp/congestion.test.ts',
    'test/l4/reassembly.test.ts',
    'test/l4/gather.test.ts',
    'test/l4/numbers.test.ts',
  ],
  ['test/l4/unreachable.test.ts', 'test/l4/dgram.test.ts', 'test/sim/goodput.test.ts', 'test/sim/streams.test.ts'],
];

export function parse(text) {
  const mutants = [];
  let file = '';
  let part = null;
  for (const line of text.split('\n')) {
    if (line.startsWith('## ')) mutants.push({ rule: line.slice(3), file, from: null, to: null });
    else if (line.startsWith('@ ')) {
      file = line.slice(2);
      const last = mutants.at(-1);
      if (last !== undefined && last.from === null) last.file = file;
    } else if (line.startsWith('- ')) mutants.at(-1)[(part = 'from')] = line.slice(2);
    else if (line.startsWith('+ ')) mutants.at(-1)[(part = 'to')] = line.slice(2);
    else if (line.startsWith('#')) part = null;
    else if (part !== null) mutants.at(-1)[part] += `\n${line}`;
    if (line.startsWith('## ') || line.startsWith('@ ')) part = null;
  }
  for (const m of mutants) for (const key of ['from', 'to']) m[key] = m[key].replace(/\n+$/, '');
  return mutants;
}

/** The text of the file with the rule broken. */
export function apply(mutant, text) {
  const parts = text.split(mutant.from);
  if (parts.length !== 2) throw new Error(`"${mutant.rule}": found ${parts.length - 1} times in ${mutant.file}`);
  return parts.join(mutant.to);
}

function run(directory, files) {
  const done = spawnSync(process.execPath, [join(root, 'node_modules/ava/entrypoints/cli.mjs'), '--tap', ...files], {
    cwd: directory,
    encoding: 'utf8',
    timeout: 150_000,
    maxBuffer: 1 << 28,
  });
  const red = [...done.stdout.matchAll(/^not ok \d+ - (.*)$/gm)].map((m) => m[1].replace(/ # .*/, ''));
  if (done.status === 0) return [];
  return red.length > 0 ? red : [`${files[0]}: does not end`];
}

function main(words) {
  const mutants = parse(readFileSync(LIST, 'utf8'));
  const directory = mkdtempSync(join(tmpdir(), 'kubebus-mutants-'));
  process.on('exit', () => rmSync(directory, { recursive: true, force: true }));
  for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => process.exit(130));
  for (const name of ['lib', 'test', 'transports', 'package.json', 'tsconfig.json', 'ava.config.js']) {
    cpSync(join(root, name), join(directory, name), { recursive: true });
  }
  for (const name of ['node_modules', 'native', 'build', 'bench', 'docs'])
    symlinkSync(join(root, name), join(directory, name));
  const rows = [];
  let survived = 0;
  for (const mutant of mutants) {
    if (words.length > 0 && !words.some((w) => mutant.rule.toLowerCase().includes(w.toLowerCase()))) continue;
    const path = join(directory, mutant.file);
    const whole = readFileSync(path, 'utf8');
    writeFileSync(path, apply(mutant, whole));
    let red = [];
    for (const files of STAGES) {
      red = run(directory, files);
      if (red.length > 0) break;
    }
    writeFileSync(path, whole);
    if (red.length === 0) survived++;
    console.log(`${red.length === 0 ? 'NOT NOTICED' : 'noticed'}  ${mutant.rule}: ${red.slice(0, 4).join('; ')}`);
    rows.push({ ...mutant, red });
  }
  console.log(`${rows.length - survived} noticed, ${survived} not`);
  if (words.length === 0) writeFileSync(join(root, 'docs/l4-rules.md'), page(rows));
  process.exitCode = survived === 0 ? 0 : 1;
}

/** Every change still finds its text, and every rule has its row with a test. */
function check() {
  const text = readFileSync(join(root, 'docs/l4-rules.md'), 'utf8');
  const rows = new Map([...text.matchAll(/^\| (.*?) \| .*? \| (.*) \|$/gm)].map((m) => [m[1], m[2]]));
  let wrong = 0;
  for (const mutant of parse(readFileSync(LIST, 'utf8'))) {
    try {
      apply(mutant, readFileSync(join(root, mutant.file), 'utf8'));
      const tests = rows.get(mutant.rule.replaceAll('|', '\\|'));
      if (tests === undefined) throw new Error(`"${mutant.rule}" is not in docs/l4-rules.md`);
    } catch (error) {
      wrong++;
      console.log(error.message);
    }
  }
  process.exitCode = wrong === 0 ? 0 : 1;
}

export function page(rows) {
  const cell = (text) => text.replaceAll('|', '\\|');
  const tests = ({ red }) => {
    if (red === null) return 'not tried yet';
    const shown = red.slice(0, 3).map((name) => cell(name.replace(/^(tests?|l4|drill) › /, '')));
    return shown.join('; ') + (red.length > 3 ? ` and ${red.length - 3} more` : '') || '**none**';
  };
  return `# What is obeyed in L4, and which test says so

Made by \`npm run mutants\`: every rule of \`test/mutants/l4.mutants\` is broken in a copy of the code, one at a time, and the tests that
turn red are those of the last column. A test of one word group is a script of test/l4/drill. \`docs/rfc-map.md\` has the citations by RFC.

| rule | code | tests that turn red when it is broken |
| --- | --- | --- |
${rows.map((r) => `| ${cell(r.rule)} | ${r.file.replace('lib/l4/', '')} | ${tests(r)} |`).join('\n')}
`;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  if (process.argv[2] === '--check') check();
  else main(process.argv.slice(2));
}

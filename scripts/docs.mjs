// `npm run docs`: makes the pages that come from the code: error codes, TCP's states, and which RFC is where. `--check` fails
// where one is not current.
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { ERROR_CODES, HTTP_ERROR_CODES, JOIN_ERROR_CODES, L2_ERROR_CODES, L3_ERROR_CODES } from '../lib/core/error.js';
import { TCP_TRANSITIONS } from '../lib/l4/tcp/state.js';
import { RFC_TITLES } from './rfc-titles.mjs';

const root = fileURLToPath(new URL('..', import.meta.url));

function errors() {
  const table = (title, codes) =>
    `\n## ${title}\n\n| code | meaning |\n| --- | --- |\n${Object.entries(codes)
      .map(([code, text]) => `| \`${code}\` | ${text} |`)
      .join('\n')}\n`;
  return (
    '# Error codes\n\nMade by `npm run docs` from lib/core/error.ts. Every `KubeBusError` has a `code`, a `side` (`local`: this process, `remote`: the other end) and, where there is one, a\n`cause`. Match on the code. At the socket edge (L4) the codes are those of Node (`ECONNREFUSED`, `ETIMEDOUT`, ...).\n' +
    table('General', ERROR_CODES) +
    table('Links (also the reason in a goodbye)', L2_ERROR_CODES) +
    table('Routing, addresses, devices', L3_ERROR_CODES) +
    table('Joining', JOIN_ERROR_CODES) +
    table('HTTP layer', HTTP_ERROR_CODES)
  );
}

function tcpStates() {
  const id = (state) => state.replaceAll('-', '_');
  const states = Object.entries(TCP_TRANSITIONS);
  const arrows = states.flatMap(([from, list]) => list.map((to) => `  ${id(from)} --> ${id(to)}`));
  const names = states.filter(([s]) => s.includes('-')).map(([s]) => `  state "${s}" as ${id(s)}`);
  const rows = states.map(([from, list]) => `| ${from} | ${list.join(', ')} |`);
  return `# The states of a TCP connection

Made by \`npm run docs\` from the table in lib/l4/tcp/state.ts, which is also what the code obeys: a change that is not in it throws.
RFC 9293 §3.3.2, figure 5, with the changes that its text adds. LISTEN is kept by the stack, not by a connection; CLOSED to
ESTABLISHED does not happen but by way of SYN-RECEIVED (a SYN cookie).

\`\`\`mermaid
stateDiagram-v2
${names.join('\n')}
${arrows.join('\n')}
\`\`\`

| state | may be followed by |
| --- | --- |
${rows.join('\n')}
`;
}

function filesUnder(dir, pattern) {
  return readdirSync(join(root, dir), { recursive: true })
    .map((file) => `${dir}/${file.replaceAll('\\', '/')}`)
    .filter((file) => pattern.test(file) && !file.includes('/gen/'))
    .sort();
}

/** RFC number -> files of `files` that cite it. */
function citations(files) {
  const found = new Map();
  for (const file of files) {
    const text = readFileSync(join(root, file), 'utf8');
    const cited = [...text.matchAll(/RFC[ -]?(\d{3,5})((?:(?:, | and )\d{4}\b)*)/g)];
    const numbers = new Set(cited.flatMap(([, first, more]) => [first, ...(more.match(/\d{4}/g) ?? [])]));
    // A script that names only a section means RFC 9293.
    if (file.endsWith('.drill') && numbers.size === 0) numbers.add('9293');
    for (const n of numbers) found.set(n, [...(found.get(n) ?? []), file]);
  }
  return found;
}

function rfcMap() {
  const lib = citations(filesUnder('lib', /\.ts$/));
  const tests = citations(filesUnder('test', /\.(test\.ts|drill)$/));
  const short = (files, prefix) =>
    (files ?? []).map((file) => file.replace(prefix, '').replace(/^l4\/drill\//, '')).join(', ') || '-';
  const rows = [...new Set([...lib.keys(), ...tests.keys()])]
    .sort((a, b) => a - b)
    .map((n) => {
      const title = RFC_TITLES[n];
      if (title === undefined) console.error(`scripts/rfc-titles.mjs has no title of RFC ${n}`);
      return `| ${n} | ${title ?? ''} | ${short(lib.get(n), 'lib/')} | ${short(tests.get(n), 'test/')} |`;
    });
  return `# Which RFC is where

Made by \`npm run docs\` from the citations in the code and in the tests. Files under lib/; under test/, \`.drill\` files are the
scripts in test/l4/drill. Where we deviate, the line says \`Deviation:\` (\`grep -rn Deviation lib\`).

| RFC | | code | tests |
| --- | --- | --- | --- |
${rows.join('\n')}
`;
}

const pages = { 'docs/errors.md': errors(), 'docs/tcp-states.md': tcpStates(), 'docs/rfc-map.md': rfcMap() };
let stale = 0;
for (const [file, text] of Object.entries(pages)) {
  if (!process.argv.includes('--check')) {
    writeFileSync(join(root, file), text);
    continue;
  }
  let current = '';
  try {
    current = readFileSync(join(root, file), 'utf8');
  } catch {
    // not there: not current
  }
  if (current === text) continue;
  stale++;
  console.error(`${file} is not current: run \`npm run docs\``);
}
if (stale > 0) process.exitCode = 1;

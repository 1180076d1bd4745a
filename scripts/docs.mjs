// `npm run docs`: makes docs/errors.md from the tables in lib/core/error.ts. `--check` fails where the file is not current.
import { readFileSync, writeFileSync } from 'node:fs';
import { ERROR_CODES, JOIN_ERROR_CODES, L2_ERROR_CODES, L3_ERROR_CODES } from '../lib/core/error.js';

const path = new URL('../docs/errors.md', import.meta.url);
const table = (title, codes) =>
  `\n## ${title}\n\n| code | meaning |\n| --- | --- |\n${Object.entries(codes)
    .map(([code, text]) => `| \`${code}\` | ${text} |`)
    .join('\n')}\n`;
const page =
  '# Error codes\n\nMade by `npm run docs` from lib/core/error.ts. Every `KubeBusError` has a `code`, a `side` (`local`: this process, `remote`: the other end) and, where there is one, a\n`cause`. Match on the code. At the socket edge (L4) the codes are those of Node (`ECONNREFUSED`, `ETIMEDOUT`, ...).\n' +
  table('General', ERROR_CODES) +
  table('Links (also the reason in a goodbye)', L2_ERROR_CODES) +
  table('Routing, addresses, devices', L3_ERROR_CODES) +
  table('Joining', JOIN_ERROR_CODES);
if (process.argv.includes('--check')) {
  if (readFileSync(path, 'utf8') !== page) {
    console.error('docs/errors.md is not current: run `npm run docs`');
    process.exit(1);
  }
} else writeFileSync(path, page);

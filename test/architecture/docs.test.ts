// Pages that are made from the code (`npm run docs`) say what the code says.

import { execFile } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import test from 'ava';
import { TCP_TRANSITIONS } from '../../lib/l4/tcp/state.js';

test('docs/tcp-states.md has every change of state of the table, and no other', (t) => {
  const page = readFileSync(new URL('../../docs/tcp-states.md', import.meta.url), 'utf8');
  const arrows = [...page.matchAll(/^ {2}(\w+) --> (\w+)$/gm)].map(([, from, to]) => `${from} ${to}`);
  const wanted = Object.entries(TCP_TRANSITIONS).flatMap(([from, list]) =>
    list.map((to) => `${from} ${to}`.replaceAll('-', '_')),
  );
  t.deepEqual(arrows, wanted);
});

test('docs/rfc-map.md: every mechanism of TCP that the RFCs define has code and a test', (t) => {
  const page = readFileSync(new URL('../../docs/rfc-map.md', import.meta.url), 'utf8');
  const rows = new Map([...page.matchAll(/^\|\s*(\d+)\s*\|[^|]*\|([^|]*)\|([^|]*)\|$/gm)].map((m) => [m[1], m]));
  for (const rfc of [
    9293, 5961, 6528, 6056, 1191, 8201, 4821, 7323, 2018, 2883, 8985, 6298, 5682, 3522, 6937, 6582, 9438, 9406, 3168,
    5681, 6093, 4987, 5722, 8200, 6191, 5927,
  ]) {
    const row = rows.get(String(rfc));
    t.true(row !== undefined, `RFC ${rfc} is not in the map`);
    t.regex(row?.[2] ?? '', /\.ts/, `RFC ${rfc}: code`);
    t.regex(row?.[3] ?? '', /\.(ts|drill)/, `RFC ${rfc}: tests`);
  }
});

test('docs/l4-rules.md has every rule of test/mutants, and each of these still fits the code', async (t) => {
  const script = fileURLToPath(new URL('../../scripts/mutants.mjs', import.meta.url));
  // Fails with what does not fit.
  await promisify(execFile)(process.execPath, [script, '--check']).catch((error: { stdout: string }) => {
    t.fail(error.stdout);
  });
  t.pass();
});

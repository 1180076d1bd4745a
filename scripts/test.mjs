// `npm test`: runs ava, shows what failed, and ends with a line `N passed, N failed`.
import { spawn } from 'node:child_process';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const require = createRequire(import.meta.url);
// The package exports its main file only; its command lies beside it.
const ava = join(dirname(require.resolve('ava')), 'cli.mjs');
const child = spawn(process.execPath, [ava, '--tap', ...process.argv.slice(2)], {
  cwd: root,
  stdio: ['ignore', 'pipe', 'inherit'],
});

let passed = 0;
let failed = 0;
let skipped = 0;
let shown = Date.now();
let inFailure = false;
createInterface({ input: child.stdout }).on('line', (line) => {
  if (/^ok \d/.test(line)) {
    inFailure = false;
    if (/# (SKIP|TODO)/.test(line)) skipped++;
    else passed++;
    if (Date.now() - shown > 10_000) {
      shown = Date.now();
      console.log(`... ${passed} passed, ${line.replace(/^ok \d+ - /, '')}`);
    }
  } else if (/^not ok \d/.test(line)) {
    inFailure = true;
    failed++;
    console.log(line);
  } else if (inFailure) console.log(line);
});

child.on('close', (code) => {
  if (code !== 0 && failed === 0) {
    console.log(`the test runner ended with code ${code}`);
    failed++;
  }
  if (passed + failed === 0) failed++;
  console.log(`${passed} passed, ${failed} failed${skipped > 0 ? `, ${skipped} skipped` : ''}`);
  process.exitCode = failed === 0 ? 0 : 1;
});

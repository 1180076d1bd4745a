import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import test from 'ava';

test('however a socket ends, nothing of it is left, and nothing holds the process', async (t) => {
  t.timeout(60_000);
  const script = fileURLToPath(new URL('fixtures/endings.ts', import.meta.url));
  const { stdout } = await promisify(execFile)(process.execPath, ['--import', 'tsx', script], { timeout: 50_000 });
  t.deepEqual(JSON.parse(stdout), {});
});

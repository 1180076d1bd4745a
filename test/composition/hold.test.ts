// A program lives as long as its cloud and nodes run, and ends by itself once they are stopped.
import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import test from 'ava';

test('an overlay in memory holds its process until it is stopped, and no longer', async (t) => {
  const program = fileURLToPath(new URL('fixtures/memory-overlay.ts', import.meta.url));
  // Rejects on an exit code other than 0: 13 is what an await that nothing holds ends with.
  const { stdout } = await promisify(execFile)(process.execPath, ['--import=tsx', program], { timeout: 60_000 });
  t.is(stdout, 'lost 0\n');
});

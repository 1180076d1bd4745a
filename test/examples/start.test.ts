// `npm start`, cut short: nothing is left behind.

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import test from 'ava';

for (const [signal, code] of [
  ['SIGINT', 130],
  ['SIGTERM', 143],
] as const) {
  test(`${signal} in the middle ends all processes and removes the certificates`, async (t) => {
    const dir = await mkdtemp(join(tmpdir(), 'kubebus-start-'));
    t.teardown(() => rm(dir, { recursive: true, force: true }));
    const file = fileURLToPath(new URL('../../examples/start.ts', import.meta.url));
    const env = { ...process.env, TMPDIR: dir };
    const child = spawn(process.execPath, ['--import', import.meta.resolve('tsx'), file], { env, stdio: 'pipe' });
    const closed = once(child, 'close');
    let output = '';
    for await (const chunk of child.stdout.setEncoding('utf8').iterator({ destroyOnReturn: false })) {
      output += chunk;
      if (/cloud: listens/.test(output)) break;
    }
    child.stdout.resume();
    child.stderr.resume();
    child.kill(signal);
    // The cloud and the nodes hold the same pipes: they close when the last of all has ended.
    t.deepEqual(await closed, [code, null]);
    t.deepEqual(
      (await readdir(dir)).filter((name) => name.startsWith('kubebus-')),
      [],
    );
  });
}

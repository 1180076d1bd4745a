import { mkdir, mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'ava';
import { MS } from '../../lib/core/index.js';
import { StateFile } from '../../lib/l3/state-file.js';
import { World } from './support/net.js';

async function folder(t: { teardown(fn: () => Promise<void>): void }): Promise<string> {
  const dir = await mkdtemp(join(tmpdir(), 'kubebus-state-'));
  t.teardown(() => rm(dir, { recursive: true, force: true }));
  return dir;
}

test('what was saved is there after the next start, readable by its owner only, with no temporary file left', async (t) => {
  const dir = await folder(t);
  const path = join(dir, 'deep', 'cloud.json');
  const file = await StateFile.open({ path });
  t.is(file.initial, null);
  file.save(() => ({ a: ['10.80.0.2'] }));
  await file.flush();
  t.is((await stat(path)).mode & 0o777, 0o600);
  t.deepEqual(await readdir(join(dir, 'deep')), ['cloud.json']);
  t.deepEqual((await StateFile.open({ path })).initial, { a: ['10.80.0.2'] });
});

test('many saves are one write: the content is asked for once, at the end of the delay', async (t) => {
  const path = join(await folder(t), 's.json');
  const world = new World();
  const file = await StateFile.open({ path, clock: world, delayMs: 50 });
  let asked = 0;
  for (let i = 0; i < 100; i++) file.save(() => ({ i, asked: ++asked }));
  world.run(49 * MS);
  await t.throwsAsync(readFile(path), { code: 'ENOENT' });
  world.run(2 * MS);
  await file.flush();
  t.deepEqual((await StateFile.open({ path })).initial, { i: 99, asked: 1 });
  t.is(asked, 1);
});

test('a damaged or too large file is an error that names it, and stays as it is', async (t) => {
  const path = join(await folder(t), 's.json');
  await writeFile(path, '{"a": [');
  const error = await t.throwsAsync(StateFile.open({ path }), { code: 'ERR_STATE' });
  t.regex(error?.message ?? '', /damaged .*s\.json/);
  t.is(await readFile(path, 'utf8'), '{"a": [');
  await writeFile(path, JSON.stringify('x'.repeat(100)));
  await t.throwsAsync(StateFile.open({ path, maxBytes: 50 }), {
    code: 'ERR_STATE',
    message: /102 bytes are more than 50/,
  });
});

test('what a crash in the middle of a write leaves behind is cleared away and not read', async (t) => {
  const dir = await folder(t);
  const path = join(dir, 's.json');
  await writeFile(path, '{"good":1}');
  await writeFile(`${path}.new`, '{"half":');
  t.deepEqual((await StateFile.open({ path })).initial, { good: 1 });
  t.deepEqual(await readdir(dir), ['s.json']);
});

test('a disk that cannot be written to: an error for who waits, a log line and another attempt for who does not', async (t) => {
  const dir = await folder(t);
  const path = join(dir, 's.json');
  const world = new World();
  const lines: string[] = [];
  const note = (_: object, message: string) => void lines.push(message);
  const file = await StateFile.open({
    path,
    clock: world,
    retryMs: 1_000,
    logger: { debug: note, info: note, warn: note, error: note },
  });
  // A folder in the place of the new file: refused to root as well, as a full disk would be.
  await mkdir(`${path}.new`);
  await writeFile(join(`${path}.new`, 'x'), '');
  file.save(() => 'kept');
  await t.throwsAsync(file.flush(), { code: 'ERR_STATE', message: /cannot write/ });
  t.is(file.failures, 1);
  file.save(() => 'kept');
  world.run(60 * MS);
  while (lines.length === 0) await new Promise((resolve) => setImmediate(resolve));
  t.deepEqual(lines, ['state not saved, will try again']);
  await rm(`${path}.new`, { recursive: true, force: true });
  world.run(1_000 * MS);
  await file.flush();
  t.is((await StateFile.open({ path })).initial, 'kept');
});

// Makes the static protobuf code (lib/l2/gen, lib/l3/gen, lib/join/gen) from proto/. Run by `npm ci` (prepare) and `npm run gen`.
import { execFileSync } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const require = createRequire(import.meta.url);
const bin = (name) => join(dirname(require.resolve('protobufjs-cli/package.json')), 'bin', name);

for (const [proto, dir] of [
  ['l2', 'lib/l2/gen'],
  ['l3', 'lib/l3/gen'],
  ['join', 'lib/join/gen'],
]) {
  const out = join(root, dir);
  mkdirSync(out, { recursive: true });
  const js = execFileSync(process.execPath, [
    bin('pbjs'),
    '-r',
    `kubebus-${proto}`,
    '-t',
    'static-module',
    '-w',
    'es6',
    '--no-create',
    '--no-verify',
    '--no-convert',
    '--no-delimited',
    '--no-typeurl',
    '--force-number',
    join(root, 'proto', `${proto}.proto`),
  ]);
  const jsFile = join(out, 'messages.js');
  writeFileSync(jsFile, js);
  writeFileSync(join(out, 'messages.d.ts'), execFileSync(process.execPath, [bin('pbts'), jsFile]));
}

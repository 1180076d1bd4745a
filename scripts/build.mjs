// Builds dist/: protobuf code, then the compiler, then what the compiler does not copy. Run by `npm ci` (prepare).
import { execFileSync } from 'node:child_process';
import { chmodSync, cpSync, existsSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import './gen.mjs';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const require = createRequire(import.meta.url);
rmSync(join(root, 'dist'), { recursive: true, force: true });
const tsc = join(dirname(require.resolve('typescript/package.json')), 'bin', 'tsc');
execFileSync(process.execPath, [tsc, '-p', join(root, 'tsconfig.build.json')], { stdio: 'inherit' });
for (const layer of ['l2', 'l3', 'join']) {
  cpSync(join(root, `lib/${layer}/gen`), join(root, `dist/lib/${layer}/gen`), { recursive: true });
}
for (const file of ['loader.mjs', 'loader.d.mts']) cpSync(join(root, 'native', file), join(root, 'dist/native', file));
const bin = join(root, 'dist/examples/kubebus.js');
if (existsSync(bin)) chmodSync(bin, 0o755);

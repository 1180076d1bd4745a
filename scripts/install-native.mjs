// `npm install`: uses a prebuilt addon that fits, else compiles it, else says once what will not work. Never fails the
// installation: everything but the TUN device works without the addon.
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');

function fits() {
  const probe = "require('node-gyp-build')(process.argv[1])";
  return spawnSync(process.execPath, ['-e', probe, root], { cwd: root, stdio: 'ignore' }).status === 0;
}

function compile() {
  const require = createRequire(import.meta.url);
  const candidates = [process.env.npm_config_node_gyp];
  try {
    candidates.unshift(join(dirname(require.resolve('node-gyp/package.json')), 'bin', 'node-gyp.js'));
  } catch {
    // not installed beside us: npm's own is used
  }
  const gyp = candidates.find((path) => path !== undefined && existsSync(path));
  if (gyp === undefined) return false;
  const result = spawnSync(process.execPath, [gyp, 'rebuild'], { cwd: root, encoding: 'utf8' });
  return result.status === 0;
}

if (process.platform === 'linux' && !(fits() || (compile() && fits()))) {
  const { name } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
  console.warn(
    `${name}: no prebuilt TUN addon fits ${process.platform}-${process.arch} and it could not be compiled ` +
      '(python3, make and a C++17 compiler are needed). Everything but the TUN device works.',
  );
}

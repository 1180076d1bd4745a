// `npm install`: uses a prebuilt addon that fits, else compiles it, else says once what will not work. Never fails the
// installation: everything but the TUN device works without the addon.
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync, realpathSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');

function fits() {
  const probe = "require('node-gyp-build')(process.argv[1])";
  return spawnSync(process.execPath, ['-e', probe, root], { cwd: root, stdio: 'ignore' }).status === 0;
}

/** Null, or why it could not be. */
function compile() {
  const require = createRequire(import.meta.url);
  const candidates = [process.env.npm_config_node_gyp];
  try {
    candidates.unshift(join(dirname(require.resolve('node-gyp/package.json')), 'bin', 'node-gyp.js'));
  } catch {
    // not installed beside us: npm's own is used
  }
  const gyp = candidates.find((path) => path !== undefined && existsSync(path));
  if (gyp === undefined) return 'node-gyp is not there';
  // The headers that came with this Node, where it has them: nothing has to be downloaded.
  const home = join(dirname(realpathSync(process.execPath)), '..');
  const headers =
    process.env.npm_config_nodedir === undefined && existsSync(join(home, 'include/node/node_api.h'))
      ? [`--nodedir=${home}`]
      : [];
  const result = spawnSync(process.execPath, [gyp, 'rebuild', ...headers], { cwd: root, encoding: 'utf8' });
  if (result.status === 0) return fits() ? null : 'the compiled addon cannot be loaded';
  const said = `${result.stderr}\n${result.stdout}`.split('\n');
  const error = said.find((line) => /gyp ERR! stack Error|\berror\b:|command not found|No such file/.test(line));
  return (error ?? `node-gyp ended with ${result.status ?? result.signal}`).replace(/^gyp ERR! (stack )?/, '').trim();
}

if (process.platform === 'linux' && !fits()) {
  const reason = compile();
  if (reason !== null) {
    const { name } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
    console.warn(
      `${name}: no prebuilt TUN addon fits ${process.platform}-${process.arch} and it could not be compiled (${reason}). ` +
        `Everything but the TUN device works; for that, install python3, make and a C++17 compiler and run 'npm rebuild ${name}'.`,
    );
  }
}

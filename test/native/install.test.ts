// A machine without a compiler and without a fitting prebuilt addon: the package installs, everything but TUN works, and
// who asks for TUN is told what to do. A copy of the package, and a PATH on which there is only Node.
import { spawnSync } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import test from 'ava';

const root = fileURLToPath(new URL('../..', import.meta.url));
let copy = '';

/** A Node program in the copy, with nothing on the PATH but Node. */
function node(args: readonly string[], env: NodeJS.ProcessEnv = {}) {
  return spawnSync(process.execPath, args, {
    cwd: copy,
    encoding: 'utf8',
    timeout: 60_000,
    env: { PATH: join(copy, 'bin'), HOME: copy, ...env },
  });
}

test.before(() => {
  copy = mkdtempSync(join(tmpdir(), 'kubebus-install-'));
  for (const name of [
    'lib',
    'transports',
    'examples',
    'native',
    'scripts',
    'proto',
    'binding.gyp',
    'package.json',
    'tsconfig.json',
  ]) {
    cpSync(join(root, name), join(copy, name), { recursive: true });
  }
  symlinkSync(join(root, 'node_modules'), join(copy, 'node_modules'));
  mkdirSync(join(copy, 'bin'));
  symlinkSync(process.execPath, join(copy, 'bin', 'node'));
});
test.after.always(() => rmSync(copy, { recursive: true, force: true }));

test.serial('without a compiler the installation succeeds and says what will not work, and why', (t) => {
  if (process.platform !== 'linux') {
    t.pass('there is no TUN addon elsewhere');
    return;
  }
  const { status, stderr } = node(['scripts/install-native.mjs']);
  t.is(status, 0, stderr);
  t.regex(
    stderr,
    /kubebus: no prebuilt TUN addon fits linux-.* could not be compiled \(.+\)\. Everything but the TUN device works/,
  );
  t.regex(stderr, /install python3, make and a C\+\+17 compiler and run 'npm rebuild kubebus'/);
  t.false(existsSync(join(copy, 'build/Release/kubebus.node')));
});

test.serial('then a cloud and nodes work without TUN, and TUN is refused with what to install', (t) => {
  writeFileSync(
    join(copy, 'use.ts'),
    `import { KubeBusCloud, KubeBusNode } from './lib/index.js';
     import { tcpTransport } from './transports/tcp.js';
     const cloud = await KubeBusCloud.start({
       transports: [tcpTransport({ listen: { host: '127.0.0.1', port: 0 }, insecure: true })],
       tenants: { acme: { pools: ['10.80.0.0/16'] } },
     });
     const options = (node: string) => ({ cloud: cloud.addresses, transport: tcpTransport({ insecure: true }), tenant: 'acme', node });
     const [a, b] = [await KubeBusNode.join(options('a')), await KubeBusNode.join(options('b'))];
     const { lost } = await a.ping(b.addresses[0]!);
     await a.stop(); await b.stop();
     try { await KubeBusNode.join({ ...options('c'), tun: true }); } catch (error) { console.log(lost, (error as any).code, (error as Error).message); }
     await cloud.stop();`,
  );
  const { status, stdout, stderr } = node(['--import', 'tsx', 'use.ts']);
  t.is(status, 0, stderr);
  t.regex(
    stdout,
    /^0 ERR_TUN_UNAVAILABLE the TUN addon is not there for .*install python3, make and a C\+\+ compiler and run 'npm rebuild kubebus'/,
  );
});

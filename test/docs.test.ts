// The examples of the guides are what the package offers: they are compiled against it, each page as one program.

import { execFileSync } from 'node:child_process';
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import test from 'ava';

const root = fileURLToPath(new URL('..', import.meta.url));
const require = createRequire(import.meta.url);
const tsc = join(dirname(require.resolve('typescript/package.json')), 'bin', 'tsc');

for (const file of ['README.md', 'docs/guides/sockets.md']) {
  test(`the TypeScript of ${file} compiles`, (t) => {
    const page = readFileSync(join(root, file), 'utf8');
    const blocks = [...page.matchAll(/^```ts\n([\s\S]*?)^```/gm)].map(([, code]) => code!);
    t.true(blocks.length > 0);
    const directory = join(root, `.docs-${process.pid}-${file.length}`);
    mkdirSync(directory);
    try {
      writeFileSync(join(directory, 'page.ts'), blocks.join('\n'));
      writeFileSync(
        join(directory, 'tsconfig.json'),
        JSON.stringify({
          extends: '../tsconfig.json',
          compilerOptions: {
            noEmit: true,
            noUnusedLocals: false,
            noUnusedParameters: false,
            paths: {
              kubebus: ['../lib/index.ts'],
              'kubebus/transports/tcp': ['../transports/tcp.ts'],
            },
          },
          include: ['page.ts'],
        }),
      );
      try {
        execFileSync(process.execPath, [tsc, '-p', directory], { encoding: 'utf8' });
        t.pass();
      } catch (error) {
        t.fail((error as { stdout?: string }).stdout ?? String(error));
      }
    } finally {
      rmSync(directory, { recursive: true });
    }
  });
}

// Runs every script of this directory. One of them: npx ava test/l4/drill/drill.test.ts --match='*paws*'

import { readdirSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import test from 'ava';
import { runDrill } from '../../support/drill.js';

const directory = fileURLToPath(new URL('.', import.meta.url));
const scripts = readdirSync(directory).filter((name) => name.endsWith('.drill'));

for (const name of scripts) {
  test(name.replace(/\.drill$/, '').replaceAll('-', ' '), (t) => {
    const script = readFileSync(directory + name, 'utf8');
    try {
      runDrill(script);
      t.pass();
    } catch (error) {
      t.fail(`${name}: ${(error as Error).message}`);
    }
  });
}

test('a script that is wrong fails, with its line', (t) => {
  t.throws(() => runDrill('0 connect\n0 > S 0:0(0) <mss 1>\n'), { message: /line 2: 0 > S/ });
  t.throws(() => runDrill('0 connect\n'), { message: /left at the end/ });
  t.throws(() => runDrill('established\n+0 > . ack 1'), { message: /nothing was sent/ });
});

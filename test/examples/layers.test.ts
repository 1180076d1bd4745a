// Each example of a layer runs as its reader would run it, and prints what it says.

import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import test from 'ava';

const execute = promisify(execFile);

async function output(name: string): Promise<string[]> {
  const file = fileURLToPath(new URL(`../../examples/layers/${name}.ts`, import.meta.url));
  const { stdout, stderr } = await execute(process.execPath, ['--import', import.meta.resolve('tsx'), file], {
    timeout: 60_000,
  });
  if (stderr !== '') throw new Error(stderr);
  return stdout.trimEnd().split('\n');
}

test('l3-router: a router with route tables over links, alone', async (t) => {
  const [across, router, ttl, noRoute, ...rest] = await output('l3-router');
  t.is(across, '10.1.0.7 -> 10.2.0.7: answered');
  t.is(router, '10.2.0.7 -> 10.1.0.1 (the router): answered');
  t.regex(ttl!, /^ttl 1: .*ttl-exceeded/);
  t.regex(noRoute!, /^no route: .*unreachable/);
  t.deepEqual(rest, []);
});

test('overlay: cloud and nodes composed', async (t) => {
  t.deepEqual(await output('overlay'), [
    'edge 10.80.0.2 fd80::2, router 10.80.0.3 fd80::3',
    'ping: 1 answered',
    'edge knows 10.1.0.0/24 behind router',
  ]);
});

test('l4-echo: sockets', async (t) => {
  t.deepEqual(await output('l4-echo'), ['connected to 10.80.0.2', 'echoed: hello over the overlay']);
});

test('http: Node’s http module on the overlay', async (t) => {
  t.deepEqual(await output('http'), ['200 picture of /door']);
});

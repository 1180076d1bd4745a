import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import test from 'ava';

test('examples/l2-link.ts: a packet goes there and back, and the goodbye is shown', async (t) => {
  const example = fileURLToPath(new URL('../../examples/l2-link.ts', import.meta.url));
  const { stdout, stderr } = await promisify(execFile)(process.execPath, ['--import', 'tsx', example], {
    timeout: 60_000,
  });
  t.is(stderr, '');
  t.regex(stdout, /^edge-1: up$/m);
  t.regex(stdout, /^hub: control message 'hello'$/m);
  t.regex(stdout, /^edge-1: 'over the link, and back', RTT (\d+\.\d+|NaN) ms$/m);
  t.regex(stdout, /^hub: closed, ERR_PEER_GOODBYE: that was all$/m);
});

// Connections whose local address is gone: found out by what the kernel says, and not confused with a cable that is out.

import test from 'ava';
import { run } from '../../examples/lab/netns.js';
import { Hold } from '../../lib/core/index.js';
import { watchLocalAddress } from '../../transports/local-address.js';
import { kernelTest, missing, unique } from '../support/kernel.js';

// The watch itself keeps no process alive.
const hold = new Hold();
test.before(() => hold.ref());
test.after.always(() => hold.unref());

test('an address that this host never had is gone; loopback stays, also as IPv4 in IPv6; who ended the watch is not called', async (t) => {
  const called: string[] = [];
  const ends = ['127.0.0.1', '::ffff:127.0.0.1', '192.0.2.2'].map((a) => watchLocalAddress(a, () => called.push(a)));
  ends[2]!();
  await new Promise<void>((gone) => watchLocalAddress('192.0.2.1', gone));
  t.deepEqual(called, []);
  for (const end of ends) end();
});

kernelTest(missing())('a device without carrier keeps its address; a deleted device does not', async (t) => {
  const device = unique('w').slice(-14);
  const ip = async (...args: string[]) => t.is((await run('ip', args)).code, 0, args.join(' '));
  await ip('link', 'add', device, 'type', 'veth', 'peer', 'name', `${device}p`);
  t.teardown(() => run('ip', ['link', 'del', device]));
  await ip('addr', 'add', '192.0.2.65/32', 'dev', device);
  await ip('link', 'set', device, 'up');
  let gone = false;
  const over = new Promise<void>((resolve) => {
    watchLocalAddress('192.0.2.65', () => {
      gone = true;
      resolve();
    });
  });
  // Its other end is down: no carrier. Another address, of which there is none, has been looked for meanwhile.
  await new Promise<void>((other) => watchLocalAddress('192.0.2.66', other));
  await new Promise<void>((other) => watchLocalAddress('192.0.2.66', other));
  t.false(gone);
  await ip('link', 'del', device);
  await over;
  t.true(gone);
});

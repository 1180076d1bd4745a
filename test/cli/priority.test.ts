// With which priority a daemon runs: told by the kernel, and for the rule that finds bulk by a row of looks at counters.

import { spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import test, { type ExecutionContext } from 'ava';
import { BulkSense } from '../../examples/cli/priority.js';
import { until } from '../../examples/lab/netns.js';
import { KubeBusNode } from '../../lib/index.js';
import { tcpTransport } from '../../transports/tcp.js';
import { Kubebus } from './support/process.js';
import { run } from './support/run.js';

/** Fields of proc_pid_stat(5), counted from 1; the name in brackets may hold anything. */
const stat = (pid: number, field: number) =>
  Number(readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]!.split(' ')[field - 3]);
/** Of the first thread: 0 is SCHED_OTHER, 2 SCHED_RR. */
const policy = (pid: number) => stat(pid, 41);

async function startCloud(t: ExecutionContext, ...more: string[]): Promise<{ cloud: Kubebus; address: string }> {
  const listen = ['--listen', '127.0.0.1:0', '--tenant', 'acme=10.80.0.0/16', '--insecure'];
  const cloud = new Kubebus('cloud', ...listen, ...more);
  t.teardown(() => cloud.stop('SIGKILL'));
  const up = await cloud.says(/^cloud up$/);
  return { cloud, address: (up.addresses as string[])[0]! };
}

function mayChange(t: ExecutionContext): boolean {
  if (process.getuid?.() === 0 && spawnSync('chrt', ['-r', '1', 'true']).status === 0) return true;
  if (process.env.KUBEBUS_REQUIRE_ALL === '1') t.fail('CAP_SYS_NICE is missing');
  else t.pass('not here: it needs the right CAP_SYS_NICE');
  return false;
}

test('a daemon runs before ordinary programs while it carries bulk, and as one of them before and after', async (t) => {
  if (!mayChange(t)) return;
  const { cloud, address } = await startCloud(t);
  t.is(policy(cloud.pid), 0, 'nothing to carry');
  const join = (node: string) =>
    KubeBusNode.join({ tenant: 'acme', node, cloud: [address], transport: tcpTransport({ insecure: true }) });
  const nodes = await Promise.all([join('a'), join('b')]);
  t.teardown(() => Promise.all(nodes.map((node) => node.stop())));
  const [a, b] = nodes as [KubeBusNode, KubeBusNode];
  const sink = a.net.createServer((socket) => socket.resume()).listen(80);
  const socket = b.net.connect(80, a.addresses.find((address) => address.includes('.'))!);
  const chunk = Buffer.alloc(256 * 1024);
  let enough = false;
  const bulk = (async () => {
    while (!enough) if (!socket.write(chunk)) await once(socket, 'drain');
  })();
  // As chrt(1) prints it: what the process starts is an ordinary program. Beside other work the stream may fall below bulk now and then.
  const chrt = () => spawnSync('chrt', ['-p', String(cloud.pid)], { encoding: 'utf8' }).stdout;
  await until('a real-time policy beside bulk', 60_000, () => /SCHED_RR\|SCHED_RESET_ON_FORK/.test(chrt()));
  enough = true;
  await bulk;
  socket.destroy();
  await until('an ordinary policy without bulk', 60_000, () => policy(cloud.pid) === 0);
  sink.close();
  t.pass();
});

test('--priority realtime: always; ordinary: never; --nice sets the level of an ordinary process', async (t) => {
  const { cloud } = await startCloud(t, '--nice', '7');
  t.is(stat(cloud.pid, 19), 7);
  t.is(policy(cloud.pid), 0);
  const start = (...more: string[]) => run('cloud', '--tenant', 'a=10.0.0.0/8', '--insecure', ...more);
  for (const [flags, said] of [
    [['--nice', '20'], /'--nice <n>'.*not a whole number from -20 to 19/],
    [['--priority', 'high'], /'--priority <kind>'.*not auto, realtime or ordinary: high/],
    [['--priority', 'realtime', '--nice', '3'], /'--priority': realtime does not go with '--nice'/],
  ] as const) {
    const wrong = await start(...flags);
    t.is(wrong.code, 2);
    t.regex(wrong.err, said);
  }
  if (!mayChange(t)) return;
  t.is(policy((await startCloud(t, '--priority', 'realtime')).cloud.pid), 2);
});

/** The answers to looks every 50 ms at what was carried since the one before. */
function looks(sense: BulkSense, row: readonly { packets: number; bytes: number }[]): boolean[] {
  let [now, packets, bytes] = [0, 0, 0];
  return row.map((more) => {
    now += 50;
    packets += more.packets;
    bytes += more.bytes;
    sense.look(now, { packets, bytes });
    return sense.bulk;
  });
}

test('bulk is what moves fast in large packets', (t) => {
  const still = { packets: 0, bytes: 0 };
  const fast = { packets: 400, bytes: 400 * 30_000 };
  const slow = { packets: 40, bytes: 40 * 30_000 };
  const flood = { packets: 100_000, bytes: 100_000 * 100 };
  const datagrams = { packets: 5_000, bytes: 5_000 * 1_400 };
  t.deepEqual(looks(new BulkSense(0), [still, slow, flood, datagrams]), [false, false, false, false]);
  t.deepEqual(looks(new BulkSense(0), [still, fast, fast, still]), [false, true, true, true]);
  t.deepEqual(
    looks(new BulkSense(0), [fast, still, slow, still, fast, still, flood, flood, flood, fast]),
    [true, true, true, true, true, true, true, true, false, true],
    'a pause does not end it, several looks without it do',
  );
});

// What is missing for a TUN device is named, with how to get it: the real command with the right, the device or the
// program really taken away.
import { copyFileSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { kubebusCommand } from '../../examples/lab/command.js';
import { has, Lab, must, type RunResult, run } from '../../examples/lab/netns.js';
import { systemEnvironment } from '../../lib/l3/index.js';
import { kernelTest, missing, unique } from '../support/kernel.js';

const check = kernelTest(missing('setpriv', 'setcap', 'unshare', 'mount', 'nft'));
const cwd = fileURLToPath(new URL('../..', import.meta.url));

/** `kubebus edge` (or router) with a TUN device, started by `wrapper`. Its cloud does not exist: what is missing is told first. */
function start(wrapper: readonly string[], role = 'edge', more: readonly string[] = []): Promise<RunResult> {
  const device = unique('x');
  const identity = ['--insecure', '--tenant', 't', '--node', 'n', '--cloud', 'kubebus://127.0.0.1:1', '--tun', device];
  const [program, ...args] = [...wrapper, ...kubebusCommand(), role, ...identity, ...more];
  return run(program!, args, { cwd, timeoutMs: 20_000 });
}

/** In a mount namespace of its own after `commands`; other processes see nothing of it. */
const privately = (commands: string): string[] => ['unshare', '-m', 'sh', '-ec', `${commands}\nexec "$@"`, 'sh'];

const where = (program: string): string =>
  systemEnvironment()
    .PATH!.split(':')
    .map((dir) => `${dir}/${program}`)
    .join(' ');

/** Takes a program away wherever it is. */
const without = (program: string): string[] =>
  privately(`for f in ${where(program)}; do [ ! -e "$f" ] || mount --bind /dev/null "$f"; done`);

const line = (result: RunResult): string => result.stderr.trim();

check('without CAP_NET_ADMIN: the right is named, and three ways to grant it', async (t) => {
  const result = await start(['setpriv', '--bounding-set=-net_admin', '--inh-caps=-net_admin']);
  t.is(result.code, 1, line(result));
  t.regex(
    line(result),
    /CAP_NET_ADMIN is missing.*run as root.*setcap cap_net_admin.*AmbientCapabilities.*--cap-add NET_ADMIN.*ERR_TUN_PERMISSION/s,
  );
  t.is(line(result).split('\n').length, 1);
});

check('without /dev/net/tun: how to get it, on a host and in a container', async (t) => {
  const result = await start(privately('mount -t tmpfs none /dev/net'));
  t.is(result.code, 1, line(result));
  t.regex(line(result), /\/dev\/net\/tun is missing.*modprobe tun.*--device \/dev\/net\/tun.*ERR_TUN_PERMISSION/s);
});

check('without access to /dev/net/tun', async (t) => {
  const result = await start(privately('mount -t tmpfs -o nodev none /dev/net; mknod /dev/net/tun c 10 200'));
  t.is(result.code, 1, line(result));
  t.regex(line(result), /no access to \/dev\/net\/tun.*ERR_TUN_PERMISSION/s);
});

check("without the program 'ip': its package is named at once, though the cloud does not answer", async (t) => {
  const result = await start(without('ip'));
  t.is(result.code, 1, line(result));
  t.regex(line(result), /program 'ip'.*iproute2/);
});

check("without 'nft', --snat names its package", async (t) => {
  t.true(has('nft'));
  const result = await start(without('nft'), 'router', ['--advertise', '10.1.0.0/24:vm', '--snat']);
  t.is(result.code, 1, line(result));
  t.regex(line(result), /program 'nft'.*install nftables/);
});

check('a device name of more than 15 characters, and one that is taken', async (t) => {
  const long = await start([], 'edge', ['--tun', 'kubebus-device-0']);
  t.regex(line(long), /at most 15 characters: kubebus-device-0/);
  t.not(long.code, 0);
  const taken = await start([], 'edge', ['--tun', 'lo']);
  t.is(taken.code, 1);
  t.regex(line(taken), /lo/);
});

check(
  'a node binary with the right by setcap: its helpers `ip` and `nft` have it too, for the time of their start',
  async (t) => {
    const lab = new Lab(unique('s-'));
    try {
      const binary = join(lab.work, 'node');
      copyFileSync(process.execPath, binary);
      await must('setcap', ['cap_net_admin+ep', binary]);
      await lab.ns('a');
      // Root without its privileges (SECBIT_NOROOT): only what the file grants counts, as for any user.
      const unprivileged = ['--securebits', '+noroot,+noroot_locked', '--inh-caps=-all'];
      const [, ...command] = kubebusCommand();
      const edge = lab.spawn('a', 'setpriv', [
        ...[...unprivileged, binary, ...command, 'edge', '--insecure', '--tenant', 't', '--node', 'n'],
        ...['--cloud', 'kubebus://127.0.0.1:1', '--tun', 'kb0', '--mtu', '1300'],
      ]);
      await edge.logged(/cannot connect/, 20_000);
      // Dialling does not wait for the device, nor the device for dialling.
      let shown = '';
      for (let i = 0; i < 500 && !/UP.* mtu 1300/.test(shown); i++) shown = await lab.ip('a', 'link', 'show', 'kb0');
      t.regex(shown, /UP.* mtu 1300/);
      // It was lent, not given: the process has it permitted, but no child that it starts otherwise would.
      const capability = (line: string) =>
        BigInt(`0x${new RegExp(`${line}:\\s*([0-9a-f]+)`).exec(readFileSync(`/proc/${edge.pid}/status`, 'utf8'))![1]}`);
      t.is(capability('CapPrm'), 1n << 12n);
      t.is(capability('CapAmb') | capability('CapInh'), 0n);
      t.is(await edge.stop(), 0, edge.log);
    } finally {
      await lab.down();
    }
  },
);

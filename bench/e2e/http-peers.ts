// What stands beside the whole way in the http bench: nginx in front of nginx, joined by `ssh -R` or by a VPN on TUN devices. And nginx itself.

import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { chmod, mkdir, writeFile } from 'node:fs/promises';
import { userInfo } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import type { Lab } from '../../examples/lab/netns.js';
import { freePort } from './free-port.js';
import { CLOUD, SUBJECTS } from './subjects.js';
import { allowCongestionControl, bringUp } from './topology.js';

const run = promisify(execFile);

/** Writes the configuration of an nginx process; returns its arguments. */
async function configured(dir: string, name: string, server: string, http: string): Promise<string[]> {
  const own = join(dir, name);
  await mkdir(own);
  const temp = ['client_body', 'proxy', 'fastcgi', 'uwsgi', 'scgi'].map((t) => `${t}_temp_path ${own}/${t};`).join(' ');
  await writeFile(
    join(own, 'nginx.conf'),
    `daemon off; master_process off; pid ${own}/pid; error_log ${own}/log; events { worker_connections 2048; }
     http { access_log off; keepalive_requests 100000000; ${temp} ${http} server { ${server} } }`,
  );
  return ['-c', join(own, 'nginx.conf')];
}

export async function nginx(
  dir: string,
  name: string,
  server: string,
  http: string,
  children: ChildProcess[],
): Promise<void> {
  children.push(spawn('nginx', await configured(dir, name, server, http), { stdio: 'ignore' }));
}

/** nginx as a proxy with kept connections, without buffering. */
const FRONT =
  'location / { proxy_pass http://up; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off; }';
const upstream = (at: string) => `upstream up { server ${at}; keepalive 256; }`;

/** nginx on a port of its own, in front of `at`; returns its URL. */
export async function front(dir: string, at: number, children: ChildProcess[], name = 'front'): Promise<string> {
  const port = await freePort();
  await nginx(dir, name, `listen 127.0.0.1:${port}; ${FRONT}`, upstream(`127.0.0.1:${at}`), children);
  return `http://127.0.0.1:${port}`;
}

/** sshd and `ssh -R` of our own on loopback; resolves with the port that leads to the service. */
export async function reverseTunnel(dir: string, service: number, children: ChildProcess[]): Promise<number> {
  const sshd = '/usr/sbin/sshd';
  await run('ssh-keygen', ['-q', '-t', 'ed25519', '-N', '', '-f', join(dir, 'host')]);
  await run('ssh-keygen', ['-q', '-t', 'ed25519', '-N', '', '-f', join(dir, 'user')]);
  await run('cp', [join(dir, 'user.pub'), join(dir, 'authorized')]);
  await chmod(join(dir, 'authorized'), 0o600);
  const [port, far] = [await freePort(), await freePort()];
  await writeFile(
    join(dir, 'sshd_config'),
    `Port ${port}\nListenAddress 127.0.0.1\nHostKey ${dir}/host\nAuthorizedKeysFile ${dir}/authorized\nStrictModes no\nUsePAM no\nPidFile none\nPermitRootLogin yes\nMaxSessions 1000\n`,
  );
  if (process.getuid?.() === 0) await mkdir('/run/sshd', { recursive: true });
  children.push(spawn(sshd, ['-D', '-f', join(dir, 'sshd_config')], { stdio: 'ignore' }));
  const args = [
    '-i',
    join(dir, 'user'),
    '-p',
    String(port),
    '-N',
    '-o',
    'StrictHostKeyChecking=no',
    '-o',
    `UserKnownHostsFile=${dir}/known`,
    '-o',
    'ExitOnForwardFailure=yes',
  ];
  for (let tries = 0; tries < 20; tries++) {
    const client = spawn(
      'ssh',
      [...args, '-R', `127.0.0.1:${far}:127.0.0.1:${service}`, `${userInfo().username}@127.0.0.1`],
      { stdio: 'ignore' },
    );
    client.on('error', () => {});
    for (let i = 0; i < 20 && client.exitCode === null; i++) {
      await new Promise((resolve) => setTimeout(resolve, 100));
      if ((await status(`http://127.0.0.1:${far}/0B`)) === '200') {
        children.push(client);
        return far;
      }
    }
    client.kill();
  }
  throw new Error('no tunnel came up');
}

export async function status(url: string): Promise<string> {
  return fetch(url).then(
    async (r) => {
      await r.arrayBuffer();
      return String(r.status);
    },
    () => '000',
  );
}

/** The TUN peer: over TCP and TLS, as we are. */
export const VPN = 'openvpn-tcp';

/** Cloud and edge in namespaces, nginx in each, the VPN in between. Callers run in the cloud's namespace. */
export async function overVpn(www: string): Promise<{ lab: Lab; url: string }> {
  const subject = SUBJECTS.find((s) => s.name === VPN)!;
  const restore = allowCongestionControl('cubic');
  const lab = await bringUp('kbh-', 'cubic').finally(restore);
  try {
    await subject.setup(lab);
    const [device] = (await lab.run('edge1', 'ip', ['-br', '-4', 'addr', 'show', 'to', '10.99.0.0/24'])).stdout.match(
      /10\.99\.0\.\d+/,
    ) ?? ['10.99.0.2'];
    lab.spawn('edge1', 'nginx', await configured(lab.work, 'service', `listen 8080; root ${www};`, ''));
    lab.spawn(CLOUD, 'nginx', await configured(lab.work, 'front', `listen 8081; ${FRONT}`, upstream(`${device}:8080`)));
    await lab.waitPing(CLOUD, device);
    await lab.waitListen('edge1', 8080);
    await lab.waitListen(CLOUD, 8081);
    return { lab, url: 'http://127.0.0.1:8081' };
  } catch (error) {
    await lab.down();
    throw error;
  }
}

// Programs of others at both ends of the way: curl, wrk and Chromium in front, nginx behind. Installed in CI; skipped elsewhere.

import { execFile, spawnSync } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { inflateSync } from 'node:zlib';
import test from 'ava';
import { camera } from '../../examples/camera.js';
import { createAuthority } from '../../lib/join/driver/pki.js';
import { foreignServer } from '../support/foreign-server.js';
import { makeWorld, until, type World } from './support/world.js';

const run = promisify(execFile);
const have = (command: string) => spawnSync('which', [command]).status === 0;
const all = process.env.KUBEBUS_REQUIRE_ALL === '1';
/** The test, or a skipped one that says which program is missing. */
const needs = (...commands: string[]) => {
  const missing = commands.filter((c) => !have(c));
  return missing.length === 0 || all ? test.serial : test.serial.skip;
};

let world: World;
let dir: string;
test.before(async () => {
  dir = await mkdtemp(join(tmpdir(), 'kubebus-http-'));
  const ca = await createAuthority('test');
  const { certificate, key } = await serverCertificate(ca);
  await writeFile(join(dir, 'gw.crt'), certificate);
  await writeFile(join(dir, 'gw.key'), key);
  world = await makeWorld(['acme/edge-1'], {
    gateways: [
      { host: '127.0.0.1', port: 0, domains: ['example.test'] },
      {
        host: '127.0.0.1',
        port: 0,
        domains: ['example.test'],
        tls: { cert: join(dir, 'gw.crt'), key: join(dir, 'gw.key'), pollMs: 50 },
      },
    ],
  });
  world.node('acme/edge-1').publish('camera', camera(20), { public: true });
  await until(() => world.cloud.services.list().length === 1);
});
test.after.always(async () => {
  await world?.close();
  await rm(dir, { recursive: true, force: true });
});

async function serverCertificate(ca: Awaited<ReturnType<typeof createAuthority>>) {
  const names = [{ type: 'dns' as const, value: 'example.test' }];
  const { cert: certificate, key } = await ca.issue({ name: 'gateway', days: 1, names, server: true });
  return { certificate, key };
}

const curl = async (...args: string[]) =>
  (await run('curl', ['-sS', '--max-time', '20', ...args], { maxBuffer: 1 << 28 })).stdout;
const tls = () => world.cloud.gateways[1]!.port;

needs('chromium-headless-shell')('Chromium shows the stream of a camera on an edge', async (t) => {
  const picture = join(dir, 'page.png');
  const page = `http://127.0.0.1:${world.gateway}/acme/edge-1/camera/`;
  // The stream never ends: virtual time lets the page be taken all the same.
  await run(
    'chromium-headless-shell',
    [
      '--no-sandbox',
      '--disable-gpu',
      `--user-data-dir=${join(dir, 'profile')}`,
      '--window-size=320,240',
      '--timeout=4000',
      `--screenshot=${picture}`,
      page,
    ],
    { timeout: 60_000 },
  );
  const [r, g, b] = pixel(await readFile(picture), 100, 100);
  t.true(g! >= 120 && r! < 60 && b! < 60, `the picture is green: ${r} ${g} ${b}`);
});

/** One pixel of an 8-bit RGB(A) PNG. */
function pixel(png: Buffer, x: number, y: number): number[] {
  const width = png.readUInt32BE(16);
  const channels = png[25] === 6 ? 4 : 3;
  const parts: Buffer[] = [];
  for (let at = 8; at < png.length; ) {
    const length = png.readUInt32BE(at);
    if (png.toString('latin1', at + 4, at + 8) === 'IDAT') parts.push(png.subarray(at + 8, at + 8 + length));
    at += length + 12;
  }
  const data = inflateSync(Buffer.concat(parts));
  const stride = width * channels;
  let before = Buffer.alloc(stride);
  for (let line = 0; line <= y; line++) {
    const at = line * (stride + 1);
    const filter = data[at]!;
    const row = Buffer.from(data.subarray(at + 1, at + 1 + stride));
    for (let i = 0; i < stride; i++) {
      const a = i >= channels ? row[i - channels]! : 0;
      const b = before[i]!;
      const c = i >= channels ? before[i - channels]! : 0;
      const p = a + b - c;
      const [pa, pb, pc] = [Math.abs(p - a), Math.abs(p - b), Math.abs(p - c)];
      const paeth = pa <= pb && pa <= pc ? a : pb <= pc ? b : c;
      row[i] = row[i]! + [0, a, b, (a + b) >> 1, paeth][filter]!;
    }
    before = row;
  }
  return [...before.subarray(x * channels, x * channels + 3)];
}

needs(
  'nginx',
  'curl',
  'wrk',
)('nginx behind; curl, ranges, upload, HTTP/2, wrk in front', async (t) => {
  const file = randomBytes(3 * 1024 * 1024);
  await mkdir(join(dir, 'www'));
  await writeFile(join(dir, 'www/file'), file);
  const conf = (own: number) =>
    `daemon off; master_process off; pid ${dir}/nginx.pid; error_log stderr crit; events {}
     http { access_log off; client_body_temp_path ${dir}/b; proxy_temp_path ${dir}/p; fastcgi_temp_path ${dir}/f; uwsgi_temp_path ${dir}/u; scgi_temp_path ${dir}/s;
     server { listen 127.0.0.1:${own}; root ${dir}/www; location /dir { return 301 /dir/; } location /dir/ { return 200 "in $http_x_forwarded_proto"; } } }`;
  const port = await foreignServer(t, 'nginx', async (own) => {
    await writeFile(join(dir, 'nginx.conf'), conf(own));
    return ['-c', join(dir, 'nginx.conf')];
  });
  const service = world
    .node('acme/edge-1')
    .publish('nginx', `http://127.0.0.1:${port}`, { public: true, health: { intervalMs: 50 } });
  t.teardown(() => service.close());
  await until(() => {
    const found = world.cloud.services.list().find((s) => s.name === 'nginx');
    return found?.healthy === true;
  });
  const base = `http://127.0.0.1:${world.gateway}/acme/edge-1/nginx`;
  let up = '';
  for (let i = 0; i < 200 && !up.includes('200'); i++)
    up = await curl('-o', '/dev/null', '-w', '%{http_code}', `${base}/file`);
  const sha = (bytes: Buffer | string) => createHash('sha256').update(bytes).digest('hex');
  const out = join(dir, 'out');
  await curl('-o', out, `${base}/file`);
  t.is(sha(await readFile(out)), sha(file));
  t.is(await curl('-r', '10-13', '-o', out, '-w', '%{http_code}', `${base}/file`), '206');
  t.deepEqual(await readFile(out), file.subarray(10, 14));
  t.is(await curl('-L', `${base}/dir`), 'in http');
  const h2 = ['-k', '--http2', '--resolve', `nginx.edge-1.acme.example.test:${tls()}:127.0.0.1`];
  const url = `https://nginx.edge-1.acme.example.test:${tls()}`;
  t.is(await curl(...h2, '-o', out, '-w', '%{http_version} %{http_code}', `${url}/file`), '2 200');
  t.is(sha(await readFile(out)), sha(file));
  t.is(await curl(...h2, '-L', `${url}/dir`), 'in https');
  const { stdout } = await run('wrk', ['-t1', '-c16', '-d1s', `${base}/dir/`]);
  t.regex(stdout, /requests in/);
  t.notRegex(stdout, /Non-2xx|Socket errors/);
});

needs('curl', 'openssl')('a new certificate of the gateway is served without a restart', async (t) => {
  const subject = async () => {
    const { stdout } = await run('bash', [
      '-c',
      `openssl s_client -connect 127.0.0.1:${tls()} </dev/null 2>/dev/null | openssl x509 -noout -serial`,
    ]);
    return stdout.trim();
  };
  const before = await subject();
  const { certificate, key } = await serverCertificate(await createAuthority('test'));
  await writeFile(join(dir, 'gw.key'), key);
  await writeFile(join(dir, 'gw.crt'), certificate);
  let now = before;
  while (now === before) now = await subject();
  t.not(now, before);
});

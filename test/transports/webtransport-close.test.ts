// A peer that takes nothing and closes while our own end of the session still waits to leave. Node's http2 forgets the
// RST_STREAM of a stream that is closed with code 0 and destroyed before it has finished, and once the peer takes bytes again it
// makes empty DATA frames for that stream until there is no memory left: `std::bad_alloc`, in anybody's hand who can connect.
import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import http2 from 'node:http2';
import { fileURLToPath } from 'node:url';
import test, { type ExecutionContext } from 'ava';
import { shortLived } from '../../transports/web/short-lived.js';
import { PATH } from '../../transports/web/webtransport-engine.js';

/** Until this answer came; whoever works without end never answers. */
async function told(child: ChildProcess, key: string): Promise<unknown> {
  for (;;) {
    const [message] = (await once(child, 'message', { signal: AbortSignal.timeout(30_000) })) as [
      Record<string, unknown>,
    ];
    if (key in message) return message[key];
  }
}

function start(t: ExecutionContext, fixture: string, ...argv: string[]): ChildProcess {
  const program = fileURLToPath(new URL(`fixtures/${fixture}`, import.meta.url));
  const child = fork(program, argv, { execArgv: ['--import=tsx'] });
  t.teardown(() => child.kill('SIGKILL'));
  return child;
}

/** WT_CLOSE_SESSION with code 0: type 0x2843 and length 4 as QUIC's variable-length integers. */
const CLOSE = Buffer.from('684304' + '00000000', 'hex');

test('a listener whose peer closes while its own end waits for the window does not work for ever', async (t) => {
  const child = start(t, 'full-listener.ts');
  const { port } = new URL((await told(child, 'address')) as string);

  // No byte of a stream may come.
  const client = http2.connect(`https://127.0.0.1:${port}`, {
    rejectUnauthorized: false,
    settings: { initialWindowSize: 0 },
  });
  t.teardown(() => client.destroy());
  await once(client, 'remoteSettings');
  const stream = client.request({
    ':method': 'CONNECT',
    ':protocol': 'webtransport',
    ':scheme': 'https',
    ':path': PATH,
    ':authority': `127.0.0.1:${port}`,
  });
  stream.on('error', () => {});
  stream.resume();
  const closed = once(stream, 'close');
  t.is(await told(child, 'refused'), 'ERR_TOO_MANY_CONNECTIONS');
  stream.write(CLOSE);
  // The answer comes after what was written before has been read.
  const answered = () => new Promise((resolve) => client.ping(resolve));
  await answered();
  await answered();
  client.settings({ initialWindowSize: 65_535 });
  child.send('alive?');
  t.true(await told(child, 'alive'));
  await closed;
});

test('nor does a dialer', async (t) => {
  const { cert, key } = await shortLived();
  const server = http2.createSecureServer({
    cert,
    key,
    settings: { initialWindowSize: 0, enableConnectProtocol: true },
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  t.teardown(() => server.close());
  const { port } = server.address() as { port: number };
  const child = start(t, 'leaving-dialer.ts', `kubebus://127.0.0.1:${port}`);
  const [stream] = (await once(server, 'stream')) as [http2.ServerHttp2Stream];
  const session = stream.session!;
  t.teardown(() => session.destroy());
  stream.on('error', () => {});
  stream.resume();
  stream.respond({ ':status': 200 });
  const closed = once(stream, 'close');
  // The connection ends as soon as the dialer has understood.
  const answered = () => new Promise<void>((resolve) => (session.closed ? resolve() : session.ping(() => resolve())));
  await answered();
  await answered();
  child.send('leave');
  t.true(await told(child, 'left'));
  stream.write(CLOSE);
  await answered();
  await answered();
  if (!session.closed) session.settings({ initialWindowSize: 65_535 });
  child.send('alive?');
  t.true(await told(child, 'alive'));
  await closed;
});

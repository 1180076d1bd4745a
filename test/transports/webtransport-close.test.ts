// A peer that takes nothing and closes while our own end of the session still waits to leave. Node's http2 forgets the
// RST_STREAM of a stream that is closed with code 0 and destroyed before it has finished, and once the peer takes bytes again it
// makes empty DATA frames for that stream until there is no memory left: `std::bad_alloc`, in anybody's hand who can connect.
import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import http2 from 'node:http2';
import { fileURLToPath } from 'node:url';
import test from 'ava';
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

/** WT_CLOSE_SESSION with code 0: type 0x2843 and length 4 as QUIC's variable-length integers. */
const CLOSE = Buffer.from('684304' + '00000000', 'hex');

test('a peer that closes while our end waits for its window cannot make us work for ever', async (t) => {
  const program = fileURLToPath(new URL('fixtures/full-listener.ts', import.meta.url));
  const child = fork(program, { execArgv: ['--import=tsx'] });
  t.teardown(() => child.kill('SIGKILL'));
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

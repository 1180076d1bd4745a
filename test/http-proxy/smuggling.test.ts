// Requests whose end two servers could see in different places, and fields that hide others: none may reach the service as another request
// than the one that was sent. Bytes by hand, because no client sends such things.

import test from 'ava';
import { makeWorld, raw, until, type World } from './support/world.js';

let world: World;
const seen: string[] = [];

test.before(async () => {
  world = await makeWorld(['acme/edge-1']);
  const { url } = await world.serve((req, res) => {
    seen.push(`${req.method} ${req.url}`);
    req.resume().on('end', () => res.end('ok'));
  });
  world.node('acme/edge-1').publish('main', url, { public: true, health: false });
  await until(() => world.cloud.services.list().length === 1);
});
test.after.always(() => world.close());

const P = '/acme/edge-1/main';
const smuggled = `GET ${P}/smuggled HTTP/1.1\r\nHost: x\r\n\r\n`;
const chunked = `0\r\n\r\n${smuggled}`;

for (const [what, request] of Object.entries({
  'Content-Length and Transfer-Encoding': `POST ${P}/a HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n${chunked}`,
  'Transfer-Encoding and Content-Length': `POST ${P}/a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 6\r\n\r\n${chunked}`,
  'two lengths': `POST ${P}/a HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nContent-Length: 5\r\n\r\n${smuggled}`,
  'two equal lengths': `POST ${P}/a HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello${smuggled}`,
  'a list of lengths': `POST ${P}/a HTTP/1.1\r\nHost: x\r\nContent-Length: 0, 5\r\n\r\n${smuggled}`,
  'a length with a sign': `POST ${P}/a HTTP/1.1\r\nHost: x\r\nContent-Length: +0\r\n\r\n${smuggled}`,
  'a negative length': `POST ${P}/a HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n${smuggled}`,
  'a length in hexadecimal': `POST ${P}/a HTTP/1.1\r\nHost: x\r\nContent-Length: 0x0\r\n\r\n${smuggled}`,
  'a length beyond all numbers': `POST ${P}/a HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999999\r\n\r\n${smuggled}`,
  'a coding that is not chunked': `POST ${P}/a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n${chunked}`,
  'chunked not last': `POST ${P}/a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, identity\r\n\r\n${chunked}`,
  'chunked twice': `POST ${P}/a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n${chunked}`,
  'another coding before chunked': `POST ${P}/a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip, chunked\r\n\r\n${chunked}`,
  'a space before the colon': `POST ${P}/a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding : chunked\r\n\r\n${chunked}`,
  'a control character before chunked': `POST ${P}/a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: \x0bchunked\r\n\r\n${chunked}`,
  'chunked in HTTP/1.0': `POST ${P}/a HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n${chunked}`,
  'a folded field': `POST ${P}/a HTTP/1.1\r\nHost: x\r\nX-Folded: a\r\n Content-Length: 5\r\nTransfer-Encoding:\r\n chunked\r\nContent-Length: 4\r\n\r\n${chunked}`,
  'a bare line feed in a field': `POST ${P}/a HTTP/1.1\r\nHost: x\r\nX-A: b\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n${chunked}`,
  'a bare carriage return in a field': `POST ${P}/a HTTP/1.1\r\nHost: x\r\nX-A: b\rContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n${chunked}`,
  'a NUL in a field': `GET ${P}/a HTTP/1.1\r\nHost: x\r\nX-A: b\0c\r\n\r\n`,
  'a chunk size with a sign': `POST ${P}/a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\nx\r\n${chunked}`,
  'a chunk size with a prefix': `POST ${P}/a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0x1\r\nx\r\n${chunked}`,
  'a chunk size that overflows': `POST ${P}/a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n10000000000000001\r\nx\r\n${chunked}`,
  'a chunk longer than its size': `POST ${P}/a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nxyz\r\n${chunked}`,
  'a chunk size line ended by a line feed': `POST ${P}/a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\nx\r\n${chunked}`,
  'two hosts': `GET ${P}/a HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n`,
  'no host': `GET ${P}/a HTTP/1.1\r\n\r\n`,
  'a line feed in the target': `GET ${P}/a\nX: y HTTP/1.1\r\nHost: x\r\n\r\n`,
  'a space in the target': `GET ${P}/a b HTTP/1.1\r\nHost: x\r\n\r\n`,
  'a field without a name': `GET ${P}/a HTTP/1.1\r\nHost: x\r\n: y\r\n\r\n`,
  'another version': `GET ${P}/a HTTP/9.9\r\nHost: x\r\n\r\n`,
  'no HTTP at all': '\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n',
})) {
  test.serial(`refused, and nothing reaches the service: ${what}`, async (t) => {
    seen.length = 0;
    const back = await raw(world.gateway, request);
    t.regex(back, /^HTTP\/1\.1 (?:400|413|431|501) /, back.slice(0, 200));
    t.is(back.split('HTTP/1.1 ').length, 2, 'one answer, then the end');
    // A request that is refused in the middle of its body may have begun at the service; never another one.
    t.deepEqual(
      seen.filter((line) => line !== 'POST /a'),
      [],
    );
  });
}

test.serial('what a request carries in its body stays a body', async (t) => {
  seen.length = 0;
  const body = smuggled;
  await raw(
    world.gateway,
    `POST ${P}/a HTTP/1.1\r\nHost: x\r\nContent-Length: ${body.length}\r\nConnection: close\r\n\r\n${body}`,
  );
  const text = `${body.length.toString(16)};ext=1\r\n${body}\r\n0\r\n\r\n`;
  await raw(
    world.gateway,
    `POST ${P}/b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n${text}`,
  );
  // GET with a body: its length goes along, or the service would read the body as the next request.
  await raw(
    world.gateway,
    `GET ${P}/c HTTP/1.1\r\nHost: x\r\nContent-Length: ${body.length}\r\nConnection: close\r\n\r\n${body}`,
  );
  await raw(
    world.gateway,
    `DELETE ${P}/d HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n${text}`,
  );
  await raw(
    world.gateway,
    `GET ${P}/e HTTP/1.1\r\nHost: x\r\nConnection: Content-Length, close\r\nContent-Length: ${body.length}\r\n\r\n${body}`,
  );
  t.deepEqual(seen, ['POST /a', 'POST /b', 'GET /c', 'DELETE /d', 'GET /e']);
});

test.serial('a body shorter than its length is not completed by the next request', async (t) => {
  seen.length = 0;
  const half = raw(world.gateway, `POST ${P}/half HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nshort`);
  await until(() => seen.includes('POST /half'));
  const other = await raw(world.gateway, `GET ${P}/other HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n`);
  t.regex(other, /^HTTP\/1\.1 200 [\s\S]*ok$/);
  t.deepEqual(seen, ['POST /half', 'GET /other']);
  void half.catch(() => {});
});

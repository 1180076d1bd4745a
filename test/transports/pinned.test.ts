// A certificate checked after the handshake, beside OpenSSL that knows the CA during it: the same verdicts for the same certificates.

import { X509Certificate } from 'node:crypto';
import { once } from 'node:events';
import type net from 'node:net';
import tls from 'node:tls';
import test from 'ava';
import { type Authority, cloudNames, createAuthority, nodeNames } from '../../lib/join/driver/pki.js';
import { pinnedFault } from '../../transports/pinned.js';

const DAY = 86_400_000;
const HOST = '127.0.0.1';

/** What a client of Node's says of this server when it has the CA; null: nothing. */
async function opensslSays(ca: string, leaf: { cert: string; key: string }): Promise<string | null> {
  const server = tls.createServer({ ...leaf, minVersion: 'TLSv1.3' }, (socket) => socket.end());
  server.listen(0, HOST);
  await once(server, 'listening');
  const { port } = server.address() as net.AddressInfo;
  const socket = tls.connect({ host: HOST, port, ca, rejectUnauthorized: false });
  await once(socket, 'secureConnect');
  const error = socket.authorizationError as string | (Error & { code: string }) | undefined;
  socket.destroy();
  server.close();
  return error == null ? null : typeof error === 'string' ? error : error.code;
}

test('the same verdict as OpenSSL in the handshake', async (t) => {
  const ca = await createAuthority('CA', 1);
  const names = cloudNames('cloud', [HOST]);
  const cloud = { name: 'cloud', days: 1, names, server: true };
  const from = async (authority: Authority, more: object = {}) => authority.issue({ ...cloud, ...more });
  const cases: [string, { cert: string; key: string }][] = [
    ['good', await from(ca)],
    ['another CA of the same name', await from(await createAuthority('CA', 1))],
    ['another CA', await from(await createAuthority('Other', 1))],
    ['the CA itself', ca],
    ['another CA itself', await createAuthority('Other', 1)],
    ['ended', await from(ca, { now: Date.now() - 2 * DAY })],
    ['not begun', await from(ca, { now: Date.now() + DAY })],
    ['for the client side', await from(ca, { server: false })],
    ['another host', await from(ca, { names: cloudNames('cloud', ['127.0.0.2']) })],
    ['no host', await from(ca, { names: cloudNames('cloud', []) })],
  ];
  const verdicts = new Set<string | null>();
  for (const [what, leaf] of cases) {
    const theirs = await opensslSays(ca.cert, leaf);
    const fault = pinnedFault(new X509Certificate(leaf.cert), new X509Certificate(ca.cert), HOST);
    const ours = fault instanceof Error ? (fault as NodeJS.ErrnoException).code : fault;
    verdicts.add(theirs);
    // Which of several reasons is given does not matter, but for those that tell a user what to do.
    if (theirs === null) t.is(ours, null, what);
    else if (/EXPIRED|NOT_YET|ALTNAME/.test(theirs) || what === 'for the client side') t.is(ours, theirs, what);
    else t.not(ours, null, what);
  }
  t.true(verdicts.size >= 6, [...verdicts].join());
});

test('beyond OpenSSL: it has to be a cloud, and the CA has to be good at that time', async (t) => {
  const ca = await createAuthority('CA', 1);
  const other = { name: 'x', days: 9, server: true, names: [{ type: 'ip' as const, value: HOST }] };
  const node = { ...other, names: [...nodeNames('acme', 'edge-1', []), ...other.names] };
  for (const what of [other, node]) {
    const { cert } = await ca.issue(what);
    t.regex(String(pinnedFault(new X509Certificate(cert), new X509Certificate(ca.cert), HOST)), /not a cloud's/);
  }
  const cloud = new X509Certificate((await ca.issue({ ...other, names: cloudNames('cloud', [HOST]) })).cert);
  t.is(pinnedFault(cloud, new X509Certificate(ca.cert), HOST), null);
  t.is(pinnedFault(cloud, new X509Certificate(ca.cert), HOST, Date.now() + 2 * DAY), 'CERT_HAS_EXPIRED');
});

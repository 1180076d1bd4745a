// Everything that goes wrong on purpose: tokens that must not work, clouds that are not what they say, callers that break the
// protocol. Each is refused with a reason on both sides, and no secret is in any log.

import { createPublicKey, X509Certificate } from 'node:crypto';
import { mkdir, rmdir } from 'node:fs/promises';
import { join } from 'node:path';
import type { Duplex } from 'node:stream';
import test, { type ExecutionContext } from 'ava';
import fc from 'fast-check';
import type { KubeBusError } from '../../lib/core/index.js';
import { KubeBusNode } from '../../lib/index.js';
import type { ServiceDialer } from '../../lib/join/driver/client.js';
import { type Authority, cloudNames, createAuthority, nodeNames } from '../../lib/join/driver/pki.js';
import { createRequest, requestedKey } from '../../lib/join/driver/request.js';
import { formatToken, JOIN_PROTOCOL, NodeIdentity, parseToken } from '../../lib/join/index.js';
import {
  decodeAnswer,
  decodeRequest,
  encodeAnswer,
  encodeRequest,
  type JoinAnswer,
  type JoinRequest,
  MessageReader,
} from '../../lib/join/messages.js';
import { dialService, tcpTransport } from '../../transports/tcp.js';
import { folder, LogLines, startCloud, type TestCloud } from './support.js';

const never = new AbortController().signal;

async function joining(
  t: ExecutionContext,
  token: string,
  more: Partial<Parameters<typeof NodeIdentity.open>[0]> = {},
) {
  const identity = await NodeIdentity.open({ stateDir: await folder(t), token, dial: dialService, ...more });
  identity.stop();
  return identity;
}

/** Joining fails with this code, and the cloud's log has a line with it and without the secret. */
async function refused(t: ExecutionContext, log: LogLines, token: string, code: string, more = {}): Promise<void> {
  const error = await t.throwsAsync(joining(t, token, more), { code });
  t.is((error as KubeBusError).side, 'remote');
  t.true(
    log.lines.some((l) => l.startsWith('join refused') && l.includes(code)),
    `the cloud says ${code} too`,
  );
  noSecret(t, log, token);
}

function noSecret(t: ExecutionContext, log: LogLines, token: string): void {
  const secret = Buffer.from(parseToken(token).secret);
  for (const encoding of ['hex', 'base64', 'base64url'] as const)
    t.false(log.lines.join().includes(secret.toString(encoding)));
}

/** Sends raw bytes to the join service and returns what it answers. */
async function send(cloud: TestCloud, bytes: Uint8Array, secure: object = {}): Promise<JoinAnswer | null> {
  const socket = await dialService(cloud.address, { protocol: JOIN_PROTOCOL, unverified: true, ...secure }, never);
  socket.on('error', () => {});
  const reader = new MessageReader();
  let answer: JoinAnswer | null = null;
  // What is not a whole message would be waited for.
  const whole = bytes.length >= 4 && bytes.length >= 4 + Buffer.from(bytes).readUInt32BE(0);
  if (whole) socket.write(bytes);
  else socket.end(bytes);
  for await (const chunk of socket) {
    const message = reader.push(chunk as Buffer);
    if (message !== null) answer = decodeAnswer(message);
  }
  return answer;
}

test('replayed, expired, revoked and misused tokens', async (t) => {
  const log = new LogLines();
  let offset = 0;
  const { authority } = await startCloud(t, await folder(t), { logger: log, date: () => Date.now() + offset });
  const used = await authority.createToken({ tenant: 'acme', node: 'edge-1' });
  t.is((await joining(t, used.text)).node, 'edge-1');
  await refused(t, log, used.text, 'ERR_TOKEN_USED');
  const scoped = await authority.createToken({ tenant: 'acme', node: 'edge-2' });
  await refused(t, log, scoped.text, 'ERR_IDENTITY_MISMATCH', { node: 'edge-3' });
  const taken = await authority.createToken({ tenant: 'acme' });
  await refused(t, log, taken.text, 'ERR_NAME_TAKEN', { node: 'edge-1' });
  await authority.revokeToken(taken.record.id);
  await refused(t, log, taken.text, 'ERR_TOKEN_REVOKED', { node: 'edge-4' });
  const old = await authority.createToken({ tenant: 'acme', ttlMs: 60_000 });
  offset = 61_000;
  await refused(t, log, old.text, 'ERR_TOKEN_EXPIRED');
  const wrongSecret = formatToken({ ...parseToken(old.text), secret: new Uint8Array(24) });
  await refused(t, log, wrongSecret, 'ERR_TOKEN_UNKNOWN');
  await t.throwsAsync(authority.createToken({ tenant: 'nobody' }), { code: 'ERR_TENANT_UNKNOWN' });
  const { ERR_TOKEN_USED, ERR_TOKEN_UNKNOWN } = authority.stats();
  t.deepEqual([ERR_TOKEN_USED, ERR_TOKEN_UNKNOWN], [1, 1], 'counted by reason');
});

test('a token of another cloud: its CA is not ours, and it is never told the secret', async (t) => {
  const log = new LogLines();
  const [ours, theirs] = [await startCloud(t, await folder(t), { logger: log }), await startCloud(t, await folder(t))];
  const { text } = await theirs.authority.createToken({ tenant: 'acme' });
  const foreign = formatToken({ ...parseToken(text), addresses: [ours.address] });
  await t.throwsAsync(joining(t, foreign), { code: 'ERR_CA_MISMATCH', message: /hash/ });
  t.is(ours.authority.stats().ERR_TOKEN_UNKNOWN, undefined);
  // With our CA in it, it is simply unknown here.
  const own = parseToken((await ours.authority.createToken({ tenant: 'acme' })).text);
  await refused(
    t,
    log,
    formatToken({ ...parseToken(text), authority: own.authority, addresses: [ours.address] }),
    'ERR_TOKEN_UNKNOWN',
  );
  // One wrong address among several does no harm.
  const both = formatToken({ ...own, addresses: [theirs.address, 'kubebus://127.0.0.1:1', ours.address] });
  t.is((await joining(t, both, { node: 'edge-5' })).node, 'edge-5');
});

test('the answer is lost after the token was used: the same node gets its certificate, another does not', async (t) => {
  const log = new LogLines();
  const { authority } = await startCloud(t, await folder(t), { logger: log });
  const { text, record } = await authority.createToken({ tenant: 'acme', node: 'edge-1' });
  /** The cable is pulled when the cloud has issued, before the answer arrives. */
  let pulled = 0;
  const stateDir = await folder(t);
  const crash = new AbortController();
  const lossy: ServiceDialer = async (address, secure, signal) => {
    const socket = await dialService(address, secure, signal);
    let requests = 0;
    const write = socket.write.bind(socket);
    socket.write = (bytes: string | Uint8Array) => {
      // The second one is Enroll.
      if (++requests === 2) {
        socket.pause();
        check();
      }
      return write(bytes);
    };
    const check = () => {
      if (record.used.length === 0) return setImmediate(check);
      pulled++;
      // The process dies with it.
      crash.abort();
      return socket.destroy();
    };
    return socket;
  };
  await t.throwsAsync(NodeIdentity.open({ stateDir, token: text, dial: lossy, signal: crash.signal }), {
    code: 'ERR_ABORTED',
  });
  t.is(pulled, 1);
  t.is(record.used.length, 1);
  await refused(t, log, text, 'ERR_TOKEN_USED');
  const identity = await NodeIdentity.open({ stateDir, token: text, dial: dialService });
  identity.stop();
  t.is(identity.node, 'edge-1');
  t.is(record.used.length, 1);
});

/** A port that looks like a cloud's join service, with whatever certificate and answers. */
async function impostor(
  t: ExecutionContext,
  ca: Authority,
  leafOf: Authority,
  answer: (request: JoinRequest) => Promise<JoinAnswer | Uint8Array>,
  what: Partial<Parameters<Authority['issue']>[0]> = {},
): Promise<{ address: string; asked: JoinRequest[]; connections: () => number }> {
  const names = cloudNames('cloud', ['127.0.0.1']);
  const leaf = await leafOf.issue({ name: 'cloud', days: 1, names, server: true, ...what });
  const asked: JoinRequest[] = [];
  let connections = 0;
  const transport = tcpTransport({
    listen: { host: '127.0.0.1', port: 0 },
    tls: { ...leaf, ca: ca.cert },
    services: [
      {
        protocol: JOIN_PROTOCOL,
        onSocket(socket: Duplex) {
          connections++;
          let reader = new MessageReader();
          socket.on('error', () => {});
          socket.on('data', (chunk: Buffer) => {
            const message = reader.push(chunk);
            if (message === null) return;
            reader = new MessageReader();
            const request = decodeRequest(message);
            asked.push(request);
            answer(request).then((a) => {
              const bytes = a instanceof Uint8Array ? a : encodeAnswer(a);
              if (request.type === 'describe') socket.write(bytes);
              else socket.end(bytes);
            });
          });
        },
      },
    ],
  });
  const listener = await transport.listen({ onStream: (s) => s.destroy(), onRefused: (_c, _m, _r, g) => g?.destroy() });
  t.teardown(() => listener.close());
  return { address: listener.address, asked, connections: () => connections };
}

function tokenFor(ca: Authority, address: string): string {
  return formatToken({
    addresses: [address],
    authority: ca.hash,
    id: new Uint8Array(8),
    secret: new Uint8Array(24).fill(7),
  });
}

test('somebody in between who shows the right CA but has no certificate of it never sees the secret', async (t) => {
  const [ca, mallory] = [await createAuthority('KubeBus CA', 1), await createAuthority('KubeBus CA', 1)];
  const host = cloudNames('cloud', ['127.0.0.1']);
  const yesterday = Date.now() - 2 * 86_400_000;
  const cases: [Authority, RegExp, Parameters<typeof impostor>[4]][] = [
    [mallory, /not signed by our CA/, {}],
    [await createAuthority('Other', 1), /not signed by our CA/, {}],
    // A node of ours, and whatever a node's certificate might say.
    [ca, /key usage/, { server: false, names: nodeNames('acme', 'edge-1', []) }],
    [ca, /key usage/, { server: false, names: host }],
    [ca, /is not a cloud's/, { names: nodeNames('acme', 'edge-1', []) }],
    [ca, /another host name/, { names: cloudNames('cloud', ['127.0.0.2']) }],
    [ca, /has expired/, { now: yesterday }],
  ];
  for (const [leafOf, message, what] of cases) {
    const { address, asked } = await impostor(
      t,
      ca,
      leafOf,
      async () => ({ type: 'description', authority: ca.der }),
      what,
    );
    await t.throwsAsync(joining(t, tokenFor(ca, address)), { code: 'ERR_CERTIFICATE', message });
    t.deepEqual(
      asked.map((r) => r.type),
      ['describe'],
    );
  }
});

test('what a cloud issues is checked: name, key, signature, CA, and that it answers what was asked', async (t) => {
  const [ca, other] = [await createAuthority('KubeBus CA', 1), await createAuthority('KubeBus CA', 1)];
  const issue = async (
    r: JoinRequest,
    how: { signer?: Authority; name?: string; foreignKey?: boolean; shown?: Authority },
  ): Promise<JoinAnswer> => {
    const { signer = ca, name = 'edge-1', foreignKey = false, shown = ca } = how;
    const names = name === '' ? [{ type: 'url' as const, value: 'urn:x' }] : nodeNames('acme', name, []);
    const key = requestedKey((r as Extract<JoinRequest, { type: 'enroll' }>).request);
    const der = foreignKey
      ? new X509Certificate((await signer.issue({ name, days: 1, names })).cert).raw
      : (await signer.certify(key, { name, names, lifetime: 86_400_000 })).der;
    return { type: 'issued', certificate: der, authority: shown.der, trusted: [], addresses: [] };
  };
  const cases: [string, RegExp, (r: JoinRequest) => Promise<JoinAnswer | Uint8Array>][] = [
    ['ERR_CERTIFICATE', /is for acme\/edge-9/, (r) => issue(r, { name: 'edge-9' })],
    ['ERR_CERTIFICATE', /exactly one node/, (r) => issue(r, { name: '' })],
    ['ERR_CERTIFICATE', /another key than ours/, (r) => issue(r, { foreignKey: true })],
    ['ERR_CERTIFICATE', /not signed by the pinned CA/, (r) => issue(r, { signer: other })],
    ['ERR_CERTIFICATE', /another CA/, (r) => issue(r, { signer: other, shown: other })],
    ['ERR_JOIN_MALFORMED', /something else/, async () => ({ type: 'description', authority: ca.der })],
    [
      'ERR_JOIN_MALFORMED',
      /no certificate/,
      async () => ({ type: 'issued', certificate: Uint8Array.of(1), authority: ca.der, trusted: [], addresses: [] }),
    ],
    ['ERR_JOIN_MALFORMED', /decoded/, async () => Uint8Array.of(0, 0, 0, 1, 0xff)],
    ['ERR_JOIN_MALFORMED', /longer than/, async () => Uint8Array.of(0xff, 0, 0, 0)],
    // A downgrade: version 0 was not offered.
    ['ERR_VERSION', /version 0/, async () => Uint8Array.of(0, 0, 0, 5, 0x12, 3, 0x0a, 1, 1)],
    [
      'ERR_JOIN_MALFORMED',
      /rude \?\[2J/,
      async () => ({ type: 'refusal', code: 'rm -rf', message: 'rude \u001b[2J', retryAfterMs: 0 }),
    ],
  ];
  for (const [code, message, answer] of cases) {
    const { address, asked, connections } = await impostor(t, ca, ca, async (r) =>
      r.type === 'describe' ? { type: 'description', authority: ca.der } : answer(r),
    );
    await t.throwsAsync(joining(t, tokenFor(ca, address), { node: 'edge-1' }), { code, message });
    t.deepEqual(
      asked.map((r) => r.type),
      ['describe', 'enroll'],
    );
    t.is(connections(), 1, 'one connection for both');
  }
});

test('renewing: without a certificate, with a foreign one, with one of a tenant that is not served', async (t) => {
  const log = new LogLines();
  const cloud = await startCloud(t, await folder(t), { logger: log });
  const { authority } = cloud;
  const renew = encodeRequest({ type: 'renew' });
  const expect = async (code: string, secure: object = {}) => {
    const answer = await send(cloud, renew, secure);
    t.like(answer, { type: 'refusal', code });
    t.true(log.lines.some((l) => l.startsWith('join refused') && l.includes(code)));
  };
  await expect('ERR_CERTIFICATE');
  const stranger = await createAuthority('KubeBus CA', 1);
  await expect('ERR_CERTIFICATE', await stranger.issue({ name: 'x', days: 1, names: nodeNames('acme', 'edge-1', []) }));
  const ca = (authority as unknown as { ca: { current: Authority } }).ca.current;
  await expect('ERR_TENANT_UNKNOWN', await ca.issue({ name: 'x', days: 1, names: nodeNames('gone', 'edge-1', []) }));
  await expect('ERR_CERTIFICATE', await ca.issue({ name: 'x', days: 1, names: cloudNames('cloud', []) }));
  const two = [...nodeNames('acme', 'a', []), ...nodeNames('blue', 'a', [])];
  await expect('ERR_CERTIFICATE', await ca.issue({ name: 'x', days: 1, names: two }));
});

test('after Describe a connection is good for one Enroll, and requests do not overtake answers', async (t) => {
  const cloud = await startCloud(t, await folder(t));
  const talk = async (...requests: Uint8Array[]): Promise<JoinAnswer[]> => {
    const socket = await dialService(cloud.address, { protocol: JOIN_PROTOCOL, unverified: true }, never);
    const answers: JoinAnswer[] = [];
    let reader = new MessageReader();
    socket.write(requests.shift()!);
    for await (const chunk of socket) {
      const message = reader.push(chunk as Buffer);
      if (message === null) continue;
      answers.push(decodeAnswer(message));
      reader = new MessageReader();
      const next = requests.shift();
      if (next !== undefined) socket.write(next);
    }
    return answers;
  };
  const describe = encodeRequest({ type: 'describe' });
  const enroll = encodeRequest({
    type: 'enroll',
    token: new Uint8Array(8),
    secret: new Uint8Array(24),
    node: '',
    suggestion: 'x',
    request: createRequest().request,
  });
  const codes = (answers: JoinAnswer[]) => answers.map((a) => (a.type === 'refusal' ? a.code : a.type));
  t.deepEqual(codes(await talk(describe, enroll)), ['description', 'ERR_TOKEN_UNKNOWN']);
  for (const wrong of [describe, encodeRequest({ type: 'renew' })])
    t.deepEqual(codes(await talk(describe, wrong)), ['description', 'ERR_JOIN_MALFORMED']);
  t.deepEqual(codes(await talk(Buffer.concat([describe, enroll]))), ['ERR_JOIN_MALFORMED']);
});

test('ports that are no join service: plain TCP, a cloud without tokens, nobody', async (t) => {
  const ca = await createAuthority('KubeBus CA', 1);
  const handler = {
    onStream: (s: { destroy(): void }) => s.destroy(),
    onRefused: (_c: string, _m: string, _r: string, g?: { destroy(): void }) => g?.destroy(),
  };
  const listen = { host: '127.0.0.1', port: 0 };
  const plain = await tcpTransport({ listen, insecure: true }).listen(handler);
  const leaf = await ca.issue({ name: 'cloud', days: 1, names: cloudNames('cloud', ['127.0.0.1']), server: true });
  const bare = await tcpTransport({ listen, tls: { ...leaf, ca: ca.cert } }).listen(handler);
  t.teardown(() => Promise.all([plain.close(), bare.close()]));
  await t.throwsAsync(joining(t, tokenFor(ca, bare.address)), { code: 'ERR_JOIN_DISABLED' });
  const stop = new AbortController();
  const log = new LogLines();
  const waiting = joining(t, tokenFor(ca, plain.address), { logger: log, signal: stop.signal });
  const warned = new Promise<void>((resolve) => {
    log.warn = () => resolve();
  });
  await warned;
  stop.abort();
  await t.throwsAsync(waiting, { code: 'ERR_ABORTED' }, 'a cloud that cannot be reached is waited for');
  await t.throwsAsync(NodeIdentity.open({ stateDir: await folder(t), dial: dialService }), { code: 'ERR_NOT_JOINED' });
});

test('fuzz: whatever a caller sends, it gets a refusal or nothing, and the cloud goes on', async (t) => {
  const attempts = { rate: 1e6, burst: 1e6, failureRate: 1e6, failureBurst: 1e6 };
  const cloud = await startCloud(t, await folder(t), { attempts, timeoutMs: 500 });
  const { text } = await cloud.authority.createToken({ tenant: 'acme', uses: 1000 });
  const { id, secret } = parseToken(text);
  const enroll = fc
    .record({
      node: fc.constantFrom('', 'a'),
      request: fc.uint8Array({ minLength: 1, maxLength: 400 }),
      right: fc.boolean(),
    })
    .map(({ node, request, right }) =>
      encodeRequest({
        type: 'enroll',
        token: id,
        secret: right ? secret : new Uint8Array(24),
        node,
        suggestion: 'x',
        request,
      }),
    );
  const good = createRequest();
  const flipped = fc.tuple(fc.nat(), fc.integer({ min: 1, max: 255 })).map(([at, by]) => {
    const request = Uint8Array.from(good.request);
    request[at % request.length]! ^= by;
    return encodeRequest({ type: 'enroll', token: id, secret, node: '', suggestion: 'x', request });
  });
  const frames = fc.oneof(
    fc.uint8Array({ maxLength: 300 }),
    enroll,
    flipped,
    enroll.chain((frame) => fc.nat(frame.length).map((cut) => frame.subarray(0, cut))),
    enroll.map((frame) => Buffer.concat([frame, frame])),
  );
  await fc.assert(
    fc.asyncProperty(frames, async (bytes) => {
      const answer = await send(cloud, bytes);
      // A changed byte of a length that DER readers forgive: then, too, only the key that signed is certified.
      if (answer?.type === 'issued')
        return createPublicKey(good.key).equals(new X509Certificate(answer.certificate).publicKey);
      return answer === null || answer.type === 'refusal' || answer.type === 'description';
    }),
    { numRuns: 120 },
  );
  t.is(cloud.authority.stats().ERR_INTERNAL, undefined, 'none of it is a failure of ours');
  t.is((await joining(t, text, { node: 'edge-1' })).node, 'edge-1');
});

test('who says nothing is cut off in time, who fails often is shut out, and is told for how long', async (t) => {
  const log = new LogLines();
  const cloud = await startCloud(t, await folder(t), { logger: log, timeoutMs: 50, attempts: { failureBurst: 3 } });
  const { text } = await cloud.authority.createToken({ tenant: 'acme' });
  const socket = await dialService(cloud.address, { protocol: JOIN_PROTOCOL, unverified: true }, never);
  socket.write(Uint8Array.of(0, 0));
  const reader = new MessageReader();
  let answer: JoinAnswer | null = null;
  for await (const chunk of socket) answer = decodeAnswer(reader.push(chunk as Buffer)!);
  t.like(answer, { type: 'refusal', code: 'ERR_JOIN_TIMEOUT' });
  const bad = formatToken({ ...parseToken(text), secret: new Uint8Array(24) });
  await t.throwsAsync(joining(t, bad), { code: 'ERR_TOKEN_UNKNOWN' });
  await t.throwsAsync(joining(t, bad), { code: 'ERR_TOKEN_UNKNOWN' });
  const limited = await send(cloud, encodeRequest({ type: 'describe' }));
  t.like(limited, { type: 'refusal', code: 'ERR_RATE_LIMITED' });
  t.true((limited as { retryAfterMs: number }).retryAfterMs > 1_000);
  t.true(log.lines.some((l) => l.includes('ERR_RATE_LIMITED')));
  noSecret(t, log, text);
});

test('the disk of the cloud is full: no token that would be lost, no certificate that it does not know of; the token is not used up', async (t) => {
  const dir = await folder(t);
  const log = new LogLines();
  const { authority } = await startCloud(t, dir, { logger: log });
  const { text } = await authority.createToken({ tenant: 'acme', node: 'edge-1' });
  // The state file cannot make its new version: as on a full disk.
  const blocker = join(dir, 'joins.json.new');
  await mkdir(blocker);
  await t.throwsAsync(authority.createToken({ tenant: 'acme' }), { code: 'ERR_STATE' });
  t.is(authority.tokens().filter((r) => r.revoked === null).length, 1);
  const nodeLog = new LogLines();
  const warned = new Promise<string>((resolve) => {
    nodeLog.warn = (_fields, message) => resolve(message);
  });
  const waiting = joining(t, text, { logger: nodeLog });
  t.regex(await warned, /not joined yet: the cloud cannot write its state/);
  t.is(authority.stats().issued, 0);
  await rmdir(blocker);
  t.is((await waiting).node, 'edge-1');
  t.is(authority.tokens()[0]!.used.length, 1);
});

test('the certificate of one tenant opens no link in another, nor under another name: both sides say so', async (t) => {
  const log = new LogLines();
  const { authority, address } = await startCloud(t, await folder(t), { logger: log });
  const { text } = await authority.createToken({ tenant: 'acme', node: 'edge-1' });
  const identity = await joining(t, text);
  for (const [tenant, node] of [
    ['blue', 'edge-1'],
    ['acme', 'edge-2'],
  ] as const) {
    const stop = new AbortController();
    const nodeLog = new LogLines();
    const refusal = new Promise<string>((resolve) => {
      nodeLog.error = (fields, message) => resolve(`${(fields as { code: string }).code} ${message}`);
    });
    const transport = tcpTransport({ tls: identity.tls });
    const attempt = KubeBusNode.join({
      cloud: [address],
      transport,
      tenant,
      node,
      logger: nodeLog,
      signal: stop.signal,
    });
    t.regex(
      await refusal,
      new RegExp(`ERR_IDENTITY_MISMATCH.*the hello names ${tenant}/${node}, the certificate acme/edge-1`),
    );
    stop.abort();
    await t.throwsAsync(attempt, { code: 'ERR_ABORTED' });
    t.true(log.lines.some((l) => l.includes('ERR_IDENTITY_MISMATCH') && l.includes(`${tenant}/${node}`)));
  }
});

// Who gets a certificate and whose counts: the rules of docs/spec/join.md, one by one, on times of our own.

import test from 'ava';
import { SECOND, TokenBucket } from '../../lib/core/index.js';
import { AttemptLimiter, DEFAULT_ATTEMPTS } from '../../lib/join/attempts.js';
import { DEFAULT_LEDGER, Ledger, type TokenScope, tokenState } from '../../lib/join/ledger.js';

const HOUR = 3600_000;
const DAY = 24 * HOUR;
const NOW = 1_800_000_000_000;
const hash = (n: number) => n.toString(16).padStart(64, '0');

function ledger(scope: Partial<TokenScope> = {}) {
  const book = new Ledger();
  const token = book.createToken(NOW, 'id', hash(1), { tenant: 'acme', ...scope });
  const admit = (now: number, key: string, more: Partial<Parameters<Ledger['admit']>[1]> = {}) =>
    book.admit(now, { id: 'id', hash: hash(1), key, node: '', suggestion: 'edge-1', ...more });
  return { book, token, admit };
}

/** Admits and signs. */
function joined(l: ReturnType<typeof ledger>, key: string, serial: string, now = NOW, life = 7 * DAY) {
  const { record } = l.admit(now, key);
  l.book.issued(record, serial, now + life, 'CA');
  return record;
}

test('a wrong secret and an unknown token are the same to the caller', (t) => {
  const { admit } = ledger();
  const unknown = t.throws(() => admit(NOW, 'k', { id: 'other' }), { code: 'ERR_TOKEN_UNKNOWN' });
  const wrong = t.throws(() => admit(NOW, 'k', { hash: hash(2) }), { code: 'ERR_TOKEN_UNKNOWN' });
  t.is(unknown!.message, wrong!.message);
});

test('single use: another key is refused, the same key gets its certificate again, also after the time of the token', (t) => {
  const { admit, token } = ledger();
  t.is(tokenState(token, NOW), 'open');
  admit(NOW, 'k1');
  t.is(tokenState(token, NOW), 'used');
  t.throws(() => admit(NOW, 'k2', { suggestion: 'edge-2' }), { code: 'ERR_TOKEN_USED' });
  t.is(admit(NOW + 2 * HOUR, 'k1').record.node, 'edge-1');
  t.is(token.used.length, 1);
});

test('expiry, revocation and several uses', (t) => {
  const expired = ledger({ ttlMs: HOUR });
  t.throws(() => expired.admit(NOW + HOUR, 'k'), { code: 'ERR_TOKEN_EXPIRED' });
  t.is(tokenState(expired.token, NOW + HOUR), 'expired');
  const revoked = ledger();
  t.true(revoked.book.revokeToken(NOW, 'id'));
  t.false(revoked.book.revokeToken(NOW, 'none'));
  t.throws(() => revoked.admit(NOW, 'k'), { code: 'ERR_TOKEN_REVOKED' });
  const twice = ledger({ uses: 2 });
  twice.admit(NOW, 'k1');
  twice.admit(NOW, 'k2', { suggestion: 'edge-2' });
  t.throws(() => twice.admit(NOW, 'k3', { suggestion: 'edge-3' }), { code: 'ERR_TOKEN_USED' });
});

test('names: scoped by the token, chosen by the node, suggested by the host; taken ones are refused', (t) => {
  const scoped = ledger({ node: 'edge-7' });
  t.throws(() => scoped.admit(NOW, 'k', { node: 'edge-8' }), { code: 'ERR_IDENTITY_MISMATCH' });
  t.is(scoped.admit(NOW, 'k').record.node, 'edge-7');
  const open = ledger({ uses: 3 });
  t.is(open.admit(NOW, 'k1', { node: 'mine' }).record.node, 'mine');
  t.throws(() => open.admit(NOW, 'k2', { node: 'mine' }), { code: 'ERR_NAME_TAKEN' });
  t.throws(() => open.admit(NOW, 'k2', { suggestion: '' }), { code: 'ERR_JOIN_MALFORMED' });
  t.is(open.token.used.length, 1, 'a refusal uses nothing up');
});

test('a token for its name replaces a device: its certificates count no longer, and it cannot fetch another', (t) => {
  const l = ledger();
  joined(l, 'k1', '01');
  l.book.createToken(NOW, 'id2', hash(2), { tenant: 'acme', node: 'edge-1' });
  const { record, replaced } = l.book.admit(NOW, { id: 'id2', hash: hash(2), key: 'k2', node: '', suggestion: '' });
  t.true(replaced);
  l.book.issued(record, '02', NOW + DAY, 'CA');
  t.is(l.book.judge({ tenant: 'acme', node: 'edge-1', serial: '01' })?.code, 'ERR_CERTIFICATE');
  t.is(l.book.judge({ tenant: 'acme', node: 'edge-1', serial: '02' }), null);
  t.is(l.book.judge({ tenant: 'acme', node: 'edge-1' })?.code, 'ERR_CERTIFICATE', 'no serial is none of ours');
  t.throws(() => l.admit(NOW, 'k1'), { code: 'ERR_TOKEN_USED' });
});

test('renewal: while it lives and 90 days on, for the key that has the name; not for one that was replaced', (t) => {
  const l = ledger({ routes: ['10.2.0.0/16'] });
  joined(l, 'k1', '01');
  const held = {
    tenant: 'acme',
    node: 'edge-1',
    key: 'k1',
    serial: '01',
    expires: NOW + 7 * DAY,
    prefixes: ['0.0.0.0/0'],
  };
  t.deepEqual(l.book.renew(NOW + 5 * DAY, held).prefixes, ['10.2.0.0/16'], 'what was granted, not what is held');
  t.truthy(l.book.renew(NOW + 96 * DAY, held));
  t.throws(() => l.book.renew(NOW + 97 * DAY, held), { code: 'ERR_CERTIFICATE', message: /90 days.*join again/ });
  t.throws(() => l.book.renew(NOW, { ...held, key: 'k2' }), { code: 'ERR_CERTIFICATE' });
  t.throws(() => l.book.renew(NOW, { ...held, serial: '99' }), { code: 'ERR_CERTIFICATE' });
  // Certified by hand: known from now on, but only while its certificate is good.
  const byHand = { ...held, node: 'hand', serial: 'aa' };
  t.throws(() => l.book.renew(NOW + 8 * DAY, byHand), { code: 'ERR_CERTIFICATE' });
  t.deepEqual(l.book.renew(NOW, byHand).prefixes, ['0.0.0.0/0']);
});

test('a revoked node is out, cannot renew or join with an open token, until it is allowed or has a token for its name', (t) => {
  const l = ledger({ uses: 5 });
  joined(l, 'k1', '01');
  const peer = { tenant: 'acme', node: 'edge-1', serial: '01' };
  const held = { ...peer, key: 'k1', expires: NOW + DAY, prefixes: [] };
  l.book.revokeNode(NOW, 'acme', 'edge-1');
  t.is(l.book.judge(peer)?.code, 'ERR_REVOKED');
  t.throws(() => l.book.renew(NOW, held), { code: 'ERR_REVOKED' });
  t.throws(() => l.admit(NOW, 'k1'), { code: 'ERR_REVOKED' }, 'nor fetch its certificate again');
  t.throws(() => l.admit(NOW, 'k9'), { code: 'ERR_REVOKED' });
  t.true(l.book.allowNode('acme', 'edge-1'));
  t.is(l.book.judge(peer), null);
  t.false(l.book.allowNode('acme', 'edge-1'));

  l.book.revokeNode(NOW, 'acme', 'edge-1');
  l.book.createToken(NOW, 'id2', hash(2), { tenant: 'acme', node: 'edge-1' });
  const again = l.book.admit(NOW, { id: 'id2', hash: hash(2), key: 'k1', node: '', suggestion: '' });
  l.book.issued(again.record, '02', NOW + DAY, 'CA');
  t.is(l.book.judge({ ...peer, serial: '02' }), null);
  t.is(l.book.judge(peer)?.code, 'ERR_CERTIFICATE', 'what was revoked stays out');

  // Also one that this cloud never certified.
  l.book.revokeNode(NOW, 'acme', 'by-hand');
  t.is(l.book.judge({ tenant: 'acme', node: 'by-hand', serial: 'ff' })?.code, 'ERR_REVOKED');
  t.is(l.book.judge({ tenant: 'blue', node: 'by-hand', serial: 'ff' }), null, 'of this tenant only');
});

test('all of it survives the disk; a damaged record is refused; what can never matter again is forgotten', (t) => {
  const l = ledger();
  joined(l, 'k1', '01');
  l.book.revokeNode(NOW, 'acme', 'edge-9');
  const copy = new Ledger();
  copy.restore(JSON.parse(JSON.stringify(l.book.snapshot())));
  t.deepEqual(copy.snapshot(), l.book.snapshot());
  for (const wrong of [
    {},
    { version: 2 },
    { version: 1, tokens: [{}], nodes: [] },
    { version: 1, tokens: [], nodes: [null] },
  ])
    t.throws(() => new Ledger().restore(wrong), { code: 'ERR_STATE' });
  copy.purge(NOW + 7 * DAY + HOUR);
  t.is(copy.listTokens().length, 0);
  copy.purge(NOW + 97 * DAY);
  t.deepEqual(
    copy.listNodes().map((n) => n.node),
    ['edge-9'],
    'who was revoked stays known',
  );
});

test('scopes that make no sense are refused', (t) => {
  const wrong = (scope: TokenScope, code = 'ERR_INVALID_ARGUMENT') =>
    t.throws(() => new Ledger().createToken(NOW, 'id', hash(1), scope), { code });
  wrong({ tenant: 'A B' });
  wrong({ tenant: 'acme', node: '-' });
  wrong({ tenant: 'acme', ttlMs: 0 });
  wrong({ tenant: 'acme', ttlMs: Number.NaN });
  wrong({ tenant: 'acme', uses: 1.5 });
  wrong({ tenant: 'acme', node: 'edge-1', uses: 2 });
  wrong({ tenant: 'acme', routes: ['10.0.0.0/33'] }, 'ERR_ADDRESS');
  const full = new Ledger({ ...DEFAULT_LEDGER, tokens: 1 });
  full.createToken(NOW, 'a', hash(1), { tenant: 'acme' });
  t.throws(() => full.createToken(NOW, 'b', hash(1), { tenant: 'acme' }), { code: 'ERR_INVALID_ARGUMENT' });
  t.notThrows(() => full.createToken(NOW + 8 * DAY, 'b', hash(1), { tenant: 'acme' }), 'an old one gives way');
});

test('attempts: failures shut out their address only, and wear off; all together have a limit', (t) => {
  const limiter = new AttemptLimiter(0, {
    ...DEFAULT_ATTEMPTS,
    rate: 10,
    burst: 40,
    concurrent: 3,
    concurrentPerAddress: 2,
  });
  const fail = (now: number, address: string) => {
    const wait = limiter.begin(now, address);
    if (wait === 0) limiter.end(now, address, true);
    return wait;
  };
  for (let i = 0; i < 10; i++) t.is(fail(0, '2001:db8::1'), 0);
  t.is(fail(0, '2001:db8::2:3'), 10_000, 'the whole /64');
  t.is(fail(0, '2001:db8:0:1::1'), 0, 'its neighbour not');
  t.is(fail(0, '::ffff:10.0.0.1'), 0);
  t.is(fail(10 * SECOND, '2001:db8::1'), 0, 'one more after ten seconds');
  t.true(fail(10 * SECOND, '2001:db8::1') > 0);
  for (let i = 0; i < 2; i++) t.is(limiter.begin(20 * SECOND, '10.0.0.2'), 0);
  t.is(limiter.begin(20 * SECOND, '10.0.0.2'), 1_000, 'two at once of one address');
  t.is(limiter.begin(20 * SECOND, '10.0.0.3'), 0);
  t.is(limiter.begin(20 * SECOND, '10.0.0.4'), 1_000, 'three at once of all');
  for (const last of [2, 2, 3]) limiter.end(20 * SECOND, `10.0.0.${last}`, false);
  let passed = 0;
  while (limiter.begin(20 * SECOND, '10.0.0.2') === 0) {
    limiter.end(20 * SECOND, '10.0.0.2', false);
    passed++;
  }
  t.is(passed, 37);
  t.is(limiter.begin(20 * SECOND, '10.0.0.2'), 100, 'then ten per second');
});

test('a token bucket passes its rate and its burst, and tells how long to wait', (t) => {
  const bucket = new TokenBucket(0, 100, 50);
  t.true(bucket.take(0, 50));
  t.false(bucket.take(0, 1));
  t.is(bucket.wait(0, 10), 100_000);
  t.false(bucket.take(99_999, 10));
  t.true(bucket.take(100_000, 10));
  t.true(bucket.take(10 * SECOND, 50));
  t.false(bucket.take(10 * SECOND, 1), 'no more than the burst is saved up');
  t.is(bucket.wait(10 * SECOND, 1000), 500_000, 'a whole bucket at most');
  bucket.change(10 * SECOND, 1000, 10);
  t.is(bucket.wait(10 * SECOND, 10), 10_000);
  const none = new TokenBucket(0, Number.POSITIVE_INFINITY, Number.POSITIVE_INFINITY);
  t.true(none.take(0, 1e12));
});

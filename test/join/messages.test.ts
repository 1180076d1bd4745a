// Tokens and messages as bytes: what is right survives the way, and nothing else gets past the decoder.

import test from 'ava';
import fc from 'fast-check';
import { KubeBusError } from '../../lib/core/index.js';
import { kubebus } from '../../lib/join/gen/messages.js';
import {
  decodeAnswer,
  decodeRequest,
  encodeAnswer,
  encodeRequest,
  type JoinAnswer,
  type JoinRequest,
  MAX_MESSAGE,
  MessageReader,
} from '../../lib/join/messages.js';
import { formatToken, parseToken, sameSecret } from '../../lib/join/token.js';

const bytes = (length: number) => fc.uint8Array({ minLength: length, maxLength: length });
const label = fc.stringMatching(/^[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?$/);
const tokens = fc.record({
  addresses: fc.array(fc.string({ unit: 'grapheme' }), { minLength: 1, maxLength: 4 }),
  authority: bytes(32),
  id: bytes(8),
  secret: bytes(24),
});
const requests: fc.Arbitrary<JoinRequest> = fc.oneof(
  fc.constant({ type: 'describe' } as const),
  fc.constant({ type: 'renew' } as const),
  fc.record({
    type: fc.constant('enroll' as const),
    token: bytes(8),
    secret: bytes(24),
    node: fc.oneof(fc.constant(''), label),
    suggestion: fc.oneof(fc.constant(''), label),
    request: fc.uint8Array({ minLength: 1, maxLength: 600 }),
  }),
);
const answers: fc.Arbitrary<JoinAnswer> = fc.oneof(
  fc.record({ type: fc.constant('description' as const), authority: fc.uint8Array({ minLength: 1 }) }),
  fc.record({
    type: fc.constant('issued' as const),
    certificate: fc.uint8Array({ minLength: 1 }),
    authority: fc.uint8Array({ minLength: 1 }),
    trusted: fc.array(fc.uint8Array({ minLength: 1, maxLength: 600 }), { maxLength: 4 }),
    addresses: fc.array(fc.webUrl(), { maxLength: 3 }),
  }),
  fc.record({
    type: fc.constant('refusal' as const),
    code: fc.stringMatching(/^ERR_[A-Z]{1,20}$/),
    message: fc.stringMatching(/^[ -~]{0,200}$/),
    retryAfterMs: fc.nat(0xffff_ffff),
  }),
);

/** Does what it should, or throws one of the codes. */
function allows(act: () => unknown, ...codes: string[]): void {
  try {
    act();
  } catch (error) {
    if (!(error instanceof KubeBusError) || !codes.includes(error.code)) throw error;
  }
}

/** Some bytes changed, cut off or put in. */
const damaged = (whole: fc.Arbitrary<Uint8Array>) =>
  fc
    .tuple(
      whole,
      fc.array(fc.tuple(fc.nat(), fc.nat(255)), { minLength: 1, maxLength: 8 }),
      fc.nat(),
      fc.uint8Array({ maxLength: 9 }),
    )
    .map(([all, changes, cut, more]) => {
      const copy = Uint8Array.from([
        ...all.subarray(0, all.length - (cut % 3 === 0 ? cut % (all.length + 1) : 0)),
        ...more,
      ]);
      for (const [at, value] of changes) if (copy.length > 0) copy[at % copy.length] = value;
      return copy;
    });

test('a token survives its way through text; every damaged text is refused', (t) => {
  fc.assert(
    fc.property(tokens, fc.nat(), fc.nat(61), (token, at, to) => {
      const text = formatToken(token);
      t.deepEqual(parseToken(`  ${text}\n`), token);
      t.regex(text, /^kbt1_[\w-]+$/);
      const i = 5 + (at % (text.length - 5));
      const char = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789'[to]!;
      const wrong = [text.slice(0, i), text + char, text.slice(0, i) + char + text.slice(i + 1)].filter(
        (w) => w !== text,
      );
      for (const other of wrong) {
        // The last character has bits that mean nothing.
        if (other.length === text.length && i === text.length - 1) continue;
        const error = t.throws(() => parseToken(other), { code: 'ERR_TOKEN_MALFORMED' });
        const part = other.slice(5, 25);
        t.false(part.length > 8 && error!.message.includes(part), 'the message has nothing of the token');
      }
    }),
    { numRuns: 100 },
  );
});

test('any text is a token or ERR_TOKEN_MALFORMED', (t) => {
  fc.assert(
    fc.property(fc.oneof(fc.string(), fc.stringMatching(/^kbt\d_[\w-]{0,200}$/)), (text) =>
      allows(() => parseToken(text), 'ERR_TOKEN_MALFORMED'),
    ),
    { numRuns: 2000 },
  );
  t.regex(t.throws(() => parseToken('kbt2_abc'))!.message, /upgrade/);
  t.regex(t.throws(() => parseToken(`kbt1_${'A'.repeat(5000)}`))!.message, /damaged/);
  const short = kubebus.join.Token.encode({ addresses: ['x'], authority: new Uint8Array(31) }).finish();
  t.true(short.length > 0);
});

test('requests and answers survive the way in any split of bytes', (t) => {
  const way = (frame: Uint8Array, cuts: readonly number[]) => {
    const reader = new MessageReader();
    const at = [...new Set(cuts.map((c) => c % frame.length))].sort((a, b) => a - b);
    const ends = [...at, frame.length];
    let message: Uint8Array | null = null;
    let from = 0;
    for (const end of ends) {
      message = reader.push(frame.subarray(from, end));
      from = end;
    }
    return message!;
  };
  const cuts = fc.array(fc.nat(), { maxLength: 6 });
  fc.assert(fc.property(requests, cuts, (r, c) => void t.deepEqual(decodeRequest(way(encodeRequest(r), c)), r)));
  fc.assert(fc.property(answers, cuts, (a, c) => void t.deepEqual(decodeAnswer(way(encodeAnswer(a), c)), a)));
});

test('fuzz: damaged and random requests, answers and frames end in the codes for it', (t) => {
  const codes = ['ERR_JOIN_MALFORMED', 'ERR_VERSION'];
  const noise = fc.uint8Array({ maxLength: 300 });
  const request = fc.oneof(noise, damaged(requests.map((r) => encodeRequest(r).subarray(4))));
  const answer = fc.oneof(noise, damaged(answers.map((a) => encodeAnswer(a).subarray(4))));
  fc.assert(
    fc.property(request, (b) => allows(() => decodeRequest(b), ...codes)),
    { numRuns: 5000 },
  );
  fc.assert(
    fc.property(answer, (b) => allows(() => decodeAnswer(b), ...codes)),
    { numRuns: 5000 },
  );
  const frames = fc.array(fc.uint8Array({ maxLength: 200 }), { maxLength: 20 });
  fc.assert(
    fc.property(frames, (chunks) => {
      const reader = new MessageReader();
      allows(() => {
        for (const chunk of chunks) reader.push(chunk);
      }, 'ERR_JOIN_MALFORMED');
    }),
    { numRuns: 2000 },
  );
  t.pass();
});

test('a message is bounded before it is collected, alone on its connection, and of a version that was offered', (t) => {
  const header = (length: number) => {
    const b = new Uint8Array(4);
    new DataView(b.buffer).setUint32(0, length);
    return b;
  };
  const malformed = { code: 'ERR_JOIN_MALFORMED' };
  const many = Array.from({ length: 5 }, () => Uint8Array.of(1));
  const issued = { certificate: Uint8Array.of(1), authority: Uint8Array.of(1), trusted: many, addresses: [] };
  t.throws(() => decodeAnswer(encodeAnswer({ type: 'issued', ...issued }).subarray(4)), malformed);
  t.throws(() => new MessageReader().push(header(MAX_MESSAGE + 1)), malformed);
  t.throws(() => new MessageReader().push(new Uint8Array(MAX_MESSAGE + 5)), malformed);
  t.is(new MessageReader().push(header(MAX_MESSAGE)), null);
  t.throws(() => new MessageReader().push(new Uint8Array(5)), malformed, 'bytes behind an empty message');
  t.throws(() => decodeRequest(encodeRequest({ type: 'renew' }, [0, 2]).subarray(4)), { code: 'ERR_VERSION' });
  t.throws(() => decodeRequest(encodeRequest({ type: 'renew' }, []).subarray(4)), { code: 'ERR_VERSION' });
  t.throws(() => decodeRequest(encodeRequest({ type: 'describe' }).subarray(4, 7)), malformed, 'asks for nothing');
  const old = kubebus.join.Answer.encode({ version: 0, description: { authority: Uint8Array.of(1) } }).finish();
  t.throws(() => decodeAnswer(old), { code: 'ERR_VERSION' });
  const rude = encodeAnswer({ type: 'refusal', code: 'ERR_TOKEN_USED', message: 'a\u001b[2Jb\nc', retryAfterMs: 0 });
  t.is((decodeAnswer(rude.subarray(4)) as { message: string }).message, 'a?[2Jb?c', 'a terminal obeys nothing in it');
});

test('secrets are compared whole', (t) => {
  fc.assert(
    fc.property(
      fc.uint8Array({ maxLength: 9 }),
      fc.uint8Array({ maxLength: 9 }),
      (a, b) => void t.is(sameSecret(a, b), Buffer.from(a).equals(b)),
    ),
  );
});

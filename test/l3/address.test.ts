import { isIP } from 'node:net';
import test from 'ava';
import fc from 'fast-check';
import {
  compareAddress,
  formatAddress,
  formatPrefix,
  hostPrefix,
  isAddress,
  makePrefix,
  parseAddress,
  parsePrefix,
  prefixContains,
  prefixesOverlap,
  prefixHas,
  prefixKey,
} from '../../lib/l3/address.js';

test('IPv6 text is that of RFC 5952', (t) => {
  const cases: [string, string][] = [
    ['2001:0db8::0001', '2001:db8::1'], // §4.1
    ['2001:db8:0:0:0:0:2:1', '2001:db8::2:1'], // §4.2.1
    ['2001:db8:0:1:1:1:1:1', '2001:db8:0:1:1:1:1:1'], // §4.2.2: one group is not shortened
    ['2001:0:0:1:0:0:0:1', '2001:0:0:1::1'], // §4.2.3: the longest run
    ['2001:db8:0:0:1:0:0:1', '2001:db8::1:0:0:1'], // §4.2.3: the first of equals
    ['2001:DB8::A', '2001:db8::a'], // §4.3
    ['::ffff:192.0.2.1', '::ffff:192.0.2.1'], // §5
    ['0:0:0:0:0:0:0:0', '::'],
    ['::1', '::1'],
    ['1:0:0:0:0:0:0:0', '1::'],
    ['0:1:2:3:4:5:6:7', '0:1:2:3:4:5:6:7'],
  ];
  for (const [text, canonical] of cases) t.is(formatAddress(parseAddress(text)), canonical);
});

test('formatting and parsing are inverse, and Node agrees that it is an address', (t) => {
  fc.assert(
    fc.property(
      fc.oneof(
        fc.uint8Array({ minLength: 4, maxLength: 4 }),
        fc.array(fc.constantFrom(0, 0, 0, 1, 0xff), { minLength: 16, maxLength: 16 }).map((a) => Uint8Array.from(a)),
      ),
      (bytes) => {
        const text = formatAddress(bytes);
        return compareAddress(parseAddress(text), bytes) === 0 && isIP(text) === (bytes.length === 4 ? 4 : 6);
      },
    ),
    { numRuns: 2_000 },
  );
  t.pass();
});

test('what is no address or prefix is refused with ERR_ADDRESS and the text', (t) => {
  for (const text of [
    '',
    '10.0.0',
    '10.0.0.256',
    '010.0.0.1',
    '10.0.0.1 ',
    '::1::',
    'fe80::1%eth0',
    '12345::',
    'localhost',
    '1.2.3.4/8',
  ]) {
    const error = t.throws(() => parseAddress(text), { code: 'ERR_ADDRESS' }, text);
    t.true(error?.message.includes(JSON.stringify(text)));
    t.false(isAddress(text));
  }
  for (const text of [
    '10.0.0.0/33',
    '10.0.0.0/',
    '10.0.0.0/08',
    '10.0.0.0/+8',
    '::/129',
    '10.0.0.0/8/8',
    '/8',
    'x/8',
  ]) {
    t.throws(() => parsePrefix(text), { code: 'ERR_ADDRESS' }, text);
  }
  t.throws(() => makePrefix(new Uint8Array(5), 1), { code: 'ERR_ADDRESS' });
  t.throws(() => formatAddress(new Uint8Array(5)), { code: 'ERR_ADDRESS' });
});

test('host bits of a prefix are cleared, and an address alone is its host prefix', (t) => {
  t.is(formatPrefix(parsePrefix('10.1.2.3/16')), '10.1.0.0/16');
  t.is(formatPrefix(parsePrefix('10.1.255.3/17')), '10.1.128.0/17');
  t.is(formatPrefix(parsePrefix('fd80::ffff/127')), 'fd80::fffe/127');
  t.is(formatPrefix(parsePrefix('1.2.3.4/0')), '0.0.0.0/0');
  t.is(formatPrefix(parsePrefix('10.1.2.3')), '10.1.2.3/32');
  t.is(formatPrefix(hostPrefix(parseAddress('::1'))), '::1/128');
});

test('containment and overlap', (t) => {
  const p = parsePrefix;
  t.true(prefixContains(p('10.0.0.0/8'), p('10.1.0.0/16')));
  t.false(prefixContains(p('10.1.0.0/16'), p('10.0.0.0/8')));
  t.true(prefixesOverlap(p('10.1.0.0/16'), p('10.0.0.0/8')));
  t.false(prefixesOverlap(p('10.1.0.0/16'), p('10.2.0.0/16')));
  t.true(prefixHas(p('10.1.128.0/17'), parseAddress('10.1.200.1')));
  t.false(prefixHas(p('10.1.128.0/17'), parseAddress('10.1.127.1')));
  t.false(prefixContains(p('0.0.0.0/0'), p('::/0')), 'families are apart');
  t.not(prefixKey(p('0.0.0.0/0')), prefixKey(p('::/0')));
});

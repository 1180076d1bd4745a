// Which service a request means, checked against the WHATWG URL parser, which is not ours.

import test from 'ava';
import fc from 'fast-check';
import { parseAddress, safePath } from '../../lib/http-proxy/address.js';

const DOMAINS = ['example.test'];
const at = (target: string, host?: string) => parseAddress(target, host, DOMAINS);
const brief = (target: string, host?: string) => {
  const a = at(target, host);
  return 'failure' in a
    ? a.failure
    : `${a.tenant} ${a.node} ${a.service} ${a.target} ${a.prefix}${a.bare ? ' bare' : ''}`;
};

for (const [target, host, expected] of [
  ['/acme/edge-1/camera/stream?x=/../y', undefined, 'acme edge-1 camera /stream?x=/../y /acme/edge-1/camera'],
  ['/acme/edge-1/camera/', undefined, 'acme edge-1 camera / /acme/edge-1/camera'],
  ['/acme/edge-1/camera', undefined, 'acme edge-1 camera / /acme/edge-1/camera bare'],
  ['/acme/edge-1/camera?a=b', undefined, 'acme edge-1 camera /?a=b /acme/edge-1/camera bare'],
  ['/%61cme/edge%2D1/camera/a%20b', undefined, 'acme edge-1 camera /a%20b /acme/edge-1/camera'],
  ['/acme/edge-1/camera//evil.test/', undefined, 'acme edge-1 camera //evil.test/ /acme/edge-1/camera'],
  ['/stream', 'camera.edge-1.acme.example.test', 'acme edge-1 camera /stream '],
  ['/stream', 'Camera.Edge-1.ACME.example.test.:8080', 'acme edge-1 camera /stream '],
  ['/acme/edge-1/camera/x', 'example.test', 'acme edge-1 camera /x /acme/edge-1/camera'],
  ['http://camera.edge-1.acme.example.test/x', 'other.test', 'acme edge-1 camera /x '],
  ['kubebus://acme/edge-1/camera/x', undefined, 'acme edge-1 camera /x /acme/edge-1/camera'],
  ['/x', 'edge-1.acme.example.test', 'none'],
  ['/x', 'a.b.c.d.example.test', 'none'],
  ['/x', 'notexample.test', 'none'],
  ['/', undefined, 'none'],
  ['/acme', undefined, 'none'],
  ['/acme/edge-1', undefined, 'none'],
  ['/acme/../edge-1/camera/', undefined, 'none'],
  ['//acme/edge-1/camera/', undefined, 'none'],
  ['/ACME/edge-1/camera/', undefined, 'none'],
  ['/acme/edge%2f1/camera/', undefined, 'none'],
  ['/acme/%zz/camera/', undefined, 'none'],
  ['*', undefined, 'bad'],
  ['/acme/edge-1/camera/x#y', undefined, 'bad'],
  ['/acme/edge-1/camera/..', undefined, 'bad'],
  ['/acme/edge-1/camera/../other/', undefined, 'bad'],
  ['/acme/edge-1/camera/%2e%2E/other/', undefined, 'bad'],
  ['/acme/edge-1/camera/a/../../other/', undefined, 'bad'],
  ['/acme/edge-1/camera/..%2fother/', undefined, 'bad'],
  ['/acme/edge-1/camera/a%2f..%2f..%2fother/', undefined, 'bad'],
  ['/acme/edge-1/camera/..\\other/', undefined, 'bad'],
  ['/acme/edge-1/camera/a/..%5cother/', undefined, 'bad'],
  ['/acme/edge-1/camera/..;x=y/other/', undefined, 'bad'],
  ['/acme/edge-1/camera/a/./b/../c', undefined, 'acme edge-1 camera /a/c /acme/edge-1/camera'],
  ['/acme/edge-1/camera/a/..', undefined, 'acme edge-1 camera / /acme/edge-1/camera'],
  ['/acme/edge-1/camera/...', undefined, 'acme edge-1 camera /... /acme/edge-1/camera'],
] as const) {
  test(`${target} at ${host ?? 'any host'}: ${expected}`, (t) => t.is(brief(target, host), expected));
}

test('no path leaves the service, however a server behind reads it', (t) => {
  const piece = fc.constantFrom(
    '.',
    '..',
    '%2e',
    '%2E%2e',
    '.%2e',
    '/',
    '/',
    '/',
    'a',
    'b%20',
    '%2f',
    '%5c',
    '\\',
    ';',
    ';x',
    '...',
    '%252e',
  );
  fc.assert(
    fc.property(fc.array(piece, { maxLength: 12 }), (pieces) => {
      const path = `/${pieces.join('')}`;
      const safe = safePath(path);
      if (safe === null) return;
      // The ways in which servers read a path: as it is, with encoded separators decoded, with path parameters cut off.
      const decoded = safe.replace(/%2f/gi, '/').replace(/%5c|\\/gi, '/');
      for (const reading of [safe, decoded, decoded.replace(/(?:;|%3b)[^/]*/gi, '')]) {
        let depth = 0;
        for (const segment of reading.split('/').slice(1)) {
          const plain = segment.replace(/%2e/gi, '.');
          if (plain === '..') depth--;
          else if (plain !== '.') depth++;
          t.true(depth >= 0, `${path} -> ${safe} read as ${reading}`);
        }
      }
    }),
    { numRuns: 20_000 },
  );
});

test('where nothing is hidden, dot segments go as the WHATWG parser removes them', (t) => {
  const segment = fc.constantFrom('.', '..', '%2e', '%2E%2e', 'a', 'b', 'c.d', '', '...');
  fc.assert(
    fc.property(fc.array(segment, { minLength: 1, maxLength: 8 }), fc.boolean(), (segments, query) => {
      const path = `/${segments.join('/')}${query ? '?q=/../x' : ''}`;
      const safe = safePath(path);
      const url = new URL(`http://h${path}`);
      if (safe !== null) t.is(safe.replace(/%2e/gi, '.'), `${url.pathname}${url.search}`.replace(/%2e/gi, '.'));
    }),
    { numRuns: 5_000 },
  );
});

/** The slow model: does the path go above its root at any point? */
function climbs(segments: readonly string[]): boolean {
  let depth = 0;
  for (const segment of segments) {
    const plain = segment.replace(/%2e/gi, '.');
    if (plain === '..') depth--;
    else if (plain !== '.') depth++;
    if (depth < 0) return true;
  }
  return false;
}

test('a path is refused exactly when the model says that it climbs', (t) => {
  const segment = fc.constantFrom('.', '..', '%2e', '%2E%2e', 'a', 'b', '');
  fc.assert(
    fc.property(fc.array(segment, { minLength: 1, maxLength: 8 }), (segments) => {
      t.is(safePath(`/${segments.join('/')}`) === null, climbs(segments));
    }),
    { numRuns: 5_000 },
  );
});

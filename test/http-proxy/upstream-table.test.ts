import test from 'ava';
import { Upstream } from '../../lib/http-proxy/driver/upstream.js';
import { UpstreamTable } from '../../lib/http-proxy/driver/upstream-table.js';

test('the one unused for longest goes, and none that is in use', (t) => {
  const table = new UpstreamTable(2);
  const made: string[] = [];
  const get = (name: string) =>
    table.get(name, () => {
      made.push(name);
      return new Upstream(name, () => {});
    });
  get('a').active++;
  get('b');
  get('a');
  // a is older, but used; b goes.
  get('c');
  get('a').active--;
  t.deepEqual(made, ['a', 'b', 'c']);
  // c is younger than a, but a was used since.
  get('d');
  get('a');
  t.deepEqual(made, ['a', 'b', 'c', 'd']);
  get('c');
  t.deepEqual(made, ['a', 'b', 'c', 'd', 'c']);
  table.close();
});

import test from 'ava';
import { MS, SECOND } from '../../lib/core/index.js';
import { Keepalive } from '../../lib/l2/keepalive.js';

const OPTIONS = { interval: 10 * SECOND, deadAfter: 30 * SECOND };

test('an idle peer is pinged once per interval, and is dead at deadAfter, not before', (t) => {
  const k = new Keepalive(0, OPTIONS);
  const trace: string[] = [];
  k.handlePong(40 * MS, k.ping(0));
  // Only at its own deadlines, as the driver does.
  for (let now = k.nextDeadline(); ; now = k.nextDeadline()) {
    if (k.isDead(now)) {
      trace.push(`dead at ${now / SECOND}`);
      break;
    }
    if (k.wantsPing(now)) {
      trace.push(`ping at ${now / SECOND}`);
      k.ping(now);
    }
  }
  t.deepEqual(trace, ['ping at 10', 'ping at 20', 'dead at 30']);
});

test('any bytes prove life and put off the ping', (t) => {
  const k = new Keepalive(0, OPTIONS);
  k.handlePong(0, k.ping(0));
  for (let s = 1; s < 55; s++) {
    k.handleBytes(s * SECOND);
    t.false(k.wantsPing(s * SECOND), `at ${s} s`);
    t.false(k.isDead((s + 29) * SECOND));
  }
  t.true(k.isDead(84 * SECOND));
});

test('on a busy connection the round trip is measured again after six intervals', (t) => {
  const k = new Keepalive(0, OPTIONS);
  k.handlePong(10 * MS, k.ping(0));
  let at = 0;
  for (let s = 1; at === 0 && s < 100; s++) {
    k.handleBytes(s * SECOND);
    if (k.wantsPing(s * SECOND)) at = s;
  }
  t.is(at, 60);
});

test('RTT: first sample as it is, then RFC 6298 with alpha 1/8; only the pong to the last ping counts', (t) => {
  const k = new Keepalive(0, OPTIONS);
  t.true(Number.isNaN(k.rtt));
  const first = k.ping(0);
  k.handlePong(80 * MS, first);
  t.is(k.rtt, 80 * MS);
  k.handlePong(500 * MS, first); // again
  t.is(k.rtt, 80 * MS);
  const old = k.ping(1 * SECOND);
  const last = k.ping(2 * SECOND);
  k.handlePong(2 * SECOND + 1, old);
  t.is(k.rtt, 80 * MS);
  k.handlePong(2 * SECOND + 160 * MS, last);
  t.is(k.rtt, 90 * MS);
});

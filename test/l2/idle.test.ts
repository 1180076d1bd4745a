// What an idle link costs, from the bytes that its ends count over a virtual hour, with the overheads that tshark shows for TLS.

import test from 'ava';
import { SECOND } from '../../lib/core/index.js';
import { World } from './support/world.js';

/** A ping or a pong with its header; it is longer by the count of control messages received. */
const FRAME = 13;
const FRAME_MOST = 18;
/** TLS 1.3 record (RFC 8446 §5.2: header, content type, tag); IPv4 and TCP with timestamps. */
const TLS = 22;
const TCP_IP = 52;

test('an idle link costs less than 20 bytes per second on the wire, TLS, TCP and IP included', async (t) => {
  const world = new World();
  const { links } = await world.accept('hub-1');
  const { link } = world.dial({});
  await world.clock.run(60 * SECOND);
  const before = link.stats();
  await world.clock.run(3600 * SECOND);
  const after = link.stats();
  t.is(links.length, 1, 'it lived all the while');
  const bytes = after.bytesIn! + after.bytesOut! - before.bytesIn! - before.bytesOut!;
  const frames = bytes / FRAME;
  t.is(frames, Math.round(frames), 'nothing but pings and pongs');
  t.true(frames >= 2 * (3600 / 30), 'it is kept alive');
  // A ping, its pong (which acknowledges it), and the ACK of the pong.
  const wire = frames * (FRAME_MOST + TLS + TCP_IP) + (frames / 2) * TCP_IP;
  t.true(wire / 3600 < 20, `${(wire / 3600).toFixed(1)} bytes/s`);
  t.log(`${(wire / 3600).toFixed(1)} bytes/s`);
});

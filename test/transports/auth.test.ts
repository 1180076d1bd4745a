// The proof of identity in the first bytes, and the credit above streams without flow control: as dialogues, cut anywhere,
// forged anywhere.
import test from 'ava';
import fc from 'fast-check';
import { cloudNames, createAuthority, nodeNames } from '../../lib/join/driver/pki.js';
import { AuthMachine } from '../../transports/web/auth.js';
import { CreditFlow, MAX_RECORD, WINDOW } from '../../transports/web/credit.js';
import { shortLived } from '../../transports/web/short-lived.js';

const ca = await createAuthority('test CA');
const cloud = await ca.issue({ name: 'cloud', days: 1, names: cloudNames('cloud', ['hub.example']), server: true });
const node = await ca.issue({ name: 'a', days: 1, names: nodeNames('acme', 'a', ['10.1.0.0/24']) });
const { binding } = await shortLived();
const { binding: otherBinding } = await shortLived();
const NOW = Date.now();

function pair(bindings: { seen: Uint8Array; own: Uint8Array } = { seen: binding, own: binding }, now = NOW) {
  const dialer = new AuthMachine(
    {
      role: 'dialer',
      tls: { ...node, ca: ca.cert },
      bindings: [bindings.seen],
      host: 'hub.example',
      where: 'hub.example',
    },
    now,
  );
  const listener = new AuthMachine(
    { role: 'listener', tls: { ...cloud, ca: ca.cert }, bindings: [bindings.own], where: 'peer' },
    now,
  );
  return { dialer, listener };
}

type Cut = (bytes: Uint8Array) => Iterable<Uint8Array>;
const whole: Cut = (bytes) => [bytes];

/** Carries bytes between the two until nobody has anything to say. */
function converse(dialer: AuthMachine, listener: AuthMachine, cut: Cut = whole, forge = (bytes: Uint8Array) => bytes) {
  for (let moved = true; moved; ) {
    moved = false;
    for (const [from, to] of [
      [dialer, listener],
      [listener, dialer],
    ] as const) {
      const out = from.pollOutput();
      if (out === null) continue;
      moved = true;
      for (const part of cut(forge(out))) to.handleBytes(part);
    }
  }
}

test('both ends learn who the other is, however the bytes are cut', (t) => {
  for (const size of [1, 2, 3, 7, 100, 10_000]) {
    const { dialer, listener } = pair();
    converse(dialer, listener, function* (bytes) {
      for (let off = 0; off < bytes.length; off += size) yield bytes.subarray(off, off + size);
    });
    t.is(dialer.step, 'done');
    t.is(listener.step, 'done');
    t.is(dialer.identity?.node, 'cloud');
    t.like(listener.identity, { tenant: 'acme', node: 'a', prefixes: ['10.1.0.0/24'], authenticated: true });
  }
});

test('bytes behind the proof belong to the stream', (t) => {
  const { dialer, listener } = pair();
  converse(dialer, listener, whole, (bytes) =>
    // The dialer's proof, with the first bytes of the stream right behind it.
    dialer.step === 'verdict' && listener.step === 'proof' ? Buffer.concat([bytes, Buffer.from('frames')]) : bytes,
  );
  t.is(Buffer.from(listener.rest).toString(), 'frames');
});

test('a certificate seen on the way that is not the cloud’s: refused before the node shows who it is', (t) => {
  const { dialer, listener } = pair({ seen: otherBinding, own: binding });
  let said = Buffer.alloc(0);
  converse(dialer, listener, whole, (bytes) => {
    said = Buffer.concat([said, bytes]);
    return bytes;
  });
  t.is(listener.error?.code, 'ERR_CERTIFICATE');
  t.is(dialer.error?.code, 'ERR_CERTIFICATE');
  t.regex(dialer.error!.message, /in between/);
  t.false(said.includes('acme'));
});

test('the same with the binding replaced on the way: the signature does not fit', (t) => {
  const { dialer, listener } = pair({ seen: otherBinding, own: binding });
  converse(dialer, listener, whole, (bytes) => {
    const at = Buffer.from(bytes).indexOf(Buffer.from(otherBinding));
    if (at < 0) return bytes;
    const forged = Buffer.from(bytes);
    forged.set(binding, at);
    return forged;
  });
  t.not(dialer.step, 'done');
  t.not(listener.step, 'done');
  t.regex(dialer.error!.message, /somebody is in between/);
});

test('an old proof said again does not fit a new nonce', (t) => {
  const first = pair();
  const recorded: Buffer[] = [];
  converse(first.dialer, first.listener, whole, (bytes) => {
    recorded.push(Buffer.from(bytes));
    return bytes;
  });
  const { listener } = pair();
  listener.handleBytes(recorded[0]!);
  listener.pollOutput();
  listener.handleBytes(recorded[2]!);
  t.is(listener.step, 'failed');
  t.is(listener.identity, null);
});

test('any byte changed, of any message: nobody believes anybody', (t) => {
  const sizes: number[] = [];
  {
    const { dialer, listener } = pair();
    converse(dialer, listener, whole, (bytes) => {
      sizes.push(bytes.length);
      return bytes;
    });
  }
  // The last message is one byte without a secret: whoever could change it could as well cut the connection.
  for (let message = 0; message < 3; message++) {
    for (let at = 0; at < sizes[message]! - 2; at += 3) {
      const { dialer, listener } = pair();
      let n = 0;
      converse(dialer, listener, whole, (bytes) => {
        if (n++ !== message || at >= bytes.length) return bytes;
        const forged = Buffer.from(bytes);
        forged[at]! ^= 0x41;
        return forged;
      });
      t.false(dialer.step === 'done' && listener.step === 'done', `message ${message}, byte ${at}`);
      t.true(message === 2 || dialer.step !== 'done');
    }
  }
});

test('expired and not yet valid certificates are refused by the clock of the one who checks', (t) => {
  const DAY = 86_400_000;
  for (const [now, what] of [
    [NOW + 2 * DAY, /expired/],
    [NOW - 30 * DAY, /not valid yet/],
  ] as const) {
    const { dialer, listener } = pair(undefined, now);
    converse(dialer, listener);
    t.is(dialer.step, 'failed');
    t.regex(dialer.error!.message, what);
  }
});

test('any bytes to either end: no throw, no proof, bounded memory', (t) => {
  fc.assert(
    fc.property(fc.array(fc.uint8Array({ maxLength: 4000 }), { maxLength: 12 }), fc.boolean(), (chunks, prefixed) => {
      for (const machine of Object.values(pair())) {
        machine.pollOutput();
        if (prefixed) machine.handleBytes(Buffer.concat([Buffer.from('kbA1'), Buffer.alloc(32), Buffer.from(binding)]));
        for (const chunk of chunks) machine.handleBytes(chunk);
        if (machine.step === 'done' || machine.rest.length > 17_000) return false;
      }
      return true;
    }),
    { numRuns: 300 },
  );
  t.pass();
});

test('credit: data arrives whole however it is cut, and the sender never has more in flight than the window', (t) => {
  fc.assert(
    fc.property(
      fc.array(fc.integer({ min: 1, max: MAX_RECORD }), { maxLength: 60 }),
      fc.integer({ min: 1, max: 5000 }),
      fc.integer({ min: 1, max: 200_000 }),
      (sizes, cut, appetite) => {
        const [sender, receiver] = [new CreditFlow(), new CreditFlow()];
        let unread = 0;
        let received = 0;
        let sent = 0;
        for (const size of sizes) {
          if (sender.credit < size) {
            const n = Math.min(unread, appetite);
            unread -= n;
            const grant = receiver.consumed(n);
            if (grant !== null) sender.handleBytes(grant, () => {});
          }
          if (sender.credit < size) continue;
          const wire = Buffer.concat([sender.record(size), Buffer.alloc(size, sent)]);
          for (let off = 0; off < wire.length; off += cut) {
            receiver.handleBytes(wire.subarray(off, off + cut), (bytes) => {
              unread += bytes.length;
              received += bytes.length;
            });
          }
          sent += size;
          if (unread > WINDOW || receiver.error !== null || sender.error !== null) return false;
        }
        return received === sent;
      },
    ),
    { numRuns: 100 },
  );
  t.pass();
});

test('credit: a sender beyond it is cut off, so is one that grants what was never used; any bytes are survived', (t) => {
  const receiver = new CreditFlow();
  let got = 0;
  const sender = new CreditFlow();
  for (let i = 0; i <= WINDOW / MAX_RECORD; i++) {
    receiver.handleBytes(sender.record(MAX_RECORD), () => {});
    receiver.handleBytes(Buffer.alloc(MAX_RECORD), (bytes) => {
      got += bytes.length;
    });
  }
  t.is(got, WINDOW);
  t.regex(receiver.error!, /more than it was allowed/);
  const greedy = new CreditFlow();
  greedy.handleBytes(Uint8Array.of(1, 0, 0, 0, 1), () => {});
  t.regex(greedy.error!, /credit/);
  fc.assert(
    fc.property(fc.array(fc.uint8Array({ maxLength: 100 }), { maxLength: 30 }), (chunks) => {
      const flow = new CreditFlow();
      for (const chunk of chunks) flow.handleBytes(chunk, () => {});
      return flow.credit <= WINDOW || flow.error !== null;
    }),
    { numRuns: 2000 },
  );
});

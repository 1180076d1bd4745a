// Dialogues of two machines, frame by frame: what each sends, when, and how it ends on both sides.

import test from 'ava';
import { KubeBusError, MS, SECOND } from '../../lib/core/index.js';
import { ConnectionMachine, type HelloInfo, type MachineOutput } from '../../lib/l2/connection-machine.js';
import { kubebus } from '../../lib/l2/gen/messages.js';
import type { GoodbyeInfo } from '../../lib/l2/goodbye.js';
import type { PeerIdentity } from '../../lib/l2/transport.js';
import { FrameType, MAX_HELLO } from '../../lib/l2/wire/frame.js';

const HELLO: HelloInfo = {
  tenant: 'acme',
  node: 'edge-1',
  instance: new Uint8Array(16).fill(7),
  mtu: 1400,
  offload: true,
  partialChecksums: true,
  repair: false,
  connection: 0,
  connections: 1,
  session: 1,
  keepalive: { interval: 10 * SECOND, deadAfter: 30 * SECOND },
  agent: 'test',
};
const CLOUD: HelloInfo = { ...HELLO, tenant: 'cloud', node: 'hub', mtu: 1300, instance: new Uint8Array(16).fill(9) };
const NOBODY: PeerIdentity = { tenant: '', node: '', prefixes: [], authenticated: false, expires: Infinity };
const names = Object.fromEntries(Object.entries(FrameType).map(([name, type]) => [type, name]));

class Side implements MachineOutput {
  readonly machine: ConnectionMachine;
  readonly trace: string[] = [];
  readonly out: [number, Uint8Array][] = [];
  over: KubeBusError | null = null;
  goodbye: GoodbyeInfo | null = null;
  hello: HelloInfo | null = null;
  answers = true;

  constructor(role: 'dialer' | 'listener', local: HelloInfo, identity = NOBODY) {
    this.machine = new ConnectionMachine(0, role, local, identity, 5 * SECOND, this);
  }
  sendFrame(type: number, payload: Uint8Array): void {
    this.trace.push(`sends ${names[type]}`);
    this.out.push([type, Uint8Array.from(payload)]);
  }
  onPing(token: number): void {
    if (this.answers) this.machine.sendPong(token);
  }
  controlReceived(): number {
    return 0;
  }
  onControlReceived(): void {}
  onHello(hello: HelloInfo): void {
    this.hello = hello;
    this.trace.push('judges');
  }
  onOpen(hello: HelloInfo): void {
    this.hello = hello;
    this.trace.push('open');
  }
  onControl(message: Uint8Array): void {
    this.trace.push(`control ${Buffer.from(message).toString()}`);
  }
  onOver(reason: KubeBusError, goodbye: GoodbyeInfo | null): void {
    this.over = reason;
    this.goodbye = goodbye;
    this.trace.push(`over ${reason.code} ${reason.side}`);
  }
}

function pair(identity = NOBODY, node: Partial<HelloInfo> = {}, hub: Partial<HelloInfo> = {}) {
  const dialer = new Side('dialer', { ...HELLO, ...node });
  const listener = new Side('listener', { ...CLOUD, ...hub }, identity);
  const deliver = (now = 0) => {
    while (dialer.out.length + listener.out.length > 0) {
      for (const [type, payload] of dialer.out.splice(0)) listener.machine.handleFrame(now, type, payload);
      for (const [type, payload] of listener.out.splice(0)) dialer.machine.handleFrame(now, type, payload);
    }
  };
  return { dialer, listener, deliver };
}

test('hello both ways, the smaller MTU, the common features, a first ping each', (t) => {
  const { dialer, listener, deliver } = pair();
  dialer.machine.start();
  listener.machine.start();
  t.is(listener.trace.length, 0, 'the listener says nothing before it knows who is there');
  deliver();
  t.deepEqual([dialer.machine.state, listener.machine.state], ['hello', 'judging']);
  t.deepEqual(listener.hello, HELLO);
  listener.machine.accept(0);
  deliver();
  t.deepEqual(listener.trace, ['judges', 'sends hello', 'open', 'sends ping', 'sends pong']);
  t.deepEqual(dialer.trace, ['sends hello', 'open', 'sends ping', 'sends pong']);
  for (const side of [dialer, listener]) {
    t.is(side.machine.mtu, 1300);
    t.true(side.machine.offload);
  }
  t.is(dialer.hello!.node, 'hub');
});

for (const [name, a, b, offload, partialChecksums] of [
  ['super-packets only when both take them, partial checksums all the same', [true, true], [false, true], false, true],
  ['partial checksums only when both take them', [false, false], [false, true], false, false],
  ['neither, from either side', [false, true], [true, false], false, false],
  ['who takes super-packets takes partial checksums', [true, false], [true, false], true, true],
] as const) {
  test(`features of the hello: ${name}`, (t) => {
    const able = ([one, two]: readonly [boolean, boolean]) => ({ offload: one, partialChecksums: two });
    for (const [mine, theirs] of [
      [a, b],
      [b, a],
    ] as const) {
      const { dialer, listener, deliver } = pair(NOBODY, able(mine), able(theirs));
      dialer.machine.start();
      deliver();
      listener.machine.accept(0);
      deliver();
      for (const { machine } of [dialer, listener]) {
        t.is(machine.offload, offload);
        t.is(machine.partialChecksums, partialChecksums);
      }
    }
  });
}

test('datagrams are repaired only when both can', (t) => {
  for (const [a, b] of [
    [true, true],
    [true, false],
    [false, true],
  ] as const) {
    const { dialer, listener, deliver } = pair(NOBODY, { repair: a }, { repair: b });
    dialer.machine.start();
    deliver();
    listener.machine.accept(0);
    deliver();
    for (const side of [dialer, listener]) t.is(side.machine.repair, a && b);
  }
});

const cert = (tenant: string, node: string): PeerIdentity => ({ ...NOBODY, tenant, node, authenticated: true });

test('a hello that contradicts the certificate is refused, and the node is told', (t) => {
  for (const [identity, ok] of [
    [cert('acme', 'edge-1'), true],
    [cert('acme', 'edge-2'), false],
    [cert('other', 'edge-1'), false],
  ] as const) {
    const { dialer, listener, deliver } = pair(identity);
    dialer.machine.start();
    deliver();
    if (ok) {
      t.is(listener.machine.state, 'judging');
      continue;
    }
    t.is(listener.over?.code, 'ERR_IDENTITY_MISMATCH');
    t.is(dialer.over?.code, 'ERR_IDENTITY_MISMATCH');
    t.is(dialer.over?.side, 'remote');
    t.regex(dialer.over!.message, new RegExp(`acme/edge-1.*${identity.tenant}/${identity.node}`));
  }
});

const encode = (changes: Partial<kubebus.l2.IHello>) =>
  kubebus.l2.Hello.encode({
    versions: [1],
    tenant: 'acme',
    node: 'edge-1',
    instance: HELLO.instance,
    mtu: 1400,
    ...changes,
  }).finish();

test('hellos that are refused', (t) => {
  for (const [changes, code] of [
    [{ versions: [] }, 'ERR_VERSION'],
    [{ versions: [2, 3] }, 'ERR_VERSION'],
    [{ versions: Array.from({ length: 1000 }, (_, i) => i + 2) }, 'ERR_VERSION'],
    [{ tenant: '' }, 'ERR_HELLO_MALFORMED'],
    [{ tenant: 'UPPER' }, 'ERR_HELLO_MALFORMED'],
    [{ node: 'a.b' }, 'ERR_HELLO_MALFORMED'],
    [{ node: `${'x'.repeat(64)}` }, 'ERR_HELLO_MALFORMED'],
    [{ node: 'ends-' }, 'ERR_HELLO_MALFORMED'],
    [{ node: '\u001b[31mred' }, 'ERR_HELLO_MALFORMED'],
    [{ instance: new Uint8Array(7) }, 'ERR_HELLO_MALFORMED'],
    [{ instance: new Uint8Array(33) }, 'ERR_HELLO_MALFORMED'],
    [{ mtu: 1279 }, 'ERR_HELLO_MALFORMED'],
    [{ mtu: 0 }, 'ERR_HELLO_MALFORMED'],
  ] as const) {
    const listener = new Side('listener', CLOUD);
    listener.machine.handleFrame(0, FrameType.hello, encode(changes as kubebus.l2.IHello));
    t.is(listener.over?.code, code, JSON.stringify(changes).slice(0, 60));
    t.is(listener.over?.side, 'local');
    const [type, payload] = listener.out[0]!;
    t.is(type, FrameType.goodbye);
    t.is(kubebus.l2.Goodbye.decode(payload).code, code);
    t.true(payload.length <= MAX_HELLO, 'the goodbye fits the bound before the hello');
  }
});

test('bytes that are no hello, a second hello, and what may not come before it', (t) => {
  const noHello = new Side('listener', CLOUD);
  noHello.machine.handleFrame(0, FrameType.hello, Buffer.from('ffffffff', 'hex'));
  t.is(noHello.over?.code, 'ERR_HELLO_MALFORMED');
  const twice = new Side('listener', CLOUD);
  twice.machine.handleFrame(0, FrameType.hello, encode({}));
  twice.machine.handleFrame(0, FrameType.hello, encode({}));
  t.is(twice.over?.code, 'ERR_FRAME_MALFORMED');
  for (const type of [FrameType.ping, FrameType.pong, FrameType.control, 0x20, 0xa0]) {
    const early = new Side('listener', CLOUD);
    early.machine.handleFrame(0, type, new Uint8Array(0));
    t.is(early.over?.code, 'ERR_FRAME_MALFORMED', `type ${type}`);
  }
});

function opened() {
  const p = pair();
  p.dialer.machine.start();
  p.deliver();
  p.listener.machine.accept(0);
  p.deliver();
  p.dialer.trace.length = 0;
  p.listener.trace.length = 0;
  return p;
}

test('an unknown type is ignored and counted; an unknown critical one closes with a reason on both sides', (t) => {
  const { dialer, listener, deliver } = opened();
  for (const type of [0x06, 0x20, 0x7f]) listener.machine.handleFrame(0, type, Buffer.from('anything'));
  t.is(listener.machine.ignored, 3);
  t.deepEqual(listener.trace, []);
  listener.machine.handleFrame(0, 0x80 | 0x06, new Uint8Array(0));
  deliver();
  t.deepEqual(listener.trace, ['sends goodbye', 'over ERR_FRAME_UNKNOWN_CRITICAL local']);
  t.deepEqual(dialer.trace, ['over ERR_FRAME_UNKNOWN_CRITICAL remote']);
});

test('fields of later versions are skipped', (t) => {
  const listener = new Side('listener', CLOUD);
  // Field 100, length-delimited: "later".
  const later = Buffer.concat([encode({}), Buffer.from('a206056c61746572', 'hex')]);
  listener.machine.handleFrame(0, FrameType.hello, later);
  t.is(listener.machine.state, 'judging');
});

test('the handshake ends at its deadline, whether the hello or the verdict is missing', (t) => {
  for (const judging of [false, true]) {
    const listener = new Side('listener', CLOUD);
    if (judging) listener.machine.handleFrame(0, FrameType.hello, encode({}));
    t.is(listener.machine.pollDeadline(), 5 * SECOND);
    listener.machine.handleTimeout(5 * SECOND - 1);
    t.is(listener.over, null);
    listener.machine.handleTimeout(5 * SECOND);
    t.is(listener.over!.code, 'ERR_HELLO_TIMEOUT');
    listener.machine.accept(5 * SECOND);
    t.is(listener.machine.state, 'over', 'a late verdict changes nothing');
  }
});

test('an idle link: the side that was silent longest pings, the other answers; the dead are found 30 s after their last byte', (t) => {
  const { dialer, listener } = opened();
  const pings: number[] = [];
  let end = 0;
  // The dialer answers until 60 s, then nothing of it is heard any more.
  for (let now = 0; end === 0; now += 100 * MS) {
    if (now >= listener.machine.pollDeadline()) listener.machine.handleTimeout(now);
    if (listener.over !== null) end = now;
    for (const [type, payload] of listener.out.splice(0)) {
      if (type === FrameType.ping) pings.push(now / SECOND);
      if (now >= 60 * SECOND) continue;
      dialer.machine.keepalive.handleBytes(now);
      dialer.machine.handleFrame(now, type, payload);
    }
    for (const [type, payload] of dialer.out.splice(0)) {
      listener.machine.keepalive.handleBytes(now);
      listener.machine.handleFrame(now, type, payload);
    }
  }
  t.deepEqual(pings, [10, 20, 30, 40, 50, 60, 70]);
  t.is(listener.over!.code, 'ERR_PEER_DEAD');
  t.is(end, 80 * SECOND, '30 s after the pong at 50 s');
  t.deepEqual(
    dialer.trace.filter((line) => line === 'sends ping'),
    [],
    'it was never silent for long enough',
  );
});

test('goodbye carries code, text, the wait and permanence; and is over exactly once', (t) => {
  const { dialer, listener, deliver } = opened();
  const reason = new KubeBusError('ERR_DUPLICATE_NODE', 'two of them');
  listener.machine.close(reason, { retryAfterMs: 1500, permanent: true });
  listener.machine.close(reason);
  listener.machine.fail('ERR_INTERNAL', 'late');
  deliver();
  t.deepEqual(listener.trace, ['sends goodbye', 'over ERR_DUPLICATE_NODE local']);
  t.deepEqual(dialer.trace, ['over ERR_DUPLICATE_NODE remote']);
  t.is(dialer.over!.message, 'two of them');
  t.deepEqual(dialer.goodbye, { retryAfterMs: 1500, permanent: true, addresses: [] });
});

test('a hostile goodbye: unknown codes, names of object properties, terminal escapes, a wait of weeks', (t) => {
  const goodbye = (m: kubebus.l2.IGoodbye) => {
    const { dialer } = opened();
    dialer.machine.handleFrame(0, FrameType.goodbye, kubebus.l2.Goodbye.encode(m).finish());
    return dialer;
  };
  for (const code of ['ERR_OF_THE_FUTURE', 'constructor', 'toString', '__proto__', ''])
    t.is(goodbye({ code, message: 'x' }).over!.code, 'ERR_PEER_GOODBYE');
  t.is(goodbye({ code: 'ERR_ROUTE_LIMIT', message: 'x' }).over!.code, 'ERR_ROUTE_LIMIT');
  t.notRegex(goodbye({ message: '\u001b[2Jbye\u0007\u202e\u2028' }).over!.message, /[\p{Cc}\p{Cf}\u2028]/u);
  t.is(goodbye({ message: '' }).over!.message, 'the peer closed the link');
  t.is(goodbye({ message: 'm'.repeat(50_000) }).over!.message.length, 1000);
  t.is(goodbye({ retryAfterMs: 0xffffffff }).goodbye!.retryAfterMs, 300_000);
  t.is(goodbye({}).goodbye!.permanent, false);
  const addresses = [...Array(20).keys()].map((i) => (i === 1 ? 'x'.repeat(301) : `kubebus://h${i}`));
  t.is(goodbye({ addresses }).goodbye!.addresses.join(), `kubebus://h0,${addresses.slice(2, 8).join()}`);
});

test('control passes only when open, as it is', (t) => {
  const { dialer } = opened();
  dialer.machine.handleFrame(0, FrameType.control, Buffer.from('routes'));
  t.deepEqual(dialer.trace, ['control routes']);
});

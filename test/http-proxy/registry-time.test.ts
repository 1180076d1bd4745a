// How soon everybody knows of a service: on a clock that goes on only when the process has nothing left to do, so that the time is that of the
// protocol (batches, timers, acknowledgements) and not of the machine.

import test from 'ava';
import { SECOND } from '../../lib/core/index.js';
import { KubeBusCloud, KubeBusNode } from '../../lib/index.js';
import { memoryTransport } from '../../transports/memory.js';
import { VirtualClock } from '../l2/support/virtual.js';

test('appearing, changing and vanishing are known everywhere within a second', async (t) => {
  const clock = new VirtualClock();
  const transport = memoryTransport();
  const cloud = await KubeBusCloud.start({
    transports: [transport],
    tenants: { acme: { pools: ['10.80.0.0/16'] } },
    clock,
  });
  const join = (node: string) => KubeBusNode.join({ cloud: cloud.addresses, transport, tenant: 'acme', node, clock });
  /** What the registry's end needs of the event loop beside the clock: turns for what is deferred. */
  const settle = async <T>(promise: Promise<T>): Promise<T> => {
    let done = false;
    const end = promise.finally(() => {
      done = true;
    });
    while (!done) await clock.run(SECOND / 100, () => done);
    return end;
  };
  const [one, two] = [await settle(join('edge-1')), await settle(join('edge-2'))];
  await settle(Promise.all([one.services.ready(), two.services.ready()]));
  await clock.run(10 * SECOND);

  const within = async (what: string, known: (list: string) => boolean) => {
    const lists = () =>
      [cloud.services, two.services].map((s) =>
        s
          .list()
          .map((e) => `${e.name} ${e.online ? 'on' : 'off'} ${e.public ? 'public' : 'closed'}`)
          .join(),
      );
    const from = clock.now();
    t.true(await clock.run(SECOND, () => lists().every(known)), `${what}: ${lists().join(' | ')}`);
    t.log(`${what}: ${((clock.now() - from) / 1000).toFixed(0)} ms`);
    await clock.run(10 * SECOND);
  };
  const service = one.publish('web', () => {});
  await within('appears', (list) => list === 'web on closed');
  one.publish('web', () => {}, { public: true });
  await within('changes', (list) => list === 'web on public');
  service.close();
  one.services.unpublish('web');
  await within('vanishes', (list) => list === '');
  one.publish('web', () => {});
  await within('comes back', (list) => list === 'web on closed');
  const stopped = one.stop();
  await within('its node stops', (list) => list === '' || list === 'web off closed');
  await settle(stopped);
  await settle(two.stop());
  await settle(cloud.stop());
});

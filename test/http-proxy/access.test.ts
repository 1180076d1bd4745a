// Every pair of caller and service: who may call, in and out; and what each may know.

import test from 'ava';
import { ask, makeWorld, until, type World } from './support/world.js';

let world: World;
const OWNERS = ['acme', 'globex', 'initech'] as const;
/** Services of every tenant's edge-1. */
const KINDS = {
  private: { public: false, grant: [] },
  public: { public: true, grant: [] },
  'to-acme': { public: false, grant: ['acme'] },
  'to-globex': { public: false, grant: ['globex'] },
  'to-both': { public: false, grant: ['acme', 'globex'] },
} as const;

/** The rule in its plainest form. */
function allowed(caller: string, owner: string, kind: keyof typeof KINDS): boolean {
  if (caller === 'plane' || kind === 'public') return true;
  return caller === owner || (KINDS[kind].grant as readonly string[]).includes(caller);
}

test.before(async () => {
  world = await makeWorld(OWNERS.flatMap((tenant) => [`${tenant}/edge-1`, `${tenant}/edge-2`]));
  for (const tenant of OWNERS) {
    for (const [name, options] of Object.entries(KINDS)) {
      world.node(`${tenant}/edge-1`).publish(
        name,
        (req, res) => {
          const h = req.headers;
          res.end(
            `${tenant} ${name} for ${h['x-kubebus-caller']} ${h['x-kubebus-tenant'] ?? '-'} ${h['x-kubebus-node'] ?? '-'}`,
          );
        },
        options,
      );
    }
  }
  await until(() => world.cloud.services.list().length === OWNERS.length * Object.keys(KINDS).length);
});
test.after.always(() => world.close());

const FORGED = { 'x-kubebus-caller': 'plane', 'x-kubebus-tenant': 'acme', 'x-kubebus-node': 'edge-1' };

for (const owner of OWNERS) {
  for (const kind of Object.keys(KINDS) as (keyof typeof KINDS)[]) {
    test(`${owner}'s service ${kind}: from the Internet, the plane, and every tenant`, async (t) => {
      const path = `/${owner}/edge-1/${kind}/`;
      const check = (caller: string, status: number, text: string, said: string) => {
        if (!allowed(caller, owner, kind)) {
          t.is(status, 403, `${caller}: ${text}`);
          t.is((JSON.parse(text) as { error: { code: string } }).error.code, 'ERR_HTTP_FORBIDDEN');
        } else t.deepEqual([status, text], [200, `${owner} ${kind} for ${said}`], caller);
      };
      const internet = await ask(world.gateway, path, { headers: FORGED });
      check('internet', internet.status, internet.text, 'internet - -');
      const plane = await ask(world.plane, path, { headers: { ...FORGED, 'x-kubebus-caller': 'internet' } });
      check('plane', plane.status, plane.text, 'plane - -');
      const management = await world.cloud.fetch(`kubebus:/${path}`);
      check('plane', management.status, await management.text(), 'plane - -');
      for (const tenant of OWNERS) {
        const answer = await world.node(`${tenant}/edge-2`).fetch(`kubebus:/${path}`, { headers: FORGED });
        check(tenant, answer.status, await answer.text(), `tenant ${tenant} edge-2`);
      }
    });
  }
}

test('a node lists its own tenant, and of others only what is granted to it', async (t) => {
  for (const tenant of OWNERS) {
    const { services } = world.node(`${tenant}/edge-2`);
    await services.ready();
    const expected = OWNERS.flatMap((owner) =>
      (Object.keys(KINDS) as (keyof typeof KINDS)[])
        .filter((kind) => owner === tenant || (KINDS[kind].grant as readonly string[]).includes(tenant))
        .map((kind) => `${owner}/edge-1/${kind}`),
    ).sort();
    const list = () =>
      services
        .list()
        .map((s) => `${s.tenant}/${s.node}/${s.name}`)
        .sort();
    await until(() => list().length === expected.length);
    t.deepEqual(list(), expected);
    // Nor does it learn who else was granted it.
    t.true(services.list().every((s) => s.tenant === tenant || s.grants.every((g) => g === tenant)));
  }
});

test('the same addresses in another tenant are another place', async (t) => {
  const one = world.node('acme/edge-1').addresses[0]!;
  const two = world.nodes.get('globex/edge-1')!.addresses[0]!;
  t.is(one, two, 'both tenants use the same prefix');
  const own = await world.node('globex/edge-2').fetch('kubebus://globex/edge-1/private/');
  t.is(await own.text(), 'globex private for tenant globex edge-2');
});

test('a node that speaks to the server proxy itself cannot say that it is another', async (t) => {
  const { net } = world.node('acme/edge-2');
  const socket = net.connect({ host: 'edge-1', port: 7480 });
  socket.write(
    'GET / HTTP/1.1\r\nHost: x\r\nX-KubeBus-Address: acme/edge-1/private\r\nX-KubeBus-Caller: globex/boss\r\nX-KubeBus-Tenant: globex\r\nConnection: close\r\n\r\n',
  );
  let text = '';
  for await (const part of socket.setEncoding('latin1')) text += part;
  t.regex(text, /acme private for tenant acme edge-2$/);
});

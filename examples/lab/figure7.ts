// The paper's figure 7 with figure 3's container subnet, on one machine: every host a network namespace.
//
//                       cloud 203.0.113.1
//                         |
//      +------------------+-- wan (a switch: "the Internet") ------------+
//      | .11              | .12                                          | .13
//     nat1               nat2          (dial out only)                  vpc  10.1.0.1, the VMs' switch and gateway
//      | 192.168.1.0/24   | 192.168.2.0/24        +----------------------+----------------+
//     edge1              edge2                   vm1 10.1.0.11          vm2 10.1.0.12    master 10.1.0.10
//                                                 | virtual router       |
//                                                 | cni0 10.2.1.1/24     | cni0 10.2.2.1/24
//                                                pod1 10.2.1.2          pod2 10.2.2.2     (VXLAN between vm1 and vm2)
//
// The overlay: edge pool 10.80.0.0/16 and fd80::/64, VM subnet 10.1.0.0/24 and fd01::/64, containers 10.2.0.0/16 and
// fd02::/32. The container network is built as flannel's VXLAN backend does it: a VXLAN device without learning, routes to
// the other host's subnet by it, permanent neighbours.
import { join } from 'node:path';
import { kubebus, nodePki } from './command.js';
import type { Daemon, Lab, RunOptions } from './netns.js';

/** Where each host is reached in the overlay. */
export interface Host {
  /** Also the name of its namespace. */
  readonly name: string;
  readonly v4: string;
  readonly v6: string;
  /** Hosts of the cluster reach each other without KubeBus. */
  readonly cluster: boolean;
}

export interface Figure7Options {
  /** The VM subnet drops packets whose source is not of the VM subnet (PAPER D4). */
  readonly filter?: boolean;
  /** The router translates sources. */
  readonly snat?: boolean;
  /** Certificates for further nodes. */
  readonly nodes?: readonly { readonly node: string; readonly prefixes?: readonly string[] }[];
  readonly progress?: (step: string) => void;
}

export interface Figure7 {
  readonly hosts: readonly Host[];
  readonly cloud: Daemon;
  readonly edge1: Daemon;
  readonly edge2: Daemon;
  readonly router: Daemon;
}

export const TENANT = 'acme';
export const DEVICE = 'kb0';
export const CLOUD_UNDERLAY = '203.0.113.1';
export const POOLS = ['10.80.0.0/16', 'fd80::/64'] as const;
export const ADVERTISED: readonly string[] = [
  '10.1.0.0/24:vm',
  'fd01::/64:vm',
  '10.2.0.0/16:container',
  'fd02::/32:container',
];
const GATEWAY = { v4: '10.80.0.1', v6: 'fd80::1' };
const VMS = [
  ['master', 10],
  ['vm1', 11],
  ['vm2', 12],
] as const;
const PODS = [
  ['pod1', 'vm1', 1],
  ['pod2', 'vm2', 2],
] as const;

/** Builds the network, starts the real processes, and waits until every one has its addresses and routes. */
export async function figure7(lab: Lab, options: Figure7Options = {}): Promise<Figure7> {
  const { progress = () => {} } = options;
  progress('network: 12 namespaces, two NATs, a VM subnet, a container network over VXLAN');
  const certificates = nodePki(
    pki(lab),
    [CLOUD_UNDERLAY],
    [
      { tenant: TENANT, node: 'edge1' },
      { tenant: TENANT, node: 'edge2' },
      { tenant: TENANT, node: 'vm1', prefixes: ADVERTISED.map((a) => a.replace(/:[a-z]+$/, '')) },
      ...(options.nodes ?? []).map((node) => ({ tenant: TENANT, ...node })),
    ],
  );
  // Awaited below; until then a failure of the network comes first.
  certificates.catch(() => {});
  await underlay(lab);
  await vmSubnet(lab, options.filter ?? false);
  await containers(lab);
  progress('certificates: a CA, one for the cloud, one per node');
  await certificates;
  progress('processes: kubebus cloud, edge, edge, router');
  const cloud = startCloud(lab);
  await cloud.logged(/cloud up/, 30_000);
  const [edge1, edge2, router] = [
    startEdge(lab, 'edge1'),
    startEdge(lab, 'edge2'),
    startRouter(lab, options.snat ? ['--snat'] : []),
  ];
  for (const daemon of [edge1, edge2]) await daemon.logged(/edge up/, 30_000);
  await router.logged(/router up/, 30_000);
  const hosts: Host[] = [{ name: 'cloud', ...GATEWAY, cluster: false }];
  for (const name of ['edge1', 'edge2']) {
    const [v4, v6] = await lab.addresses(name, DEVICE);
    hosts.push({ name, v4: v4!, v6: v6!, cluster: false });
  }
  for (const [name, n] of VMS) hosts.push({ name, v4: `10.1.0.${n}`, v6: `fd01::${n}`, cluster: true });
  for (const [name, , n] of PODS) hosts.push({ name, v4: `10.2.${n}.2`, v6: `fd02:0:${n}::2`, cluster: true });
  // The routes of the router have to have reached the edges and the cloud.
  for (const from of ['cloud', 'edge1', 'edge2']) {
    await lab.waitPing(from, '10.1.0.11');
    await lab.waitPing(from, 'fd01::11');
  }
  return { hosts, cloud, edge1, edge2, router };
}

export function startCloud(lab: Lab): Daemon {
  return kubebus(lab, 'cloud', [
    ...['cloud', '--listen', `${CLOUD_UNDERLAY}:7443`, '--tenant', `${TENANT}=${POOLS.join(',')}`],
    ...[
      '--tun',
      `${TENANT}=${DEVICE}`,
      '--state',
      join(lab.work, 'cloud'),
      '--status-socket',
      statusSocket(lab, 'cloud'),
    ],
    ...identity(lab, 'cloud'),
  ]);
}

export function startEdge(lab: Lab, node: string, more: readonly string[] = [], options?: RunOptions): Daemon {
  return kubebus(lab, node, ['edge', ...nodeArguments(lab, node), ...more], options);
}

export function startRouter(lab: Lab, more: readonly string[] = [], vm = 'vm1', advertised = ADVERTISED): Daemon {
  const prefixes = advertised.flatMap((prefix) => ['--advertise', prefix]);
  return kubebus(lab, vm, ['router', ...nodeArguments(lab, vm), ...prefixes, ...more]);
}

/** For `kubebus status --socket`. */
export const statusSocket = (lab: Lab, node: string): string => join(lab.work, `${node}.sock`);

export const pki = (lab: Lab): string => join(lab.work, 'pki');

function nodeArguments(lab: Lab, node: string): string[] {
  return [
    ...['--cloud', `kubebus://${CLOUD_UNDERLAY}:7443`, '--tun', DEVICE, '--state', join(lab.work, node)],
    ...['--status-socket', statusSocket(lab, node), ...identity(lab, `${TENANT}-${node}`)],
  ];
}

function identity(lab: Lab, file: string): string[] {
  const dir = pki(lab);
  return ['--ca', join(dir, 'ca.crt'), '--cert', join(dir, `${file}.crt`), '--key', join(dir, `${file}.key`)];
}

/** The Internet, the cloud, and two edges behind NATs that let nothing in. */
async function underlay(lab: Lab): Promise<void> {
  await lab.ns('wan');
  await lab.ns('cloud');
  await lab.veth('cloud', 'wan', [`${CLOUD_UNDERLAY}/24`], 'wan', 'cloud', []);
  for (const n of [1, 2]) {
    const [nat, edge] = [`nat${n}`, `edge${n}`];
    await lab.ns(nat, { forward: true });
    await lab.ns(edge);
    await lab.veth(nat, 'wan', [`203.0.113.1${n}/24`], 'wan', nat, []);
    await lab.veth(nat, 'lan', [`192.168.${n}.1/24`], edge, 'eth0', [`192.168.${n}.2/24`]);
    await lab.ip(edge, 'route', 'add', 'default', 'via', `192.168.${n}.1`);
    await lab.nft(nat, dialOutOnly('wan'));
  }
  await lab.ns('vpc', { forward: true });
  await lab.veth('vpc', 'wan', ['203.0.113.13/24'], 'wan', 'vpc', []);
  await lab.nft('vpc', dialOutOnly('wan'));
  await lab.bridge('wan', 'switch', [], ['cloud', 'nat1', 'nat2', 'vpc']);
}

const dialOutOnly = (wan: string): string => `
  table inet nat {
    chain post { type nat hook postrouting priority srcnat; oifname "${wan}" masquerade; }
    chain forward { type filter hook forward priority filter; iifname "${wan}" ct state new,invalid counter drop; }
    chain input { type filter hook input priority filter; iifname "${wan}" ct state new,invalid counter drop; }
  }`;

/** Master and VMs on one switch. Every VM but the router has the overlay's routes through it (D3). */
async function vmSubnet(lab: Lab, filter: boolean): Promise<void> {
  for (const [name, n] of VMS) {
    await lab.ns(name, { forward: true });
    await lab.veth(name, 'eth0', [`10.1.0.${n}/24`, `fd01::${n}/64`], 'vpc', name, []);
    await lab.ip(name, 'route', 'add', 'default', 'via', '10.1.0.1');
    if (name === 'vm1') continue;
    // A metric above KubeBus' own: a VM that runs a node itself uses that while it runs.
    await lab.ip(name, 'route', 'add', POOLS[0], 'via', '10.1.0.11', 'metric', '2000');
    await lab.ip(name, '-6', 'route', 'add', POOLS[1], 'via', 'fd01::11', 'metric', '2000');
  }
  const ports = VMS.map(([name]) => name);
  await lab.bridge('vpc', 'switch', ['10.1.0.1/24', 'fd01::1/64'], ports);
  if (!filter) return;
  await lab.nft(
    'vpc',
    `table bridge filter {
      chain forward {
        type filter hook forward priority filter;
        ip saddr != 10.1.0.0/24 counter drop
        ip6 saddr != { fd01::/64, fe80::/10 } counter drop
      }
    }`,
  );
}

/** Packets that the VM subnet's filter dropped. */
export async function filtered(lab: Lab): Promise<number> {
  const list = await lab.must('vpc', 'nft', ['list', 'table', 'bridge', 'filter']);
  return [...list.matchAll(/packets (\d+)/g)].reduce((sum, match) => sum + Number(match[1]), 0);
}

/** What flannel sets up on each VM, and the containers. */
async function containers(lab: Lab): Promise<void> {
  for (const [pod, vm, n] of PODS) {
    await lab.ns(pod);
    await lab.veth(pod, 'eth0', [`10.2.${n}.2/24`, `fd02:0:${n}::2/64`], vm, pod, []);
    await lab.bridge(vm, 'cni0', [`10.2.${n}.1/24`, `fd02:0:${n}::1/64`], [pod]);
    await lab.ip(pod, 'route', 'add', 'default', 'via', `10.2.${n}.1`);
    await lab.ip(pod, '-6', 'route', 'add', 'default', 'via', `fd02:0:${n}::1`);
  }
  for (const [n, [vm, host]] of VMS.entries()) {
    const vxlan = [
      'type',
      'vxlan',
      'id',
      '1',
      'dev',
      'eth0',
      'local',
      `10.1.0.${host}`,
      'dstport',
      '8472',
      'nolearning',
    ];
    await lab.ip(vm, 'link', 'add', 'flannel.1', 'address', mac(n), 'mtu', '1450', ...vxlan);
    await lab.address(vm, 'flannel.1', `10.2.${n}.0/32`, `fd02:0:${n}::/128`);
    await lab.ip(vm, 'link', 'set', 'flannel.1', 'up');
    for (const [other, [, otherHost]] of VMS.entries()) {
      if (other === n) continue;
      await lab.must(vm, 'bridge', ['fdb', 'add', mac(other), 'dev', 'flannel.1', 'dst', `10.1.0.${otherHost}`]);
      for (const [next, subnet] of [
        [`10.2.${other}.0`, `10.2.${other}.0/24`],
        [`fd02:0:${other}::`, `fd02:0:${other}::/64`],
      ] as const) {
        await lab.ip(vm, 'neigh', 'add', next, 'lladdr', mac(other), 'dev', 'flannel.1', 'nud', 'permanent');
        await lab.ip(vm, 'route', 'add', subnet, 'via', next, 'dev', 'flannel.1', 'onlink');
      }
    }
    // flannel's --ip-masq: containers reach the world with their VM's address; towards the overlay they keep their own.
    await lab.nft(
      vm,
      `table inet flannel {
        chain post {
          type nat hook postrouting priority srcnat;
          ip saddr 10.2.0.0/16 ip daddr != { 10.2.0.0/16, ${POOLS[0]} } masquerade
          ip6 saddr fd02::/32 ip6 daddr != { fd02::/32, ${POOLS[1]}, fe80::/10, ff00::/8 } masquerade
        }
      }`,
    );
  }
}

const mac = (n: number): string => `02:00:00:00:00:0${n}`;

// The things the vpn bench measures: how each is set up in the topology cloud - edge1, edge2 (see topology.ts). All
// overlay addresses are 10.99.0.0/24; peers come from Debian and run with the settings that let two edges talk only
// through the cloud.
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { kubebus, nodePki } from '../../examples/lab/command.js';
import { has, type Lab, must, run, until } from '../../examples/lab/netns.js';

/** Addresses of the overlay after set-up. */
export interface Overlay {
  readonly cloud: string;
  readonly edge2: string;
}

export interface Subject {
  readonly name: string;
  readonly title: string;
  readonly encryption: string;
  /** How packets get from edge to edge. */
  readonly how: string;
  /** Programs that must be installed. */
  readonly programs: readonly string[];
  readonly debianPackage?: string;
  setup(lab: Lab): Promise<Overlay>;
}

export const CLOUD = 'cloud';
export const EDGES = ['edge1', 'edge2'] as const;
export const NAMESPACES = [CLOUD, ...EDGES] as const;
/** The cloud's underlay address as edge n (1, 2) sees it. */
export const hubAddress = (n: number) => `10.71.${n}.1`;
const overlayAddress = (n: number) => `10.99.0.${n + 1}`;
const OVERLAY: Overlay = { cloud: overlayAddress(0), edge2: overlayAddress(2) };

export const SUBJECTS: readonly Subject[] = [
  kubebusSubject(false),
  kubebusSubject(true),
  {
    name: 'nebula',
    title: 'Nebula',
    encryption: 'aes-256-gcm',
    how: 'UDP, MTU 1300; encrypted end to end, the hub is a relay',
    programs: ['nebula', 'nebula-cert'],
    debianPackage: 'nebula',
    setup: nebula,
  },
  {
    name: 'wireguard-go',
    title: 'wireguard-go',
    encryption: 'chacha20-poly1305',
    how: 'UDP, MTU 1420; hub decrypts, its kernel forwards, encrypts again (package of 2022, before TUN offloads)',
    programs: ['wireguard-go', 'wg'],
    debianPackage: 'wireguard-go',
    setup: wireguardGo,
  },
  {
    name: 'openvpn-tcp',
    title: 'OpenVPN (TCP)',
    encryption: 'aes-256-gcm',
    how: 'TCP, client-to-client inside the server',
    programs: ['openvpn', 'openssl'],
    debianPackage: 'openvpn',
    setup: (lab) => openvpn(lab, 'tcp'),
  },
  {
    name: 'openvpn-udp',
    title: 'OpenVPN (UDP)',
    encryption: 'aes-256-gcm',
    how: 'UDP, client-to-client inside the server',
    programs: ['openvpn', 'openssl'],
    debianPackage: 'openvpn',
    setup: (lab) => openvpn(lab, 'udp'),
  },
  {
    name: 'tinc-tcp',
    title: 'tinc (TCP)',
    encryption: 'aes-256-cfb',
    how: 'TCPOnly, IndirectData; the hub relays in its process',
    programs: ['tincd'],
    debianPackage: 'tinc',
    setup: (lab) => tinc(lab, ['TCPOnly = yes', 'IndirectData = yes']),
  },
  {
    name: 'tinc-udp',
    title: 'tinc (UDP)',
    encryption: 'aes-256-cbc, sha256',
    how: 'UDP, IndirectData; the hub decrypts and encrypts again in one process',
    programs: ['tincd'],
    debianPackage: 'tinc',
    setup: (lab) => tinc(lab, ['IndirectData = yes']),
  },
  {
    name: 'tinc-plain',
    title: 'tinc (UDP, plain)',
    encryption: 'none',
    how: 'UDP, IndirectData, Cipher and Digest none',
    programs: ['tincd'],
    debianPackage: 'tinc',
    setup: (lab) => tinc(lab, ['IndirectData = yes', 'Cipher = none', 'Digest = none']),
  },
  {
    name: 'quicktun-plain',
    title: 'quicktun (raw)',
    encryption: 'none',
    how: 'UDP, one process per link, the hub bridges their TAPs in the kernel',
    programs: ['quicktun'],
    debianPackage: 'quicktun',
    setup: quicktun,
  },
  {
    name: 'kernel',
    title: 'kernel forwarding',
    encryption: 'none',
    how: 'no overlay; veth with offloads: a limit of memory copies that no overlay reaches',
    programs: [],
    setup: (lab) => kernel(lab),
  },
  {
    name: 'kernel-nogso',
    title: 'kernel forwarding, no offloads',
    encryption: 'none',
    how: 'no overlay; veth, one segment at a time: the limit of the kernel per packet',
    programs: ['ethtool'],
    setup: async (lab) => {
      for (const [ns, device] of [
        ['edge1', 'up0'],
        ['edge2', 'up0'],
        [CLOUD, 'down1'],
        [CLOUD, 'down2'],
      ] as const) {
        const off = ['tso', 'gso', 'gro', 'sg', 'tx', 'rx'].flatMap((feature) => [feature, 'off']);
        await lab.run(ns, 'ethtool', ['-K', device, ...off]); // some refuse single features: the rest is still set
      }
      return kernel(lab);
    },
  },
];

/** Short names of the command line. The TCP variants: they are what a TCP-based overlay compares with. */
export const ALIASES: Readonly<Record<string, readonly string[]>> = {
  openvpn: ['openvpn-tcp'],
  tinc: ['tinc-tcp'],
  plain: ['tinc-plain', 'quicktun-plain'],
};

export const missingPrograms = (subject: Subject): string[] => subject.programs.filter((program) => !has(program));

export async function versionOf(subject: Subject): Promise<string> {
  if (subject.debianPackage) return (await run('dpkg-query', ['-W', '-f', '${Version}', subject.debianPackage])).stdout;
  if (subject.name.startsWith('kernel')) return (await run('uname', ['-r'])).stdout.trim();
  return `Node ${process.version}`;
}

function kubebusSubject(insecure: boolean): Subject {
  return {
    name: insecure ? 'kubebus-insecure' : 'kubebus',
    title: insecure ? 'KubeBus, insecure' : 'KubeBus, TLS',
    encryption: insecure ? 'none' : 'TLS 1.3, mutual',
    how: 'TCP, MTU 1400; the hub routes in its process',
    programs: [],
    async setup(lab) {
      const tenant = 'bench';
      const pki = join(lab.work, 'pki');
      if (!insecure)
        await nodePki(
          pki,
          ['10.71.1.1', '10.71.2.1'],
          EDGES.map((node) => ({ tenant, node })),
        );
      const secrets = (name: string) =>
        insecure
          ? ['--insecure']
          : ['--cert', join(pki, `${name}.crt`), '--key', join(pki, `${name}.key`), '--ca', join(pki, 'ca.crt')];
      kubebus(lab, CLOUD, [
        ...['cloud', '--listen', '0.0.0.0:7443', '--tenant', `${tenant}=10.99.0.0/24`, '--tun', `${tenant}=kb0`],
        ...secrets('cloud'),
        ...(process.env.KUBEBUS_BENCH_CLOUD ?? '').split(' ').filter(Boolean),
      ]);
      await lab.waitListen(CLOUD, 7443, 10_000);
      for (const [index, edge] of EDGES.entries()) {
        kubebus(lab, edge, [
          ...['edge', '--cloud', `kubebus://${hubAddress(index + 1)}:7443`, '--tun', 'kb0'],
          ...secrets(`${tenant}-${edge}`),
          ...(insecure ? ['--tenant', tenant, '--node', edge] : []),
          ...(process.env.KUBEBUS_BENCH_EDGE ?? '').split(' ').filter(Boolean),
        ]);
      }
      const address = (ns: string) =>
        until(`an address of kb0 in ${ns}\n${lab.logs()}`, 10_000, async () => (await lab.addresses(ns, 'kb0'))[0]);
      return { cloud: await address(CLOUD), edge2: await address('edge2') };
    },
  };
}

async function nebula(lab: Lab): Promise<Overlay> {
  const inWork = { cwd: lab.work };
  await must('nebula-cert', ['ca', '-name', 'kbb', '-duration', '24h'], inWork);
  for (const [n, ns] of NAMESPACES.entries()) {
    await must('nebula-cert', ['sign', '-name', ns, '-ip', `${overlayAddress(n)}/24`], inWork);
    const hub = n === 0;
    const config = {
      pki: { ca: join(lab.work, 'ca.crt'), cert: join(lab.work, `${ns}.crt`), key: join(lab.work, `${ns}.key`) },
      ...(hub ? {} : { static_host_map: { [OVERLAY.cloud]: [`${hubAddress(n)}:4242`] } }),
      lighthouse: hub ? { am_lighthouse: true } : { am_lighthouse: false, interval: 5, hosts: [OVERLAY.cloud] },
      relay: hub
        ? { am_relay: true, use_relays: false }
        : { am_relay: false, use_relays: true, relays: [OVERLAY.cloud] },
      listen: { host: '0.0.0.0', port: 4242 },
      punchy: { punch: true },
      cipher: 'aes',
      tun: { disabled: false, dev: 'neb0', mtu: 1300, tx_queue: 500 },
      logging: { level: 'warning', format: 'text' },
      firewall: {
        outbound: [{ port: 'any', proto: 'any', host: 'any' }],
        inbound: [{ port: 'any', proto: 'any', host: 'any' }],
      },
    };
    const file = join(lab.work, `${ns}.yml`);
    writeFileSync(file, JSON.stringify(config)); // JSON is YAML
    lab.spawn(ns, 'nebula', ['-config', file]);
  }
  for (const ns of NAMESPACES) await lab.waitDevice(ns, 'neb0');
  // Both edges make themselves known to the lighthouse before they look for each other.
  for (const edge of EDGES) await lab.waitPing(edge, OVERLAY.cloud);
  return OVERLAY;
}

async function wireguardGo(lab: Lab): Promise<Overlay> {
  const keys: { file: string; public: string }[] = [];
  for (const [n] of NAMESPACES.entries()) {
    const file = join(lab.work, `wg${n}`);
    writeFileSync(file, await must('wg', ['genkey']), { mode: 0o600 });
    keys.push({ file, public: (await must('sh', ['-c', `wg pubkey < ${file}`])).trim() });
  }
  // The control socket is named after the device, in one directory for all namespaces: three names. It runs in user
  // space although the kernel may have WireGuard: that is what is compared.
  const env = { ...process.env, WG_I_PREFER_BUGGY_USERSPACE_TO_POLISHED_KMOD: '1', LOG_LEVEL: 'error' };
  for (const [n, ns] of NAMESPACES.entries())
    lab.spawn(ns, process.env.WIREGUARD_GO ?? 'wireguard-go', ['-f', `kbbw${n}`], { env });
  for (const [n, ns] of NAMESPACES.entries()) {
    const device = `kbbw${n}`;
    await lab.waitDevice(ns, device);
    const peers =
      n === 0
        ? [
            'listen-port',
            '51820',
            ...[1, 2].flatMap((m) => ['peer', keys[m]!.public, 'allowed-ips', `${overlayAddress(m)}/32`]),
          ]
        : [
            'peer',
            keys[0]!.public,
            'allowed-ips',
            '10.99.0.0/24',
            'endpoint',
            `${hubAddress(n)}:51820`,
            'persistent-keepalive',
            '5',
          ];
    await until(`wg set ${device}`, 5_000, async () => {
      return (await lab.run(ns, 'wg', ['set', device, 'private-key', keys[n]!.file, ...peers])).code === 0;
    });
    await overlayDevice(lab, ns, device, n, 1420);
  }
  await lab.sysctl(CLOUD, 'net.ipv4.conf.kbbw0.forwarding=1');
  await lab.waitPing('edge2', OVERLAY.cloud);
  return OVERLAY;
}

async function openvpn(lab: Lab, protocol: 'tcp' | 'udp'): Promise<Overlay> {
  const file = (name: string) => join(lab.work, name);
  const key = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes'];
  await must('openssl', [
    'req',
    '-x509',
    ...key,
    '-keyout',
    file('ca.key'),
    '-out',
    file('ca.crt'),
    '-subj',
    '/CN=kbb-ca',
    '-days',
    '2',
  ]);
  for (const [n, name] of NAMESPACES.entries()) {
    await must('openssl', [
      'req',
      ...key,
      '-keyout',
      file(`${name}.key`),
      '-out',
      file(`${name}.csr`),
      '-subj',
      `/CN=${name}`,
    ]);
    writeFileSync(
      file('ext'),
      `keyUsage=digitalSignature\nextendedKeyUsage=${n === 0 ? 'serverAuth' : 'clientAuth'}\n`,
    );
    await must('openssl', [
      ...[
        'x509',
        '-req',
        '-in',
        file(`${name}.csr`),
        '-CA',
        file('ca.crt'),
        '-CAkey',
        file('ca.key'),
        '-CAcreateserial',
      ],
      ...['-days', '2', '-out', file(`${name}.crt`), '-extfile', file('ext')],
    ]);
  }
  await must('mkdir', [file('ccd')]);
  for (const n of [1, 2]) writeFileSync(file(`ccd/edge${n}`), `ifconfig-push ${overlayAddress(n)} 255.255.255.0\n`);
  const common = (name: string) => [
    ...[
      '--dev',
      'ovpn0',
      '--dev-type',
      'tun',
      '--topology',
      'subnet',
      '--persist-tun',
      '--persist-key',
      '--keepalive',
      '10',
      '60',
    ],
    ...[
      '--verb',
      '1',
      '--disable-dco',
      '--data-ciphers',
      'AES-256-GCM',
      ...(protocol === 'tcp' ? ['--tcp-nodelay'] : []),
    ],
    ...['--ca', file('ca.crt'), '--cert', file(`${name}.crt`), '--key', file(`${name}.key`)],
  ];
  lab.spawn(CLOUD, 'openvpn', [
    ...common(CLOUD),
    ...['--proto', protocol === 'tcp' ? 'tcp-server' : 'udp', '--port', '1194', '--mode', 'server', '--tls-server'],
    ...[
      '--server',
      '10.99.0.0',
      '255.255.255.0',
      '--client-to-client',
      '--client-config-dir',
      file('ccd'),
      '--dh',
      'none',
    ],
  ]);
  await lab.waitDevice(CLOUD, 'ovpn0');
  for (const [index, edge] of EDGES.entries()) {
    lab.spawn(edge, 'openvpn', [
      ...common(edge),
      ...['--client', '--proto', protocol === 'tcp' ? 'tcp-client' : 'udp', '--remote', hubAddress(index + 1), '1194'],
      ...['--nobind', '--remote-cert-tls', 'server'],
    ]);
  }
  for (const edge of EDGES) await lab.waitDevice(edge, 'ovpn0');
  await lab.waitPing('edge2', OVERLAY.cloud);
  return OVERLAY;
}

async function tinc(lab: Lab, hostOptions: readonly string[]): Promise<Overlay> {
  const dir = (n: number) => join(lab.work, `tinc${n}`);
  for (const [n, name] of NAMESPACES.entries()) {
    await must('mkdir', ['-p', join(dir(n), 'hosts')]);
    const config = [
      `Name = ${name}`,
      'Mode = router',
      'DeviceType = tun',
      'Interface = tinc0',
      ...(n === 0 ? [] : [`ConnectTo = ${CLOUD}`]),
    ];
    writeFileSync(join(dir(n), 'tinc.conf'), `${config.join('\n')}\n`);
    const host = [
      ...(n === 0 ? ['Address = 10.71.1.1 655', 'Address = 10.71.2.1 655'] : []),
      `Subnet = ${overlayAddress(n)}/32`,
      ...hostOptions,
    ];
    writeFileSync(join(dir(n), 'hosts', name), `${host.join('\n')}\n`);
    await must('tincd', ['-c', dir(n), '-K2048']);
  }
  for (const n of [1, 2]) {
    await must('cp', [join(dir(n), 'hosts', NAMESPACES[n]!), join(dir(0), 'hosts')]);
    await must('cp', [join(dir(0), 'hosts', CLOUD), join(dir(n), 'hosts')]);
  }
  for (const [n, ns] of NAMESPACES.entries()) {
    lab.spawn(ns, 'tincd', ['-c', dir(n), '-D', `--pidfile=${join(lab.work, `tinc${n}.pid`)}`, '-d0']);
    await lab.waitDevice(ns, 'tinc0');
    await overlayDevice(lab, ns, 'tinc0', n);
  }
  for (const edge of EDGES) await lab.waitPing(edge, OVERLAY.cloud);
  return OVERLAY;
}

async function quicktun(lab: Lab): Promise<Overlay> {
  const start = (ns: string, device: string, local: string, remote: string) =>
    lab.spawn(ns, 'quicktun', [], {
      env: {
        ...process.env,
        // Debian's package reads the names that ifupdown gives to the options of its interfaces.
        ...{ IFACE: device, IF_QT_INTERFACE: device, IF_QT_PROTOCOL: 'raw', IF_QT_TUN_MODE: '0' },
        ...{ IF_QT_LOCAL_ADDRESS: local, IF_QT_LOCAL_PORT: '2998' },
        ...{ IF_QT_REMOTE_ADDRESS: remote, IF_QT_REMOTE_PORT: '2998' },
      },
    });
  await lab.ip(CLOUD, 'link', 'add', 'br0', 'type', 'bridge');
  for (const n of [1, 2]) {
    start(CLOUD, `qt${n}`, hubAddress(n), `10.71.${n}.2`);
    start(`edge${n}`, 'qt0', `10.71.${n}.2`, hubAddress(n));
    await lab.waitDevice(CLOUD, `qt${n}`);
    await lab.waitDevice(`edge${n}`, 'qt0');
    await lab.ip(CLOUD, 'link', 'set', `qt${n}`, 'mtu', '1400', 'master', 'br0', 'up');
    await overlayDevice(lab, `edge${n}`, 'qt0', n, 1400);
  }
  await overlayDevice(lab, CLOUD, 'br0', 0, 1400);
  return OVERLAY;
}

async function kernel(lab: Lab): Promise<Overlay> {
  await lab.sysctl(CLOUD, 'net.ipv4.ip_forward=1');
  await lab.ip('edge1', 'route', 'add', '10.71.2.0/24', 'via', hubAddress(1));
  await lab.ip('edge2', 'route', 'add', '10.71.1.0/24', 'via', hubAddress(2));
  return { cloud: hubAddress(1), edge2: '10.71.2.2' };
}

async function overlayDevice(lab: Lab, ns: string, device: string, n: number, mtu?: number): Promise<void> {
  await lab.address(ns, device, `${overlayAddress(n)}/24`);
  if (mtu !== undefined) await lab.ip(ns, 'link', 'set', device, 'mtu', String(mtu));
  await lab.ip(ns, 'link', 'set', device, 'up');
}

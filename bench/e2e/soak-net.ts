// The network of the soak and of the tests of faults: a hub, an edge behind a NAT and an edge with a public address, each
// the real command in a network namespace; and a checked transfer between two programs on the overlay all the while.
//
//   edge1 192.168.1.2 --- nat (masquerade) 203.0.113.2 --- hub 203.0.113.1 / 198.51.100.1 --- edge2 198.51.100.2
import { spawnSync } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { kubebus, nodePki } from '../../examples/lab/command.js';
import { type Daemon, type Lab, must, until } from '../../examples/lab/netns.js';

export interface FieldOptions {
  /** Of edge1: value of --transport. */
  readonly transport: string;
  readonly connections: number;
  readonly seed: number;
}

interface HubStatus {
  readonly accept: Readonly<Record<string, number>>;
  readonly nodes: readonly { readonly node: string; readonly upSeconds: number }[];
  readonly state: { readonly failures: number };
}

const HUB = '203.0.113.1';
const HUB2 = '198.51.100.1';
const PORT = 5001;
const peer = fileURLToPath(new URL('./soak-peer.mjs', import.meta.url));

export class Field {
  hub!: Daemon;
  edge1!: Daemon;
  edge2!: Daemon;
  private sender!: Daemon;
  /** edge2's address on the overlay. */
  target = '';
  private hostNumber = 2;
  private publicNumber = 2;
  private readonly dir: string;

  constructor(
    readonly lab: Lab,
    private readonly options: FieldOptions,
  ) {
    this.dir = join(lab.work, 'pki');
  }

  get state(): string {
    return join(this.lab.work, 'state');
  }

  async up(): Promise<void> {
    const { lab } = this;
    for (const ns of ['hub', 'nat', 'edge1', 'edge2']) await lab.ns(ns, { ipv6: false, forward: ns === 'nat' });
    await lab.veth('edge1', 'eth0', ['192.168.1.2/24'], 'nat', 'lan', ['192.168.1.1/24']);
    await lab.veth('nat', 'wan', ['203.0.113.2/24'], 'hub', 'eth0', [`${HUB}/24`]);
    await lab.veth('edge2', 'eth0', ['198.51.100.2/24'], 'hub', 'eth1', [`${HUB2}/24`]);
    await lab.ip('edge1', 'route', 'add', 'default', 'via', '192.168.1.1');
    await lab.nft(
      'nat',
      'add table ip nat; add chain ip nat post { type nat hook postrouting priority 100; }; add rule ip nat post oifname "wan" masquerade; add table ip fault; add chain ip fault pass { type filter hook forward priority 0; }',
    );
    const nodes = ['edge1', 'edge2'].map((node) => ({ tenant: 'acme', node }));
    await nodePki(this.dir, [HUB, HUB2], nodes);
    // Small, and in memory: so that it can be full.
    mkdirSync(this.state);
    await must('mount', ['-t', 'tmpfs', '-o', 'size=128k', 'tmpfs', this.state]);
    lab.onDown(() => void spawnSync('umount', ['-l', this.state]));
    this.startHub();
    this.edge1 = this.startEdge('edge1');
    this.edge2 = this.startEdge('edge2');
    await Promise.all([this.hub.logged(/cloud up/, 40_000), this.edge1.logged(/edge up/, 40_000)]);
    await this.edge2.logged(/edge up/, 40_000);
    this.target = (await lab.addresses('edge2', 'kb0'))[0]!;
    await lab.waitPing('edge1', this.target);
    lab.spawn('edge2', process.execPath, [peer, 'echo', this.target, String(PORT)]);
    await lab.waitListen('edge2', PORT, 20_000);
    this.sender = lab.spawn('edge1', process.execPath, [
      peer,
      'send',
      this.target,
      String(PORT),
      String(this.options.seed),
    ]);
    await this.progress(20_000);
  }

  startHub(): void {
    const { lab, dir } = this;
    const files = ['--cert', `${dir}/cloud.crt`, '--key', `${dir}/cloud.key`, '--ca', `${dir}/ca.crt`];
    this.hub = kubebus(lab, 'hub', [
      ...['cloud', '--tenant', 'acme=10.80.0.0/16', '--transport', 'tcp,quic', ...files],
      ...['--state', this.state, '--status-socket', this.socket],
    ]);
  }

  /** A second edge1, on the host of edge2. */
  startClone(): Daemon {
    return this.startEdge('edge2', 'edge1', []);
  }

  startEdge(ns: 'edge1' | 'edge2', identity: string = ns, tun: readonly string[] = ['--tun', 'kb0']): Daemon {
    const { lab, dir, options } = this;
    const cert = `${dir}/acme-${identity}`;
    const hub = ns === 'edge1' ? HUB : HUB2;
    const how = ns === 'edge1' ? ['--transport', options.transport, '--connections', String(options.connections)] : [];
    return kubebus(lab, ns, [
      ...['edge', '--cloud', `kubebus://${hub}:7443`, ...tun, ...how],
      ...['--cert', `${cert}.crt`, '--key', `${cert}.key`, '--ca', `${dir}/ca.crt`],
    ]);
  }

  private get socket(): string {
    return join(this.lab.work, 'hub.sock');
  }

  async status(): Promise<HubStatus> {
    const { connect } = await import('node:net');
    const { text } = await import('node:stream/consumers');
    return JSON.parse(await text(connect(this.socket))) as HubStatus;
  }

  /** Milliseconds until a ping between the edges is answered; throws after `boundMs`. */
  async answered(boundMs: number): Promise<number> {
    const start = performance.now();
    await until(
      `a ping within ${boundMs} ms`,
      boundMs,
      async () => (await this.lab.run('edge1', 'ping', ['-c1', '-W0.3', '-q', this.target])).code === 0,
      20,
    );
    return performance.now() - start;
  }

  /** Bytes that came back so far. Throws when the transfer failed. */
  received(): number {
    const lines = this.sender.log.trim().split('\n');
    const last = JSON.parse(lines.at(-1) || '{}') as { received?: number; failed?: string };
    if (last.failed !== undefined) throw new Error(`the transfer: ${last.failed} after ${last.received} bytes`);
    if (!this.sender.running) throw new Error(`the transfer's program ended: ${this.sender.log.slice(-200)}`);
    return last.received ?? 0;
  }

  /** Until the transfer has moved; milliseconds. */
  async progress(boundMs: number): Promise<number> {
    const start = performance.now();
    const before = this.received();
    await until(`the transfer to go on within ${boundMs} ms`, boundMs, () => this.received() > before);
    return performance.now() - start;
  }

  /** Ends the transfer: every byte is back and right. Returns how many. */
  async finish(): Promise<number> {
    this.sender.kill('SIGTERM');
    const [, received] = await this.sender.logged(/"done":true,"received":(\d+)/, 60_000);
    return Number(received);
  }

  /** The hub has exactly the two nodes, their connections, no handshake, and no socket more than these; waits for `boundMs`. */
  async noZombie(boundMs: number): Promise<void> {
    const wanted = this.options.connections + 1;
    let last = '';
    try {
      await until('no zombie', boundMs, async () => {
        const { accept, nodes } = await this.status();
        const ss = await this.lab.run('hub', 'ss', ['-tnH', 'state', 'established', 'sport = :7443']);
        const sockets = ss.stdout.trim().split('\n').filter(Boolean).length;
        // Of several transports any may carry a connection.
        const { transport } = this.options;
        const right = transport.includes('quic')
          ? sockets >= 1 && sockets <= (transport === 'quic' ? 1 : wanted)
          : sockets === wanted;
        last = JSON.stringify({ nodes: nodes.map((n) => n.node), accept, sockets });
        return nodes.length === 2 && accept.connections === wanted && accept.handshaking === 0 && right;
      });
    } catch (cause) {
      throw new Error(`zombies at the hub after ${boundMs} ms: ${last}`, { cause });
    }
  }

  // ---- what breaks things

  rules(...rules: string[]): Promise<void> {
    return this.lab.nft(
      'nat',
      ['flush chain ip fault pass', ...rules.map((rule) => `add rule ip fault pass ${rule}`)].join('; '),
    );
  }

  async cable(up: boolean): Promise<void> {
    await this.lab.ip('nat', 'link', 'set', 'lan', up ? 'up' : 'down');
  }

  /** The NAT gets another public address: its mappings are gone. */
  async rebind(): Promise<void> {
    const before = this.publicNumber;
    this.publicNumber = before === 2 ? 3 : 2;
    await this.lab.ip('nat', 'addr', 'add', `203.0.113.${this.publicNumber}/24`, 'dev', 'wan');
    await this.lab.ip('nat', 'addr', 'del', `203.0.113.${before}/24`, 'dev', 'wan');
    // Deleting the first address of a subnet deletes the second too.
    await this.lab.run('nat', 'ip', ['addr', 'add', `203.0.113.${this.publicNumber}/24`, 'dev', 'wan']);
  }

  /** The edge's host moves to another address of its network. */
  async renumber(): Promise<void> {
    const before = this.hostNumber;
    this.hostNumber = before === 2 ? 3 : 2;
    await this.lab.ip('edge1', 'addr', 'del', `192.168.1.${before}/24`, 'dev', 'eth0');
    await this.lab.ip('edge1', 'addr', 'add', `192.168.1.${this.hostNumber}/24`, 'dev', 'eth0');
    await this.lab.ip('edge1', 'route', 'add', 'default', 'via', '192.168.1.1');
  }
}

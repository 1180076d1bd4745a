// Load generators and meters of the vpn bench: iperf3, ping, /proc. All figures are of one sample.
import { readdirSync, readFileSync } from 'node:fs';
import { cpus } from 'node:os';
import { join } from 'node:path';
import { type Lab, run, until } from '../../examples/lab/netns.js';

/** Where a measurement runs: the client's namespace, the server's, and the server's overlay address. */
export interface Path {
  readonly lab: Lab;
  readonly client: string;
  readonly server: string;
  readonly target: string;
  /** Namespaces with daemons of the subject; the first is the hub. */
  readonly namespaces: readonly string[];
}

const HERTZ = Number((await run('getconf', ['CLK_TCK'])).stdout) || 100;
const CORES = cpus().length;
const TOOLS = new Set(['iperf3', 'ping', 'ip', 'ss', 'sh', 'sleep', 'timeout', 'tcpdump']);

interface ProcessTimes {
  readonly name: string;
  /** User and system time with reaped children, in clock ticks. */
  readonly ticks: number;
}

function processTimes(pid: number): ProcessTimes | undefined {
  let stat: string;
  try {
    stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
  } catch {
    return undefined;
  }
  const close = stat.lastIndexOf(')');
  const fields = stat.slice(close + 2).split(' ');
  const [user, system, childUser, childSystem] = fields.slice(11, 15).map(Number);
  return { name: stat.slice(stat.indexOf('(') + 1, close), ticks: user! + system! + childUser! + childSystem! };
}

/** Pids of the daemons (not of the measuring tools) in a namespace. */
export function daemonPids(lab: Lab, ns: string): number[] {
  return lab.pids(ns).filter((pid) => {
    const times = processTimes(pid);
    return times !== undefined && !TOOLS.has(times.name);
  });
}

function daemonSeconds(lab: Lab, ns: string): number {
  return daemonPids(lab, ns).reduce((sum, pid) => sum + (processTimes(pid)?.ticks ?? 0), 0) / HERTZ;
}

const SOFTIRQ_PIDS = readdirSync('/proc')
  .filter((name) => /^\d+$/.test(name))
  .map(Number)
  .filter((pid) => processTimes(pid)?.name.startsWith('ksoftirqd'));

function softirqSeconds(): number {
  return SOFTIRQ_PIDS.reduce((sum, pid) => sum + (processTimes(pid)?.ticks ?? 0), 0) / HERTZ;
}

/** Busy seconds of the whole machine, over all cores. */
function machineSeconds(): number {
  const cpu = readFileSync('/proc/stat', 'utf8').split('\n', 1)[0]!.split(/\s+/).slice(1).map(Number);
  const [user, nice, system, , , irq, softirq, steal] = cpu;
  return (user! + nice! + system! + irq! + softirq! + steal!) / HERTZ;
}

export interface Memory {
  /** VmRSS in MiB. */
  readonly rss: number;
  /** VmHWM, its peak, in MiB. */
  readonly peak: number;
}

/** Resident memory of all daemons in a namespace together; undefined where there is none. */
export function memory(lab: Lab, ns: string): Memory | undefined {
  const pids = daemonPids(lab, ns);
  if (pids.length === 0) return undefined;
  const kib = (pid: number, field: string): number => {
    try {
      return Number(
        new RegExp(`^${field}:\\s+(\\d+)`, 'm').exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1] ?? 0,
      );
    } catch {
      return 0;
    }
  };
  const sum = (field: string) => pids.reduce((total, pid) => total + kib(pid, field), 0) / 1024;
  return { rss: sum('VmRSS'), peak: sum('VmHWM') };
}

export interface Cpu {
  /** Seconds of all daemons, and of those in the hub's namespace. */
  readonly daemons: number;
  readonly hub: number;
  readonly iperf: number;
  /** Busy share of the machine (0 to 1) that neither daemons, iperf3 nor softirq threads explain: other work. */
  readonly foreign: number;
}

interface IperfSum {
  bytes: number;
  seconds: number;
  bits_per_second: number;
  packets?: number;
  retransmits?: number;
}

interface IperfJson {
  error?: string;
  end?: {
    sum_sent?: IperfSum;
    sum_received?: IperfSum;
    sum_received_bidir_reverse?: IperfSum;
    sum_sent_bidir_reverse?: IperfSum;
    cpu_utilization_percent?: { host_total: number; remote_total: number };
    sender_tcp_congestion?: string;
  };
}

export interface IperfRun {
  readonly json: IperfJson;
  readonly cpu: Cpu;
  /** Memory sampled in the middle of the run: edge (client's namespace) and hub. */
  readonly edgeMemory: Memory | undefined;
  readonly hubMemory: Memory | undefined;
}

/** One iperf3 run, client to server, with the CPU time it took. `error` of the JSON says when it failed. */
export async function iperf(
  path: Path,
  seconds: number,
  args: readonly string[],
  during?: () => Promise<void>,
): Promise<IperfRun> {
  const { lab, client, server, target, namespaces } = path;
  const daemon = lab.spawn(server, 'iperf3', ['-s', '-1', '-B', target]);
  try {
    await until(
      'iperf3 to listen',
      5_000,
      async () => (await lab.run(server, 'ss', ['-ltnH', 'sport = :5201'])).stdout.trim() !== '',
      10,
    );
    const meter = startMeter(lab, namespaces);
    let edgeMemory: Memory | undefined;
    let hubMemory: Memory | undefined;
    const middle = setTimeout(() => {
      edgeMemory = memory(lab, client);
      hubMemory = memory(lab, namespaces[0]!);
    }, seconds * 700);
    const [result] = await Promise.all([
      lab.run(client, 'iperf3', ['-c', target, '-J', '-t', String(seconds), '--connect-timeout', '3000', ...args], {
        timeoutMs: (seconds + 10) * 1000,
      }),
      during?.(),
    ]);
    clearTimeout(middle);
    let json: IperfJson;
    try {
      json = JSON.parse(result.stdout) as IperfJson;
    } catch {
      json = { error: result.timedOut ? 'timed out' : `no result: ${result.stderr.trim()}` };
    }
    const sent = json.end?.sum_sent;
    const use = json.end?.cpu_utilization_percent;
    const iperfSeconds = sent && use ? ((use.host_total + use.remote_total) / 100) * sent.seconds : 0;
    return { json, cpu: meter(iperfSeconds), edgeMemory, hubMemory };
  } finally {
    await daemon.stop('SIGTERM', 1_000);
  }
}

function startMeter(lab: Lab, namespaces: readonly string[]): (iperfSeconds: number) => Cpu {
  const read = () => ({
    hub: daemonSeconds(lab, namespaces[0]!),
    rest: namespaces.slice(1).reduce((sum, ns) => sum + daemonSeconds(lab, ns), 0),
    softirq: softirqSeconds(),
    machine: machineSeconds(),
    // The bench itself (polling, JSON) is known work, not foreign.
    self: (process.cpuUsage().user + process.cpuUsage().system) / 1e6,
    at: performance.now(),
  });
  const before = read();
  return (iperfSeconds) => {
    const after = read();
    const hub = after.hub - before.hub;
    const daemons = hub + after.rest - before.rest;
    const known = daemons + iperfSeconds + (after.softirq - before.softirq) + (after.self - before.self);
    const capacity = ((after.at - before.at) / 1000) * CORES;
    return {
      daemons,
      hub,
      iperf: iperfSeconds,
      foreign: Math.max(0, after.machine - before.machine - known) / capacity,
    };
  };
}

/** Waits, at most `maxMs`, until the machine is nearly idle (other work may run on it). */
export async function quiet(maxMs: number): Promise<boolean> {
  const end = performance.now() + maxMs;
  for (;;) {
    const before = machineSeconds();
    const start = performance.now();
    await new Promise((resolve) => setTimeout(resolve, 300));
    const share = (machineSeconds() - before) / (((performance.now() - start) / 1000) * CORES);
    if (share <= 0.12) return true;
    if (performance.now() >= end) return false;
  }
}

export interface PingResult {
  readonly p50: number;
  readonly p99: number;
  readonly max: number;
  /** Share of the probes without a reply, in percent. */
  readonly lossPercent: number;
}

/** Round-trip times in milliseconds by the system's ping. Throws when nothing came back. */
export async function ping(
  lab: Lab,
  ns: string,
  target: string,
  count: number,
  intervalSeconds: number,
): Promise<PingResult> {
  // To a file: a process that reads each line as it comes would take the processor, and its caches, from what is measured.
  const output = join(lab.work, `ping-${ns}`);
  const args = ['-c', String(count), '-i', String(intervalSeconds), '-W', '1', target];
  const result = await lab.run(ns, 'sh', ['-c', 'exec ping "$@" > "$0"', output, ...args], {
    timeoutMs: count * intervalSeconds * 1000 + 10_000,
  });
  const stdout = readFileSync(output, 'utf8');
  const times = [...stdout.matchAll(/time=([\d.]+)/g)].map((match) => Number(match[1])).sort((a, b) => a - b);
  if (times.length === 0)
    throw new Error(`no reply to ping: ${stdout.trim().split('\n').pop() ?? ''} ${result.stderr}`);
  const at = (q: number) => times[Math.min(times.length - 1, Math.floor(times.length * q))]!;
  return { p50: at(0.5), p99: at(0.99), max: times.at(-1)!, lossPercent: 100 * (1 - times.length / count) };
}

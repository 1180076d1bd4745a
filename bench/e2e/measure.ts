// What the vpn bench measures on one path, each figure on its own so that a noisy one can be taken again alone.
import { type Cpu, iperf, type Memory, type Path, ping, quiet } from './load.js';

/** One sample of one subject on one path. Absent = not measured; see `failures`. */
export interface Sample {
  tcpGbps?: number;
  tcpRetransmits?: number;
  /** Both directions at once, added up. */
  tcpBothGbps?: number;
  tcp4Gbps?: number;
  cpuPerGb?: number;
  hubCpuPerGb?: number;
  floodSentPps?: number;
  floodPps?: number;
  pacedPps?: number;
  rttP50?: number;
  rttP99?: number;
  loadedP50?: number;
  loadedP99?: number;
  loadedLossPercent?: number;
  edgeRss?: number;
  edgePeak?: number;
  hubRss?: number;
  hubPeak?: number;
  /** Largest share of foreign load (percent of the machine) among the kept figures. */
  foreignPercent?: number;
  failures: string[];
}

export interface Settings {
  /** Length of one TCP run in seconds. */
  readonly seconds: number;
  /** Length of a step of the search for the paced rate. */
  readonly stepSeconds: number;
  /** How often a figure with foreign load is taken again. */
  readonly tries: number;
  /** The longest wait for an idle machine before a figure, in milliseconds. */
  readonly quietMs: number;
  /** Foreign load (0 to 1 of the machine) above which a figure is taken again. */
  readonly foreignLimit: number;
  readonly log: (line: string) => void;
}

/** What can be measured, in order: each a part of a sample. */
export const FIGURES = ['ping', 'tcp', 'both', 'streams', 'loaded', 'flood', 'paced'] as const;
export type Figure = (typeof FIGURES)[number];

export async function measure(path: Path, figures: ReadonlySet<Figure>, settings: Settings): Promise<Sample> {
  const sample: Sample = { failures: [] };
  const step = async (figure: Figure | undefined, what: string, run: () => Promise<void>) => {
    if (figure !== undefined && !figures.has(figure)) return;
    try {
      await run();
    } catch (error) {
      sample.failures.push(`${what}: ${(error as Error).message.split('\n')[0]}`);
    }
  };
  const note = (cpu: Cpu) => {
    sample.foreignPercent = Math.max(sample.foreignPercent ?? 0, cpu.foreign * 100);
  };
  await quiet(settings.quietMs);
  // For all alike: code compiled at run time, caches and congestion windows are what they are in a network that is in use.
  await step(undefined, 'warm-up', async () => {
    throwOnError(await iperf(path, 1, []));
    await ping(path.lab, path.client, path.target, 3000, 0.001);
  });
  await quiet(settings.quietMs);
  await step('ping', 'ping', async () => {
    const idle = await ping(path.lab, path.client, path.target, 500, 0.002);
    sample.rttP50 = idle.p50;
    sample.rttP99 = idle.p99;
  });
  await step('tcp', 'tcp', async () => {
    const { value, cpu } = await cleanest(settings, () => tcp(path, settings.seconds, []));
    Object.assign(sample, value);
    note(cpu);
  });
  await step('both', 'tcp both ways', async () => {
    const { value, cpu } = await cleanest(settings, () => tcpBoth(path, settings.seconds));
    sample.tcpBothGbps = value;
    note(cpu);
  });
  await step('streams', 'tcp 4 streams', async () => {
    const { value, cpu } = await cleanest(settings, () => tcp(path, settings.seconds, ['-P', '4']));
    sample.tcp4Gbps = value.tcpGbps;
    note(cpu);
  });
  await step('loaded', 'ping under load', () => loadedPing(path, settings, sample));
  await step('flood', 'udp flood', async () => {
    const { value, cpu } = await cleanest(settings, () => udp(path, Math.min(3, settings.seconds), 0));
    sample.floodPps = value.receivedPps;
    sample.floodSentPps = value.sentPps;
    note(cpu);
  });
  await step('paced', 'udp paced', async () => {
    sample.pacedPps = await highestPaced(path, settings, sample.floodPps ?? 50_000);
  });
  return sample;
}

/** Repeats until one run had little foreign load; gives the cleanest. */
async function cleanest<T>(
  settings: Settings,
  run: () => Promise<{ value: T; cpu: Cpu }>,
): Promise<{ value: T; cpu: Cpu }> {
  let best: { value: T; cpu: Cpu } | undefined;
  for (let attempt = 1; ; attempt++) {
    const result = await run();
    if (best === undefined || result.cpu.foreign < best.cpu.foreign) best = result;
    if (best.cpu.foreign <= settings.foreignLimit || attempt >= settings.tries) return best;
    settings.log(`    ${Math.round(result.cpu.foreign * 100)} % foreign load, again`);
    await quiet(settings.quietMs);
  }
}

function throwOnError<T extends { json: { error?: string } }>(result: T): T {
  if (result.json.error !== undefined) throw new Error(result.json.error);
  return result;
}

interface TcpFigures {
  tcpGbps: number;
  tcpRetransmits: number;
  cpuPerGb: number;
  hubCpuPerGb: number;
  edgeRss?: number;
  edgePeak?: number;
  hubRss?: number;
  hubPeak?: number;
}

async function tcp(path: Path, seconds: number, args: readonly string[]): Promise<{ value: TcpFigures; cpu: Cpu }> {
  const { json, cpu, edgeMemory, hubMemory } = throwOnError(await iperf(path, seconds, args));
  const received = json.end?.sum_received;
  if (!received || received.bytes === 0) throw new Error('nothing received');
  const gigabytes = received.bytes / 1e9;
  const memoryOf = (prefix: 'edge' | 'hub', memory: Memory | undefined) =>
    memory ? { [`${prefix}Rss`]: memory.rss, [`${prefix}Peak`]: memory.peak } : {};
  return {
    cpu,
    value: {
      tcpGbps: received.bits_per_second / 1e9,
      tcpRetransmits: json.end?.sum_sent?.retransmits ?? 0,
      cpuPerGb: cpu.daemons / gigabytes,
      hubCpuPerGb: cpu.hub / gigabytes,
      ...memoryOf('edge', edgeMemory),
      ...memoryOf('hub', hubMemory),
    },
  };
}

async function tcpBoth(path: Path, seconds: number): Promise<{ value: number; cpu: Cpu }> {
  const { json, cpu } = throwOnError(await iperf(path, seconds, ['--bidir']));
  const there = json.end?.sum_received?.bits_per_second ?? 0;
  const back = json.end?.sum_received_bidir_reverse?.bits_per_second ?? 0;
  if (there === 0 || back === 0) throw new Error('one direction received nothing');
  return { cpu, value: (there + back) / 1e9 };
}

interface UdpFigures {
  sentPps: number;
  receivedPps: number;
  lossPercent: number;
}

/** 64-byte datagrams at `pps` (0 = as fast as iperf3 can). */
async function udp(path: Path, seconds: number, pps: number): Promise<{ value: UdpFigures; cpu: Cpu }> {
  const { json, cpu } = throwOnError(await iperf(path, seconds, ['-u', '-l', '64', '-b', String(pps * 64 * 8)]));
  const sent = json.end?.sum_sent;
  const received = json.end?.sum_received;
  if (!sent?.packets || !received) throw new Error('no result');
  const got = received.bytes / 64;
  return {
    cpu,
    value: {
      sentPps: sent.packets / sent.seconds,
      receivedPps: got / Math.max(sent.seconds, received.seconds),
      lossPercent: 100 * (1 - got / sent.packets),
    },
  };
}

/** Bisection for the highest rate with at most 1 % lost; a step that fails beside foreign load is tried again. */
async function highestPaced(path: Path, settings: Settings, flood: number): Promise<number> {
  const passes = async (pps: number): Promise<boolean> => {
    for (let attempt = 1; ; attempt++) {
      const { value, cpu } = await udp(path, settings.stepSeconds, pps);
      if (value.sentPps >= 0.95 * pps && value.lossPercent <= 1) return true;
      if (cpu.foreign <= settings.foreignLimit || attempt >= settings.tries) return false;
      await quiet(settings.quietMs);
    }
  };
  // The flood's rate is a first guess; widen from it until it brackets the answer, then halve to within 3 %.
  let low = 0;
  let high = 0;
  for (let guess = Math.max(2_000, flood); high === 0; ) {
    if (await passes(guess)) {
      low = guess;
      guess *= 1.4;
      if (guess > 1e6) return low;
    } else high = guess;
  }
  for (let widen = 0; low === 0 && widen < 5; widen++) {
    const guess = high / 1.6;
    if (await passes(guess)) low = guess;
    else high = guess;
  }
  while (high - low > 0.03 * high) {
    const middle = (low + high) / 2;
    if (await passes(middle)) low = middle;
    else high = middle;
  }
  return low;
}

async function loadedPing(path: Path, settings: Settings, sample: Sample): Promise<void> {
  const seconds = Math.max(2, settings.seconds);
  const result = await iperf(path, seconds + 1, [], async () => {
    // Half a second for the stream to fill the path; then probe until just before its end.
    await new Promise((resolve) => setTimeout(resolve, 500));
    const probes = Math.round(seconds * 100);
    const loaded = await ping(path.lab, path.client, path.target, probes, 0.01);
    sample.loadedP50 = loaded.p50;
    sample.loadedP99 = loaded.p99;
    sample.loadedLossPercent = loaded.lossPercent;
  });
  throwOnError(result);
}

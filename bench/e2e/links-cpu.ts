// What the hub's process of links-fleet.ts has used.

export interface HubCpu {
  /** Seconds so far. */
  readonly cpu: number;
  /** MiB: now, the most so far, and of that in JavaScript's heap and buffers now. */
  readonly rss: number;
  readonly peak: number;
  readonly heap: number;
}

export function hubCpu(): HubCpu {
  const { user, system } = process.cpuUsage();
  const { rss, heapUsed, external } = process.memoryUsage();
  return {
    cpu: (user + system) / 1e6,
    rss: rss / 2 ** 20,
    peak: process.resourceUsage().maxRSS / 1024,
    heap: (heapUsed + external) / 2 ** 20,
  };
}

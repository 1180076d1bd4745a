// Core: what went through a proxy, by tenant, node and service.

import type { ServiceAddress } from './address.js';

/** Sums, as one proxy tells them to another. */
export interface Passed {
  readonly service: string;
  requests: number;
  /** Answers by first digit of the status; [0]: the caller went away before. */
  readonly statuses: number[];
  bytesIn: number;
  bytesOut: number;
  /** Sum of durations, for an average. */
  seconds: number;
  readonly buckets: number[];
}

export interface Traffic extends Passed {
  readonly tenant: string;
  readonly node: string;
  active: number;
}

/** Upper bounds of durations, seconds. */
export const DURATION_BUCKETS = [0.005, 0.025, 0.1, 0.5, 2.5, 10, 60] as const;
const MAX_KEYS = 10_000;

export class Metrics {
  private readonly services = new Map<string, Traffic>();
  /** Requests that named no service that there is. */
  readonly refused = new Map<string, number>();

  /** Names come from the caller: only those of services that exist may be given. */
  of({ tenant, node, service }: ServiceAddress): Traffic {
    const key = `${tenant}/${node}/${service}`;
    let traffic = this.services.get(key);
    if (traffic === undefined) {
      traffic = {
        tenant,
        node,
        service,
        requests: 0,
        statuses: [0, 0, 0, 0, 0, 0],
        bytesIn: 0,
        bytesOut: 0,
        active: 0,
        seconds: 0,
        buckets: new Array<number>(DURATION_BUCKETS.length + 1).fill(0),
      };
      if (this.services.size >= MAX_KEYS) this.services.delete(this.services.keys().next().value!);
      this.services.set(key, traffic);
    }
    return traffic;
  }

  /** What another proxy counted. */
  add(address: ServiceAddress, passed: Passed): void {
    const traffic = this.of(address);
    traffic.requests += passed.requests;
    traffic.bytesIn += passed.bytesIn;
    traffic.bytesOut += passed.bytesOut;
    traffic.seconds += passed.seconds;
    traffic.statuses.forEach((_, i) => {
      traffic.statuses[i]! += passed.statuses[i]!;
    });
    traffic.buckets.forEach((_, i) => {
      traffic.buckets[i]! += passed.buckets[i]!;
    });
  }

  /** All that there is, and begins anew. */
  take(): Traffic[] {
    const all = this.list();
    this.services.clear();
    return all;
  }

  refuse(code: string): void {
    this.refused.set(code, (this.refused.get(code) ?? 0) + 1);
  }

  list(): Traffic[] {
    return [...this.services.values()];
  }

  prometheus(): string {
    return prometheusText(this.list(), this.refused);
  }
}

/** Text exposition of Prometheus. */
export function prometheusText(all: readonly Traffic[], refused: Iterable<readonly [string, number]>): string {
  const lines: string[] = [];
  const family = (name: string, type: string, help: string, rows: readonly string[]) => {
    lines.push(`# HELP kubebus_http_${name} ${help}`, `# TYPE kubebus_http_${name} ${type}`);
    for (const row of rows) lines.push(`kubebus_http_${name}${row}`);
  };
  const labels = (t: Traffic, more = '') => `tenant="${t.tenant}",node="${t.node}",service="${t.service}"${more}`;
  family(
    'requests_total',
    'counter',
    'Requests by class of status; 0xx: the caller went away.',
    all.flatMap((t) => t.statuses.map((n, i) => `{${labels(t, `,status="${i}xx"`)}} ${n}`)),
  );
  family(
    'received_bytes_total',
    'counter',
    'Bytes of request bodies.',
    all.map((t) => `{${labels(t)}} ${t.bytesIn}`),
  );
  family(
    'sent_bytes_total',
    'counter',
    'Bytes of answers.',
    all.map((t) => `{${labels(t)}} ${t.bytesOut}`),
  );
  family(
    'active',
    'gauge',
    'Requests and tunnels in progress.',
    all.map((t) => `{${labels(t)}} ${t.active}`),
  );
  family(
    'duration_seconds',
    'histogram',
    'From the head of the request to the end of the answer.',
    all.flatMap((t) => {
      let sum = 0;
      const rows = t.buckets.map((n, i) => {
        sum += n;
        return `_bucket{${labels(t, `,le="${DURATION_BUCKETS[i] ?? '+Inf'}"`)}} ${sum}`;
      });
      return [...rows, `_sum{${labels(t)}} ${t.seconds}`, `_count{${labels(t)}} ${sum}`];
    }),
  );
  family(
    'refused_total',
    'counter',
    'Requests that reached no service.',
    [...refused].map(([code, n]) => `{code="${code}"} ${n}`),
  );
  return `${lines.join('\n')}\n`;
}

export function observe(traffic: Traffic, seconds: number, status: number, bytesIn: number, bytesOut: number): void {
  traffic.requests++;
  traffic.statuses[Math.min(5, Math.floor(status / 100))]!++;
  traffic.bytesIn += bytesIn;
  traffic.bytesOut += bytesOut;
  traffic.seconds += seconds;
  const at = DURATION_BUCKETS.findIndex((bound) => seconds <= bound);
  traffic.buckets[at < 0 ? DURATION_BUCKETS.length : at]!++;
}

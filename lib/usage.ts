// Core: bytes carried for each node of each tenant, over links and restarts. What a link counts (frames with their headers, control
// too; not TLS and TCP) is what is accounted.

export interface Usage {
  /** Bytes from the node, and to it. */
  readonly bytesIn: number;
  readonly bytesOut: number;
}

interface Counted {
  bytesIn: number;
  bytesOut: number;
}

export class UsageBook {
  private readonly tenants = new Map<string, Map<string, Counted>>();

  add(tenant: string, node: string, usage: Usage): void {
    const nodes = this.tenants.get(tenant) ?? new Map<string, Counted>();
    const sum = nodes.get(node) ?? { bytesIn: 0, bytesOut: 0 };
    sum.bytesIn += usage.bytesIn;
    sum.bytesOut += usage.bytesOut;
    nodes.set(node, sum);
    this.tenants.set(tenant, nodes);
  }

  of(tenant: string, node: string): Usage {
    return { bytesIn: 0, bytesOut: 0, ...this.tenants.get(tenant)?.get(node) };
  }

  total(tenant: string): Usage {
    const sum = { bytesIn: 0, bytesOut: 0 };
    for (const usage of this.tenants.get(tenant)?.values() ?? []) {
      sum.bytesIn += usage.bytesIn;
      sum.bytesOut += usage.bytesOut;
    }
    return sum;
  }

  nodes(tenant: string): readonly string[] {
    return [...(this.tenants.get(tenant)?.keys() ?? [])];
  }

  forget(tenant: string, node: string): void {
    this.tenants.get(tenant)?.delete(node);
  }

  snapshot(): unknown {
    return Object.fromEntries([...this.tenants].map(([tenant, nodes]) => [tenant, Object.fromEntries(nodes)]));
  }

  /** What is no number of bytes is left out: a damaged count must not keep a cloud from starting. */
  restore(document: unknown): void {
    if (!isRecord(document)) return;
    for (const [tenant, nodes] of Object.entries(document)) {
      if (!isRecord(nodes)) continue;
      for (const [node, usage] of Object.entries(nodes)) {
        if (isRecord(usage) && isCount(usage.bytesIn) && isCount(usage.bytesOut))
          this.add(tenant, node, { bytesIn: usage.bytesIn, bytesOut: usage.bytesOut });
      }
    }
  }
}

function isRecord(v: unknown): v is Record<string, unknown> {
  return typeof v === 'object' && v !== null && !Array.isArray(v);
}

function isCount(v: unknown): v is number {
  return typeof v === 'number' && Number.isFinite(v) && v >= 0;
}

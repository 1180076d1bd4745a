// Core: all services that the cloud knows, by tenant and node, with a revision per change, so that a node which comes back asks only
// for what changed since. A node that is offline stays known, so that "offline" and "unknown" can be told apart.

import { KubeBusError } from '../core/index.js';
import { mayCall } from './access.js';
import { MAX_SERVICES_PER_NODE } from './registry-wire.js';
import { type NodeServices, readService, type ServiceInfo, sameService, withoutDirect } from './service.js';

export interface RegistryLimits {
  /** Nodes that are remembered per tenant; beyond it the node that has been offline longest is forgotten. **Default:** 10,000. */
  readonly nodesPerTenant: number;
  /** **Default:** 256. */
  readonly servicesPerNode: number;
}

export const DEFAULT_REGISTRY_LIMITS: RegistryLimits = {
  nodesPerTenant: 10_000,
  servicesPerNode: MAX_SERVICES_PER_NODE,
};

interface Entry {
  readonly tenant: string;
  readonly node: string;
  online: boolean;
  services: Map<string, ServiceInfo>;
  revision: number;
}

export type RegistryListener = (entry: NodeServices & { readonly revision: number }, gone: boolean) => void;

export class Registry {
  private readonly tenants = new Map<string, Map<string, Entry>>();
  private readonly listeners = new Set<RegistryListener>();
  private revisionNow = 0;
  /** Up to this revision forgotten nodes are no longer told: who knows less gets everything. */
  private forgotten = 0;

  /** `epoch`: differs whenever revisions start anew. */
  constructor(
    readonly epoch: string,
    tenants: Iterable<string>,
    private readonly limits: RegistryLimits = DEFAULT_REGISTRY_LIMITS,
  ) {
    for (const tenant of tenants) this.tenants.set(tenant, new Map());
  }

  get revision(): number {
    return this.revisionNow;
  }

  hasTenant(tenant: string): boolean {
    return this.tenants.has(tenant);
  }

  get(tenant: string, node: string): NodeServices | undefined {
    const entry = this.tenants.get(tenant)?.get(node);
    return entry === undefined ? undefined : view(entry);
  }

  /** One service without a copy of the others. */
  find(
    tenant: string,
    node: string,
    service: string,
  ): { online: boolean; service: ServiceInfo | undefined } | undefined {
    const entry = this.tenants.get(tenant)?.get(node);
    return entry === undefined ? undefined : { online: entry.online, service: entry.services.get(service) };
  }

  list(): NodeServices[] {
    return [...this.tenants.values()].flatMap((nodes) => [...nodes.values()].map(view));
  }

  /** Nodes of the tenant that are online and have a healthy service of that name. */
  having(tenant: string, service: string): string[] {
    const found: string[] = [];
    for (const entry of this.tenants.get(tenant)?.values() ?? []) {
      if (entry.online && entry.services.get(service)?.healthy === true) found.push(entry.node);
    }
    return found;
  }

  /** The node has a link now, or has lost it. */
  setOnline(tenant: string, node: string, online: boolean): void {
    const entry = this.entry(tenant, node);
    if (entry.online === online) return;
    entry.online = online;
    if (!online) {
      // Last in the order of insertion is the one that went last.
      const nodes = this.tenants.get(tenant)!;
      nodes.delete(node);
      nodes.set(node, entry);
    }
    this.changed(entry);
  }

  /** All services of the node. **Throws** ERR_SERVICE_LIMIT. */
  replace(tenant: string, node: string, services: readonly ServiceInfo[]): void {
    this.checkLimit(services.length);
    const entry = this.entry(tenant, node);
    const same =
      entry.services.size === services.length &&
      services.every((s) => {
        const before = entry.services.get(s.name);
        return before !== undefined && sameService(before, s);
      });
    if (same) return;
    entry.services = new Map(services.map((s) => [s.name, s]));
    this.changed(entry);
  }

  /** **Throws** ERR_SERVICE_LIMIT. */
  put(tenant: string, node: string, service: ServiceInfo): void {
    const entry = this.entry(tenant, node);
    const before = entry.services.get(service.name);
    if (before !== undefined && sameService(before, service)) return;
    if (before === undefined) this.checkLimit(entry.services.size + 1);
    entry.services.set(service.name, service);
    this.changed(entry);
  }

  remove(tenant: string, node: string, name: string): void {
    const entry = this.entry(tenant, node);
    if (entry.services.delete(name)) this.changed(entry);
  }

  /** Forgets a node for good. */
  forget(tenant: string, node: string): void {
    const entry = this.tenants.get(tenant)?.get(node);
    if (entry === undefined) return;
    this.tenants.get(tenant)!.delete(node);
    entry.revision = ++this.revisionNow;
    this.forgotten = this.revisionNow;
    for (const listener of this.listeners) listener({ ...view(entry), revision: entry.revision }, true);
  }

  /**
   * What a viewer of `tenant` has to be told since `revision` of `epoch`: its own tenant's nodes whole, and of others the services that
   * are granted to it. `full`: the viewer is to forget what it knew.
   */
  since(
    tenant: string,
    epoch: string,
    revision: number,
  ): { full: boolean; entries: (NodeServices & { revision: number })[] } {
    const full = epoch !== this.epoch || revision > this.revisionNow || revision < this.forgotten;
    const entries: (NodeServices & { revision: number })[] = [];
    for (const nodes of this.tenants.values()) {
      for (const entry of nodes.values()) {
        if (!full && entry.revision <= revision) continue;
        const seen = seenBy(tenant, { ...view(entry), revision: entry.revision });
        // What is not seen any more has to be told, too, unless the viewer starts empty.
        if (seen.tenant === tenant || seen.services.length > 0 || !full) entries.push(seen);
      }
    }
    entries.sort((a, b) => a.revision - b.revision);
    return { full, entries };
  }

  /** Calls back for every change from now on. Returns how to end it. */
  watch(listener: RegistryListener): () => void {
    this.listeners.add(listener);
    return () => this.listeners.delete(listener);
  }

  /** For the state on disk. */
  snapshot(): unknown {
    return Object.fromEntries(
      [...this.tenants].map(([tenant, nodes]) => [
        tenant,
        Object.fromEntries([...nodes].map(([node, entry]) => [node, [...entry.services.values()]])),
      ]),
    );
  }

  /** From the state on disk: all nodes offline. What is not valid is left out. */
  restore(record: unknown): void {
    if (typeof record !== 'object' || record === null) return;
    for (const [tenant, nodes] of Object.entries(record)) {
      if (!this.tenants.has(tenant) || typeof nodes !== 'object' || nodes === null) continue;
      for (const [node, services] of Object.entries(nodes as Record<string, unknown>)) {
        if (!Array.isArray(services)) continue;
        const entry = this.entry(tenant, node);
        for (const value of services) {
          const service = readService(value);
          if (service !== null) entry.services.set(service.name, service);
        }
      }
    }
  }

  private checkLimit(count: number): void {
    if (count > this.limits.servicesPerNode) {
      throw new KubeBusError('ERR_SERVICE_LIMIT', `more than ${this.limits.servicesPerNode} services on one node`);
    }
  }

  private entry(tenant: string, node: string): Entry {
    const nodes = this.tenants.get(tenant);
    if (nodes === undefined) throw new KubeBusError('ERR_HTTP_TENANT_UNKNOWN', `no tenant ${tenant}`);
    let entry = nodes.get(node);
    if (entry === undefined) {
      if (nodes.size >= this.limits.nodesPerTenant) this.forgetOldest(tenant, nodes);
      entry = { tenant, node, online: false, services: new Map(), revision: 0 };
      nodes.set(node, entry);
    }
    return entry;
  }

  private forgetOldest(tenant: string, nodes: ReadonlyMap<string, Entry>): void {
    for (const entry of nodes.values()) {
      if (entry.online) continue;
      this.forget(tenant, entry.node);
      return;
    }
    throw new KubeBusError('ERR_SERVICE_LIMIT', `more than ${this.limits.nodesPerTenant} nodes in ${tenant}`);
  }

  private changed(entry: Entry): void {
    entry.revision = ++this.revisionNow;
    const told = { ...view(entry), revision: entry.revision };
    for (const listener of this.listeners) listener(told, false);
  }
}

/** What a viewer of `tenant` may know of an entry. */
export function seenBy<T extends NodeServices>(tenant: string, entry: T): T {
  if (entry.tenant === tenant) return { ...entry, services: entry.services.map(withoutDirect) };
  const viewer = { kind: 'tenant', tenant, node: '' } as const;
  // Public services of others can be called, but are not listed: tenants stay unknown to each other.
  const services = entry.services
    .filter((s) => s.grants.includes(tenant) && mayCall(viewer, entry.tenant, s))
    .map((s) => ({ ...withoutDirect(s), grants: [tenant] }));
  return { ...entry, services };
}

function view({ tenant, node, online, services }: Entry): NodeServices {
  return { tenant, node, online, services: [...services.values()] };
}

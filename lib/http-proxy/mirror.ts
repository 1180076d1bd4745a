// Core: what a node knows of the services around it, from the cloud's registry.

import type { CloudMessage } from './registry-wire.js';
import type { NodeServices, ServiceInfo } from './service.js';

export class Mirror {
  private readonly nodes = new Map<string, NodeServices>();
  private epochNow = '';
  private revisionNow = 0;

  get epoch(): string {
    return this.epochNow;
  }

  get revision(): number {
    return this.revisionNow;
  }

  /** True if the list changed. */
  handle(message: CloudMessage): boolean {
    switch (message.type) {
      case 'sync':
        this.epochNow = message.epoch;
        this.revisionNow = message.full ? 0 : Math.max(this.revisionNow, message.revision);
        if (!message.full || this.nodes.size === 0) return false;
        this.nodes.clear();
        return true;
      case 'node': {
        const { tenant, node, online, services, revision } = message;
        this.revisionNow = Math.max(this.revisionNow, revision);
        this.nodes.set(`${tenant}/${node}`, { tenant, node, online, services });
        return true;
      }
      case 'gone':
        this.revisionNow = Math.max(this.revisionNow, message.revision);
        return this.nodes.delete(`${message.tenant}/${message.node}`);
      default:
        return false;
    }
  }

  get(tenant: string, node: string): NodeServices | undefined {
    return this.nodes.get(`${tenant}/${node}`);
  }

  list(): NodeServices[] {
    return [...this.nodes.values()];
  }

  having(tenant: string, service: string): string[] {
    const has = (s: ServiceInfo) => s.name === service && s.healthy;
    return this.list()
      .filter((n) => n.tenant === tenant && n.online && n.services.some(has))
      .map((n) => n.node);
  }
}

// What a node says of a service of its own; travels in the registry.

import { isServiceName } from './address.js';

export interface ServiceInfo {
  readonly name: string;
  readonly kind: 'http' | 'tcp';
  /** Open to the Internet gateway. */
  readonly public: boolean;
  /** Tenants besides its own that may call. */
  readonly grants: readonly string[];
  /** At least one instance answers. */
  readonly healthy: boolean;
  readonly instances: number;
  /** Overlay port of a tcp service. */
  readonly port?: number;
}

export interface NodeServices {
  readonly tenant: string;
  readonly node: string;
  readonly online: boolean;
  readonly services: readonly ServiceInfo[];
}

/** Checked against hostile input; null: it is none. */
export function readService(value: unknown): ServiceInfo | null {
  if (typeof value !== 'object' || value === null) return null;
  const v = value as Record<string, unknown>;
  const { name, kind, grants, instances, port } = v;
  if (typeof name !== 'string' || !isServiceName(name) || (kind !== 'http' && kind !== 'tcp')) return null;
  if (!Array.isArray(grants) || grants.length > 256 || !grants.every((g) => typeof g === 'string' && isServiceName(g)))
    return null;
  if (port !== undefined && !isPort(port)) return null;
  return {
    name,
    kind,
    public: v.public === true,
    grants: grants as string[],
    healthy: v.healthy === true,
    instances: typeof instances === 'number' && Number.isInteger(instances) && instances > 0 ? instances : 1,
    ...(port === undefined ? {} : { port }),
  };
}

function isPort(value: unknown): value is number {
  return typeof value === 'number' && Number.isInteger(value) && value > 0 && value < 65_536;
}

export function sameService(a: ServiceInfo, b: ServiceInfo): boolean {
  return JSON.stringify(a) === JSON.stringify(b);
}

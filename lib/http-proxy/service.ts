// What a node says of a service of its own; travels in the registry.

import { isServiceName } from './address.js';

/** A service to which the cloud's proxy may speak itself: its node joins the two connections and reads nothing. */
export interface DirectAccess {
  /** Path under which the service lives on its own server, without its last slash. */
  readonly base: string;
  /** Authority of the service's URL. */
  readonly authority: string;
  /** The service sees that authority as Host, not what the caller asked for. */
  readonly ownHost: boolean;
}

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
  /** Told to the cloud only. */
  readonly direct?: DirectAccess;
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
  const direct = readDirect(v.direct);
  if (direct === null) return null;
  return {
    name,
    kind,
    public: v.public === true,
    grants: grants as string[],
    healthy: v.healthy === true,
    instances: typeof instances === 'number' && Number.isInteger(instances) && instances > 0 ? instances : 1,
    ...(port === undefined ? {} : { port }),
    ...(direct === undefined ? {} : { direct }),
  };
}

/** What ends up in the head of a request is nothing but a path and an authority (RFC 3986 §3.2, §3.3). */
function readDirect(value: unknown): DirectAccess | null | undefined {
  if (value === undefined) return undefined;
  if (typeof value !== 'object' || value === null) return null;
  const { base, authority, ownHost } = value as Record<string, unknown>;
  if (typeof base !== 'string' || !/^(?:\/[\w\-.~!$&'()*+,;=:@%/]{0,1023})?$/.test(base)) return null;
  if (typeof authority !== 'string' || !/^[\w\-.:[\]]{1,261}$/.test(authority)) return null;
  return { base, authority, ownHost: ownHost === true };
}

/** As others than the cloud see it: where it is on its node is nobody's business. */
export function withoutDirect(service: ServiceInfo): ServiceInfo {
  if (service.direct === undefined) return service;
  const { direct: _direct, ...shown } = service;
  return shown;
}

function isPort(value: unknown): value is number {
  return typeof value === 'number' && Number.isInteger(value) && value > 0 && value < 65_536;
}

export function sameService(a: ServiceInfo, b: ServiceInfo): boolean {
  return JSON.stringify(a) === JSON.stringify(b);
}

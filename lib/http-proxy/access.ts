// Who calls, and who may. Identity comes from the link (its certificate), never from a header.

import type { ServiceAddress } from './address.js';

/** `plane`: the cloud itself and its management services. `internet`: whoever reaches the gateway. */
export type Caller =
  | { readonly kind: 'internet' }
  | { readonly kind: 'plane' }
  | { readonly kind: 'tenant'; readonly tenant: string; readonly node: string };

export const INTERNET: Caller = { kind: 'internet' };
export const PLANE: Caller = { kind: 'plane' };

export interface Visibility {
  /** Open to the Internet gateway. */
  readonly public: boolean;
  /** Tenants besides its own that may call. */
  readonly grants: readonly string[];
}

export function mayCall(caller: Caller, owner: string, service: Visibility): boolean {
  if (caller.kind === 'plane') return true;
  if (caller.kind === 'tenant' && (caller.tenant === owner || service.grants.includes(caller.tenant))) return true;
  return service.public;
}

/** Whether the caller may know that the service is there: all of its own tenant, otherwise what it may call. */
export function maySee(caller: Caller, address: Pick<ServiceAddress, 'tenant'>, service: Visibility): boolean {
  return mayCall(caller, address.tenant, service);
}

/** Between the cloud and a node, in X-KubeBus-Caller; a node believes it only from the cloud's own address. */
export function formatCaller(caller: Caller): string {
  return caller.kind === 'tenant' ? `${caller.tenant}/${caller.node}` : caller.kind;
}

export function parseCaller(text: string | undefined): Caller | null {
  if (text === undefined) return null;
  if (text === 'internet') return INTERNET;
  if (text === 'plane') return PLANE;
  const match = /^([a-z0-9-]{1,63})\/([a-z0-9-]{1,63})$/.exec(text);
  return match === null ? null : { kind: 'tenant', tenant: match[1]!, node: match[2]! };
}

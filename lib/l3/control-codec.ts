// Control messages between bytes and values (proto/l3.proto, docs/spec/control.md). What decodes is legal: prefixes
// with host bits zero, known kinds, addresses of 4 or 16 bytes. Anything else is null, never an exception.

import { makePrefix, type Prefix } from './address.js';
import { kubebus } from './gen/messages.js';
import type { Route, RouteKind } from './route.js';

export interface Assignment {
  readonly addresses: readonly Uint8Array[];
  /** The tenant's edge pools. */
  readonly pools: readonly Prefix[];
  readonly mtu: number;
  /** The cloud's own addresses in the tenant. */
  readonly gateway: readonly Uint8Array[];
}

/** How much of the list of names somebody has. */
export interface NamesKnown {
  readonly count: number;
  readonly digest: Uint8Array;
}

/** The next part of the list of names (name-book.ts, name-view.ts). */
export interface NamesUpdate {
  readonly from: number;
  readonly to: number;
  /** Of the first `to` entries. */
  readonly digest: Uint8Array;
  /** The entries, still encoded: decodeNames. */
  readonly list: Uint8Array;
  readonly more: boolean;
}

export interface NameEntry {
  readonly node: string;
  /** None: forgotten. */
  readonly addresses: readonly Uint8Array[];
}

export type ControlMessage =
  | { readonly type: 'register'; readonly addresses: readonly Uint8Array[]; readonly names?: NamesKnown }
  | { readonly type: 'advertise'; readonly revision: number; readonly routes: readonly Route[]; readonly more: boolean }
  | ({ readonly type: 'assign' } & Assignment)
  | {
      readonly type: 'routes';
      readonly revision: number;
      readonly snapshot: boolean;
      readonly add: readonly Route[];
      readonly withdraw: readonly Route[];
      readonly more: boolean;
    }
  | { readonly type: 'refusal'; readonly code: string; readonly message: string; readonly prefixes: readonly Prefix[] }
  | ({ readonly type: 'names' } & NamesUpdate)
  /** A body that this version does not know: ignored. */
  | { readonly type: 'unknown' };

const KINDS: readonly RouteKind[] = ['edge', 'vm', 'container'];

/** Names longer than this are no node names (a URI SAN's part); it also bounds what a route costs. */
const MAX_NAME = 253;

/** Messages are cut at this many bytes of routes, so that a long set does not hold up keepalives. */
const CHUNK_BYTES = 24 * 1024;

/** Digests longer than this are none of ours. */
const MAX_DIGEST = 32;

const { Message, NameList } = kubebus.l3;

export function encodeControl(message: Exclude<ControlMessage, { type: 'unknown' }>): Uint8Array {
  return Message.encode(toWire(message)).finish();
}

/** The message, or null where the bytes are not one. */
export function decodeControl(bytes: Uint8Array): ControlMessage | null {
  try {
    return fromWire(Message.decode(bytes));
  } catch {
    return null;
  }
}

/** One entry of a NameList; entries behind each other are a NameList too. */
export function encodeName(node: string, addresses: readonly Uint8Array[]): Uint8Array {
  return NameList.encode({ names: [{ node, addresses: [...addresses] }] }).finish();
}

/** The entries, or null where the bytes are no list. */
export function decodeNames(list: Uint8Array): NameEntry[] | null {
  try {
    return NameList.decode(list).names.map(({ node, addresses }) => {
      if (!node || node.length > MAX_NAME) throw new RangeError('name');
      return { node, addresses: (addresses ?? []).map(address) };
    });
  } catch {
    return null;
  }
}

/** Splits routes so that each part fits one message. At least one part. */
export function chunkRoutes(routes: readonly Route[]): Route[][] {
  const parts: Route[][] = [[]];
  let bytes = 0;
  for (const route of routes) {
    const size = 32 + route.prefix.address.length + route.node.length * 3;
    if (bytes + size > CHUNK_BYTES) {
      parts.push([]);
      bytes = 0;
    }
    parts[parts.length - 1]!.push(route);
    bytes += size;
  }
  return parts;
}

function toWire(message: Exclude<ControlMessage, { type: 'unknown' }>): kubebus.l3.Message.$Properties {
  switch (message.type) {
    case 'register':
      return {
        register: {
          addresses: [...message.addresses],
          ...(message.names === undefined ? {} : { names: message.names.count, namesDigest: message.names.digest }),
        },
      };
    case 'advertise':
      return { advertise: { ...message, routes: message.routes.map(routeToWire) } };
    case 'assign': {
      const { addresses, pools, mtu, gateway } = message;
      return { assign: { addresses: [...addresses], pools: [...pools], mtu, gateway: [...gateway] } };
    }
    case 'routes': {
      const { revision, snapshot, add, withdraw, more } = message;
      return { routes: { revision, snapshot, add: add.map(routeToWire), withdraw: withdraw.map(routeToWire), more } };
    }
    case 'refusal':
      return { refusal: { ...message, prefixes: [...message.prefixes] } };
    case 'names': {
      const { from, to, digest, list, more } = message;
      return { names: { from, to, digest, list, more } };
    }
  }
}

function fromWire(wire: kubebus.l3.Message): ControlMessage {
  const { register, advertise, assign, routes, refusal, names } = wire;
  if (register) {
    const addresses = (register.addresses ?? []).map(address);
    if (!register.names) return { type: 'register', addresses };
    return { type: 'register', addresses, names: { count: register.names, digest: digest(register.namesDigest) } };
  }
  if (advertise) {
    const routes = (advertise.routes ?? []).map(routeFromWire);
    return { type: 'advertise', revision: advertise.revision ?? 0, more: advertise.more ?? false, routes };
  }
  if (assign) {
    return {
      type: 'assign',
      addresses: (assign.addresses ?? []).map(address),
      pools: (assign.pools ?? []).map(prefix),
      mtu: assign.mtu ?? 0,
      gateway: (assign.gateway ?? []).map(address),
    };
  }
  if (routes) {
    return {
      type: 'routes',
      revision: routes.revision ?? 0,
      snapshot: routes.snapshot ?? false,
      add: (routes.add ?? []).map(routeFromWire),
      withdraw: (routes.withdraw ?? []).map(routeFromWire),
      more: routes.more ?? false,
    };
  }
  if (refusal) {
    return {
      type: 'refusal',
      // For a person's eyes: no more of it than fits a line or two.
      code: (refusal.code ?? '').slice(0, 64),
      message: (refusal.message ?? '').slice(0, 1024),
      prefixes: (refusal.prefixes ?? []).map(prefix),
    };
  }
  if (names) {
    const { from, to, list, more } = names;
    return {
      type: 'names',
      from: from ?? 0,
      to: to ?? 0,
      digest: digest(names.digest),
      list: Uint8Array.from(list ?? []),
      more: more ?? false,
    };
  }
  return { type: 'unknown' };
}

function digest(bytes: Uint8Array | null | undefined): Uint8Array {
  if ((bytes?.length ?? 0) > MAX_DIGEST) throw new RangeError('digest');
  return Uint8Array.from(bytes ?? []);
}

function routeToWire(route: Route): kubebus.l3.Route.$Properties {
  const { prefix, metric, node } = route;
  return { prefix, metric, node, kind: KINDS.indexOf(route.kind) };
}

function routeFromWire(wire: kubebus.l3.Route.$Properties): Route {
  const kind = KINDS[wire.kind ?? 0];
  const node = wire.node ?? '';
  if (kind === undefined || node.length > MAX_NAME) throw new RangeError('route');
  return { prefix: prefix(wire.prefix ?? {}), kind, metric: wire.metric ?? 0, node };
}

/** Copies: the bytes of a message are only valid during the call. */
function prefix(wire: kubebus.l3.Prefix.$Properties): Prefix {
  const made = makePrefix(wire.address ?? new Uint8Array(0), wire.length ?? 0);
  if (made.address.some((byte, i) => byte !== wire.address![i])) throw new RangeError('host bits');
  return made;
}

function address(bytes: Uint8Array): Uint8Array {
  if (bytes.length !== 4 && bytes.length !== 16) throw new RangeError('address');
  return Uint8Array.from(bytes);
}

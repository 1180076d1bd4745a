// Which service a request means, and what is left for that service: the three forms of an address.
//   path       /<tenant>/<node>/<service>/<rest>
//   host       <service>.<node>.<tenant>.<domain>/<rest>
//   canonical  kubebus://<tenant>/<node>/<service>/<rest>
// Read first: RFC 3986 §3.3, §5.2.4 (paths and dot segments), RFC 9112 §3.2 (forms of the request target).

/** The node slot that means: any node of the tenant that has the service. A node of that name wins. */
export const ANY_NODE = 'any';

export interface ServiceAddress {
  readonly tenant: string;
  readonly node: string;
  readonly service: string;
}

export interface Addressed extends ServiceAddress {
  readonly form: 'path' | 'host';
  /** What the caller sees in front of the service's own paths; '' in the host form. */
  readonly prefix: string;
  /** Path and query for the service; starts with '/'. */
  readonly target: string;
  /** The path form without its last slash: relative links of the page would miss the service. */
  readonly bare: boolean;
}

/** `bad`: not a target that may be passed on; `none`: names no service. */
export type AddressFailure = { readonly failure: 'bad' | 'none'; readonly reason: string };

const LABEL = /^[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?$/;

export function isServiceName(text: string): boolean {
  return LABEL.test(text);
}

export function formatServiceAddress({ tenant, node, service }: ServiceAddress): string {
  return `${tenant}/${node}/${service}`;
}

/** `tenant/node/service` as it stands in X-KubeBus-Address; null: it is none. */
export function parseServiceAddress(text: string): ServiceAddress | null {
  const [tenant, node, service, ...more] = text.split('/');
  if (tenant === undefined || node === undefined || service === undefined || more.length > 0) return null;
  if (!LABEL.test(tenant) || !LABEL.test(node) || !LABEL.test(service)) return null;
  return { tenant, node, service };
}

/**
 * Reads a request's target and host. `domains`: under which the host form is served. An absolute target (RFC 9112 §3.2.2)
 * has precedence over the Host header.
 */
export function parseAddress(
  target: string,
  host: string | undefined,
  domains: readonly string[],
): Addressed | AddressFailure {
  let path = target;
  let authority = host;
  if (target.charCodeAt(0) !== 0x2f) {
    const match = /^(?:https?|kubebus):\/\/([^/?#]*)([^#]*)$/i.exec(target);
    if (match === null) return { failure: 'bad', reason: 'the request target is neither a path nor an absolute URL' };
    authority = match[1]!;
    path = match[2]! === '' || match[2]![0] === '?' ? `/${match[2]}` : match[2]!;
    if (/^kubebus:/i.test(target)) return inPath(`/${authority}${path}`);
  }
  if (path.includes('#')) return { failure: 'bad', reason: 'the request target has a fragment' };
  const labels = hostLabels(authority, domains);
  if (labels === null) return inPath(path);
  const [service, node, tenant] = labels;
  if (labels.length !== 3 || ![service, node, tenant].every((l) => LABEL.test(l!))) {
    return { failure: 'none', reason: 'the host name is not <service>.<node>.<tenant>.<domain>' };
  }
  const rest = safePath(path);
  if (rest === null) return escaping;
  return { tenant: tenant!, node: node!, service: service!, form: 'host', prefix: '', target: rest, bare: false };
}

const escaping: AddressFailure = {
  failure: 'bad',
  reason: 'the path leaves the service by dot segments, or hides some behind an encoding',
};

function inPath(path: string): Addressed | AddressFailure {
  const query = path.indexOf('?');
  const end = query < 0 ? path.length : query;
  const one = path.indexOf('/', 1);
  const two = one < 0 ? -1 : path.indexOf('/', one + 1);
  if (two < 0 || two >= end) return { failure: 'none', reason: 'the path is not /<tenant>/<node>/<service>/' };
  let three = path.indexOf('/', two + 1);
  if (three < 0 || three > end) three = end;
  const tenant = decodeName(path.slice(1, one));
  const node = decodeName(path.slice(one + 1, two));
  const service = decodeName(path.slice(two + 1, three));
  if (tenant === null || node === null || service === null) {
    return { failure: 'none', reason: 'the path is not /<tenant>/<node>/<service>/: names are lower-case DNS labels' };
  }
  const rest = three === end ? `/${path.slice(end)}` : path.slice(three);
  const safe = safePath(rest);
  if (safe === null) return escaping;
  return {
    tenant,
    node,
    service,
    form: 'path',
    prefix: `/${tenant}/${node}/${service}`,
    target: safe,
    bare: three === end,
  };
}

function decodeName(text: string): string | null {
  let name = text;
  if (text.includes('%')) {
    try {
      name = decodeURIComponent(text);
    } catch {
      return null;
    }
  }
  return LABEL.test(name) ? name : null;
}

/** Labels in front of one of the domains; null: the host is not under any. */
function hostLabels(authority: string | undefined, domains: readonly string[]): string[] | null {
  if (authority === undefined || domains.length === 0) return null;
  const host = authority.replace(/:\d*$/, '').replace(/\.$/, '').toLowerCase();
  for (const domain of domains) {
    if (host.length > domain.length + 1 && host.endsWith(domain) && host[host.length - domain.length - 1] === '.') {
      return host.slice(0, -domain.length - 1).split('.');
    }
  }
  return null;
}

// A dot segment, written out or percent-encoded, between separators that some server takes for one: '/', '\', '%2f', '%5c', and ';'
// (path parameters) behind it.
const DOT_SEGMENT = /(?:[/\\]|%2f|%5c)(?:\.|%2e){1,2}(?=$|[/\\;]|%2f|%5c|%3b)/i;
const HIDDEN = /(?:[\\]|%2f|%5c)(?:\.|%2e){1,2}(?=$|[/\\;]|%2f|%5c|%3b)|(?:\.|%2e){2}(?=[\\;]|%2f|%5c|%3b)/i;

/**
 * The path (and query) with dot segments removed as RFC 3986 §5.2.4 says; null: it climbs above the root, or hides a dot segment
 * behind an encoded separator, which a server behind us could take for one.
 */
export function safePath(target: string): string | null {
  const query = target.indexOf('?');
  const path = query < 0 ? target : target.slice(0, query);
  if (!DOT_SEGMENT.test(path)) return target;
  if (HIDDEN.test(path)) return null;
  const kept: string[] = [];
  const segments = path.split('/');
  for (let i = 1; i < segments.length; i++) {
    const segment = segments[i]!;
    const plain = segment.replace(/%2e/gi, '.');
    const last = i === segments.length - 1;
    if (plain === '..') {
      if (kept.length === 0) return null;
      kept.pop();
      if (last) kept.push('');
    } else if (plain === '.') {
      if (last) kept.push('');
    } else kept.push(segment);
  }
  return `/${kept.join('/')}${query < 0 ? '' : target.slice(query)}`;
}

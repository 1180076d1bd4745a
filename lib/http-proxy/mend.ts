// Response fields that hold addresses of the service's own world, turned into those of the caller's: Location, Content-Location, Refresh,
// and the Path and Domain of cookies. Read first: RFC 9110 §10.2.2, RFC 6265 §5.2.3, §5.2.4.

import { connectionOptions, passesInResponse } from './headers.js';

/** Authorities by which a service may call itself: its own, the caller's, and the caller's host with its own port (nginx does so). */
export function ownNames(host: string, authority: string): string[] {
  const name = host.replace(/:\d*$/, '');
  const port = /:\d+$/.exec(authority)?.[0] ?? '';
  return [authority, host, `${name}${port}`, name];
}

export interface Mend {
  /** Authorities by which the service may call itself; lower-case. */
  readonly hosts: readonly string[];
  /** Path under which the service lives on its own server; taken away. '' for none. */
  readonly base: string;
  /** What the caller sees in front; put on. '' for none. */
  readonly prefix: string;
  /** Path of the request in the service's own world, for relative references. */
  readonly path: string;
  /** Host that a cookie's Domain may name; null: cookies are not looked at. */
  readonly cookieHost: string | null;
}

export function mendResponse(raw: readonly string[], mend: Mend): string[] {
  const drop = connectionOptions(raw);
  const out: string[] = [];
  for (let i = 0; i < raw.length; i += 2) {
    const name = raw[i]!;
    let value = raw[i + 1]!;
    const lower = name.toLowerCase();
    if (!passesInResponse(lower, drop)) continue;
    switch (lower) {
      case 'location':
      case 'content-location':
        value = mendReference(value, mend);
        break;
      case 'refresh':
        value = mendRefresh(value, mend);
        break;
      case 'set-cookie':
        value = mendCookie(value, mend);
        break;
    }
    out.push(name, value);
  }
  return out;
}

/** `5; url=/x`, with or without quotes. In steps, none of which has a choice: one pattern for all takes cubic time with a value of spaces. */
function mendRefresh(value: string, mend: Mend): string {
  const head = /^\s*\d+\s*[;,]\s*url\s*=\s*/i.exec(value)?.[0];
  if (head === undefined) return value;
  const rest = value.slice(head.length).trimEnd();
  const mark = /^['"]/.exec(rest)?.[0] ?? '';
  if (mark !== '' && (rest.length < 2 || !rest.endsWith(mark))) return value;
  const url = rest.slice(mark.length, rest.length - mark.length);
  return /['"]/.test(url) ? value : `${head}${mark}${mendReference(url, mend)}${mark}`;
}

const ABSOLUTE = /^(?:(https?):)?\/\/([^/?#]*)(.*)$/i;

/** A URI reference as the caller has to see it. */
export function mendReference(value: string, mend: Mend): string {
  let reference = value.trim();
  const absolute = ABSOLUTE.exec(reference);
  if (absolute !== null) {
    if (!mend.hosts.includes(absolute[2]!.toLowerCase())) return value;
    const rest = absolute[3]!;
    reference = rest.startsWith('/') ? rest : `/${rest}`;
  } else if (/^[a-z][a-z0-9+.-]*:/i.test(reference)) return value;
  else if (!reference.startsWith('/')) {
    // Relative: right as it is, unless it climbs, because there is more above us than the service knows.
    if (mend.prefix === '' || !/(?:^|\/)\.\.(?:$|[/?#])/.test(reference)) return value;
    const url = new URL(reference, `http://service${mend.path}`);
    reference = `${url.pathname}${url.search}${url.hash}`;
  }
  return mendPath(reference, mend);
}

function mendPath(path: string, { base, prefix }: Mend): string {
  if (prefix !== '' && under(path, prefix)) return path;
  let rest = path;
  if (base !== '' && under(path, base)) {
    rest = path.slice(base.length);
    if (!rest.startsWith('/')) rest = `/${rest}`;
  }
  return `${prefix}${rest}`;
}

function under(path: string, base: string): boolean {
  return path.startsWith(base) && (path.length === base.length || /[/?#]/.test(path[base.length]!));
}

function mendCookie(cookie: string, mend: Mend): string {
  if (!cookie.includes(';')) return cookie;
  return cookie
    .split(';')
    .flatMap((part, i) => {
      if (i === 0) return [part];
      const [key = '', ...values] = part.split('=');
      const value = values.join('=').trim();
      switch (key.trim().toLowerCase()) {
        case 'path': {
          // RFC 6265 §5.2.4: without a leading slash it means the default path, which is right already.
          const path = value.startsWith('/') ? mendPath(value, mend) : value;
          return [` Path=${mend.prefix !== '' && path === mend.prefix ? `${path}/` : path}`];
        }
        case 'domain': {
          // A wider domain would reach the neighbours of other nodes and tenants: the cookie becomes one of this host only.
          if (mend.cookieHost === null) return [part];
          return value.replace(/^\./, '').toLowerCase() === mend.cookieHost && mend.prefix === '' ? [part] : [];
        }
        default:
          return [part];
      }
    })
    .join(';');
}

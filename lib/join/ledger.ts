// Core: what the cloud knows of tokens and of the nodes that it certified. Decides who gets a certificate, and whose counts.
// Times are milliseconds since the epoch: certificates are dated so. Rules in words: docs/spec/join.md.

import { KubeBusError } from '../core/index.js';
import { isName, type PeerIdentity } from '../l2/index.js';
import { parsePrefix } from '../l3/index.js';
import { fromHex, sameSecret } from './token.js';

export interface TokenScope {
  readonly tenant: string;
  /** The one node that may use it; it replaces an earlier device of that name. **Default:** any name that is free. */
  readonly node?: string;
  /** Prefixes that the node may advertise. **Default:** none. */
  readonly routes?: readonly string[];
  /** Milliseconds. **Default:** one hour. */
  readonly ttlMs?: number;
  /** Devices that may use it. **Default:** 1. */
  readonly uses?: number;
}

export interface TokenRecord {
  readonly id: string;
  /** SHA-256 of the secret, hexadecimal: the secret itself is nowhere. */
  readonly hash: string;
  readonly tenant: string;
  readonly node: string | null;
  readonly routes: readonly string[];
  readonly created: number;
  readonly expires: number;
  readonly uses: number;
  readonly used: { readonly key: string; readonly node: string; readonly at: number }[];
  revoked: number | null;
}

export interface NodeRecord {
  readonly tenant: string;
  readonly node: string;
  /** Hash of the key that the name belongs to; empty: none (revoked before it was known here). */
  key: string;
  prefixes: readonly string[];
  joined: number;
  /** Certificates that count; `authority`: fingerprint of the CA that signed it. */
  serials: { readonly serial: string; readonly expires: number; readonly authority?: string }[];
  revoked: number | null;
}

export type TokenState = 'open' | 'used' | 'expired' | 'revoked';

export interface LedgerLimits {
  /** Token records. **Default:** 100000. */
  readonly tokens: number;
  /** How long after its end a certificate may still be renewed. Milliseconds. **Default:** 90 days. */
  readonly graceMs: number;
  /** How long the record of a token is kept after its time. Milliseconds. **Default:** 7 days. */
  readonly keepMs: number;
}

const HOUR = 3600_000;
const DAY = 24 * HOUR;
export const DEFAULT_LEDGER: LedgerLimits = { tokens: 100_000, graceMs: 90 * DAY, keepMs: 7 * DAY };
/** Of one node: the newest count. */
const MAX_SERIALS = 8;

export class Ledger {
  private readonly tokens = new Map<string, TokenRecord>();
  private readonly nodes = new Map<string, NodeRecord>();

  constructor(private readonly limits: LedgerLimits = DEFAULT_LEDGER) {}

  // ---- tokens

  /** `hash`: SHA-256 of the secret. Throws ERR_INVALID_ARGUMENT or ERR_ADDRESS. */
  createToken(now: number, id: string, hash: string, scope: TokenScope): TokenRecord {
    const { tenant, node = null, routes = [], ttlMs = HOUR, uses = 1 } = scope;
    const wrong = (what: string) => new KubeBusError('ERR_INVALID_ARGUMENT', what);
    if (!isName(tenant)) throw wrong(`the tenant is no DNS label: ${tenant}`);
    if (node !== null && !isName(node)) throw wrong(`the node is no DNS label: ${node}`);
    if (!(ttlMs > 0)) throw wrong('the time to live must be more than 0');
    if (!Number.isInteger(uses) || uses < 1) throw wrong('the uses must be 1 or more');
    if (node !== null && uses > 1)
      throw wrong('a token for one node can be used once: leave out the node, or the uses');
    for (const route of routes) parsePrefix(route);
    this.purge(now);
    if (this.tokens.size >= this.limits.tokens)
      throw wrong(`there are ${this.limits.tokens} tokens: revoke some, or wait until they expire`);
    const record: TokenRecord = {
      id,
      hash,
      tenant,
      node,
      routes: [...routes],
      created: now,
      expires: now + ttlMs,
      uses,
      used: [],
      revoked: null,
    };
    this.tokens.set(id, record);
    return record;
  }

  listTokens(): readonly TokenRecord[] {
    return [...this.tokens.values()];
  }

  /** False: no such token. */
  revokeToken(now: number, id: string): boolean {
    const record = this.tokens.get(id);
    if (record === undefined) return false;
    record.revoked ??= now;
    return true;
  }

  // ---- joining

  /** Throws ERR_TOKEN_UNKNOWN, for an unknown token and for a wrong secret: who has none learns nothing of tokens. */
  checkSecret(id: string, hash: string): TokenRecord {
    const token = this.tokens.get(id);
    if (token === undefined || !sameSecret(fromHex(token.hash), fromHex(hash)))
      throw new KubeBusError('ERR_TOKEN_UNKNOWN', 'the token is not known here, or its secret is wrong');
    return token;
  }

  /**
   * The token lets this key have this name, and from now on the name belongs to the key. The same key may ask again (its answer may
   * have been lost), also after the token's time. Throws what the node is to be told.
   */
  admit(
    now: number,
    request: { id: string; hash: string; key: string; node: string; suggestion: string },
  ): { record: NodeRecord; replaced: boolean } {
    const token = this.checkSecret(request.id, request.hash);
    if (token.revoked !== null) throw new KubeBusError('ERR_TOKEN_REVOKED', `the token ${token.id} was revoked`);
    const before = token.used.find((u) => u.key === request.key);
    if (before !== undefined) {
      const record = this.nodes.get(`${token.tenant}/${before.node}`);
      if (record?.key === request.key && record.revoked === null) return { record, replaced: false };
    }
    if (now >= token.expires) throw new KubeBusError('ERR_TOKEN_EXPIRED', `the token ${token.id} has expired`);
    if (token.used.length >= token.uses) {
      const by = token.used.map((u) => u.node).join(', ');
      throw new KubeBusError('ERR_TOKEN_USED', `the token ${token.id} was used already (by ${by.slice(0, 200)})`);
    }
    const node = this.nameFor(token, request);
    const name = `${token.tenant}/${node}`;
    const existing = this.nodes.get(name);
    if (existing !== undefined && token.node === null) {
      if (existing.revoked !== null) throw revokedError(existing);
      if (existing.key !== request.key) {
        const text = `${name} is another device: choose another name, or make a token for exactly this node to replace it`;
        throw new KubeBusError('ERR_NAME_TAKEN', text);
      }
    }
    const replaced = existing !== undefined && (existing.key !== request.key || existing.revoked !== null);
    const record: NodeRecord = {
      tenant: token.tenant,
      node,
      key: request.key,
      prefixes: token.routes,
      joined: now,
      serials: replaced ? [] : (existing?.serials ?? []),
      revoked: null,
    };
    this.nodes.set(name, record);
    token.used.push({ key: request.key, node, at: now });
    return { record, replaced };
  }

  /**
   * Whoever has the key of this certificate of ours may have another. A certificate made by hand (`kubebus ca node`) has no record:
   * one is made. Throws what the node is to be told.
   */
  renew(
    now: number,
    held: { tenant: string; node: string; key: string; serial: string; expires: number; prefixes: readonly string[] },
  ): NodeRecord {
    const name = `${held.tenant}/${held.node}`;
    const record = this.nodes.get(name);
    if (now >= held.expires + this.limits.graceMs) {
      const days = Math.round(this.limits.graceMs / DAY);
      throw new KubeBusError(
        'ERR_CERTIFICATE',
        `the certificate of ${name} ended more than ${days} days ago: join again with a token`,
      );
    }
    if (record === undefined) {
      if (now >= held.expires)
        throw new KubeBusError('ERR_CERTIFICATE', `${name} is not known here and its certificate has ended`);
      const { tenant, node, key, serial, expires, prefixes } = held;
      const adopted = { tenant, node, key, prefixes, joined: now, serials: [{ serial, expires }], revoked: null };
      this.nodes.set(name, adopted);
      return adopted;
    }
    if (record.revoked !== null) throw revokedError(record);
    if (record.key !== held.key || !record.serials.some((s) => s.serial === held.serial)) throw replacedError(record);
    return record;
  }

  /** A certificate was signed for this record. */
  issued(record: NodeRecord, serial: string, expires: number, authority: string): void {
    record.serials = [...record.serials, { serial, expires, authority }].slice(-MAX_SERIALS);
  }

  // ---- links

  /** Why a node with this certificate must not have a link, or null. Nodes without a record were certified by hand. */
  judge(peer: Pick<PeerIdentity, 'tenant' | 'node' | 'serial'>): KubeBusError | null {
    const record = this.nodes.get(`${peer.tenant}/${peer.node}`);
    if (record === undefined) return null;
    if (record.revoked !== null) return revokedError(record);
    return record.serials.some((s) => s.serial === peer.serial) ? null : replacedError(record);
  }

  /** When the newest certificate of the node ends; 0 where none is known. */
  certifiedUntil(tenant: string, node: string): number {
    return Math.max(0, ...(this.nodes.get(`${tenant}/${node}`)?.serials.map((s) => s.expires) ?? []));
  }

  // ---- nodes

  listNodes(): readonly NodeRecord[] {
    return [...this.nodes.values()];
  }

  /** Shuts the node out until `allowNode`, or until it joins with a token for its name. Also a node that is not known here. */
  revokeNode(now: number, tenant: string, node: string): NodeRecord {
    const name = `${tenant}/${node}`;
    const record = this.nodes.get(name) ?? {
      tenant,
      node,
      key: '',
      prefixes: [],
      joined: now,
      serials: [],
      revoked: null,
    };
    record.revoked ??= now;
    this.nodes.set(name, record);
    return record;
  }

  /** Undoes `revokeNode`: the certificates from before count again. False: it was not revoked. */
  allowNode(tenant: string, node: string): boolean {
    const name = `${tenant}/${node}`;
    const record = this.nodes.get(name);
    if (record === undefined || record.revoked === null) return false;
    record.revoked = null;
    // Nothing else is known of a node that was certified by hand.
    if (record.key === '') this.nodes.delete(name);
    return true;
  }

  /** Records in all. */
  get size(): number {
    return this.tokens.size + this.nodes.size;
  }

  // ---- on disk

  snapshot(): unknown {
    return { version: 1, tokens: this.listTokens(), nodes: this.listNodes() };
  }

  /** Throws ERR_STATE. */
  restore(document: unknown): void {
    const d = document as { version?: unknown; tokens?: unknown; nodes?: unknown };
    const damaged = (what: string) =>
      new KubeBusError('ERR_STATE', `the record of tokens and nodes is damaged: ${what}`);
    if (d.version !== 1 || !Array.isArray(d.tokens) || !Array.isArray(d.nodes)) throw damaged('not of version 1');
    for (const token of d.tokens as TokenRecord[]) {
      if (!isToken(token)) throw damaged('a token');
      this.tokens.set(token.id, token);
    }
    for (const node of d.nodes as NodeRecord[]) {
      if (!isNode(node)) throw damaged('a node');
      this.nodes.set(`${node.tenant}/${node.node}`, node);
    }
  }

  /** Forgets what can never matter again: old tokens, and nodes that could not even renew. Revoked nodes stay known. */
  purge(now: number): void {
    for (const [id, token] of this.tokens) {
      if (now >= (token.revoked ?? token.expires) + this.limits.keepMs) this.tokens.delete(id);
    }
    for (const [name, node] of this.nodes) {
      const last = Math.max(node.joined, ...node.serials.map((s) => s.expires));
      if (node.revoked === null && now >= last + this.limits.graceMs) this.nodes.delete(name);
    }
  }

  private nameFor(token: TokenRecord, request: { node: string; suggestion: string }): string {
    if (token.node !== null) {
      if (request.node === '' || request.node === token.node) return token.node;
      const text = `the token ${token.id} is for ${token.tenant}/${token.node}, not for ${request.node}`;
      throw new KubeBusError('ERR_IDENTITY_MISMATCH', text);
    }
    const name = request.node || request.suggestion;
    if (name !== '') return name;
    throw new KubeBusError('ERR_JOIN_MALFORMED', 'neither the token nor the node gives a name: choose one');
  }
}

export function tokenState(token: TokenRecord, now: number): TokenState {
  if (token.revoked !== null) return 'revoked';
  if (token.used.length >= token.uses) return 'used';
  return now >= token.expires ? 'expired' : 'open';
}

function revokedError(record: NodeRecord): KubeBusError {
  return new KubeBusError('ERR_REVOKED', `${record.tenant}/${record.node} was revoked by the operator`);
}

function replacedError(record: NodeRecord): KubeBusError {
  const text = `the certificate of ${record.tenant}/${record.node} counts no longer: another device has this name now`;
  return new KubeBusError('ERR_CERTIFICATE', text);
}

const isText = (v: unknown): v is string => typeof v === 'string';
const isTime = (v: unknown) => typeof v === 'number' && Number.isFinite(v);
const isTexts = (v: unknown) => Array.isArray(v) && v.every(isText);
const isHash = (v: unknown) => isText(v) && /^[0-9a-f]{64}$/.test(v);

function isToken(t: TokenRecord): boolean {
  return (
    isText(t?.id) &&
    isHash(t.hash) &&
    isText(t.tenant) &&
    (t.node === null || isText(t.node)) &&
    isTexts(t.routes) &&
    isTime(t.created) &&
    isTime(t.expires) &&
    isTime(t.uses) &&
    Array.isArray(t.used) &&
    t.used.every((u) => isText(u?.key) && isText(u.node)) &&
    (t.revoked === null || isTime(t.revoked))
  );
}

function isNode(n: NodeRecord): boolean {
  return (
    isText(n?.tenant) &&
    isText(n.node) &&
    isText(n.key) &&
    isTexts(n.prefixes) &&
    isTime(n.joined) &&
    Array.isArray(n.serials) &&
    n.serials.every((s) => isText(s?.serial) && isTime(s.expires)) &&
    (n.revoked === null || isTime(n.revoked))
  );
}

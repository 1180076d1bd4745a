// The admin socket of a cloud, STATE/admin.sock: HTTP on a unix socket (mode 0600), for `kubebus token`, `node` and `drain`.
//
//   GET /status   GET,POST /tokens   DELETE /tokens/ID   GET /nodes   POST /nodes/TENANT/NODE/revoke|allow   POST /drain

import { createServer, type IncomingMessage, request, type Server, type ServerResponse } from 'node:http';
import { join } from 'node:path';
import { isErrorCode, KubeBusError } from '../../lib/core/index.js';
import type { KubeBusCloud } from '../../lib/index.js';
import { type JoinAuthority, type TokenScope, tokenState } from '../../lib/join/index.js';
import { listenPrivately } from './status.js';

const MAX_BODY = 64 * 1024;
const TIMEOUT_MS = 10_000;
export const DEFAULT_STATE = '/var/lib/kubebus';

export function adminPath(state: string): string {
  return join(state, 'admin.sock');
}

export interface AdminTarget {
  readonly cloud: KubeBusCloud;
  /** Null where the certificates come from elsewhere (--cert). */
  readonly authority: JoinAuthority | null;
  /** Stops the process after telling the nodes. */
  drain(options: { retryAfterMs: number; addresses: string[] }): void;
}

/** Closing the server removes the socket. */
export async function serveAdmin(path: string, target: AdminTarget): Promise<Server> {
  const server = createServer({ requestTimeout: TIMEOUT_MS }, (req, res) => {
    handle(req, target).then(
      (body) => answer(res, 200, body ?? {}),
      (error: unknown) => {
        const known = error instanceof KubeBusError ? error : new KubeBusError('ERR_INTERNAL', String(error));
        answer(res, 400, { code: known.code, message: known.message });
      },
    );
  });
  server.maxConnections = 8;
  await listenPrivately(server, path, '--state');
  return server;
}

async function handle(req: IncomingMessage, { cloud, authority, drain }: AdminTarget): Promise<unknown> {
  const path = (req.url ?? '')
    .split('/')
    .filter((part) => part !== '')
    .map(decodeURIComponent);
  const route = `${req.method} /${path[0] ?? ''}`;
  if (route === 'GET /status') return { ...cloud.stats(), ...(authority === null ? {} : { join: authority.stats() }) };
  if (route === 'POST /drain') {
    const { retryAfterMs = 1_000, addresses = [] } = (await readBody(req)) as {
      retryAfterMs?: number;
      addresses?: string[];
    };
    drain({ retryAfterMs, addresses });
    return { draining: cloud.nodes().length };
  }
  if (authority === null) {
    throw new KubeBusError(
      'ERR_JOIN_DISABLED',
      'this cloud was started with a certificate of another CA: only with --state and --host does it sign nodes itself',
    );
  }
  if (route === 'POST /tokens') {
    const { text, record } = await authority.createToken((await readBody(req)) as TokenScope);
    return { token: text, id: record.id, expires: new Date(record.expires).toISOString() };
  }
  if (route === 'GET /tokens') {
    return authority.tokens().map(({ hash, revoked, ...token }) => ({
      ...token,
      state: tokenState({ ...token, hash, revoked }, Date.now()),
      created: new Date(token.created).toISOString(),
      expires: new Date(token.expires).toISOString(),
      used: token.used.map(({ node, at }) => ({ node, at: new Date(at).toISOString() })),
    }));
  }
  if (route === 'DELETE /tokens' && path.length === 2) {
    if (await authority.revokeToken(path[1]!)) return {};
    throw new KubeBusError('ERR_INVALID_ARGUMENT', `no token has the id ${path[1]}`);
  }
  if (route === 'GET /nodes') {
    const up = new Set(cloud.nodes().map((n) => `${n.tenant}/${n.node}`));
    const date = (ms: number) => (ms === 0 ? null : new Date(ms).toISOString());
    return authority.nodes().map((n) => ({
      tenant: n.tenant,
      node: n.node,
      state: n.revoked !== null ? 'revoked' : up.has(`${n.tenant}/${n.node}`) ? 'up' : 'down',
      routes: n.prefixes,
      joined: new Date(n.joined).toISOString(),
      certificateExpires: date(authority.certifiedUntil(n.tenant, n.node)),
    }));
  }
  if (route === 'POST /nodes' && path.length === 4) {
    const [, tenant = '', node = '', what] = path;
    if (what === 'revoke') {
      await authority.revokeNode(tenant, node);
      return {};
    }
    if (what === 'allow') {
      if (await authority.allowNode(tenant, node)) return {};
      throw new KubeBusError('ERR_INVALID_ARGUMENT', `${tenant}/${node} is not revoked`);
    }
  }
  throw new KubeBusError('ERR_INVALID_ARGUMENT', `no such request: ${req.method} ${req.url}`);
}

async function readBody(req: IncomingMessage): Promise<unknown> {
  let text = '';
  for await (const chunk of req.setEncoding('utf8')) {
    text += chunk;
    if (text.length > MAX_BODY) throw new KubeBusError('ERR_INVALID_ARGUMENT', `more than ${MAX_BODY} bytes`);
  }
  try {
    const body: unknown = JSON.parse(text === '' ? '{}' : text);
    if (typeof body === 'object' && body !== null) return body;
  } catch {
    // said below
  }
  throw new KubeBusError('ERR_INVALID_ARGUMENT', 'the body is no JSON object');
}

function answer(res: ServerResponse, status: number, body: unknown): void {
  res.writeHead(status, { 'content-type': 'application/json', connection: 'close' });
  res.end(`${JSON.stringify(body)}\n`);
}

/** Asks the cloud behind the socket. Rejects with its reason. */
export function askAdmin(socketPath: string, method: string, path: string, body?: unknown): Promise<unknown> {
  return new Promise((resolve, reject) => {
    const fail = (error: NodeJS.ErrnoException) => {
      const absent = error.code === 'ENOENT' || error.code === 'ECONNREFUSED' || error.code === 'ENOTSOCK';
      const denied = error.code === 'EACCES' ? 'not allowed: be the user that runs the cloud' : error.message;
      const why = absent ? `no cloud runs with this state folder (${error.code})` : denied;
      reject(new Error(`option '--state': ${socketPath}: ${why}`));
    };
    const req = request({ socketPath, method, path, timeout: TIMEOUT_MS }, async (res) => {
      let text = '';
      try {
        for await (const chunk of res.setEncoding('utf8')) text += chunk;
        const document = JSON.parse(text) as { code?: string; message?: string };
        if (res.statusCode === 200) return resolve(document);
        const { code = '', message = 'refused without a reason' } = document;
        reject(new KubeBusError(isErrorCode(code) ? code : 'ERR_INTERNAL', message, { side: 'remote' }));
      } catch (error) {
        fail(error as NodeJS.ErrnoException);
      }
    });
    req.on('error', fail);
    req.on('timeout', () => req.destroy(new Error(`no answer within ${TIMEOUT_MS / 1000} s`)));
    req.end(body === undefined ? undefined : JSON.stringify(body));
  });
}

// Edge: the cloud's side of joining: its CA, the ledger of tokens and nodes on disk, its own certificate, and the service that
// nodes call (docs/spec/join.md). `lib/cloud.ts` sees it as a CloudAuthority.

import { createHash, randomBytes, X509Certificate } from 'node:crypto';
import { join } from 'node:path';
import type * as x509 from '@peculiar/x509';
import { type Clock, KubeBusError, type Logger, MS, silentLogger, systemClock, type Timer } from '../../core/index.js';
import type { PeerIdentity, PortService, ServicePeer, TlsMaterial, TlsSource } from '../../l2/index.js';
import { StateFile } from '../../l3/index.js';
import { AttemptLimiter, type AttemptLimits, DEFAULT_ATTEMPTS } from '../attempts.js';
import type { CloudAuthority, Outcast } from '../authority.js';
import {
  DEFAULT_LEDGER,
  Ledger,
  type LedgerLimits,
  type NodeRecord,
  type TokenRecord,
  type TokenScope,
} from '../ledger.js';
import { JOIN_PROTOCOL, type JoinAnswer, type JoinRequest } from '../messages.js';
import { formatToken, TOKEN_ID_BYTES, TOKEN_SECRET_BYTES, toHex } from '../token.js';
import { Authorities } from './authorities.js';
import { certificateUris, cloudNames, keyHash, nodeNames } from './pki.js';
import { requestedKey } from './request.js';
import { serveJoin } from './serve.js';

const HOUR = 3600_000;
const DAY = 24 * HOUR;
/** Microseconds between two writes, for each record in them: a twentieth of the time goes into writing. */
const WRITE_SPACING = 60;

export interface JoinAuthorityOptions {
  /** Folder of ca.crt, ca.key and joins.json; the CA is made there on the first start. */
  readonly stateDir: string;
  /** Names and addresses under which nodes dial this cloud: they go into its certificate. */
  readonly hosts: readonly string[];
  /** What tokens tell nodes to dial; asked for each token. */
  readonly addresses: () => readonly string[];
  /** Tenants for which tokens may be made. */
  readonly tenants: readonly string[];
  /** How the cloud calls itself. **Default:** 'cloud'. */
  readonly name?: string;
  /** Lifetime of nodes' certificates; they renew themselves after two thirds. **Default:** 7 days. */
  readonly nodeLifetimeMs?: number;
  /** Lifetime of the cloud's own certificate, which is replaced after two thirds. **Default:** 30 days. */
  readonly cloudLifetimeMs?: number;
  readonly ledger?: Partial<LedgerLimits>;
  readonly attempts?: Partial<AttemptLimits>;
  /** For one request, from the first byte to the answer. Milliseconds. **Default:** 10000. */
  readonly timeoutMs?: number;
  readonly logger?: Logger;
  readonly clock?: Clock;
  /** Milliseconds since the epoch. **Default:** Date.now. */
  readonly date?: () => number;
}

export interface CreatedToken {
  /** To be given to the node; shown this once. */
  readonly text: string;
  readonly record: TokenRecord;
}

export class JoinAuthority implements CloudAuthority {
  /** For the transport: what nodes call to join. */
  readonly service: PortService;
  /** For the transport: the cloud's own certificate, always fresh. */
  readonly tls: TlsSource;
  private readonly ledger: Ledger;
  private readonly attempts: AttemptLimiter;
  private readonly clock: Clock;
  private readonly logger: Logger;
  private readonly date: () => number;
  private readonly tlsListeners = new Set<() => void>();
  private readonly outcasts = new Set<(outcast: Outcast) => void>();
  /** Fingerprint of the CA that signs nodes. */
  private readonly issuer: string;
  private material!: TlsMaterial;
  private timer: Timer | null = null;
  private closed = false;
  private batch: Promise<void> | null = null;
  private lastWrite = Number.NEGATIVE_INFINITY;
  private readonly counters: Record<string, number> = { issued: 0, renewed: 0 };

  /** Throws ERR_STATE. */
  static async open(options: JoinAuthorityOptions): Promise<JoinAuthority> {
    const { clock = systemClock, logger = silentLogger, stateDir } = options;
    const ca = await Authorities.open(stateDir);
    const state = await StateFile.open({ path: join(stateDir, 'joins.json'), clock, logger });
    const authority = new JoinAuthority(options, ca, state);
    await authority.certifyCloud();
    return authority;
  }

  private constructor(
    private readonly options: JoinAuthorityOptions,
    private readonly ca: Authorities,
    private readonly state: StateFile,
  ) {
    this.issuer = new X509Certificate(ca.issuer.cert).fingerprint256;
    const { clock = systemClock, logger = silentLogger, date = Date.now } = options;
    this.clock = clock;
    this.logger = logger;
    this.date = date;
    this.ledger = new Ledger({ ...DEFAULT_LEDGER, ...options.ledger });
    if (state.initial !== null) this.ledger.restore(state.initial);
    this.attempts = new AttemptLimiter(clock.now(), { ...DEFAULT_ATTEMPTS, ...options.attempts });
    this.tls = {
      current: () => this.material,
      onChange: (listener) => {
        this.tlsListeners.add(listener);
        return () => this.tlsListeners.delete(listener);
      },
    };
    this.service = {
      protocol: JOIN_PROTOCOL,
      onSocket: (socket, peer) =>
        serveJoin(socket, peer, {
          clock,
          logger,
          timeout: (options.timeoutMs ?? 10_000) * MS,
          attempts: this.attempts,
          answer: (request) => this.answer(request, peer),
          count: (code) => {
            this.counters[code] = (this.counters[code] ?? 0) + 1;
          },
        }),
    };
  }

  /** Certificate of the CA (PEM), for nodes that are certified by hand. */
  get certificate(): string {
    return this.ca.current.cert;
  }

  // ---- for the operator

  /** Throws ERR_INVALID_ARGUMENT, ERR_TENANT_UNKNOWN, ERR_ADDRESS or ERR_STATE (not on disk: then there is no token). */
  async createToken(scope: TokenScope): Promise<CreatedToken> {
    if (!this.options.tenants.includes(scope.tenant))
      throw new KubeBusError('ERR_TENANT_UNKNOWN', `this cloud does not serve the tenant ${scope.tenant}`);
    const id = randomBytes(TOKEN_ID_BYTES);
    const secret = randomBytes(TOKEN_SECRET_BYTES);
    const record = this.ledger.createToken(this.date(), toHex(id), sha256(secret), scope);
    const text = formatToken({ addresses: this.options.addresses(), authority: this.ca.current.hash, id, secret });
    try {
      await this.persist();
    } catch (error) {
      this.ledger.revokeToken(this.date(), record.id);
      throw error;
    }
    this.logger.info({ token: record.id, tenant: record.tenant, node: record.node }, 'token made');
    return { text, record };
  }

  tokens(): readonly TokenRecord[] {
    return this.ledger.listTokens();
  }

  nodes(): readonly NodeRecord[] {
    return this.ledger.listNodes();
  }

  async revokeToken(id: string): Promise<boolean> {
    if (!this.ledger.revokeToken(this.date(), id)) return false;
    await this.persist();
    this.logger.info({ token: id }, 'token revoked');
    return true;
  }

  /** Its links are closed at once; it stays out until it is allowed again, or joins with a token for its name. */
  async revokeNode(tenant: string, node: string): Promise<void> {
    const record = this.ledger.revokeNode(this.date(), tenant, node);
    this.castOut(record);
    this.logger.warn({ tenant, node }, 'node revoked');
    await this.persist();
  }

  /** False: it was not revoked. */
  async allowNode(tenant: string, node: string): Promise<boolean> {
    if (!this.ledger.allowNode(tenant, node)) return false;
    await this.persist();
    this.logger.info({ tenant, node }, 'node allowed again');
    return true;
  }

  stats(): Readonly<Record<string, number>> {
    return { tokens: this.ledger.listTokens().length, nodes: this.ledger.listNodes().length, ...this.counters };
  }

  async close(): Promise<void> {
    this.closed = true;
    this.timer?.cancel();
    if (this.batch !== null) this.state.save(() => this.ledger.snapshot());
    await this.state.flush();
  }

  // ---- for the cloud

  judge(peer: PeerIdentity): KubeBusError | null {
    return this.ledger.judge(peer);
  }

  certifiedUntil(tenant: string, node: string): number {
    return this.ledger.certifiedUntil(tenant, node);
  }

  onOutcast(listener: (outcast: Outcast) => void): () => void {
    this.outcasts.add(listener);
    return () => this.outcasts.delete(listener);
  }

  // ---- requests

  private async answer(request: JoinRequest, peer: ServicePeer): Promise<JoinAnswer> {
    if (request.type === 'describe') return { type: 'description', authority: this.ca.current.der };
    return request.type === 'enroll' ? this.enroll(request, peer) : this.renew(peer);
  }

  private async enroll(request: Extract<JoinRequest, { type: 'enroll' }>, peer: ServicePeer): Promise<JoinAnswer> {
    const id = toHex(request.token);
    const hash = sha256(request.secret);
    // Before anything of a stranger's is parsed further.
    this.ledger.checkSecret(id, hash);
    const publicKey = requestedKey(request.request);
    const { node, suggestion } = request;
    const { record, replaced } = this.ledger.admit(this.date(), {
      id,
      hash,
      key: keyHash(publicKey),
      node,
      suggestion,
    });
    if (replaced) this.castOut(record);
    const answer = await this.issue(record, publicKey);
    this.count('issued');
    this.logger.info(
      { tenant: record.tenant, node: record.node, token: id, remote: peer.remote, replaced },
      'certificate issued',
    );
    return answer;
  }

  private async renew(peer: ServicePeer): Promise<JoinAnswer> {
    const cert = peer.certificate === null ? null : await this.ca.verify(peer.certificate);
    const held = cert === null ? null : heldBy(cert);
    if (cert === null || held === null)
      throw new KubeBusError('ERR_CERTIFICATE', "renewing needs a node's certificate signed by this CA");
    if (!this.options.tenants.includes(held.tenant))
      throw new KubeBusError('ERR_TENANT_UNKNOWN', `this cloud does not serve the tenant ${held.tenant}`);
    const record = this.ledger.renew(this.date(), held);
    const answer = await this.issue(record, held.publicKey);
    this.count('renewed');
    this.logger.info({ tenant: record.tenant, node: record.node, remote: peer.remote }, 'certificate renewed');
    return answer;
  }

  /** The answer goes out only when the disk knows of it. */
  private async issue(record: NodeRecord, publicKey: Uint8Array): Promise<JoinAnswer> {
    const { tenant, node, prefixes } = record;
    const certificate = await this.ca.issuer.certify(publicKey, {
      name: `${tenant}/${node}`,
      names: nodeNames(tenant, node, prefixes),
      lifetime: this.options.nodeLifetimeMs ?? 7 * DAY,
      now: this.date(),
    });
    this.ledger.issued(record, certificate.serial, certificate.expires, this.issuer);
    await this.persist();
    const addresses = this.options.addresses();
    return {
      type: 'issued',
      certificate: certificate.der,
      authority: this.ca.current.der,
      trusted: this.ca.others,
      addresses,
    };
  }

  // ---- helpers

  /** Makes the cloud's own certificate anew, and again in time. Its key never leaves this process. */
  private async certifyCloud(): Promise<void> {
    const { name = 'cloud', hosts, cloudLifetimeMs = 30 * DAY } = this.options;
    const now = this.date();
    const names = cloudNames(name, hosts);
    const issued = await this.ca.current.issue({ name, names, days: cloudLifetimeMs / DAY, server: true, now });
    this.material = { ...issued, ca: this.ca.bundle };
    for (const listener of this.tlsListeners) listener();
    const due = now + (cloudLifetimeMs * 2) / 3;
    const look = () => {
      if (this.closed) return;
      this.ledger.purge(this.date());
      // The date may jump: it is looked at, not counted down.
      if (this.date() >= due) {
        this.certifyCloud().catch((err: unknown) => this.logger.error({ err }, 'no new certificate for the cloud'));
      } else this.timer = this.clock.at(this.clock.now() + Math.min(HOUR, cloudLifetimeMs / 30) * MS, look);
    };
    look();
  }

  private castOut({ tenant, node }: NodeRecord): void {
    for (const listener of this.outcasts) listener({ tenant, node });
  }

  /** Resolves when what is known now is on disk. Who comes while a write waits shares it. */
  private persist(): Promise<void> {
    this.batch ??= this.spaced().then(() => {
      this.batch = null;
      this.lastWrite = this.clock.now();
      this.state.save(() => this.ledger.snapshot());
      return this.state.flush();
    });
    return this.batch;
  }

  /** The record is written as a whole: when it is large, not so often that forwarding would feel it. */
  private spaced(): Promise<void> {
    const spacing = this.ledger.size * WRITE_SPACING;
    const at = this.lastWrite + spacing;
    if (at <= this.clock.now()) return Promise.resolve();
    return new Promise((resolve) => this.clock.at(at, resolve));
  }

  private count(what: string): void {
    this.counters[what] = (this.counters[what] ?? 0) + 1;
  }
}

/** What a node's certificate of ours says, or null. */
function heldBy(cert: x509.X509Certificate) {
  const uris = certificateUris(cert);
  const named = uris.flatMap((uri) => /^kubebus:\/\/([^/]+)\/([^/]+)$/.exec(uri) ?? []);
  if (named.length !== 3) return null;
  const publicKey = new Uint8Array(cert.publicKey.rawData);
  return {
    tenant: named[1]!,
    node: named[2]!,
    publicKey,
    key: keyHash(publicKey),
    serial: cert.serialNumber.toLowerCase(),
    expires: cert.notAfter.getTime(),
    prefixes: uris.flatMap((uri) => (uri.startsWith('kubebus-prefix:') ? [uri.slice('kubebus-prefix:'.length)] : [])),
  };
}

function sha256(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex');
}

// Edge: who this node is, on disk: its key and certificate, got with a token the first time and renewed ever after.
//
//   identity.json   key, certificate, CA and addresses, replaced as one (mode 0600)
//   joining.json    the key of a join under way: after a lost answer the same key asks again, and the token is not used up

import { createPrivateKey, type KeyObject, X509Certificate } from 'node:crypto';
import { existsSync } from 'node:fs';
import { unlink } from 'node:fs/promises';
import { hostname } from 'node:os';
import { join } from 'node:path';
import {
  type Clock,
  KubeBusError,
  type Logger,
  MS,
  type Random,
  silentLogger,
  systemClock,
  systemRandom,
  type Timer,
} from '../../core/index.js';
import type { TlsMaterial, TlsSource } from '../../l2/index.js';
import { StateFile } from '../../l3/index.js';
import { parseToken, type Token, toHex } from '../token.js';
import { type Certified, JoinClient, JoinRefused, type ServiceDialer } from './client.js';

export interface IdentityOptions {
  readonly stateDir: string;
  /** What `kubebus token create` printed. Needed the first time only; another one than the last joins anew. */
  readonly token?: string | undefined;
  /** Name to ask for. **Default:** the one in the token, else the host's. */
  readonly node?: string;
  readonly dial: ServiceDialer;
  readonly clock?: Clock;
  readonly random?: Random;
  readonly logger?: Logger;
  /** Gives up joining. */
  readonly signal?: AbortSignal;
  /** Milliseconds since the epoch. **Default:** Date.now. */
  readonly date?: () => number;
}

interface Stored extends Certified {
  readonly version: 1;
  /** PKCS #8, PEM. */
  readonly key: string;
  /** Id of the token that it came by. */
  readonly token: string;
  /** Milliseconds since the epoch. */
  readonly renewAt: number;
}

const FILE = 'identity.json';
const HOUR = 3600_000;
/** Waits between attempts, in milliseconds: while the certificate is good, and when it no longer is. */
const PATIENT = { first: 60_000, most: HOUR };
const URGENT = { first: 1_000, most: 15_000 };

export class NodeIdentity {
  private readonly client: JoinClient;
  private readonly clock: Clock;
  private readonly random: Random;
  private readonly logger: Logger;
  private readonly date: () => number;
  private readonly listeners = new Set<() => void>();
  private readonly ended = new AbortController();
  private readonly signal: AbortSignal;
  private timer: Timer | null = null;
  private renewing: Promise<void> | null = null;
  private failures = 0;
  private lastAttempt = Number.NEGATIVE_INFINITY;
  private stored!: Stored;

  /**
   * The identity in `stateDir`; joins with the token if there is none. Waits for a cloud that cannot be reached, until `signal`. Throws
   * ERR_NOT_JOINED, ERR_TOKEN_*, ERR_CA_MISMATCH, ERR_NAME_TAKEN, ERR_REVOKED, ERR_CERTIFICATE, ERR_STATE or ERR_ABORTED.
   */
  static async open(options: IdentityOptions): Promise<NodeIdentity> {
    const { clock = systemClock, logger = silentLogger, stateDir } = options;
    const state = await StateFile.open({ path: join(stateDir, FILE), clock, logger });
    const identity = new NodeIdentity(options, state);
    try {
      await identity.settle(state.initial);
    } catch (error) {
      identity.stop();
      throw error;
    }
    identity.schedule();
    return identity;
  }

  /** There was a join in this folder: no token is needed. */
  static isIn(stateDir: string): boolean {
    return existsSync(join(stateDir, FILE));
  }

  private constructor(
    private readonly options: IdentityOptions,
    private readonly state: StateFile,
  ) {
    const {
      clock = systemClock,
      random = systemRandom,
      logger = silentLogger,
      date = Date.now,
      dial,
      signal,
    } = options;
    this.clock = clock;
    this.random = random;
    this.logger = logger;
    this.date = date;
    this.client = new JoinClient({ dial, clock });
    this.signal = signal === undefined ? this.ended.signal : AbortSignal.any([signal, this.ended.signal]);
  }

  get tenant(): string {
    return this.stored.tenant;
  }

  get node(): string {
    return this.stored.node;
  }

  /** Where the cloud is. */
  get addresses(): readonly string[] {
    return this.stored.addresses;
  }

  /** Milliseconds since the epoch. */
  get expires(): number {
    return this.stored.expires;
  }

  /** For the transport. */
  get tls(): TlsSource {
    return {
      current: (): TlsMaterial => ({
        cert: this.stored.certificate,
        key: this.stored.key,
        ca: this.stored.authority,
      }),
      onChange: (listener) => {
        this.listeners.add(listener);
        return () => this.listeners.delete(listener);
      },
    };
  }

  /** The cloud refused the certificate: perhaps it ended while the clock was wrong. At most once a minute. */
  certificateRefused(): void {
    if (this.clock.now() - this.lastAttempt < PATIENT.first * MS) return;
    this.renewNow();
  }

  /** Ends renewing; the identity stays on disk. */
  stop(): void {
    this.ended.abort();
    this.timer?.cancel();
  }

  // ---- the first time

  private async settle(initial: unknown): Promise<void> {
    const held = initial === null ? null : readStored(initial);
    const token = this.options.token === undefined ? null : parseToken(this.options.token);
    if (held === null) {
      if (token === null)
        throw new KubeBusError(
          'ERR_NOT_JOINED',
          `no identity in ${this.options.stateDir} yet: give a token to join with`,
        );
      return this.join(token);
    }
    this.stored = held;
    if (token !== null && toHex(token.id) !== held.token) {
      try {
        return await this.join(token);
      } catch (error) {
        // An old token in a start script must not keep a node down that has a good identity.
        if (this.signal.aborted || this.date() >= this.expires) throw error;
        const { code, message } = error as KubeBusError;
        this.logger.warn(
          { code, tenant: held.tenant, node: held.node },
          `not joined anew, going on as before: ${message}`,
        );
      }
    }
    if (this.options.node !== undefined && this.options.node !== held.node) {
      throw new KubeBusError(
        'ERR_INVALID_ARGUMENT',
        `this state folder is ${held.tenant}/${held.node}, not ${this.options.node}: give another folder`,
      );
    }
    if (this.date() >= this.expires) await this.persist(() => this.renewRound());
  }

  private async join(token: Token): Promise<void> {
    const id = toHex(token.id);
    const path = join(this.options.stateDir, 'joining.json');
    const state = await StateFile.open({ path, clock: this.clock, logger: this.logger });
    const pending = state.initial as { token: string; key: string; request: string } | null;
    let made: { key: KeyObject; request: Uint8Array };
    if (pending?.token === id && typeof pending.key === 'string' && typeof pending.request === 'string') {
      made = { key: createPrivateKey(pending.key), request: Buffer.from(pending.request, 'base64') };
    } else {
      // Only who joins loads the library for it.
      const { createRequest } = await import('./request.js');
      made = createRequest();
      const fresh = { token: id, key: pem(made.key), request: Buffer.from(made.request).toString('base64') };
      state.save(() => fresh);
      // On disk before it is sent: whatever breaks from here on, this key can ask again.
      await state.flush();
    }
    const { key, request } = made;
    const { node = '' } = this.options;
    const certified = await this.persist(() =>
      this.eachAddress(token.addresses, (address) =>
        this.client.enroll(address, { token, node, suggestion: suggestion(), request, key }, this.signal),
      ),
    );
    const addresses = certified.addresses.length > 0 ? certified.addresses : token.addresses;
    await this.keep({ ...certified, addresses }, pem(key), id);
    await this.state.flush();
    await unlink(path).catch(() => {});
    this.logger.info({ tenant: this.tenant, node: this.node, token: id }, 'joined');
  }

  // ---- ever after

  private schedule(): void {
    if (this.ended.signal.aborted) return;
    this.timer?.cancel();
    const now = this.date();
    const due = this.stored.renewAt - now;
    const good = now < this.expires;
    // Dates are looked at again and again, not counted down: clocks jump and machines sleep.
    const wait =
      this.failures > 0 ? this.backoff(good ? PATIENT : URGENT, this.failures) : Math.max(0, Math.min(due, HOUR));
    this.timer = this.clock.at(this.clock.now() + wait * MS, () => {
      if (this.date() >= this.stored.renewAt) this.renewNow();
      else this.schedule();
    });
  }

  private renewNow(): void {
    if (this.renewing !== null || this.ended.signal.aborted) return;
    this.renewing = this.renewRound()
      .then(
        () => {
          this.failures = 0;
        },
        (error: KubeBusError) => {
          this.failures++;
          if (!this.signal.aborted)
            this.logger.warn(
              { code: error.code, expires: new Date(this.expires) },
              `certificate not renewed: ${error.message}`,
            );
        },
      )
      .finally(() => {
        this.renewing = null;
        this.schedule();
      });
  }

  private async renewRound(): Promise<void> {
    this.lastAttempt = this.clock.now();
    const { stored } = this;
    const renewed = await this.eachAddress(stored.addresses, (address) =>
      this.client.renew(address, stored, this.signal),
    );
    const addresses = renewed.addresses.length > 0 ? renewed.addresses : stored.addresses;
    await this.keep({ ...renewed, addresses }, stored.key, stored.token);
    for (const listener of this.listeners) listener();
    this.logger.info({ tenant: this.tenant, node: this.node, expires: new Date(this.expires) }, 'certificate renewed');
  }

  // ---- helpers

  private async keep(certified: Certified, key: string, token: string): Promise<void> {
    const now = this.date();
    // Two thirds, and not all devices of an image in the same minute.
    const renewAt = now + (certified.expires - now) * (0.6 + this.random.float() / 10);
    const stored: Stored = { version: 1, ...certified, key, token, renewAt };
    this.stored = stored;
    this.state.save(() => stored);
    // A full disk must not cost the node its network: the state file tries again.
    await this.state.flush().catch((error: KubeBusError) => {
      this.logger.error({ code: error.code }, `identity not saved: ${error.message}`);
      this.state.save(() => stored);
    });
  }

  /** The first address that works. Rejects with the error that says most: a refusal before an address that is not reached. */
  private async eachAddress<T>(addresses: readonly string[], attempt: (address: string) => Promise<T>): Promise<T> {
    let worst: unknown = null;
    for (const address of addresses) {
      try {
        return await attempt(address);
      } catch (error) {
        if (worst === null || passing(worst) !== null) worst = error;
        if (this.signal.aborted) break;
      }
    }
    throw worst;
  }

  /** Until it works, or trying again is of no use. */
  private async persist<T>(attempt: (round: number) => Promise<T>): Promise<T> {
    for (let round = 1; ; round++) {
      try {
        return await attempt(round);
      } catch (error) {
        const wait = passing(error);
        if (wait === null || this.signal.aborted) throw error;
        const ms = Math.max(wait, this.backoff(URGENT, round));
        const { code, message } = error as KubeBusError;
        this.logger.warn({ code, retryMs: Math.round(ms) }, `not joined yet: ${message}`);
        await this.sleep(ms);
      }
    }
  }

  private backoff(times: { first: number; most: number }, round: number): number {
    return Math.min(times.most, times.first * 2 ** Math.min(round - 1, 20)) * (0.5 + this.random.float() / 2);
  }

  private sleep(ms: number): Promise<void> {
    return new Promise((resolve, reject) => {
      const aborted = () => {
        timer.cancel();
        reject(new KubeBusError('ERR_ABORTED', 'joining was aborted', { cause: this.signal.reason }));
      };
      const timer = this.clock.at(this.clock.now() + ms * MS, () => {
        this.signal.removeEventListener('abort', aborted);
        resolve();
      });
      if (this.signal.aborted) aborted();
      else this.signal.addEventListener('abort', aborted, { once: true });
    });
  }
}

/** Milliseconds to wait at least, for what goes away by itself; null for what does not. */
function passing(error: unknown): number | null {
  if (error instanceof JoinRefused) return error.retryAfterMs > 0 ? error.retryAfterMs : null;
  const { code } = error as Partial<KubeBusError>;
  return code === 'ERR_CONNECT' || code === 'ERR_JOIN_TIMEOUT' ? 0 : null;
}

function pem(key: KeyObject): string {
  return key.export({ type: 'pkcs8', format: 'pem' }) as string;
}

function readStored(document: unknown): Stored {
  const s = document as Partial<Stored>;
  const texts = [s.tenant, s.node, s.certificate, s.authority, s.key, s.token];
  if (
    s.version !== 1 ||
    texts.some((v) => typeof v !== 'string') ||
    !Array.isArray(s.addresses) ||
    typeof s.renewAt !== 'number'
  )
    throw new KubeBusError('ERR_STATE', 'identity.json is damaged: restore it, or move it away and join anew');
  try {
    return { ...(s as Stored), expires: Date.parse(new X509Certificate(s.certificate!).validTo) };
  } catch (cause) {
    throw new KubeBusError('ERR_STATE', 'identity.json holds no certificate: move it away and join anew', { cause });
  }
}

/** The host's name as a DNS label, or nothing. */
function suggestion(): string {
  const label = hostname()
    .split('.')[0]!
    .toLowerCase()
    .replace(/[^a-z0-9-]+/g, '-')
    .slice(0, 63);
  return label.replace(/^-+|-+$/g, '');
}

// --cert, --key, --ca and --insecure: read and checked before anything starts, so that a wrong file is named as such.

import { createPrivateKey, type KeyObject, X509Certificate } from 'node:crypto';
import { readFileSync, unwatchFile, watchFile } from 'node:fs';
import type { Logger } from '../../lib/core/index.js';
import type { TlsMaterial, TlsSource } from '../../lib/l2/index.js';
import { cloudIdentity, nodeIdentity } from '../../transports/identity.js';
import { UsageError } from './common.js';

export interface TlsFiles {
  readonly cert?: string;
  readonly key?: string;
  readonly ca?: string;
  readonly insecure?: boolean;
}

export interface Security {
  /** For the transport. */
  readonly transport: { insecure: true } | { tls: { cert: string; key: string; ca: string } };
  /** Our own; null with --insecure. */
  readonly certificate: X509Certificate | null;
}

/** Throws UsageError, which names the option and the file; `instead`: what else could have been given. */
export function security(o: TlsFiles, instead = " (or say '--insecure' to go without encryption)"): Security {
  if (o.insecure === true) {
    const given = (['cert', 'key', 'ca'] as const).find((option) => o[option] !== undefined);
    if (given !== undefined) throw new UsageError(`option '--${given}' makes no sense with '--insecure'`);
    return { transport: { insecure: true }, certificate: null };
  }
  const [cert, key, ca] = (['cert', 'key', 'ca'] as const).map((option) => read(o, option, instead)) as [
    string,
    string,
    string,
  ];
  const certificate = pair('cert', o.cert!, cert, 'key', o.key!, key);
  const authority = parseCertificate('ca', o.ca!, ca);
  if (!authority.ca && authority.subject !== authority.issuer) {
    throw new UsageError(`option '--ca': ${o.ca} is not the certificate of a CA`);
  }
  return { transport: { tls: { cert, key, ca } }, certificate };
}

const WATCH_MS = 2_000;

/** The same for a running process: new certificate files need no restart. */
export function live(
  o: TlsFiles,
  transport: Security['transport'],
  logger: Logger,
): { insecure: true } | { tls: TlsSource } {
  return 'tls' in transport ? { tls: watched(o, transport.tls, logger) } : transport;
}

function watched(o: TlsFiles, first: TlsMaterial, logger: Logger): TlsSource {
  let now = first;
  const listeners = new Set<() => void>();
  const look = () => {
    try {
      const { transport } = security(o);
      if (!('tls' in transport) || JSON.stringify(transport.tls) === JSON.stringify(now)) return;
      now = transport.tls;
      for (const listener of listeners) listener();
      logger.info({ cert: o.cert }, 'new certificate files are used from now on');
    } catch (error) {
      // Half of them are replaced, perhaps: the next change says more.
      logger.warn({ cert: o.cert }, `certificate files changed, but stay unused: ${(error as Error).message}`);
    }
  };
  for (const file of [o.cert, o.key, o.ca]) watchFile(file!, { interval: WATCH_MS, persistent: false }, look);
  return {
    current: () => now,
    onChange(listener) {
      listeners.add(listener);
      return () => {
        listeners.delete(listener);
        if (listeners.size === 0) for (const file of [o.cert, o.key, o.ca]) unwatchFile(file!, look);
      };
    },
  };
}

/** The node that the certificate names. */
export function nodeOf(file: string, certificate: X509Certificate): { tenant: string; node: string } {
  const found = nodeIdentity(fields(certificate));
  if (found === null) throw new UsageError(`option '--cert': ${file} names no node (made with 'kubebus ca node'?)`);
  return found;
}

/** The name of the cloud in the certificate. */
export function cloudOf(file: string, certificate: X509Certificate): string {
  const found = cloudIdentity(fields(certificate));
  if (found === null) throw new UsageError(`option '--cert': ${file} names no cloud (made with 'kubebus ca cloud'?)`);
  return found.node;
}

/** What is wrong with the time of the certificate, or null. A warning only: it may as well be this host's clock that is wrong. */
export function dateProblem({ validFrom, validTo }: X509Certificate, now = Date.now()): string | null {
  if (now > Date.parse(validTo)) return `this certificate expired on ${validTo}: the other side will refuse it`;
  if (now < Date.parse(validFrom)) {
    return `this certificate is not valid before ${validFrom}: check this host's clock (${new Date(now).toISOString()})`;
  }
  return null;
}

function fields(certificate: X509Certificate) {
  return { subjectaltname: certificate.subjectAltName, valid_to: certificate.validTo };
}

function read(o: TlsFiles, option: 'cert' | 'key' | 'ca', instead: string): string {
  const path = o[option];
  if (path === undefined) {
    throw new UsageError(`option '--${option}' is missing${instead}`);
  }
  return readNamed(option, path);
}

function readNamed(option: string, path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch (error) {
    throw new UsageError(`option '--${option}': cannot read ${path}: ${(error as NodeJS.ErrnoException).code}`);
  }
}

/** The gateway's files, read once so that what is wrong with them is said before anything starts. */
export function checkGatewayPair(cert: string, key: string): void {
  const [c, k] = ['gateway-cert', 'gateway-key'] as const;
  pair(c, cert, readNamed(c, cert), k, key, readNamed(k, key));
}

/** A certificate and its key: options, files and what is in them. */
function pair(c: string, certFile: string, cert: string, k: string, keyFile: string, key: string): X509Certificate {
  const certificate = parseCertificate(c, certFile, cert);
  if (!certificate.checkPrivateKey(parseKey(k, keyFile, key)))
    throw new UsageError(`option '--${k}': ${keyFile} is not the key of the certificate ${certFile}`);
  return certificate;
}

function parseCertificate(option: string, path: string, pem: string): X509Certificate {
  try {
    return new X509Certificate(pem);
  } catch {
    throw new UsageError(`option '--${option}': ${path} holds no certificate (PEM)`);
  }
}

function parseKey(option: string, path: string, pem: string): KeyObject {
  try {
    return createPrivateKey(pem);
  } catch {
    const locked = /ENCRYPTED/.test(pem);
    throw new UsageError(
      `option '--${option}': ${path} ${locked ? 'is locked by a passphrase: keep it without' : 'holds no private key (PEM)'}`,
    );
  }
}

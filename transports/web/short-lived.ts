// Certificates of the HTTPS server under WebTransport: browsers and the package accept one by its hash only when it is
// valid for at most 14 days (W3C WebTransport, "custom certificate requirements"), so it is self-signed and renewed.
// It proves nothing by itself: the proof of identity (auth.ts) is bound to it.

import 'reflect-metadata';
import { randomBytes, webcrypto } from 'node:crypto';
import { X509CertificateGenerator } from '@peculiar/x509';
import { bindingOf } from './auth.js';

const DAY = 24 * 60 * 60 * 1000;
const ALGORITHM = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' };

export interface ServerCertificate {
  readonly cert: string;
  readonly key: string;
  readonly binding: Uint8Array;
  /** Milliseconds. */
  readonly renewAfterMs: number;
}

export async function shortLived(now = Date.now()): Promise<ServerCertificate> {
  const keys = await webcrypto.subtle.generateKey(ALGORITHM, true, ['sign', 'verify']);
  const certificate = await X509CertificateGenerator.createSelfSigned({
    serialNumber: `01${randomBytes(15).toString('hex')}`,
    name: 'CN=kubebus',
    // Clocks differ: valid since yesterday, 13 days in all.
    notBefore: new Date(now - DAY),
    notAfter: new Date(now + 12 * DAY),
    signingAlgorithm: ALGORITHM,
    keys,
  });
  const der = Buffer.from(await webcrypto.subtle.exportKey('pkcs8', keys.privateKey)).toString('base64');
  const cert = `${certificate.toString('pem')}\n`;
  const key = `-----BEGIN PRIVATE KEY-----\n${der.replace(/(.{64})/g, '$1\n')}\n-----END PRIVATE KEY-----\n`;
  return { cert, key, binding: bindingOf(cert), renewAfterMs: 6 * DAY };
}

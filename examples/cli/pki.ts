// A small certificate authority for trying out and for installations without one: `kubebus ca`.

import 'reflect-metadata';
import { randomBytes, webcrypto } from 'node:crypto';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { isIP } from 'node:net';
import { join } from 'node:path';
import * as x509 from '@peculiar/x509';

const ALGORITHM = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' } as const;
const DAY = 24 * 3600 * 1000;
/** Certificates begin a little in the past: the clocks of edges differ. */
const SKEW = 5 * 60 * 1000;

export interface Issued {
  readonly cert: string;
  readonly key: string;
}

export interface Authority extends Issued {
  issue(request: { name: string; days: number; names: x509.JsonGeneralNames; server?: boolean }): Promise<Issued>;
}

/** Makes a new CA. */
export async function createAuthority(name: string, days = 3650): Promise<Authority> {
  const keys = await webcrypto.subtle.generateKey(ALGORITHM, true, ['sign', 'verify']);
  const now = Date.now();
  const cert = await x509.X509CertificateGenerator.createSelfSigned({
    serialNumber: serial(),
    name: `CN=${escapeName(name)}`,
    notBefore: new Date(now - SKEW),
    notAfter: new Date(now + days * DAY),
    signingAlgorithm: ALGORITHM,
    keys,
    extensions: [
      new x509.BasicConstraintsExtension(true, 0, true),
      new x509.KeyUsagesExtension(x509.KeyUsageFlags.keyCertSign | x509.KeyUsageFlags.cRLSign, true),
      await x509.SubjectKeyIdentifierExtension.create(keys.publicKey),
    ],
  });
  return authority(cert, keys.privateKey, await keyPem(keys.privateKey));
}

/** Opens a CA from its two PEM texts. */
export async function openAuthority(certPem: string, key: string): Promise<Authority> {
  const der = Buffer.from(key.replace(/-----[^-]+-----|\s/g, ''), 'base64');
  const privateKey = await webcrypto.subtle.importKey('pkcs8', der, ALGORITHM, true, ['sign']);
  return authority(new x509.X509Certificate(certPem), privateKey, key);
}

function authority(ca: x509.X509Certificate, signingKey: webcrypto.CryptoKey, key: string): Authority {
  return {
    cert: `${ca.toString('pem')}\n`,
    key,
    async issue({ name, days, names, server = false }) {
      const keys = await webcrypto.subtle.generateKey(ALGORITHM, true, ['sign', 'verify']);
      const now = Date.now();
      const usage = server ? x509.ExtendedKeyUsage.serverAuth : x509.ExtendedKeyUsage.clientAuth;
      const cert = await x509.X509CertificateGenerator.create({
        serialNumber: serial(),
        subject: `CN=${escapeName(name)}`,
        issuer: ca.subject,
        notBefore: new Date(now - SKEW),
        notAfter: new Date(now + days * DAY),
        signingAlgorithm: ALGORITHM,
        publicKey: keys.publicKey,
        signingKey,
        extensions: [
          new x509.BasicConstraintsExtension(false, undefined, true),
          new x509.KeyUsagesExtension(x509.KeyUsageFlags.digitalSignature, true),
          new x509.ExtendedKeyUsageExtension([usage], false),
          new x509.SubjectAlternativeNameExtension(names, false),
          await x509.AuthorityKeyIdentifierExtension.create(ca, false),
        ],
      });
      return { cert: `${cert.toString('pem')}\n`, key: await keyPem(keys.privateKey) };
    },
  };
}

/** The names in a cloud's certificate: itself, and the hosts under which nodes dial it. */
export function cloudNames(name: string, hosts: readonly string[]): x509.JsonGeneralNames {
  return [
    { type: 'url', value: `kubebus-cloud:${name}` },
    ...hosts.map((host) => ({ type: isIP(host) === 0 ? ('dns' as const) : ('ip' as const), value: host })),
  ];
}

/** The names in a node's certificate: itself, and what it may originate. */
export function nodeNames(tenant: string, node: string, prefixes: readonly string[]): x509.JsonGeneralNames {
  return [
    { type: 'url', value: `kubebus://${tenant}/${node}` },
    ...prefixes.map((prefix) => ({ type: 'url' as const, value: `kubebus-prefix:${prefix}` })),
  ];
}

/** Writes NAME.crt and NAME.key (mode 0600) into `dir`. Never overwrites. */
export async function save(dir: string, name: string, issued: Issued): Promise<void> {
  await mkdir(dir, { recursive: true, mode: 0o700 });
  await writeFile(join(dir, `${name}.key`), issued.key, { mode: 0o600, flag: 'wx' });
  await writeFile(join(dir, `${name}.crt`), issued.cert, { flag: 'wx' });
}

export async function loadAuthority(dir: string): Promise<Authority> {
  const [cert, key] = await Promise.all(['ca.crt', 'ca.key'].map((file) => readFile(join(dir, file), 'utf8')));
  try {
    return await openAuthority(cert!, key!);
  } catch (cause) {
    throw new Error('ca.crt or ca.key is damaged', { cause });
  }
}

function serial(): string {
  const bytes = randomBytes(16);
  bytes[0]! &= 0x7f; // RFC 5280 §4.1.2.2: positive
  bytes[0]! |= 0x40;
  return bytes.toString('hex');
}

function escapeName(name: string): string {
  return name.replace(/[,+"\\<>;=#]/g, '\\$&');
}

async function keyPem(key: webcrypto.CryptoKey): Promise<string> {
  const der = Buffer.from(await webcrypto.subtle.exportKey('pkcs8', key)).toString('base64');
  return `-----BEGIN PRIVATE KEY-----\n${der.replace(/(.{64})/g, '$1\n').trimEnd()}\n-----END PRIVATE KEY-----\n`;
}

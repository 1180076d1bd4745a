// Edge: a small certificate authority: `kubebus ca`, and the cloud that signs its own nodes. ASN.1 is @peculiar/x509's.

import 'reflect-metadata';
import { createHash, createPrivateKey, randomBytes, sign, webcrypto, X509Certificate } from 'node:crypto';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { isIP } from 'node:net';
import { join } from 'node:path';
import { AsnConvert, OctetString } from '@peculiar/asn1-schema';
import * as asn1 from '@peculiar/asn1-x509';
import * as x509 from '@peculiar/x509';
import { ECDSA_SHA256 } from './request.js';

const ALGORITHM = { name: 'ECDSA', namedCurve: 'P-256', hash: 'SHA-256' } as const;
const DAY = 24 * 3600 * 1000;
/** Certificates begin a little in the past: the clocks of edges differ. */
const SKEW = 5 * 60 * 1000;

export interface Issued {
  readonly cert: string;
  readonly key: string;
}

/** What a certificate names (RFC 5280 §4.2.1.6): URIs, host names, addresses. */
export type AlternativeNames = readonly { readonly type: 'url' | 'dns' | 'ip'; readonly value: string }[];

export interface CertificateRequest {
  /** Common name; only people read it. */
  readonly name: string;
  readonly names: AlternativeNames;
  /** Milliseconds from now. */
  readonly lifetime: number;
  /** For the cloud's side of TLS. **Default:** false: for a node's. */
  readonly server?: boolean;
  readonly now?: number;
}

/** A certificate without its key: the key is the other side's. */
export interface Certificate {
  readonly der: Uint8Array;
  /** Lower-case hexadecimal. */
  readonly serial: string;
  /** Milliseconds since the epoch. */
  readonly expires: number;
}

export interface Authority extends Issued {
  /** DER of the CA's certificate, and its SHA-256: what a token pins. */
  readonly der: Uint8Array;
  readonly hash: Uint8Array;
  /** Makes a key pair and certifies it. */
  issue(request: Omit<CertificateRequest, 'lifetime'> & { days: number }): Promise<Issued>;
  /** `key`: its SubjectPublicKeyInfo. */
  certify(key: Uint8Array, request: CertificateRequest): Promise<Certificate>;
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
  return authority(cert, await keyPem(keys.privateKey));
}

/** Opens a CA from its two PEM texts. Throws where they are none, or do not belong together. */
export async function openAuthority(certPem: string, key: string): Promise<Authority> {
  const { asymmetricKeyDetails } = createPrivateKey(key);
  if (asymmetricKeyDetails?.namedCurve !== 'prime256v1') throw new Error('the key of the CA is no P-256 key');
  if (!new X509Certificate(certPem).checkPrivateKey(createPrivateKey(key)))
    throw new Error('the key of the CA does not belong to its certificate');
  return authority(new x509.X509Certificate(certPem), key);
}

function authority(ca: x509.X509Certificate, key: string): Authority {
  const der = new Uint8Array(ca.rawData);
  const issuer = AsnConvert.parse(ca.subjectName.toArrayBuffer(), asn1.Name);
  const algorithm = new asn1.AlgorithmIdentifier({ algorithm: ECDSA_SHA256 });
  const signer = createPrivateKey(key);
  let fixed: Promise<Record<'server' | 'node', readonly asn1.Extension[]>> | undefined;
  // With the schemas that the certificate library itself stands on: a third of the CPU, which counts while a fleet joins.
  const certify = async (publicKey: Uint8Array, request: CertificateRequest): Promise<Certificate> => {
    const { name, names, lifetime, server = false, now = Date.now() } = request;
    const extensions = await (fixed ??= fixedExtensions(ca));
    const number = serial();
    const notAfter = new Date(now + lifetime);
    notAfter.setUTCMilliseconds(0); // as it is in the certificate
    const tbsCertificate = new asn1.TBSCertificate({
      version: asn1.Version.v3,
      serialNumber: arrayBuffer(Buffer.from(number, 'hex')),
      signature: algorithm,
      issuer,
      validity: new asn1.Validity({ notBefore: new Date(now - SKEW), notAfter }),
      subject: commonName(name),
      subjectPublicKeyInfo: AsnConvert.parse(publicKey, asn1.SubjectPublicKeyInfo),
      extensions: new asn1.Extensions([...extensions[server ? 'server' : 'node'], alternativeNames(names)]),
    });
    const signature = sign('sha256', Buffer.from(AsnConvert.serialize(tbsCertificate)), signer);
    const der = new Uint8Array(
      AsnConvert.serialize(
        new asn1.Certificate({ tbsCertificate, signatureAlgorithm: algorithm, signatureValue: arrayBuffer(signature) }),
      ),
    );
    return { der, serial: number, expires: notAfter.getTime() };
  };
  return {
    cert: `${ca.toString('pem')}\n`,
    key,
    der,
    hash: sha256(der),
    certify,
    async issue({ days, ...request }) {
      const keys = await webcrypto.subtle.generateKey(ALGORITHM, true, ['sign', 'verify']);
      const publicKey = new Uint8Array(await webcrypto.subtle.exportKey('spki', keys.publicKey));
      const { der } = await certify(publicKey, { ...request, lifetime: days * DAY });
      return { cert: pem('CERTIFICATE', der), key: await keyPem(keys.privateKey) };
    },
  };
}

/** The certificate if this CA (PEM) signed it, whatever its dates; otherwise null. */
export async function signedBy(ca: string, der: Uint8Array): Promise<x509.X509Certificate | null> {
  try {
    const [authority, cert] = [new x509.X509Certificate(ca), new x509.X509Certificate(der)];
    const ours = cert.issuer === authority.subject;
    return ours && (await cert.verify({ publicKey: authority, signatureOnly: true })) ? cert : null;
  } catch {
    return null; // bytes of a stranger that are no certificate
  }
}

/** Names a key in records: SHA-256 of its SubjectPublicKeyInfo, hexadecimal. */
export function keyHash(key: Uint8Array): string {
  return Buffer.from(sha256(key)).toString('hex');
}

/** What every certificate of the CA has, made once. */
async function fixedExtensions(ca: x509.X509Certificate): Promise<Record<'server' | 'node', asn1.Extension[]>> {
  const identifier = extension(await x509.AuthorityKeyIdentifierExtension.create(ca, false));
  const of = (usage: x509.ExtendedKeyUsage) => [
    extension(new x509.BasicConstraintsExtension(false, undefined, true)),
    extension(new x509.KeyUsagesExtension(x509.KeyUsageFlags.digitalSignature, true)),
    extension(new x509.ExtendedKeyUsageExtension([usage], false)),
    identifier,
  ];
  return { server: of(x509.ExtendedKeyUsage.serverAuth), node: of(x509.ExtendedKeyUsage.clientAuth) };
}

function extension(made: x509.Extension): asn1.Extension {
  return new asn1.Extension({
    extnID: made.type,
    critical: made.critical,
    extnValue: new OctetString(made.value),
  });
}

/** RFC 5280 §4.2.1.6. */
function alternativeNames(names: AlternativeNames): asn1.Extension {
  const value = new asn1.SubjectAlternativeName(
    names.map(({ type, value }) => {
      if (type === 'url') return new asn1.GeneralName({ uniformResourceIdentifier: value });
      return new asn1.GeneralName(type === 'ip' ? { iPAddress: value } : { dNSName: value });
    }),
  );
  return new asn1.Extension({
    extnID: asn1.id_ce_subjectAltName,
    critical: false,
    extnValue: new OctetString(AsnConvert.serialize(value)),
  });
}

function commonName(text: string): asn1.Name {
  const value = new asn1.AttributeValue({ utf8String: text });
  const attribute = new asn1.AttributeTypeAndValue({ type: '2.5.4.3', value });
  return new asn1.Name([new asn1.RelativeDistinguishedName([attribute])]);
}

function arrayBuffer(bytes: Buffer): ArrayBuffer {
  return new Uint8Array(bytes).buffer;
}

/** URIs among the subject alternative names. */
export function certificateUris(cert: x509.X509Certificate): string[] {
  const extension = cert.getExtension(x509.SubjectAlternativeNameExtension);
  return extension?.names.items.flatMap((n) => (n.type === 'url' ? [n.value] : [])) ?? [];
}

function sha256(bytes: Uint8Array): Uint8Array {
  return new Uint8Array(createHash('sha256').update(bytes).digest());
}

/** The names in a cloud's certificate: itself, and the hosts under which nodes dial it. */
export function cloudNames(name: string, hosts: readonly string[]): AlternativeNames {
  return [
    { type: 'url', value: `kubebus-cloud:${name}` },
    ...hosts.map((host) => ({ type: isIP(host) === 0 ? ('dns' as const) : ('ip' as const), value: host })),
  ];
}

/** The names in a node's certificate: itself, and what it may originate. */
export function nodeNames(tenant: string, node: string, prefixes: readonly string[]): AlternativeNames {
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
  return pem('PRIVATE KEY', new Uint8Array(await webcrypto.subtle.exportKey('pkcs8', key)));
}

/** RFC 7468. */
function pem(label: string, der: Uint8Array): string {
  const text = Buffer.from(der).toString('base64');
  return `-----BEGIN ${label}-----\n${text.replace(/(.{64})/g, '$1\n').trimEnd()}\n-----END ${label}-----\n`;
}

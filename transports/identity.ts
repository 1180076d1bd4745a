// Who a certificate names. Nodes: URI SAN kubebus://<tenant>/<node>, and kubebus-prefix:<CIDR> for each prefix they may
// originate. The cloud: URI SAN kubebus-cloud:<name>.

import type { PeerIdentity, TlsMaterial, TlsSource } from '../lib/l2/transport.js';

/** The parts of tls' PeerCertificate that are read here. */
export interface CertificateFields {
  readonly subjectaltname?: string | undefined;
  readonly valid_to?: string | undefined;
  readonly serialNumber?: string | undefined;
}

const NODE = /^kubebus:\/\/([a-z0-9-]{1,63})\/([a-z0-9-]{1,63})$/;

/** URIs among the subject alternative names, as Node prints them: `URI:x, DNS:y`, with JSON quotes around odd values. */
function uris(certificate: CertificateFields): string[] {
  const found: string[] = [];
  const names = certificate.subjectaltname ?? '';
  for (const match of names.matchAll(/(?:^|, )URI:("(?:[^"\\]|\\.)*"|[^,]*)/g)) {
    const value = match[1]!;
    // A value with quotes or commas in it can be none of ours; JSON text shows that it is one value.
    if (!value.startsWith('"')) found.push(value);
  }
  return found;
}

/** The node that the certificate names, or null. */
export function nodeIdentity(certificate: CertificateFields): PeerIdentity | null {
  const names = uris(certificate);
  const nodes = names.flatMap((uri) => NODE.exec(uri) ?? []);
  // Exactly one name: a certificate for two nodes is none.
  if (nodes.length !== 3) return null;
  return {
    tenant: nodes[1]!,
    node: nodes[2]!,
    prefixes: names
      .filter((uri) => uri.startsWith('kubebus-prefix:'))
      .map((uri) => uri.slice('kubebus-prefix:'.length)),
    authenticated: true,
    expires: Date.parse(certificate.valid_to ?? ''),
    ...(certificate.serialNumber === undefined ? {} : { serial: certificate.serialNumber.toLowerCase() }),
  };
}

/** The cloud that the certificate names, or null. */
export function cloudIdentity(certificate: CertificateFields): PeerIdentity | null {
  const name = uris(certificate).find((uri) => uri.startsWith('kubebus-cloud:'));
  if (name === undefined) return null;
  return {
    tenant: '',
    node: name.slice('kubebus-cloud:'.length),
    prefixes: [],
    authenticated: true,
    expires: Date.parse(certificate.valid_to ?? ''),
  };
}

/** The texts to use now. */
export function material(tls: TlsMaterial | TlsSource): TlsMaterial {
  const { cert, key, ca } = 'current' in tls ? tls.current() : tls;
  return { cert, key, ca };
}

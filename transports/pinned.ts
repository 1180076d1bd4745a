// A cloud's certificate checked after the handshake, because the CA became known only then: what OpenSSL checks when it knows the CA
// before. The handshake itself has proved that the other side has the certificate's key (RFC 8446 §4.4.3).

import { X509Certificate } from 'node:crypto';
import tls from 'node:tls';
import { KubeBusError } from '../lib/core/index.js';
import { cloudIdentity } from './identity.js';
import { explainCertificate } from './tls-reasons.js';

/** RFC 5280 §4.2.1.12: id-kp-serverAuth. */
const SERVER_AUTH = '1.3.6.1.5.5.7.3.1';

/** Throws ERR_CERTIFICATE. `ca`: PEM of the one certificate that is trusted; it has to have signed the socket's directly. */
export function verifyPinned(socket: tls.TLSSocket, ca: string, host: string, where: string): void {
  // The one of this handshake: a resumed session shows none anew.
  const shown = socket.isSessionReused() ? undefined : socket.getPeerX509Certificate();
  const fault = shown === undefined ? 'the other side showed none' : pinnedFault(shown, new X509Certificate(ca), host);
  if (fault !== null)
    throw new KubeBusError('ERR_CERTIFICATE', `certificate of ${where}: ${explainCertificate(fault)}`);
}

/** Why the certificate does not lead to a cloud of this CA, or null. */
export function pinnedFault(
  shown: X509Certificate,
  ca: X509Certificate,
  host: string,
  now = Date.now(),
): string | Error | null {
  // RFC 5280 §6.1.3 (a) and §6.1.4 (k), (n): signature, dates, issuer; the issuer is a CA that may sign (checkIssued).
  if (!ca.ca || !shown.checkIssued(ca)) return 'UNABLE_TO_VERIFY_LEAF_SIGNATURE';
  if (!shown.verify(ca.publicKey)) return 'CERT_SIGNATURE_FAILURE';
  for (const { validFrom, validTo } of [shown, ca]) {
    if (now < Date.parse(validFrom)) return 'CERT_NOT_YET_VALID';
    if (now > Date.parse(validTo)) return 'CERT_HAS_EXPIRED';
  }
  // A node's certificate, which the same CA signs, opens no cloud. Node calls the extended key usage so.
  if (shown.keyUsage !== undefined && !shown.keyUsage.includes(SERVER_AUTH)) return 'INVALID_PURPOSE';
  const fields = shown.toLegacyObject();
  if (cloudIdentity(fields) === null) return "it is not a cloud's (no kubebus-cloud: name in it)";
  return tls.checkServerIdentity(host, fields) ?? null;
}

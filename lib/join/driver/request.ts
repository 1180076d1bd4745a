// Edge: certificate requests (PKCS #10, RFC 2986): the node makes one, the cloud reads it. By the schemas below the certificate library:
// a node need not load the library itself.

import { createPublicKey, generateKeyPairSync, type KeyObject, sign, verify } from 'node:crypto';
import { Attributes, CertificationRequest, CertificationRequestInfo } from '@peculiar/asn1-csr';
import { AsnConvert } from '@peculiar/asn1-schema';
import * as asn1 from '@peculiar/asn1-x509';
import { KubeBusError } from '../../core/index.js';

/** RFC 5758 §3.2: ecdsa-with-SHA256. */
export const ECDSA_SHA256 = '1.2.840.10045.4.3.2';

/** A key that nobody else has yet, and the request (DER) that has it certified. The cloud decides on the name. */
export function createRequest(): { key: KeyObject; request: Uint8Array } {
  const { publicKey, privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const certificationRequestInfo = new CertificationRequestInfo({
    subject: new asn1.Name([]),
    subjectPKInfo: AsnConvert.parse(publicKey.export({ type: 'spki', format: 'der' }), asn1.SubjectPublicKeyInfo),
    attributes: new Attributes(),
  });
  const signature = sign('sha256', Buffer.from(AsnConvert.serialize(certificationRequestInfo)), privateKey);
  const request = new CertificationRequest({
    certificationRequestInfo,
    signatureAlgorithm: new asn1.AlgorithmIdentifier({ algorithm: ECDSA_SHA256 }),
    signature: new Uint8Array(signature).buffer,
  });
  return { key: privateKey, request: new Uint8Array(AsnConvert.serialize(request)) };
}

/**
 * The key in a request (its SubjectPublicKeyInfo), whose sender has proved to have it. Names in it count for nothing: the cloud knows what it
 * grants. Throws ERR_JOIN_MALFORMED.
 */
export function requestedKey(der: Uint8Array): Uint8Array {
  try {
    const request = AsnConvert.parse(der, CertificationRequest);
    const spki = Buffer.from(AsnConvert.serialize(request.certificationRequestInfo.subjectPKInfo));
    const key = createPublicKey({ key: spki, format: 'der', type: 'spki' });
    const signed = Buffer.from(request.certificationRequestInfoRaw ?? new ArrayBuffer(0));
    const good =
      key.asymmetricKeyType === 'ec' &&
      key.asymmetricKeyDetails?.namedCurve === 'prime256v1' &&
      request.signatureAlgorithm.algorithm === ECDSA_SHA256 &&
      verify('sha256', signed, key, Buffer.from(request.signature));
    if (good) return new Uint8Array(spki);
  } catch (cause) {
    throw new KubeBusError('ERR_JOIN_MALFORMED', 'the certificate request cannot be read', { cause });
  }
  throw new KubeBusError('ERR_JOIN_MALFORMED', 'the certificate request is not signed with a P-256 key of its own');
}

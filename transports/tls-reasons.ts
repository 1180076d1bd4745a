// OpenSSL's and TLS' ways to say no, as errors of ours with a text that says what to do.

import { type ErrorCode, KubeBusError } from '../lib/core/index.js';

/** By OpenSSL's code of a verification, or Node's code of an error (alerts: RFC 8446 §6.2). */
const REASONS: Readonly<Record<string, string>> = {
  CERT_HAS_EXPIRED: 'it has expired: renew it',
  CERT_NOT_YET_VALID: 'it is not valid yet: check the clocks',
  CERT_REVOKED: 'it was revoked',
  DEPTH_ZERO_SELF_SIGNED_CERT: 'it is not signed by our CA',
  SELF_SIGNED_CERT_IN_CHAIN: 'it is signed by another CA than ours',
  UNABLE_TO_VERIFY_LEAF_SIGNATURE: 'it is not signed by our CA',
  UNABLE_TO_GET_ISSUER_CERT: 'it is not signed by our CA',
  UNABLE_TO_GET_ISSUER_CERT_LOCALLY: 'it is not signed by our CA',
  CERT_SIGNATURE_FAILURE: 'it is not signed by our CA (the CA has the same name but another key)',
  ERR_TLS_CERT_ALTNAME_INVALID: 'it is for another host name or address',
  INVALID_PURPOSE: 'it is not made for this side (key usage)',
  ERR_SSL_PEER_DID_NOT_RETURN_A_CERTIFICATE: 'the peer sent no certificate',
  ERR_SSL_TLSV1_ALERT_UNKNOWN_CA: 'the peer refused our certificate: it is not signed by its CA',
  ERR_SSL_TLSV13_ALERT_CERTIFICATE_REQUIRED: 'the peer wants a certificate and we sent none',
  ERR_SSL_SSLV3_ALERT_CERTIFICATE_EXPIRED: 'the peer refused our certificate: it has expired',
  ERR_SSL_SSLV3_ALERT_BAD_CERTIFICATE: 'the peer refused our certificate: it is not valid (date, signature or purpose)',
  ERR_SSL_SSLV3_ALERT_CERTIFICATE_UNKNOWN: 'the peer refused our certificate',
  ERR_SSL_SSLV3_ALERT_UNSUPPORTED_CERTIFICATE: 'the peer refused our certificate: wrong key usage',
  ERR_SSL_TLSV1_ALERT_DECRYPT_ERROR: 'the peer refused our certificate: its signature is wrong',
  ERR_SSL_WRONG_VERSION_NUMBER: 'the other side does not speak TLS (is it started with --insecure?)',
  ERR_SSL_UNSUPPORTED_PROTOCOL: 'the other side does not speak TLS 1.3',
  ERR_SSL_TLSV1_ALERT_PROTOCOL_VERSION: 'the other side does not speak TLS 1.3',
  ERR_SSL_TLSV1_ALERT_INTERNAL_ERROR:
    'the other side turned us away before the TLS handshake: most likely it has too many of them in progress (its log says why)',
  ERR_SSL_HTTP_REQUEST: 'the other side speaks HTTP',
  ERR_TLS_HANDSHAKE_TIMEOUT: 'the peer did not finish the TLS handshake in time',
  ECONNRESET: 'the peer left during the TLS handshake',
};

/** X509_V_ERR_* of OpenSSL by number (x509_vfy.h), with the names that Node gives them. */
const VERIFY_CODES: Readonly<Record<number, string>> = {
  2: 'UNABLE_TO_GET_ISSUER_CERT',
  3: 'UNABLE_TO_GET_CRL',
  4: 'UNABLE_TO_DECRYPT_CERT_SIGNATURE',
  6: 'UNABLE_TO_DECODE_ISSUER_PUBLIC_KEY',
  7: 'CERT_SIGNATURE_FAILURE',
  9: 'CERT_NOT_YET_VALID',
  10: 'CERT_HAS_EXPIRED',
  13: 'ERROR_IN_CERT_NOT_BEFORE_FIELD',
  14: 'ERROR_IN_CERT_NOT_AFTER_FIELD',
  17: 'OUT_OF_MEM',
  18: 'DEPTH_ZERO_SELF_SIGNED_CERT',
  19: 'SELF_SIGNED_CERT_IN_CHAIN',
  20: 'UNABLE_TO_GET_ISSUER_CERT_LOCALLY',
  21: 'UNABLE_TO_VERIFY_LEAF_SIGNATURE',
  22: 'CERT_CHAIN_TOO_LONG',
  23: 'CERT_REVOKED',
  24: 'INVALID_CA',
  25: 'PATH_LENGTH_EXCEEDED',
  26: 'INVALID_PURPOSE',
  27: 'CERT_UNTRUSTED',
  28: 'CERT_REJECTED',
};

/** `reason`: what OpenSSL says, for those that Node has no name for. */
export function verifyCode(verify: number, reason: string): string {
  return VERIFY_CODES[verify] ?? reason;
}

const codeOf = (error: Error) => (error as NodeJS.ErrnoException).code ?? '';

export function explain(error: Error): string {
  const code = codeOf(error);
  return REASONS[code] ?? `${error.message}${code === '' ? '' : ` (${code})`}`;
}

/** What a certificate is refused for; `code` is `authorizationError` of Node's TLS sockets. */
export function explainCertificate(code: unknown): string {
  const key = code instanceof Error ? codeOf(code) || code.message : String(code);
  return REASONS[key] ?? key;
}

const isCertificateCode = (code: string) =>
  /CERT|UNKNOWN_CA|ALERT_DECRYPT_ERROR|ALERT_ACCESS_DENIED|UNABLE_TO|INVALID_PURPOSE/.test(code);

/** Of a handshake that an accepted connection did not finish. */
export function handshakeCode(error: Error): ErrorCode {
  const code = codeOf(error);
  if (code === 'ERR_TLS_HANDSHAKE_TIMEOUT') return 'ERR_HELLO_TIMEOUT';
  return isCertificateCode(code) ? 'ERR_CERTIFICATE' : 'ERR_TRANSPORT';
}

/** Errors of a running stream: after a TLS 1.3 handshake the client learns only here that its certificate was refused. */
export function streamError(error: Error): Error {
  if (!isCertificateCode(codeOf(error))) return error;
  return new KubeBusError('ERR_CERTIFICATE', explain(error), { side: 'remote', cause: error });
}

export function connectError(error: Error, where: string): KubeBusError {
  if (error instanceof KubeBusError) return error;
  if (isCertificateCode(codeOf(error)))
    return new KubeBusError('ERR_CERTIFICATE', `certificate of ${where}: ${explain(error)}`, { cause: error });
  const text =
    codeOf(error) === 'ECONNRESET'
      ? 'the other side closed the connection during the TLS handshake (its log says why)'
      : codeOf(error).startsWith('ERR_SSL_')
        ? explain(error)
        : error.message;
  return new KubeBusError('ERR_CONNECT', `cannot connect to ${where}: ${text}`, { cause: error });
}

// Why a QUIC connection ended, in words that say what to do.

import { KubeBusError } from '../../lib/core/index.js';
import type { EngineConnection } from './engine.js';

/** RFC 9001 §4.8: a TLS alert travels as 0x100 + its number (RFC 8446 §6.2). */
const TLS_ALERT = 0x100;

/** Codes of our CONNECTION_CLOSE frames (RFC 9000 §19.19, type 0x1d). */
export const APP_END = 0;
export const APP_DESTROYED = 1;
export const APP_CERTIFICATE = 2;

const ALERTS: Record<number, string> = {
  42: 'the certificate was refused: it is not valid (date, signature, purpose or name)',
  44: 'the certificate was refused: it is revoked',
  45: 'the certificate was refused: it has expired',
  46: 'the certificate was refused',
  48: 'the certificate was refused: it is not signed by the CA of the other side',
  51: 'the certificate was refused: its signature is wrong',
  112: 'the certificate is for another host name',
  116: 'the peer wants a certificate and got none',
  120: 'the other side does not speak this protocol over QUIC',
};

/** The error behind a closed connection; undefined when it ended in order. */
export function explainQuic(engine: EngineConnection, where: string): KubeBusError | undefined {
  const local = engine.localError();
  const peer = engine.peerError();
  const error = peer ?? local;
  if (error === null) {
    if (engine.isTimedOut()) return new KubeBusError('ERR_TRANSPORT', `${where} went silent`, { side: 'remote' });
    // Closed without a word of either side: that was a stateless reset (RFC 9000 §10.3.1).
    if (engine.isClosed()) {
      const text = `${where} does not know this connection any more: it was restarted`;
      return new KubeBusError('ERR_TRANSPORT', text, { side: 'remote' });
    }
    return undefined;
  }
  const side = peer === null ? 'local' : 'remote';
  const text = Buffer.from(error.reason).toString('utf8');
  if (error.isApp) {
    if (error.errorCode === APP_END) return undefined;
    const code = error.errorCode === APP_CERTIFICATE ? 'ERR_CERTIFICATE' : 'ERR_TRANSPORT';
    return new KubeBusError(code, text || `closed by ${where} (${error.errorCode})`, { side });
  }
  const alert = error.errorCode - TLS_ALERT;
  if (alert >= 0 && alert < 256) {
    const what = ALERTS[alert] ?? `TLS alert ${alert}`;
    const who = side === 'local' ? `certificate of ${where}: ` : '';
    return new KubeBusError('ERR_CERTIFICATE', `${who}${what}`, { side });
  }
  return new KubeBusError(
    'ERR_TRANSPORT',
    `QUIC error ${error.errorCode} with ${where}: ${text || 'no reason given'}`,
    {
      side,
    },
  );
}

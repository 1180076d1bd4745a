// The limits that all listeners have in common, looked at before anything is opened.

import { KubeBusError, type Micros } from '../lib/core/index.js';

export interface ListenLimits {
  readonly handshakes?: number;
  readonly handshakeTimeout?: Micros;
}

/** Throws ERR_INVALID_ARGUMENT: a limit that is no number would limit nothing. */
export function checkLimits({ handshakes = 0, handshakeTimeout = 1 }: ListenLimits): void {
  if (!Number.isInteger(handshakes) || handshakes < 0) {
    throw new KubeBusError('ERR_INVALID_ARGUMENT', `handshakes must be a whole number from 0, not ${handshakes}`);
  }
  if (!Number.isFinite(handshakeTimeout) || handshakeTimeout <= 0) {
    throw new KubeBusError(
      'ERR_INVALID_ARGUMENT',
      `handshakeTimeout must be microseconds above 0, not ${handshakeTimeout}`,
    );
  }
}

// Edge: what a node that has nothing but a token dials with: TCP and TLS. The one import of a transport in lib/, so that
// `KubeBusNode.join({ token, stateDir })` is all that a program needs.

import { dialService, tcpTransport } from '../../../transports/tcp.js';
import type { TlsSource, Transport } from '../../l2/index.js';
import type { ServiceDialer } from './client.js';

export const defaultServiceDialer: ServiceDialer = dialService;

export function defaultTransport(tls: TlsSource): Transport {
  return tcpTransport({ tls });
}

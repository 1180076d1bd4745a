// Several transports as one: an address that names its transport (`kubebus://host:7443?transport=quic`) is dialled with
// that, any other with all of them, the first one first and each next one when the one before has not answered within its
// head start. So a network that swallows UDP costs a moment, and the reason is kept for the user.

import { type Clock, KubeBusError, type Micros, MS, RaceError, race, systemClock } from '../lib/core/index.js';
import type { AcceptHandler, ByteStream, Listener, Transport } from '../lib/l2/transport.js';

export interface AnyOptions {
  /** In order of preference; their names (`tcp`, `quic`, `webtransport`) are what addresses say. */
  readonly transports: readonly Transport[];
  /** What a transport has before the next one is tried beside it. **Default:** 800 ms. */
  readonly headStart?: Micros;
  readonly clock?: Clock;
}

/** Only dials; a cloud is given its transports one by one. Throws ERR_INVALID_ARGUMENT where there is none. */
export function anyTransport(options: AnyOptions): Transport {
  const { transports, headStart = 800 * MS, clock = systemClock } = options;
  if (transports.length === 0) throw new KubeBusError('ERR_INVALID_ARGUMENT', 'transports must name at least one');
  return {
    name: 'any',
    listen: (_handler: AcceptHandler): Promise<Listener> =>
      Promise.reject(new KubeBusError('ERR_INVALID_ARGUMENT', 'listen with each transport by itself')),
    async dial(address, signal, farewell): Promise<ByteStream> {
      const named = transportOf(address);
      const usable = named === null ? transports : transports.filter((t) => t.name === named);
      if (usable.length === 0) {
        const have = transports.map((t) => t.name).join(', ');
        throw new KubeBusError('ERR_INVALID_ARGUMENT', `${address}: no transport is called ${named} here (${have})`);
      }
      const attempts = usable.map((transport) => ({
        headStart,
        start: (abort: AbortSignal) => transport.dial(address, abort, farewell),
      }));
      try {
        const { value, winner, failures } = await race(attempts, clock, signal, (late) => late.destroy());
        if (winner > 0) {
          value.compromise = failures
            .map((e, i) => `${usable[i]!.name}: ${e?.message ?? `no answer within ${headStart / MS} ms`}`)
            .join('; ');
        }
        return value;
      } catch (error) {
        throw combined(error, usable, address);
      }
    },
  };
}

function transportOf(address: string): string | null {
  const url = address.includes('://') ? address : `kubebus://${address}`;
  return URL.canParse(url) ? new URL(url).searchParams.get('transport') : null;
}

/** A refusal by the cloud counts more than a transport that could not connect. */
function combined(error: unknown, usable: readonly Transport[], address: string): KubeBusError {
  if (!(error instanceof RaceError)) {
    return new KubeBusError('ERR_CONNECT', `cannot connect to ${address}: no answer in time`, { cause: error });
  }
  const refused = error.errors.find((e): e is KubeBusError => e instanceof KubeBusError && e.code !== 'ERR_CONNECT');
  const text = error.errors.map((e, i) => `${usable[i]!.name}: ${e.message}`).join('; ');
  return new KubeBusError(refused?.code ?? 'ERR_CONNECT', usable.length === 1 ? error.errors[0]!.message : text, {
    ...(refused === undefined ? {} : { side: refused.side }),
    cause: error,
  });
}

// Edge: ping with a clock and promises.

import { isIP } from 'node:net';
import { MS } from '../../core/index.js';
import type { PingSession } from '../ping.js';
import type { IcmpKind } from '../tcp/types.js';
import { destination, resolve, type SocketContext } from './context.js';
import { abortError, argValue, hostPortException, notFound } from './errors.js';

export interface PingOptions {
  /** Requests. **Default:** 4. */
  readonly count?: number;
  /** Between requests. Milliseconds. **Default:** 1,000. */
  readonly intervalMs?: number;
  /** How long each reply is waited for. Milliseconds. **Default:** 2,000. */
  readonly timeoutMs?: number;
  /** Bytes of data in a request, 0 to 65,000. **Default:** 56. */
  readonly size?: number;
  readonly signal?: AbortSignal;
}

export interface PingResult {
  /** Milliseconds, in the order of the replies. */
  readonly rtts: readonly number[];
  readonly sent: number;
  readonly lost: number;
  /** ICMP errors that came back, by kind. */
  readonly errors: Readonly<Partial<Record<IcmpKind, number>>>;
}

export async function ping(context: SocketContext, host: string, options: PingOptions = {}): Promise<PingResult> {
  const { count = 4, intervalMs = 1_000, timeoutMs = 2_000, size = 56, signal } = options;
  if (!(size >= 0 && size <= 65_000)) throw argValue('options.size', 'must be from 0 to 65,000', size);
  if (!(count >= 1 && count <= 65_536)) throw argValue('options.count', 'must be from 1 to 65,536', count);
  const text = isIP(host) !== 0 ? host : (await resolve(context, host, 0))[0];
  if (text === undefined) throw notFound(host);
  const { driver } = context;
  const address = destination(context, text);
  const local = address === null ? null : driver.stack.localFor(address);
  if (address === null || local === null) throw hostPortException('ENETUNREACH', 'ping', text, 0);
  if (signal?.aborted) throw abortError(signal.reason);

  return new Promise<PingResult>((done, reject) => {
    const rtts: number[] = [];
    const errors: Partial<Record<IcmpKind, number>> = {};
    const sentAt = new Map<number, number>();
    let sent = 0;
    let timer: { cancel(): void } | null = null;
    const finish = () => {
      timer?.cancel();
      driver.stack.ping.close(session);
      driver.unref();
      signal?.removeEventListener('abort', abort);
    };
    const end = () => {
      finish();
      done({ rtts, sent, lost: sent - rtts.length, errors });
    };
    const abort = () => {
      finish();
      reject(abortError(signal?.reason));
    };
    const session: PingSession = {
      id: 0,
      address,
      onReply(now, sequence) {
        const at = sentAt.get(sequence);
        // A reply that comes twice counts once.
        if (at === undefined) return;
        sentAt.delete(sequence);
        rtts.push((now - at) / MS);
        if (sent === count && sentAt.size === 0) queueMicrotask(end);
      },
      onError(sequence, kind) {
        if (!sentAt.delete(sequence)) return;
        errors[kind] = (errors[kind] ?? 0) + 1;
        if (sent === count && sentAt.size === 0) queueMicrotask(end);
      },
    };
    const step = () => {
      const now = driver.now();
      if (sent === count || driver.closed) {
        end();
        return;
      }
      sentAt.set(sent, now);
      driver.stack.ping.send(session, local, sent++, size);
      driver.schedule();
      const wait = sent === count ? timeoutMs : intervalMs;
      timer = driver.clock.at(now + wait * MS, step);
    };
    driver.ref();
    driver.stack.ping.open(session);
    signal?.addEventListener('abort', abort, { once: true });
    step();
  });
}

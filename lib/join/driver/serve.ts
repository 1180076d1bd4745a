// Edge: one caller of the join service: one request, or Describe and then Enroll, each answered before the next is read; bounded in bytes
// and time.

import type { Duplex } from 'node:stream';
import { type Clock, KubeBusError, type Logger, type Micros, SECOND } from '../../core/index.js';
import type { ServicePeer } from '../../l2/index.js';
import type { AttemptLimiter } from '../attempts.js';
import { decodeRequest, encodeAnswer, type JoinAnswer, type JoinRequest, MessageReader } from '../messages.js';

export interface ServeOptions {
  readonly clock: Clock;
  readonly logger: Logger;
  readonly timeout: Micros;
  readonly attempts: AttemptLimiter;
  /** Rejects with what the caller is to be told. */
  answer(request: JoinRequest): Promise<JoinAnswer>;
  count(code: string): void;
}

/** Reasons that go away by themselves; with the others trying again is of no use. */
const PASSING: Readonly<Record<string, number>> = { ERR_STATE: 5_000, ERR_JOIN_TIMEOUT: 5_000, ERR_INTERNAL: 30_000 };
/** Not the caller's doing: they cost it nothing. */
const BLAMELESS = new Set(['ERR_STATE', 'ERR_INTERNAL']);

export function serveJoin(socket: Duplex, peer: ServicePeer, options: ServeOptions): void {
  const { clock, logger, attempts } = options;
  const { remote, address } = peer;
  let over = false;
  const finish = (answer: JoinAnswer) => {
    if (over) return;
    over = true;
    timer.cancel();
    // What still comes is of no interest, but must be read for the end to be seen.
    socket.removeListener('data', onData);
    socket.resume();
    socket.end(encodeAnswer(answer));
    clock.at(clock.now() + SECOND, () => socket.destroy());
  };
  const refuse = (error: KubeBusError, retryAfterMs = PASSING[error.code] ?? 0) => {
    options.count(error.code);
    // Messages of ours name tokens by their id and never hold the secret.
    logger.warn({ remote, code: error.code }, `join refused: ${error.message}`);
    finish({ type: 'refusal', code: error.code, message: error.message, retryAfterMs });
  };
  socket.on('error', () => {});
  const timer = clock.at(clock.now() + options.timeout, () => {
    end(true);
    refuse(new KubeBusError('ERR_JOIN_TIMEOUT', 'the request did not come in time', { side: 'remote' }));
  });
  const wait = attempts.begin(clock.now(), address);
  let begun = wait === 0;
  const end = (failed: boolean) => {
    if (begun) attempts.end(clock.now(), address, failed);
    begun = false;
  };
  socket.once('close', () => {
    over = true;
    timer.cancel();
    // A caller that goes away without a request has failed; one whose answer is being made, or that looked at the CA only, has not.
    if (!working) end(!described);
  });
  let working = false;
  let described = false;
  let reader = new MessageReader();
  const onData = (chunk: Buffer) => {
    if (over || working) return;
    try {
      const message = reader.push(chunk);
      if (message === null) return;
      const request = decodeRequest(message);
      if (described && request.type !== 'enroll')
        throw new KubeBusError('ERR_JOIN_MALFORMED', 'after Describe there is only Enroll on a connection');
      working = true;
      options.answer(request).then(
        (answer) => {
          if (request.type !== 'describe') {
            end(false);
            return finish(answer);
          }
          described = true;
          working = false;
          reader = new MessageReader();
          if (over) end(false);
          else socket.write(encodeAnswer(answer));
        },
        (error: unknown) => {
          end(!BLAMELESS.has(asError(error, logger).code));
          refuse(asError(error));
        },
      );
    } catch (error) {
      end(true);
      refuse(asError(error));
    }
  };
  if (begun) socket.on('data', onData);
  else refuse(new KubeBusError('ERR_RATE_LIMITED', 'too many attempts to join'), wait);
}

/** What the caller is told: reasons of ours as they are, anything else without its inside. */
function asError(error: unknown, logger?: Logger): KubeBusError {
  if (error instanceof KubeBusError) {
    if (error.code !== 'ERR_STATE') return error;
    return new KubeBusError('ERR_STATE', 'the cloud cannot write its state at the moment', { cause: error });
  }
  logger?.error({ err: error }, 'joining failed');
  return new KubeBusError('ERR_INTERNAL', 'the cloud failed; its log says why', { cause: error });
}

// Edge: one request's life: caller -> upstream -> caller. Bodies stream both ways with back-pressure; whichever side goes away, the other is
// told at once. undici carries it; what undici does not do is in slow-exchange.ts.

import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Dispatcher } from 'undici';
import { KubeBusError } from '../../core/index.js';
import { giveBack } from '../../l4/index.js';
import { HttpFailure } from '../failure.js';
import { trailerFields } from '../headers.js';
import { answerFailure, breakOff, isHttp2, writeHead, writeInformation } from './answer.js';
import { RequestBody } from './request-body.js';
import type { Lease, Upstream } from './upstream.js';

/** How one request is to be passed on. */
export interface Plan {
  readonly method: string;
  readonly path: string;
  /** Flat list, ready to send. */
  readonly headers: string[];
  readonly requestId: string;
  /** Bytes of a request's body. */
  readonly bodyLimit: number;
  /** Where to, or why not; asked again after an attempt that sent nothing. */
  pick(): Upstream | HttpFailure;
  /** Fields of the answer for the caller. */
  mend(raw: readonly string[]): string[];
  /** What a connection that cannot be had means. */
  unreachable(error: NodeJS.ErrnoException): HttpFailure;
  /** Called once per attempt: the upstream answered (null), or why not. */
  tried?(error: NodeJS.ErrnoException | null): void;
  /** Called once. `status` 0: the caller went away before. */
  done(result: Result): void;
}

export interface Result {
  readonly status: number;
  readonly bytesIn: number;
  readonly bytesOut: number;
  /** Code, where the answer was ours or was broken off. */
  readonly error?: string;
}

/** RFC 9110 §9.2.2. */
const IDEMPOTENT = new Set(['GET', 'HEAD', 'OPTIONS', 'PUT', 'DELETE', 'TRACE']);
const ATTEMPTS = 3;
/** What is read and thrown away of a request that was answered early, so that the caller can see the answer. */
const LINGER_BYTES = 1024 * 1024;
const LINGER_MS = 2_000;
/** Pieces of a body that are worth giving back. */
const LARGE = 8_192;

/** Informational answers (103 and the like) of one request: they are written without back-pressure. */
export const MAX_INFORMATION = 32;

export function tooMuchInformation(): HttpFailure {
  return new HttpFailure(
    'ERR_HTTP_SERVICE_DOWN',
    `the service sent more than ${MAX_INFORMATION} informational answers`,
  );
}

export const EXCHANGE = Symbol('kubebus.exchange');

export function hasBody(req: IncomingMessage): boolean {
  if (isHttp2(req)) return !(req as unknown as { stream: { endAfterHeaders: boolean } }).stream.endAfterHeaders;
  const length = req.headers['content-length'];
  return req.headers['transfer-encoding'] !== undefined || (length !== undefined && length !== '0');
}

/** Starts it. Everything else happens by events. */
export function exchange(req: IncomingMessage, res: ServerResponse, plan: Plan): void {
  new Exchange(req, res, plan).start();
}

class Exchange {
  private lease: Lease | null = null;
  private upstream: Upstream | null = null;
  private stopWaiting: (() => void) | null = null;
  private abortUpstream: ((error?: Error) => void) | null = null;
  private resumeUpstream: (() => void) | null = null;
  private body: RequestBody | null = null;
  private attempts = 0;
  private informed = 0;
  private status = 0;
  private bytesOut = 0;
  private error: string | undefined;
  private started = false;
  private wrote = false;
  private ended = false;
  private closed = false;

  constructor(
    private readonly req: IncomingMessage,
    private readonly res: ServerResponse,
    private readonly plan: Plan,
  ) {}

  start(): void {
    const { req, res } = this;
    (res as { [EXCHANGE]?: Exchange })[EXCHANGE] = this;
    res.on('close', () => this.onCallerClosed());
    res.on('drain', () => this.resumeUpstream?.());
    res.on('error', () => {});
    if (hasBody(req)) {
      const tooLarge = () =>
        this.fail(new HttpFailure('ERR_HTTP_BODY_TOO_LARGE', `the body is larger than ${this.plan.bodyLimit} bytes`));
      if (Number(req.headers['content-length'] ?? 0) > this.plan.bodyLimit) {
        tooLarge();
        return;
      }
      this.body = new RequestBody(req, this.plan.bodyLimit, tooLarge);
      this.body.on('error', () => {});
    }
    this.attempt();
  }

  private attempt(): void {
    const { plan } = this;
    const upstream = plan.pick();
    if (upstream instanceof HttpFailure) {
      this.fail(upstream);
      return;
    }
    this.attempts++;
    this.upstream = upstream;
    upstream.active++;
    this.stopWaiting = upstream.acquire((lease) => {
      this.stopWaiting = null;
      if (lease === null) {
        upstream.active--;
        this.upstream = null;
        this.fail(new HttpFailure('ERR_HTTP_OVERLOADED', `too many requests wait for ${upstream.name}`, 1));
        return;
      }
      this.lease = lease;
      if (this.closed || this.error !== undefined) {
        this.giveBack();
        return;
      }
      // `reset: false`: undici would close the connection after each HEAD.
      const { method, path, headers } = plan;
      upstream.dispatch(
        lease,
        { method: method as Dispatcher.HttpMethod, path, headers, body: this.body, reset: false },
        this as Dispatcher.DispatchHandler,
      );
    });
  }

  // ---- called by undici

  onConnect(abort: (error?: Error) => void): void {
    this.abortUpstream = abort;
    if (this.closed) abort();
  }

  onHeaders(status: number, raw: readonly Buffer[], resume: () => void, text: string): boolean {
    if (this.closed || this.error !== undefined) return true;
    const headers: string[] = new Array(raw.length);
    for (let i = 0; i < raw.length; i++) headers[i] = raw[i]!.toString('latin1');
    if (status < 200) {
      if (++this.informed > MAX_INFORMATION) {
        this.fail(tooMuchInformation());
        return true;
      }
      writeInformation(this.req, this.res, status, this.plan.mend(headers));
      return true;
    }
    this.plan.tried?.(null);
    this.started = true;
    this.status = status;
    this.resumeUpstream = resume;
    writeHead(this.req, this.res, status, text, this.plan.mend(headers));
    // A body that comes along goes out in one piece with the head; a head alone (server-sent events) must not wait for it.
    process.nextTick(flushHead, this);
    return true;
  }

  onData(chunk: Buffer): boolean {
    if (this.closed || this.error !== undefined) return true;
    this.wrote = true;
    this.bytesOut += chunk.length;
    if (chunk.length < LARGE) return this.res.write(chunk);
    return this.res.write(chunk, (error) => {
      // Written, and undici has kept nothing of it but perhaps trailers, whose bytes then do not come back.
      if (!error) giveBack(chunk);
    });
  }

  onComplete(trailers: readonly (string | Buffer)[] | null): void {
    this.ended = true;
    this.giveBack();
    const { res, req } = this;
    if (this.closed || this.error !== undefined) return;
    this.wrote = true;
    if (trailers !== null && trailers.length > 0) addTrailers(req, res, trailers.map(String));
    res.end();
    if (this.body !== null && !req.complete) this.linger();
  }

  onError(error: NodeJS.ErrnoException): void {
    const sent = this.abortUpstream !== null;
    const upstream = this.upstream;
    this.giveBack();
    if (this.closed || this.error !== undefined) return;
    if (this.started) {
      this.error = 'ERR_HTTP_SERVICE_DOWN';
      breakOff(this.req, this.res);
      return;
    }
    if (upstream !== null) this.plan.tried?.(error);
    // Only what sent nothing is tried again, and of that only what may be repeated.
    const untouched = this.body === null || (this.body.bytes === 0 && !this.body.destroyed);
    if (!sent && untouched && IDEMPOTENT.has(this.plan.method) && this.attempts < ATTEMPTS && !isTimeout(error)) {
      this.attempt();
      return;
    }
    this.fail(explain(error, sent, this.plan));
  }

  // ---- the caller's side

  /** The caller neither sends nor reads. */
  stalled(): void {
    if (this.started || this.closed) breakOff(this.req, this.res);
    else this.fail(new HttpFailure('ERR_HTTP_STALLED', 'the request stopped in the middle'));
  }

  private onCallerClosed(): void {
    if (this.closed) return;
    this.closed = true;
    this.cancelWaiting();
    if (!this.ended) this.abortUpstream?.(new KubeBusError('ERR_ABORTED', 'the caller went away'));
    this.body?.destroy();
    const whole = this.res.writableFinished;
    this.plan.done({
      status: whole ? this.status : this.started ? this.status : 0,
      bytesIn: this.body?.bytes ?? 0,
      bytesOut: this.bytesOut,
      ...(this.error !== undefined ? { error: this.error } : whole ? {} : { error: 'ERR_ABORTED' }),
    });
  }

  private fail(failure: HttpFailure): void {
    if (this.error !== undefined || this.closed) return;
    this.error = failure.code;
    this.cancelWaiting();
    if (!this.ended) this.abortUpstream?.(new KubeBusError('ERR_ABORTED', failure.reason));
    if (this.started) {
      breakOff(this.req, this.res);
      return;
    }
    this.status = failure.status;
    this.body?.destroy();
    answerFailure(this.req, this.res, failure, this.plan.requestId);
    if (!this.req.complete && hasBody(this.req)) this.linger();
  }

  /** Reads on for a moment, so that the answer is not lost in a reset; then closes. */
  private linger(): void {
    const { req } = this;
    if (isHttp2(req)) {
      // 0: NO_ERROR, RFC 9113 §8.1: the answer is whole, the rest of the request is not wanted.
      this.res.once('finish', () => (req as unknown as { stream: { close(code: number): void } }).stream.close(0));
      return;
    }
    const { socket } = req;
    const end = () => socket.destroy();
    const timer = setTimeout(end, LINGER_MS);
    let bytes = 0;
    req.on('data', (chunk: Buffer) => {
      bytes += chunk.length;
      if (bytes > LINGER_BYTES) end();
    });
    req.once('close', () => clearTimeout(timer));
    req.once('end', () => clearTimeout(timer));
    req.on('error', () => {});
    req.resume();
  }

  private cancelWaiting(): void {
    if (this.stopWaiting === null) return;
    this.stopWaiting();
    this.stopWaiting = null;
    if (this.upstream !== null) this.upstream.active--;
    this.upstream = null;
  }

  private giveBack(): void {
    const { lease, upstream } = this;
    this.lease = null;
    this.abortUpstream = null;
    this.resumeUpstream = null;
    if (upstream === null || lease === null) return;
    this.upstream = null;
    upstream.active--;
    upstream.release(lease);
  }

  flush(): void {
    if (!this.wrote && !this.closed && !this.ended) this.res.flushHeaders();
  }
}

function flushHead(of: Exchange): void {
  of.flush();
}

export function addTrailers(req: IncomingMessage, res: ServerResponse, all: readonly string[]): void {
  const raw = trailerFields(all);
  if (raw.length === 0) return;
  if (isHttp2(req)) {
    for (let i = 0; i < raw.length; i += 2) res.addTrailers({ [raw[i]!]: raw[i + 1]! });
    return;
  }
  const pairs: [string, string][] = [];
  for (let i = 0; i < raw.length; i += 2) pairs.push([raw[i]!, raw[i + 1]!]);
  res.addTrailers(pairs);
}

function isTimeout(error: NodeJS.ErrnoException): boolean {
  return error.code === 'ERR_HTTP_TIMEOUT';
}

/** The answer for an upstream that gave none. */
export function explain(error: NodeJS.ErrnoException, sent: boolean, plan: Pick<Plan, 'unreachable'>): HttpFailure {
  switch (error.code) {
    case 'UND_ERR_HEADERS_TIMEOUT':
    case 'UND_ERR_BODY_TIMEOUT':
    case 'ERR_HTTP_TIMEOUT':
      return new HttpFailure('ERR_HTTP_TIMEOUT', 'the service made no progress for the time allowed');
    case 'UND_ERR_HEADERS_OVERFLOW':
      return new HttpFailure('ERR_HTTP_SERVICE_DOWN', "the header fields of the service's answer are too large");
    case 'UND_ERR_REQ_CONTENT_LENGTH_MISMATCH':
      return new HttpFailure('ERR_HTTP_BAD_REQUEST', 'the body is not as long as Content-Length says');
    case 'UND_ERR_INVALID_ARG':
    case 'UND_ERR_NOT_SUPPORTED':
    case 'ERR_INVALID_CHAR':
    case 'ERR_UNESCAPED_CHARACTERS':
      return new HttpFailure('ERR_HTTP_BAD_REQUEST', error.message);
  }
  if (sent) return new HttpFailure('ERR_HTTP_SERVICE_DOWN', 'the service closed the connection without a valid answer');
  return plan.unreachable(error);
}

// Answers of our own: a status, a reason and a request id, as JSON or text by what the caller accepts.

import type { HttpErrorCode } from '../core/index.js';

export class HttpFailure {
  constructor(
    readonly code: HttpErrorCode,
    readonly reason: string,
    /** Seconds for Retry-After. */
    readonly retryAfter?: number,
  ) {}

  get status(): number {
    return STATUS[this.code] ?? 500;
  }
}

const STATUS: Partial<Record<HttpErrorCode, number>> = {
  ERR_HTTP_BAD_REQUEST: 400,
  ERR_HTTP_ADDRESS: 404,
  ERR_HTTP_TENANT_UNKNOWN: 404,
  ERR_HTTP_NODE_UNKNOWN: 404,
  ERR_HTTP_SERVICE_UNKNOWN: 404,
  ERR_HTTP_FORBIDDEN: 403,
  ERR_HTTP_NODE_OFFLINE: 503,
  ERR_HTTP_SERVICE_DOWN: 502,
  ERR_HTTP_TIMEOUT: 504,
  ERR_HTTP_BODY_TOO_LARGE: 413,
  ERR_HTTP_HEADERS_TOO_LARGE: 431,
  ERR_HTTP_RATE_LIMITED: 429,
  ERR_HTTP_OVERLOADED: 503,
  ERR_HTTP_METHOD: 405,
  ERR_HTTP_EXPECTATION: 417,
  ERR_HTTP_LOOP: 508,
  ERR_HTTP_STALLED: 408,
};

export interface FailureAnswer {
  readonly status: number;
  readonly headers: string[];
  readonly body: string;
}

/** `accept`: the caller's Accept field. JSON unless the caller wants text (a browser does). */
export function failureAnswer(failure: HttpFailure, requestId: string, accept: string | undefined): FailureAnswer {
  const { code, reason, status } = failure;
  const text = /\btext\/(?:html|plain|\*)/i.test(accept ?? '') && !/\bapplication\/json\b/i.test(accept ?? '');
  const body = text
    ? `${status} ${reason}\n${code}, request ${requestId}\n`
    : `${JSON.stringify({ error: { status, code, reason, requestId } })}\n`;
  const headers = [
    'content-type',
    text ? 'text/plain; charset=utf-8' : 'application/json',
    'content-length',
    String(byteLength(body)),
    'cache-control',
    'no-store',
    'x-content-type-options',
    'nosniff',
    'x-request-id',
    requestId,
    'x-kubebus-error',
    code,
  ];
  if (failure.retryAfter !== undefined) headers.push('retry-after', String(failure.retryAfter));
  if (code === 'ERR_HTTP_METHOD') headers.push('allow', 'GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS');
  return { status, headers, body };
}

/** Reasons hold names of requests, which are ASCII by then; still, count as UTF-8. */
function byteLength(text: string): number {
  return new TextEncoder().encode(text).length;
}

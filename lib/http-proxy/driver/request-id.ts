// Edge: names of requests, for logs and answers: a prefix of this process and a counter.

import { randomBytes } from 'node:crypto';
import type { IncomingMessage } from 'node:http';
import { field } from '../headers.js';

const SAFE = /^[A-Za-z0-9._:/+=-]{8,128}$/;

export class RequestIds {
  private readonly prefix = randomBytes(6).toString('hex');
  private count = 0;

  next(): string {
    return `${this.prefix}-${(++this.count).toString(36)}`;
  }

  /** The caller's own, where it is safe to repeat. */
  of(req: IncomingMessage): string {
    const given = field(req.rawHeaders, 'x-request-id');
    return given !== undefined && SAFE.test(given) ? given : this.next();
  }
}

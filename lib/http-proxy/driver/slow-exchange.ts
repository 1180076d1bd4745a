// Edge: the requests that undici does not carry: Expect: 100-continue (RFC 9110 §10.1.1 has a proxy pass it on), requests with
// trailers, and upgrades (RFC 9110 §7.8: WebSocket and others). node:http does them, on a connection of their own.

import { type ClientRequest, type IncomingMessage, ServerResponse } from 'node:http';
import type { Duplex } from 'node:stream';
import { HttpFailure } from '../failure.js';
import { trailerFields } from '../headers.js';
import { answerFailure, breakOff, isHttp2, writeHead, writeInformation } from './answer.js';
import { addTrailers, explain, hasBody, MAX_INFORMATION, type Plan, tooMuchInformation } from './exchange.js';
import type { Upstream } from './upstream.js';

function open(plan: Plan, extra: readonly string[]): { upstream: Upstream; request: ClientRequest } | HttpFailure {
  const upstream = plan.pick();
  if (upstream instanceof HttpFailure) return upstream;
  let request: ClientRequest;
  try {
    request = upstream.request({ method: plan.method, path: plan.path, headers: [...plan.headers, ...extra] });
  } catch (error) {
    // What HTTP/2 lets pass and HTTP/1.1 does not.
    return new HttpFailure('ERR_HTTP_BAD_REQUEST', (error as Error).message);
  }
  request.setTimeout(upstream.limits.headersTimeoutMs, () => {
    request.destroy(Object.assign(new Error('no progress'), { code: 'ERR_HTTP_TIMEOUT' }));
  });
  return { upstream, request };
}

/** A request whose body waits for the service's word (`expects`), or that has trailers. */
export function slowExchange(req: IncomingMessage, res: ServerResponse, plan: Plan, expects: boolean): void {
  const length = req.headers['content-length'];
  const framing = length === undefined && hasBody(req) ? ['transfer-encoding', 'chunked'] : [];
  if (Number(length ?? 0) > plan.bodyLimit) {
    const failure = new HttpFailure('ERR_HTTP_BODY_TOO_LARGE', `the body is larger than ${plan.bodyLimit} bytes`);
    answerFailure(req, res, failure, plan.requestId);
    plan.done({ status: 413, bytesIn: 0, bytesOut: 0, error: failure.code });
    return;
  }
  const opened = open(plan, [...framing, 'connection', 'close', ...(expects ? ['expect', '100-continue'] : [])]);
  if (opened instanceof HttpFailure) {
    answerFailure(req, res, opened, plan.requestId);
    plan.done({ status: opened.status, bytesIn: 0, bytesOut: 0, error: opened.code });
    return;
  }
  const { upstream, request } = opened;
  upstream.active++;
  let bytesIn = 0;
  let bytesOut = 0;
  let error: string | undefined;
  let sending = false;
  let informed = 0;
  let status = 0;

  const fail = (failure: HttpFailure) => {
    if (error !== undefined) return;
    error = failure.code;
    status ||= failure.status;
    request.destroy();
    if (res.headersSent) breakOff(req, res);
    else {
      answerFailure(req, res, failure, plan.requestId);
      endRequest(req);
    }
  };
  const send = () => {
    if (sending) return;
    sending = true;
    req.on('data', (chunk: Buffer) => {
      bytesIn += chunk.length;
      if (bytesIn > plan.bodyLimit) {
        fail(new HttpFailure('ERR_HTTP_BODY_TOO_LARGE', `the body is larger than ${plan.bodyLimit} bytes`));
        return;
      }
      if (!request.write(chunk)) req.pause();
    });
    request.on('drain', () => req.resume());
    req.on('end', () => {
      const rawTrailers = trailerFields(req.rawTrailers);
      if (rawTrailers.length > 0) {
        const pairs: [string, string][] = [];
        for (let i = 0; i < rawTrailers.length; i += 2) pairs.push([rawTrailers[i]!, rawTrailers[i + 1]!]);
        request.addTrailers(pairs);
      }
      request.end();
    });
  };

  request.on('continue', () => {
    writeInformation(req, res, 100, []);
    send();
  });
  request.on('information', (info: { statusCode: number; rawHeaders: string[] }) => {
    if (++informed > MAX_INFORMATION) return fail(tooMuchInformation());
    // 100 comes as 'continue', too.
    if (info.statusCode === 100) return;
    writeInformation(req, res, info.statusCode, plan.mend(info.rawHeaders));
  });
  request.on('response', (answer: IncomingMessage) => {
    request.setTimeout(upstream.limits.idleTimeoutMs);
    plan.tried?.(null);
    status = answer.statusCode!;
    writeHead(req, res, status, answer.statusMessage ?? '', plan.mend(answer.rawHeaders));
    res.flushHeaders();
    answer.on('data', (chunk: Buffer) => {
      bytesOut += chunk.length;
      if (!res.write(chunk)) answer.pause();
    });
    res.on('drain', () => answer.resume());
    answer.on('end', () => {
      if (answer.rawTrailers.length > 0) addTrailers(req, res, answer.rawTrailers);
      res.end();
      // The service has answered without the body: the caller must not send it on a connection that is used again.
      if (!req.complete) endRequest(req);
    });
    answer.on('error', () => fail(new HttpFailure('ERR_HTTP_SERVICE_DOWN', 'the service broke off')));
  });
  request.on('error', (cause: NodeJS.ErrnoException) => {
    if (error !== undefined || res.destroyed || res.writableEnded) return;
    plan.tried?.(cause);
    fail(explain(cause, request.reusedSocket || (request.socket?.bytesWritten ?? 0) > 0, plan));
  });
  res.on('error', () => {});
  req.on('error', () => {});
  res.on('close', () => {
    upstream.active--;
    if (!res.writableFinished) {
      error ??= 'ERR_ABORTED';
      request.destroy();
    }
    plan.done({ status, bytesIn, bytesOut, ...(error === undefined ? {} : { error }) });
  });
  if (expects) request.flushHeaders();
  else send();
}

function endRequest(req: IncomingMessage): void {
  if (req.complete) return;
  if (isHttp2(req)) return;
  const { socket } = req;
  const timer = setTimeout(() => socket.destroy(), 1_000);
  req.once('close', () => clearTimeout(timer));
  req.once('end', () => clearTimeout(timer));
  req.resume();
}

/** A request for another protocol: once the service agrees, bytes pass both ways until one side ends. */
export function upgrade(req: IncomingMessage, socket: Duplex, head: Buffer, plan: Plan): void {
  // A refusal is an ordinary answer; Node's own response writes it.
  const res = new ServerResponse(req);
  res.shouldKeepAlive = false;
  res.assignSocket(socket as Parameters<ServerResponse['assignSocket']>[0]);
  res.on('finish', () => {
    res.detachSocket(socket as Parameters<ServerResponse['assignSocket']>[0]);
    socket.end();
  });
  socket.on('error', () => socket.destroy());
  const protocol = req.headers.upgrade ?? '';
  const opened = open(plan, ['connection', 'upgrade', 'upgrade', protocol]);
  if (opened instanceof HttpFailure) {
    answerFailure(req, res, opened, plan.requestId);
    plan.done({ status: opened.status, bytesIn: 0, bytesOut: 0, error: opened.code });
    return;
  }
  const { upstream, request } = opened;
  upstream.active++;
  let finished = false;
  let informed = 0;
  const finish = (status: number, bytesIn: number, bytesOut: number, error?: string) => {
    if (finished) return;
    finished = true;
    upstream.active--;
    plan.done({ status, bytesIn, bytesOut, ...(error === undefined ? {} : { error }) });
  };
  const abort = () => {
    request.destroy();
    finish(0, 0, 0, 'ERR_ABORTED');
  };
  socket.once('close', abort);

  request.on('upgrade', (answer: IncomingMessage, far: Duplex, farHead: Buffer) => {
    socket.removeListener('close', abort);
    plan.tried?.(null);
    res.detachSocket(socket as Parameters<ServerResponse['assignSocket']>[0]);
    let text = `HTTP/1.1 101 ${answer.statusMessage || 'Switching Protocols'}\r\nConnection: Upgrade\r\n`;
    const agreed = answer.headers.upgrade;
    if (agreed !== undefined) text += `Upgrade: ${agreed}\r\n`;
    const mended = plan.mend(answer.rawHeaders);
    for (let i = 0; i < mended.length; i += 2) text += `${mended[i]}: ${mended[i + 1]}\r\n`;
    socket.write(`${text}\r\n`, 'latin1');
    if (farHead.length > 0) socket.write(farHead);
    if (head.length > 0) far.write(head);
    tunnel(socket, far, upstream.limits.idleTimeoutMs, (bytesIn, bytesOut) => finish(101, bytesIn, bytesOut));
  });
  request.on('response', (answer: IncomingMessage) => {
    plan.tried?.(null);
    writeHead(req, res, answer.statusCode!, answer.statusMessage ?? '', plan.mend(answer.rawHeaders));
    let bytesOut = 0;
    answer.on('data', (chunk: Buffer) => {
      bytesOut += chunk.length;
    });
    answer.pipe(res);
    answer.on('error', () => socket.destroy());
    res.on('finish', () => finish(answer.statusCode!, 0, bytesOut));
  });
  request.on('information', (info: { statusCode: number; rawHeaders: string[] }) => {
    if (++informed > MAX_INFORMATION) {
      request.destroy(Object.assign(new Error('too much information'), { code: 'ERR_HTTP_INFORMATION' }));
      return;
    }
    // 100 comes as 'continue', too.
    if (info.statusCode === 100) return;
    writeInformation(req, res, info.statusCode, plan.mend(info.rawHeaders));
  });
  request.on('error', (cause: NodeJS.ErrnoException) => {
    if (finished) return;
    plan.tried?.(cause);
    const failure = explain(cause, (request.socket?.bytesWritten ?? 0) > 0, plan);
    finish(failure.status, 0, 0, failure.code);
    if (res.headersSent) socket.destroy();
    else answerFailure(req, res, failure, plan.requestId);
  });
  // What some clients send with the upgrade request as its body.
  request.end();
}

interface Timed extends Duplex {
  setTimeout?(ms: number, callback?: () => void): unknown;
}

/** Joins two connections: back-pressure, half-close and abort pass through. `done` gets bytes a -> b and b -> a. */
export function tunnel(a: Timed, b: Timed, idleMs: number, done: (ab: number, ba: number) => void): void {
  let ab = 0;
  let ba = 0;
  let open = 2;
  a.on('data', (chunk: Buffer) => {
    ab += chunk.length;
  });
  b.on('data', (chunk: Buffer) => {
    ba += chunk.length;
  });
  const close = (other: Duplex) => () => {
    // What was written before an orderly end still goes out; a broken side breaks the other.
    if (other.writableEnded && !other.writableFinished) other.once('finish', () => other.destroy());
    else other.destroy();
    if (--open === 0) done(ab, ba);
  };
  a.on('error', () => {});
  b.on('error', () => {});
  a.once('close', close(b));
  b.once('close', close(a));
  for (const side of [a, b]) {
    side.setTimeout?.(idleMs, () => {
      a.destroy();
      b.destroy();
    });
  }
  a.pipe(b);
  b.pipe(a);
  if (a.destroyed) b.destroy();
  if (b.destroyed) a.destroy();
}

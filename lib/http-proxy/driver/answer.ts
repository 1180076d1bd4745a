// Edge: writing answers to a caller of HTTP/1.1 or HTTP/2 alike.

import type { IncomingMessage, ServerResponse } from 'node:http';
import type { Http2ServerResponse } from 'node:http2';
import type { Duplex } from 'node:stream';
import { failureAnswer, type HttpFailure } from '../failure.js';

export function isHttp2(req: IncomingMessage): boolean {
  return req.httpVersionMajor === 2;
}

/** `headers`: a flat list. */
export function writeHead(
  req: IncomingMessage,
  res: ServerResponse,
  status: number,
  text: string,
  headers: string[],
): void {
  if (!isHttp2(req)) {
    if (text === '') res.writeHead(status, headers);
    else res.writeHead(status, text, headers);
    return;
  }
  res.writeHead(status, grouped(headers));
}

/** Node's HTTP/2 takes several fields of a name as a list only. */
export function grouped(headers: readonly string[]): Record<string, string | string[]> {
  const out: Record<string, string | string[]> = {};
  for (let i = 0; i < headers.length; i += 2) {
    const name = headers[i]!.toLowerCase();
    const value = headers[i + 1]!;
    const before = out[name];
    out[name] = before === undefined ? value : Array.isArray(before) ? [...before, value] : [before, value];
  }
  return out;
}

/** An informational answer (RFC 9110 §15.2). */
export function writeInformation(
  req: IncomingMessage,
  res: ServerResponse,
  status: number,
  headers: readonly string[],
): void {
  if (res.headersSent || res.destroyed) return;
  if (isHttp2(req)) {
    const { stream } = res as unknown as Http2ServerResponse;
    if (!stream.destroyed) stream.additionalHeaders({ ':status': status, ...grouped(headers) });
    return;
  }
  // RFC 9110 §15.2: an HTTP/1.0 client does not know them.
  if (req.httpVersionMinor === 0) return;
  if (status === 100) {
    res.writeContinue();
    return;
  }
  // Node writes 103 with a list of links only, and no other; what came is passed on as it is.
  let text = `HTTP/1.1 ${status} ${status === 103 ? 'Early Hints' : 'Information'}\r\n`;
  for (let i = 0; i < headers.length; i += 2) text += `${headers[i]}: ${headers[i + 1]}\r\n`;
  (res as unknown as { _writeRaw(text: string, encoding: string): void })._writeRaw(`${text}\r\n`, 'latin1');
}

export function answerFailure(req: IncomingMessage, res: ServerResponse, failure: HttpFailure, id: string): void {
  if (res.headersSent || res.destroyed) {
    breakOff(req, res);
    return;
  }
  const { status, headers, body } = failureAnswer(failure, id, req.headers.accept);
  writeHead(req, res, status, '', headers);
  res.end(req.method === 'HEAD' ? undefined : body);
}

/** On a connection whose request was not read, or was to be upgraded. */
export function answerRaw(socket: Duplex, failure: HttpFailure, id: string, accept?: string): void {
  if (!socket.writable) {
    socket.destroy();
    return;
  }
  const { status, headers, body } = failureAnswer(failure, id, accept);
  let text = `HTTP/1.1 ${status} ${failure.code}\r\nconnection: close\r\n`;
  for (let i = 0; i < headers.length; i += 2) text += `${headers[i]}: ${headers[i + 1]}\r\n`;
  socket.on('error', () => {});
  socket.end(`${text}\r\n${body}`, () => socket.destroy());
}

/** Ends an answer so that the caller sees that it is not whole. */
export function breakOff(req: IncomingMessage, res: ServerResponse): void {
  if (isHttp2(req)) {
    // 2: INTERNAL_ERROR
    (res as unknown as Http2ServerResponse).stream?.close(2);
    return;
  }
  const socket = res.socket as (Duplex & { resetAndDestroy?: () => void }) | null;
  if (socket === null) res.destroy();
  else socket.destroy();
}

// Edge: other programs' TCP onto the overlay, without TUN: forwarded ports, SOCKS5 (RFC 1928) and HTTP CONNECT (RFC 9110 §9.3.6).

import type { IncomingMessage } from 'node:http';
import { createServer, isIP, type Server, type Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { KubeBusError } from '../../core/index.js';
import { HttpFailure } from '../failure.js';
import { answerRaw } from './answer.js';
import type { ListenAddress } from './client-proxy.js';
import { tunnel } from './slow-exchange.js';

/** Opens a connection on the overlay; calls back once. `host`: a name or an address of the overlay. */
export type OverlayConnect = (
  host: string,
  port: number,
  callback: (error: NodeJS.ErrnoException | null, socket: Duplex | null) => void,
) => void;

export interface TunnelListener {
  readonly address: { readonly address: string; readonly port: number };
  close(): Promise<void>;
}

const IDLE_MS = 3_600_000;
const HANDSHAKE_MS = 10_000;

function listen(at: ListenAddress, onSocket: (socket: Socket) => void): Promise<TunnelListener> {
  const open = new Set<Socket>();
  const server: Server = createServer({ allowHalfOpen: true, noDelay: true }, (socket) => {
    open.add(socket);
    socket.once('close', () => open.delete(socket));
    socket.on('error', () => {});
    onSocket(socket);
  });
  return new Promise((resolve, reject) => {
    server.once('error', (cause) =>
      reject(new KubeBusError('ERR_CONNECT', `cannot listen: ${cause.message}`, { cause })),
    );
    server.listen(at, () => {
      resolve({
        address: server.address() as { address: string; port: number },
        close: () =>
          new Promise((done) => {
            server.close(() => done());
            for (const socket of open) socket.destroy();
          }),
      });
    });
  });
}

function join(socket: Duplex, far: Duplex): void {
  tunnel(socket, far, IDLE_MS, () => {});
}

/** Every connection to `at` goes to one place. */
export function forwardPort(
  at: ListenAddress,
  connect: (callback: (error: Error | null, socket: Duplex | null) => void) => void,
): Promise<TunnelListener> {
  return listen(at, (socket) => {
    socket.pause();
    connect((error, far) => {
      if (far === null || error !== null) socket.resetAndDestroy();
      else if (socket.destroyed) far.destroy();
      else join(socket, far);
    });
  });
}

/** CONNECT on an HTTP listener. */
export function connectTunnel(connect: OverlayConnect, newId: () => string) {
  return (req: IncomingMessage, socket: Duplex, head: Buffer): void => {
    const match = /^(?:\[([^\]]+)\]|([^:/?#@]+)):(\d{1,5})$/.exec(req.url ?? '');
    const port = Number(match?.[3]);
    if (match === null || port < 1 || port > 65_535) {
      answerRaw(socket, new HttpFailure('ERR_HTTP_BAD_REQUEST', 'CONNECT wants host:port'), newId());
      return;
    }
    socket.on('error', () => {});
    connect(match[1] ?? match[2]!, port, (error, far) => {
      if (far === null || error !== null) {
        answerRaw(socket, connectFailure(error), newId());
        return;
      }
      if (socket.destroyed) {
        far.destroy();
        return;
      }
      socket.write('HTTP/1.1 200 Connection Established\r\n\r\n');
      if (head.length > 0) far.write(head);
      join(socket, far);
    });
  };
}

function connectFailure(error: NodeJS.ErrnoException | null): HttpFailure {
  const reason = `no connection on the overlay (${error?.code ?? 'unknown'})`;
  switch (error?.code) {
    case 'ENOTFOUND':
      return new HttpFailure('ERR_HTTP_NODE_UNKNOWN', reason);
    case 'EHOSTUNREACH':
    case 'ENETUNREACH':
      return new HttpFailure('ERR_HTTP_NODE_OFFLINE', reason, 5);
    case 'ETIMEDOUT':
      return new HttpFailure('ERR_HTTP_TIMEOUT', reason);
    default:
      return new HttpFailure('ERR_HTTP_SERVICE_DOWN', reason);
  }
}

// ---- SOCKS5: RFC 1928; no authentication, CONNECT only

const REPLY = { ok: 0, general: 1, unreachable: 4, refused: 5, timedOut: 6, command: 7, addressType: 8 } as const;

export function socksListener(at: ListenAddress, connect: OverlayConnect): Promise<TunnelListener> {
  return listen(at, (socket) => {
    let pending: Buffer = Buffer.alloc(0);
    let greeted = false;
    const timer = setTimeout(() => socket.destroy(), HANDSHAKE_MS);
    socket.once('close', () => clearTimeout(timer));
    const reply = (code: number) => socket.write(Buffer.from([5, code, 0, 1, 0, 0, 0, 0, 0, 0]));
    const refuse = (code: number) => {
      reply(code);
      socket.end(() => socket.destroy());
    };
    const onData = (chunk: Buffer) => {
      pending = Buffer.concat([pending, chunk]);
      if (!greeted) {
        // §3: version, number of methods, methods
        if (pending.length < 2 || pending.length < 2 + pending[1]!) return;
        if (pending[0] !== 5) {
          socket.destroy();
          return;
        }
        const methods = pending.subarray(2, 2 + pending[1]!);
        pending = pending.subarray(2 + pending[1]!);
        if (!methods.includes(0)) {
          socket.end(Buffer.from([5, 0xff]));
          return;
        }
        socket.write(Buffer.from([5, 0]));
        greeted = true;
      }
      const request = readSocksRequest(pending);
      if (request === 'more') return;
      socket.removeListener('data', onData);
      socket.pause();
      clearTimeout(timer);
      if (typeof request === 'number') {
        refuse(request);
        return;
      }
      const head = pending.subarray(request.length);
      connect(request.host, request.port, (error, far) => {
        if (far === null || error !== null) {
          refuse(socksCode(error));
          return;
        }
        if (socket.destroyed) {
          far.destroy();
          return;
        }
        reply(REPLY.ok);
        if (head.length > 0) far.write(head);
        join(socket, far);
      });
    };
    socket.on('data', onData);
  });
}

/** §4: version, command, reserved, address type, address, port. */
function readSocksRequest(bytes: Buffer): { host: string; port: number; length: number } | number | 'more' {
  if (bytes.length < 5) return 'more';
  if (bytes[0] !== 5) return REPLY.general;
  const type = bytes[3]!;
  const size = type === 1 ? 4 : type === 4 ? 16 : type === 3 ? 1 + bytes[4]! : 0;
  if (size === 0) return REPLY.addressType;
  const length = 4 + size + 2;
  if (bytes.length < length) return 'more';
  if (bytes[1] !== 1) return REPLY.command;
  const address = bytes.subarray(4, 4 + size);
  const port = bytes.readUInt16BE(4 + size);
  let host: string;
  if (type === 1) host = address.join('.');
  else if (type === 3) host = address.subarray(1).toString('latin1');
  else {
    const groups: string[] = [];
    for (let i = 0; i < 16; i += 2) groups.push(address.readUInt16BE(i).toString(16));
    host = groups.join(':');
  }
  if (type === 3 && isIP(host) === 0 && !/^[A-Za-z0-9._-]{1,253}$/.test(host)) return REPLY.general;
  return port === 0 ? REPLY.general : { host, port, length };
}

function socksCode(error: NodeJS.ErrnoException | null): number {
  switch (error?.code) {
    case 'ECONNREFUSED':
      return REPLY.refused;
    case 'ETIMEDOUT':
      return REPLY.timedOut;
    case 'EHOSTUNREACH':
    case 'ENETUNREACH':
    case 'ENOTFOUND':
      return REPLY.unreachable;
    default:
      return REPLY.general;
  }
}

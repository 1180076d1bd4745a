// Edge: the URL of a local service, and how to connect to it.

import { connect as netConnect, type Socket } from 'node:net';
import type { Duplex } from 'node:stream';
import { connect as tlsConnect } from 'node:tls';
import { KubeBusError } from '../../core/index.js';
import type { Connect, OnRead } from './upstream.js';

/** For https targets. */
export interface TargetTls {
  readonly ca?: string;
  readonly rejectUnauthorized?: boolean;
}

export function wrongTarget(text: string): KubeBusError {
  return new KubeBusError(
    'ERR_SERVICE_TARGET',
    `not an http, https or tcp URL, unix:/path, handler or server: ${text}`,
  );
}

export function readTarget(text: string, tls: TargetTls = {}): { connect: Connect; base: string; authority: string } {
  if (text.startsWith('unix:')) {
    const [path = '', base = ''] = text.slice('unix:'.length).split(':');
    if (!path.startsWith('/')) throw wrongTarget(text);
    return {
      connect: once((onread) => netConnect({ path, ...reading(onread) }), 'connect'),
      base: base.replace(/\/$/, ''),
      authority: 'localhost',
    };
  }
  let url: URL;
  try {
    url = new URL(text);
  } catch {
    throw wrongTarget(text);
  }
  const host = url.hostname.replace(/^\[|\]$/g, '');
  const secure = url.protocol === 'https:';
  const port = Number(url.port || (secure ? 443 : 80));
  if (!['http:', 'https:', 'tcp:'].includes(url.protocol) || host === '') throw wrongTarget(text);
  if (url.protocol === 'tcp:' && url.port === '') throw wrongTarget(`${text} (the port is missing)`);
  if (url.search !== '' || url.hash !== '' || url.username !== '')
    throw wrongTarget(`${text} (no query, fragment or user)`);
  const allowHalfOpen = url.protocol === 'tcp:';
  const tcp = (onread?: OnRead) => netConnect({ host, port, noDelay: true, allowHalfOpen, ...reading(onread) });
  const connect = secure
    ? once(
        () =>
          tlsConnect({
            host,
            port,
            ...(isAddress(host) ? {} : { servername: host }),
            ALPNProtocols: ['http/1.1'],
            ...tls,
          }),
        'secureConnect',
      )
    : once(tcp, 'connect');
  return { connect, base: url.pathname.replace(/\/$/, ''), authority: url.host };
}

const isAddress = (host: string) => /^[\d.]+$|:/.test(host);

function reading(onread: OnRead | undefined): { onread?: OnRead } {
  return onread === undefined ? {} : { onread };
}

/** A connect function from one that makes a socket and an event that says it is up. */
export function once(make: (onread?: OnRead) => Socket | Duplex, event: string): Connect {
  return (callback, onread) => {
    const socket = make(onread);
    const failed = (error: Error) => callback(error, null);
    socket.once('error', failed);
    socket.once(event, () => {
      socket.removeListener('error', failed);
      callback(null, socket);
    });
  };
}

// Connections through the proxy of the network: HTTP CONNECT (RFC 9110 §9.3.6) and SOCKS5 (RFC 1928, 1929). The proxy sees
// host and port; TLS goes through it end to end. Names are resolved by the proxy.

import { once } from 'node:events';
import http from 'node:http';
import https from 'node:https';
import net from 'node:net';
import { SocksClient } from 'socks';
import { KubeBusError } from '../lib/core/index.js';

/** The socket behind the proxy. `proxy` is a URL: http, https or socks5, with user and password where it wants them. Rejects with ERR_CONNECT. */
export async function connectThroughProxy(
  proxy: string,
  host: string,
  port: number,
  signal: AbortSignal,
): Promise<net.Socket> {
  const url = parseProxy(proxy);
  const shown = `${url.protocol}//${url.host}`;
  try {
    return url.protocol === 'socks5:'
      ? await throughSocks(url, host, port, signal)
      : await throughHttp(url, host, port, signal);
  } catch (cause) {
    const what = signal.aborted ? 'no answer in time' : (cause as Error).message;
    throw new KubeBusError('ERR_CONNECT', `cannot connect to ${host}:${port} through the proxy ${shown}: ${what}`, {
      cause,
    });
  }
}

/** Throws ERR_INVALID_ARGUMENT; the message never holds the password. */
export function parseProxy(text: string): URL {
  const url = URL.canParse(text) ? new URL(text) : null;
  if (url === null || !['http:', 'https:', 'socks5:', 'socks5h:'].includes(url.protocol) || url.hostname === '') {
    throw new KubeBusError(
      'ERR_INVALID_ARGUMENT',
      'a proxy is http://host:port, https://host:port or socks5://host:port, with user:password@ before the host where it wants them',
    );
  }
  return url.protocol === 'socks5h:' ? new URL(text.replace(/^socks5h:/i, 'socks5:')) : url;
}

function throughHttp(url: URL, host: string, port: number, signal: AbortSignal): Promise<net.Socket> {
  const authority = `${host.includes(':') ? `[${host}]` : host}:${port}`;
  const user = decodeURIComponent(url.username);
  const password = decodeURIComponent(url.password);
  return new Promise((resolve, reject) => {
    const request = (url.protocol === 'https:' ? https : http).request({
      host: url.hostname.replace(/^\[|\]$/g, ''),
      port: url.port || (url.protocol === 'https:' ? 443 : 80),
      method: 'CONNECT',
      path: authority,
      headers: {
        host: authority,
        ...(user === ''
          ? {}
          : { 'proxy-authorization': `Basic ${Buffer.from(`${user}:${password}`).toString('base64')}` }),
      },
      agent: false,
      signal,
    });
    request.once('connect', (response, socket, head) => {
      const status = response.statusCode ?? 0;
      if (status >= 200 && status < 300) {
        if (head.length > 0) socket.unshift(head);
        return resolve(socket as net.Socket);
      }
      socket.destroy();
      reject(new Error(refusal(status, response.statusMessage ?? '', user !== '')));
    });
    request.once('response', (response) => {
      response.resume();
      reject(new Error(refusal(response.statusCode ?? 0, response.statusMessage ?? '', user !== '')));
    });
    request.once('error', reject);
    request.end();
  });
}

function refusal(status: number, text: string, withUser: boolean): string {
  // Some answer 401 where RFC 9110 §15.5.8 has 407.
  if (status !== 407 && status !== 401) return `it answered ${status} ${text}`;
  return withUser
    ? `it does not accept this user and password (${status})`
    : `it wants a user and password: put user:password@ before its host (${status})`;
}

async function throughSocks(url: URL, host: string, port: number, signal: AbortSignal): Promise<net.Socket> {
  // A socket of our own: the package's would go on, and hold the process, for the 30 s that it gives a proxy.
  const socket = net.connect({ host: url.hostname.replace(/^\[|\]$/g, ''), port: Number(url.port || 1080) });
  const aborted = () => socket.destroy(signal.reason as Error);
  if (signal.aborted) aborted();
  else signal.addEventListener('abort', aborted, { once: true });
  try {
    await once(socket, 'connect');
    await SocksClient.createConnection({
      existing_socket: socket,
      proxy: {
        host: url.hostname,
        port: socket.remotePort!,
        type: 5,
        ...(url.username === ''
          ? {}
          : { userId: decodeURIComponent(url.username), password: decodeURIComponent(url.password) }),
      },
      command: 'connect',
      destination: { host, port },
    });
    return socket;
  } catch (error) {
    socket.on('error', () => {});
    socket.destroy();
    throw error;
  } finally {
    signal.removeEventListener('abort', aborted);
  }
}

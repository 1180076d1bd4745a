// Edge: HTTP clients on our sockets: an http.Agent, an https.Agent, and a dispatcher for undici and fetch.

import { type AgentOptions, Agent as HttpAgent } from 'node:http';
import { Agent as HttpsAgent, type AgentOptions as HttpsAgentOptions } from 'node:https';
import { createRequire } from 'node:module';
import type { Duplex } from 'node:stream';
import { connect as tlsConnect } from 'node:tls';
import type { Socket } from '../socket.js';
import type { ConnectOptions } from './socket-options.js';

/** What undici asks of a connector. */
export interface UndiciConnectOptions {
  readonly hostname: string;
  readonly host?: string;
  readonly protocol: string;
  readonly port: string;
  readonly servername?: string | null;
}

export type UndiciConnector = (
  options: UndiciConnectOptions,
  callback: (error: Error | null, socket: Duplex | null) => void,
) => void;

export type UndiciAgentClass<T> = new (options: never) => T;

export interface HttpAgents {
  /** For `http.request({ agent })`. Keeps connections alive unless told otherwise. */
  httpAgent(options?: AgentOptions): HttpAgent;
  /** For `https.request({ agent })`: TLS inside the overlay. */
  httpsAgent(options?: HttpsAgentOptions): HttpsAgent;
  /** For `new undici.Agent({ connect })` of whatever version the application has. */
  undiciConnector(tls?: { ca?: string | Buffer; rejectUnauthorized?: boolean }): UndiciConnector;
  /**
   * An undici dispatcher for `fetch(url, { dispatcher })` and `undici.request`. `Agent`: undici's class; without it, the
   * application has to have the package installed. **Throws** ERR_MODULE_NOT_FOUND otherwise.
   */
  dispatcher<T extends object>(Agent?: UndiciAgentClass<T>): T;
}

/** What a request may say of its connection; the rest of its options is HTTP's. */
type ConnectionOptions = Pick<
  ConnectOptions,
  'family' | 'lookup' | 'localAddress' | 'localPort' | 'autoSelectFamily' | 'autoSelectFamilyAttemptTimeout'
>;
type Connect = (options: ConnectOptions) => Socket;

function ofConnection(options: ConnectionOptions): ConnectionOptions {
  const { family, lookup, localAddress, localPort, autoSelectFamily, autoSelectFamilyAttemptTimeout } = options;
  return {
    ...(family !== undefined && { family }),
    ...(lookup !== undefined && { lookup }),
    ...(localAddress !== undefined && { localAddress }),
    ...(localPort !== undefined && { localPort }),
    ...(autoSelectFamily !== undefined && { autoSelectFamily }),
    ...(autoSelectFamilyAttemptTimeout !== undefined && { autoSelectFamilyAttemptTimeout }),
  };
}

export function httpAgents(connect: Connect): HttpAgents {
  class OverlayAgent extends HttpAgent {
    // Node calls it with the request's options; the agent does the rest.
    override createConnection(options: { host?: string | null; port?: number | string | null }): Duplex {
      return connect({
        ...ofConnection(options as ConnectionOptions),
        host: options.host ?? 'localhost',
        port: Number(options.port ?? 80),
        noDelay: true,
      });
    }
  }
  class OverlayTlsAgent extends HttpsAgent {
    override createConnection(options: { host?: string; port?: number | string; servername?: string }): Duplex {
      const { host = 'localhost', port = 443 } = options;
      const socket = connect({
        ...ofConnection(options as ConnectionOptions),
        host,
        port: Number(port),
        noDelay: true,
      });
      return tlsConnect({ ...options, host, port: Number(port), socket });
    }
  }
  const undiciConnector: HttpAgents['undiciConnector'] = (tls) => (options, callback) => {
    const secure = options.protocol === 'https:';
    const port = Number(options.port) || (secure ? 443 : 80);
    const raw = connect({ host: options.hostname.replace(/^\[|\]$/g, ''), port, noDelay: true });
    const socket: Duplex = secure
      ? tlsConnect({
          ...tls,
          socket: raw,
          servername: options.servername ?? options.hostname,
          ALPNProtocols: ['http/1.1'],
        })
      : raw;
    const onError = (error: Error) => callback(error, null);
    socket.once('error', onError);
    socket.once(secure ? 'secureConnect' : 'connect', () => {
      socket.removeListener('error', onError);
      callback(null, socket);
    });
  };
  return {
    httpAgent: (options) => new OverlayAgent({ keepAlive: true, ...options }),
    httpsAgent: (options) => new OverlayTlsAgent({ keepAlive: true, ...options }),
    undiciConnector,
    dispatcher<T extends object>(Agent?: UndiciAgentClass<T>): T {
      const Class = Agent ?? (createRequire(import.meta.url)('undici') as { Agent: UndiciAgentClass<T> }).Agent;
      // The type of undici's option names its own socket classes; at run time any Duplex is taken.
      return new Class({ connect: undiciConnector() } as never);
    },
  };
}

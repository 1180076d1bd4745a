// Edge: the two ends of the registry channel, a TCP connection on the overlay from each node to the cloud's gateway address. The cloud knows
// by the source address, which it checks against the link, whose services it is told.

import { randomBytes } from 'node:crypto';
import { type Clock, KubeBusError, type Logger, MS, type Timer } from '../../core/index.js';
import type { NetLike, ServerLike, SocketLike } from '../../l4/index.js';
import type { Passed } from '../metrics.js';
import { Mirror } from '../mirror.js';
import { type Registry, seenBy } from '../registry.js';
import {
  decodeCloudMessage,
  decodeNodeMessage,
  encodeMessage,
  LineReader,
  type NodeMessage,
} from '../registry-wire.js';
import type { NodeServices, ServiceInfo } from '../service.js';

/** Overlay port of the registry, on the cloud's gateway addresses. */
export const REGISTRY_PORT = 7481;
/** A node that takes no news for so many bytes is cut off; it comes back and catches up. */
const MAX_UNSENT = 4 * 1024 * 1024;
/** Changes of so short a time travel together. */
const BATCH = 20 * MS;
const RETRY_MS = [50, 200, 1_000, 3_000];
const LIVENESS_MS = 15_000;

// ---- the cloud's end

export interface RegistryServerOptions {
  readonly tenant: string;
  readonly net: NetLike;
  readonly registry: Registry;
  /** The node whose own address it is; undefined: nobody's, such as a VM behind a router. */
  nodeOf(address: string): string | undefined;
  readonly clock: Clock;
  readonly logger: Logger;
}

interface Watcher {
  readonly socket: SocketLike;
  readonly node: string;
  greeted: boolean;
  /** Told everything up to now; changes follow. */
  synced: boolean;
}

export class RegistryServer {
  private readonly server: ServerLike;
  private readonly watchers = new Map<string, Watcher>();
  private readonly dirty = new Map<string, { entry: NodeServices & { readonly revision: number }; gone: boolean }>();
  private timer: Timer | null = null;
  private readonly unwatch: () => void;

  constructor(private readonly options: RegistryServerOptions) {
    this.server = options.net.createServer({ allowHalfOpen: false }, (socket) => this.onConnection(socket));
    this.server.on('error', (err) =>
      options.logger.error({ err, tenant: options.tenant }, 'the registry cannot listen'),
    );
    this.server.listen({ port: REGISTRY_PORT });
    this.unwatch = options.registry.watch((entry, gone) => this.changed(entry, gone));
  }

  close(): void {
    this.unwatch();
    this.timer?.cancel();
    this.server.close();
    for (const { socket } of this.watchers.values()) socket.destroy();
  }

  /** Tells one node how its services were called past its own proxy. */
  tell(node: string, passed: readonly Passed[]): void {
    const watcher = this.watchers.get(node);
    if (watcher?.synced === true) watcher.socket.write(encodeMessage({ type: 'traffic', passed }));
  }

  private onConnection(socket: SocketLike): void {
    const { tenant, logger, registry } = this.options;
    const node = this.options.nodeOf(socket.remoteAddress ?? '');
    socket.on('error', () => {});
    if (node === undefined) {
      socket.destroy();
      return;
    }
    const watcher: Watcher = { socket, node, greeted: false, synced: false };
    this.watchers.get(node)?.socket.destroy();
    this.watchers.set(node, watcher);
    socket.setKeepAlive(true, LIVENESS_MS);
    const reader = new LineReader();
    socket.on('data', (chunk: Uint8Array) => {
      try {
        for (const line of reader.push(chunk)) {
          const message = decodeNodeMessage(line);
          if (message !== null) this.handle(watcher, message);
        }
      } catch (error) {
        if (!(error instanceof KubeBusError)) throw error;
        logger.warn({ tenant, node, code: error.code }, `registry: ${error.message}`);
        socket.end(encodeMessage({ type: 'refused', code: error.code, message: error.message }));
      }
    });
    socket.on('close', () => {
      if (this.watchers.get(node) !== watcher) return;
      this.watchers.delete(node);
      // A link that is up without a registry channel has nothing published.
      if (watcher.greeted && registry.get(tenant, node)?.online === true) registry.replace(tenant, node, []);
    });
  }

  private handle(watcher: Watcher, message: NodeMessage): void {
    const { registry, tenant } = this.options;
    const { node, socket } = watcher;
    if (message.type === 'hello') {
      watcher.greeted = true;
      const { full, entries } = registry.since(tenant, message.epoch, message.revision);
      const { epoch, revision } = registry;
      const lines = entries.map((entry) => encodeMessage({ type: 'node', ...entry }));
      socket.write(
        encodeMessage({ type: 'sync', epoch, revision: full ? 0 : message.revision, full }) + lines.join(''),
      );
      if (entries.length === 0 || !full) socket.write(encodeMessage({ type: 'sync', epoch, revision, full: false }));
      watcher.synced = true;
    } else if (!watcher.greeted) throw new KubeBusError('ERR_REGISTRY_MALFORMED', 'no hello', { side: 'remote' });
    else if (message.type === 'services') registry.replace(tenant, node, message.services);
    else if (message.type === 'put') registry.put(tenant, node, message.service);
    else registry.remove(tenant, node, message.name);
  }

  private changed(entry: NodeServices & { readonly revision: number }, gone: boolean): void {
    this.dirty.set(`${entry.tenant}/${entry.node}`, { entry, gone });
    const { clock } = this.options;
    this.timer ??= clock.at(clock.now() + BATCH, () => this.flush());
  }

  /** Encoded once for all nodes of the tenant. */
  private flush(): void {
    this.timer = null;
    const { tenant } = this.options;
    let text = '';
    for (const { entry, gone } of this.dirty.values()) {
      const seen = seenBy(tenant, entry);
      const { revision, node } = entry;
      if (gone) text += encodeMessage({ type: 'gone', revision, tenant: entry.tenant, node });
      // Of other tenants' nodes only what is granted is told; that it is granted no more as well.
      else if (entry.tenant === tenant || seen.services.length > 0 || this.told.has(`${entry.tenant}/${node}`)) {
        if (entry.tenant !== tenant) this.told.add(`${entry.tenant}/${node}`);
        text += encodeMessage({ type: 'node', ...seen });
      }
    }
    this.dirty.clear();
    if (text === '') return;
    for (const { socket, synced } of this.watchers.values()) {
      if (!synced) continue;
      if (socket.writableLength > MAX_UNSENT) socket.destroy();
      else socket.write(text);
    }
  }

  /** Nodes of other tenants of which something was granted once. */
  private readonly told = new Set<string>();
}

// ---- the node's end

export interface RegistryClientOptions {
  readonly net: NetLike;
  gateway(): readonly string[];
  /** This node's services. */
  own(): readonly ServiceInfo[];
  onChange(): void;
  onTraffic(passed: readonly Passed[]): void;
  readonly logger: Logger;
}

export class RegistryClient {
  readonly mirror = new Mirror();
  private socket: SocketLike | null = null;
  private retry: ReturnType<typeof setTimeout> | null = null;
  private failures = 0;
  private wanted = false;
  private syncedNow = false;
  private readonly waiting: (() => void)[] = [];

  constructor(private readonly options: RegistryClientOptions) {}

  get synced(): boolean {
    return this.syncedNow;
  }

  /** Resolves when the list is there. */
  ready(): Promise<void> {
    if (this.syncedNow) return Promise.resolve();
    return new Promise((resolve) => this.waiting.push(resolve));
  }

  /** The link is up: connects, anew if need be, because the cloud may be another process now. */
  open(): void {
    this.wanted = true;
    this.failures = 0;
    this.drop();
    this.connect();
  }

  /** The link is down. */
  suspend(): void {
    this.wanted = false;
    this.drop();
  }

  put(service: ServiceInfo): void {
    this.send({ type: 'put', service });
  }

  remove(name: string): void {
    this.send({ type: 'delete', name });
  }

  close(): void {
    this.suspend();
    for (const resolve of this.waiting.splice(0)) resolve();
  }

  private send(message: NodeMessage): void {
    if (this.socket?.connecting === false) this.socket.write(encodeMessage(message));
  }

  private drop(): void {
    if (this.retry !== null) clearTimeout(this.retry);
    this.retry = null;
    this.syncedNow = false;
    const { socket } = this;
    this.socket = null;
    socket?.destroy();
  }

  private connect(): void {
    const host = this.options.gateway()[0];
    if (host === undefined) {
      this.again();
      return;
    }
    const socket = this.options.net.connect({ host, port: REGISTRY_PORT }, () => {
      const { epoch, revision } = this.mirror;
      socket.write(encodeMessage({ type: 'hello', version: 1, epoch, revision }));
      socket.write(encodeMessage({ type: 'services', services: this.options.own() }));
    });
    this.socket = socket;
    socket.setKeepAlive(true, LIVENESS_MS);
    const reader = new LineReader();
    socket.on('data', (chunk: Uint8Array) => {
      if (this.socket !== socket) return;
      try {
        for (const line of reader.push(chunk)) this.handle(line);
      } catch (error) {
        this.options.logger.warn({ err: error }, 'registry: not understood');
        socket.destroy();
      }
    });
    socket.on('error', () => {});
    socket.on('close', () => {
      if (this.socket !== socket) return;
      this.socket = null;
      this.syncedNow = false;
      this.again();
    });
  }

  private handle(line: string): void {
    const message = decodeCloudMessage(line);
    if (message === null) return;
    if (message.type === 'refused') {
      this.options.logger.error({ code: message.code }, `registry: ${message.message}`);
      return;
    }
    if (message.type === 'traffic') {
      this.options.onTraffic(message.passed);
      return;
    }
    const changed = this.mirror.handle(message);
    this.failures = 0;
    this.syncedNow = true;
    for (const resolve of this.waiting.splice(0)) resolve();
    if (changed) this.options.onChange();
  }

  private again(): void {
    if (!this.wanted || this.retry !== null) return;
    const delay = RETRY_MS[Math.min(this.failures++, RETRY_MS.length - 1)]!;
    this.retry = setTimeout(
      () => {
        this.retry = null;
        if (this.wanted && this.socket === null) this.connect();
      },
      delay * (0.5 + randomBytes(1)[0]! / 255),
    );
    this.retry.unref();
  }
}

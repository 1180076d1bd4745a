// Messages of the registry channel: JSON, one a line (docs/spec/services.md). A core: bytes in, messages out.

import { KubeBusError } from '../core/index.js';
import { isServiceName } from './address.js';
import { DURATION_BUCKETS, type Passed } from './metrics.js';
import { type NodeServices, readService, type ServiceInfo } from './service.js';

/** Node to cloud. */
export type NodeMessage =
  | { readonly type: 'hello'; readonly version: 1; readonly epoch: string; readonly revision: number }
  | { readonly type: 'services'; readonly services: readonly ServiceInfo[] }
  | { readonly type: 'put'; readonly service: ServiceInfo }
  | { readonly type: 'delete'; readonly name: string };

/** Cloud to node. */
export type CloudMessage =
  | {
      readonly type: 'sync';
      readonly epoch: string;
      readonly revision: number;
      /** What the node knew before is to be forgotten. */
      readonly full: boolean;
    }
  | ({ readonly type: 'node'; readonly revision: number } & NodeServices)
  | { readonly type: 'gone'; readonly revision: number; readonly tenant: string; readonly node: string }
  /** What went to the node's services past its own proxy since the last such message. */
  | { readonly type: 'traffic'; readonly passed: readonly Passed[] }
  | { readonly type: 'refused'; readonly code: string; readonly message: string };

export const MAX_LINE = 256 * 1024;
export const MAX_SERVICES_PER_NODE = 256;

export function encodeMessage(message: NodeMessage | CloudMessage): string {
  return `${JSON.stringify(message)}\n`;
}

/** Splits a byte stream into lines, whatever the chunks. **Throws** ERR_REGISTRY_MALFORMED for a line over the limit. */
export class LineReader {
  private pending = '';
  private readonly decoder = new TextDecoder();

  constructor(private readonly max = MAX_LINE) {}

  push(chunk: Uint8Array): string[] {
    const lines = (this.pending + this.decoder.decode(chunk, { stream: true })).split('\n');
    this.pending = lines.pop()!;
    if (this.pending.length > this.max || lines.some((line) => line.length > this.max)) {
      throw new KubeBusError('ERR_REGISTRY_MALFORMED', `a line is longer than ${this.max}`, { side: 'remote' });
    }
    return lines;
  }
}

function malformed(what: string): KubeBusError {
  return new KubeBusError('ERR_REGISTRY_MALFORMED', what, { side: 'remote' });
}

function parse(line: string): Record<string, unknown> {
  let value: unknown;
  try {
    value = JSON.parse(line);
  } catch {
    throw malformed('a line is no JSON');
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw malformed('a line is no object');
  return value as Record<string, unknown>;
}

const isRevision = (v: unknown): v is number => typeof v === 'number' && Number.isSafeInteger(v) && v >= 0;

function readServices(value: unknown): ServiceInfo[] {
  if (!Array.isArray(value)) throw malformed('services is no list');
  if (value.length > MAX_SERVICES_PER_NODE) {
    throw new KubeBusError('ERR_SERVICE_LIMIT', `more than ${MAX_SERVICES_PER_NODE} services`, { side: 'remote' });
  }
  return value.map((v) => {
    const service = readService(v);
    if (service === null) throw malformed('a service is not valid');
    return service;
  });
}

/** null: a type that this version does not know, which is ignored. */
export function decodeNodeMessage(line: string): NodeMessage | null {
  const m = parse(line);
  switch (m.type) {
    case 'hello':
      if (m.version !== 1) throw malformed('the version of the registry channel is not 1: upgrade one side');
      if (typeof m.epoch !== 'string' || m.epoch.length > 64 || !isRevision(m.revision)) throw malformed('bad hello');
      return { type: 'hello', version: 1, epoch: m.epoch, revision: m.revision };
    case 'services':
      return { type: 'services', services: readServices(m.services) };
    case 'put':
      return { type: 'put', service: readServices([m.service])[0]! };
    case 'delete':
      if (typeof m.name !== 'string' || !isServiceName(m.name)) throw malformed('bad delete');
      return { type: 'delete', name: m.name };
    default:
      return null;
  }
}

const isCount = (v: unknown): v is number => typeof v === 'number' && Number.isFinite(v) && v >= 0;

function readCounts(value: unknown, length: number): number[] {
  if (!Array.isArray(value) || value.length !== length || !value.every(isCount)) throw malformed('bad counts');
  return value as number[];
}

function readPassed(value: unknown): Passed[] {
  if (!Array.isArray(value) || value.length > MAX_SERVICES_PER_NODE) throw malformed('bad traffic');
  return value.map((v: Record<string, unknown> | null) => {
    const { service, requests, bytesIn, bytesOut, seconds, statuses, buckets } = v ?? {};
    if (typeof service !== 'string' || !isServiceName(service)) throw malformed('bad name');
    const [r, i, o, s] = readCounts([requests, bytesIn, bytesOut, seconds], 4) as [number, number, number, number];
    return {
      service,
      requests: r,
      bytesIn: i,
      bytesOut: o,
      seconds: s,
      statuses: readCounts(statuses, 6),
      buckets: readCounts(buckets, DURATION_BUCKETS.length + 1),
    };
  });
}

/** null: a type that this version does not know, which is ignored. */
export function decodeCloudMessage(line: string): CloudMessage | null {
  const m = parse(line);
  if (m.type === 'refused') return { type: 'refused', code: String(m.code), message: String(m.message) };
  if (m.type === 'sync') {
    if (typeof m.epoch !== 'string' || !isRevision(m.revision)) throw malformed('bad sync');
    return { type: 'sync', epoch: m.epoch, revision: m.revision, full: m.full === true };
  }
  if (m.type === 'traffic') return { type: 'traffic', passed: readPassed(m.passed) };
  if (m.type !== 'node' && m.type !== 'gone') return null;
  const { tenant, node, revision } = m;
  if (typeof tenant !== 'string' || !isServiceName(tenant) || typeof node !== 'string' || !isServiceName(node)) {
    throw malformed('bad name');
  }
  if (!isRevision(revision)) throw malformed('bad revision');
  if (m.type === 'gone') return { type: 'gone', revision, tenant, node };
  return { type: 'node', revision, tenant, node, online: m.online === true, services: readServices(m.services) };
}

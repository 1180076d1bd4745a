// Options that dialled and accepted links share, with their defaults.

import {
  type Clock,
  type Logger,
  type Micros,
  MS,
  type Random,
  SECOND,
  SlabPool,
  silentLogger,
  systemClock,
  systemRandom,
} from '../../core/index.js';
import { DEFAULT_EGRESS, type EgressOptions } from '../egress-queue.js';
import type { KeepaliveOptions } from '../keepalive.js';
import type { ConnectionOptions } from './connection.js';

export interface LinkOptions {
  readonly clock?: Clock;
  readonly random?: Random;
  readonly logger?: Logger;
  /** Largest IP packet, not counting super-packets. **Default:** 1400. */
  readonly mtu?: number;
  /** Take super-packets. **Default:** true. */
  readonly offload?: boolean;
  /** **Default:** a ping after 10 s of silence, dead after 30 s. */
  readonly keepalive?: KeepaliveOptions;
  /** Time for the hello, after the transport's own handshake. **Default:** 5 s. */
  readonly handshakeTimeout?: Micros;
  /** **Default:** 30 s. */
  readonly stallTimeout?: Micros;
  /** Bytes handed to a stream and not yet taken by the system, above which packets wait in the fair queue. **Default:** 128 KiB. */
  readonly streamBytes?: number;
  /** Bytes queued above which `writable` is false. **Default:** 1 MiB. */
  readonly highWater?: number;
  readonly egress?: Partial<EgressOptions>;
  /** For the hello. **Default:** 'kubebus'. */
  readonly agent?: string;
}

export const DEFAULT_KEEPALIVE: KeepaliveOptions = { interval: 10 * SECOND, deadAfter: 30 * SECOND };
export const DEFAULT_MTU = 1400;
const DEFAULT_HIGH_WATER = 1024 * 1024;

/** One pool for all links of the process: slabs of 256 KiB, at most 8 of them kept when free. */
const sharedPool = new SlabPool(256 * 1024, 8);

export function resolveOptions(options: LinkOptions) {
  const { clock = systemClock, random = systemRandom, logger = silentLogger } = options;
  const connection: ConnectionOptions = {
    clock,
    logger,
    pool: sharedPool,
    handshakeTimeout: options.handshakeTimeout ?? 5_000 * MS,
    stallTimeout: options.stallTimeout ?? 30 * SECOND,
    streamBytes: options.streamBytes ?? 128 * 1024,
    egress: { ...DEFAULT_EGRESS, ...options.egress },
  };
  return {
    clock,
    random,
    logger,
    connection,
    mtu: options.mtu ?? DEFAULT_MTU,
    offload: options.offload ?? true,
    keepalive: options.keepalive ?? DEFAULT_KEEPALIVE,
    highWater: options.highWater ?? DEFAULT_HIGH_WATER,
    agent: options.agent ?? 'kubebus',
  };
}

export type ResolvedOptions = ReturnType<typeof resolveOptions>;

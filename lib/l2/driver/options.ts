// Options that dialled and accepted links share, with their defaults.

import {
  type Clock,
  checkBounds,
  KubeBusError,
  type Logger,
  MAX_PACKET,
  type Micros,
  MS,
  type Random,
  SECOND,
  silentLogger,
  systemClock,
  systemRandom,
} from '../../core/index.js';
import { MIN_MTU } from '../connection-machine.js';
import { DEFAULT_EGRESS, type EgressBudget, type EgressOptions } from '../egress-queue.js';
import type { KeepaliveOptions } from '../keepalive.js';
import { STREAM_HIGH_WATER } from '../transport.js';
import type { ConnectionOptions } from './connection.js';
import type { RepairOptions } from './datagram-port.js';
import { createBuffers } from './receive-buffer.js';

export interface LinkOptions {
  readonly clock?: Clock;
  readonly random?: Random;
  readonly logger?: Logger;
  /** Largest IP packet, not counting super-packets. **Default:** 1400. */
  readonly mtu?: number;
  /** Take super-packets. **Default:** true. */
  readonly offload?: boolean;
  /** Take packets whose TCP or UDP checksum is not completed: the link itself keeps them whole. **Default:** true. */
  readonly partialChecksums?: boolean;
  /** **Default:** a ping after 15 s of silence (the accepting side: 22.5 s), dead after 30 s. */
  readonly keepalive?: KeepaliveOptions;
  /** Time for the hello, after the transport's own handshake. **Default:** 5 s. */
  readonly handshakeTimeout?: Micros;
  /**
   * A peer that takes no bytes for this long, or does not finish a frame within it, is cut off. **Default:** 30 s, so the slowest
   * link that works carries a frame of 64 KiB in 30 s.
   */
  readonly stallTimeout?: Micros;
  /** Bytes handed to a stream and not yet taken by the system, above which packets wait in the fair queue; at least 64 KiB. **Default:** 128 KiB. */
  readonly streamBytes?: number;
  /** Bytes queued above which `writable` is false. **Default:** 1 MiB. */
  readonly highWater?: number;
  /** Control messages that may wait for the peer to take them; above, it is cut off. **Default:** 8 MiB. */
  readonly controlBytes?: number;
  /** Lost datagrams are sent again where the transport has datagrams and the peer does it too; false: never. **Default:** true. */
  readonly repair?: boolean | Partial<RepairOptions>;
  readonly egress?: Partial<EgressOptions>;
  /** For the hello. **Default:** 'kubebus'. */
  readonly agent?: string;
}

/**
 * One ping, its pong and an ACK are 236 bytes on the wire with TLS, TCP and IPv4 headers: with this interval an idle connection costs
 * less than 20 bytes per second.
 */
export const DEFAULT_KEEPALIVE: KeepaliveOptions = { interval: 15 * SECOND, deadAfter: 30 * SECOND };
/** Later than the dialer, so that not both ask: the dialer's ping tells this side that it lives. */
export const DEFAULT_ACCEPT_KEEPALIVE: KeepaliveOptions = { interval: 22_500 * MS, deadAfter: 30 * SECOND };
export const DEFAULT_MTU = 1400;
const DEFAULT_HIGH_WATER = 1024 * 1024;

/** For all links of the process. */
const sharedBuffers = createBuffers();
const sharedBudget: EgressBudget = { bytes: 0, maxBytes: 256 * 1024 * 1024 };
const DEFAULT_REPAIR: RepairOptions = {
  window: 4096,
  time: 2 * SECOND,
  budget: { bytes: 0, maxBytes: 64 * 1024 * 1024 },
};

export function resolveOptions(options: LinkOptions) {
  const { clock = systemClock, random = systemRandom, logger = silentLogger } = options;
  const { streamBytes = 128 * 1024, keepalive = DEFAULT_KEEPALIVE, mtu = DEFAULT_MTU } = options;
  // Chance that was handed in is a test's or a simulator's: its runs are to repeat.
  const seed = options.random === undefined ? random.u32() : 0;
  const egress = { ...DEFAULT_EGRESS, seed, ...options.egress };
  const { repair: wanted = true } = options;
  const repair = wanted === false ? null : { ...DEFAULT_REPAIR, ...(wanted === true ? {} : wanted) };
  check(
    repair === null || (repair.window >= 16 && repair.window <= 32_768 && (repair.window & (repair.window - 1)) === 0),
    'repair.window must be a power of two, 16 to 32768',
  );
  check(streamBytes >= STREAM_HIGH_WATER, `streamBytes must be at least ${STREAM_HIGH_WATER}`);
  check(Number.isInteger(mtu) && mtu >= MIN_MTU && mtu <= MAX_PACKET, `mtu must be ${MIN_MTU} to ${MAX_PACKET}`);
  check(
    keepalive.interval > 0 && keepalive.deadAfter > keepalive.interval,
    'keepalive: deadAfter must be above interval',
  );
  check(egress.flows > 0 && (egress.flows & (egress.flows - 1)) === 0, 'egress.flows must be a power of two');
  check(
    egress.maxFlows >= egress.flows && (egress.maxFlows & (egress.maxFlows - 1)) === 0,
    'egress.maxFlows must be a power of two, and not less than egress.flows',
  );
  const { handshakeTimeout = 5_000 * MS, stallTimeout = 30 * SECOND } = options;
  const { controlBytes = 8 * 1024 * 1024, highWater = DEFAULT_HIGH_WATER } = options;
  checkBounds({ handshakeTimeout, stallTimeout, controlBytes, highWater });
  check(egress.maxPackets > 0 && egress.quantum > 0, 'egress.maxPackets and egress.quantum must be above 0');
  const connection: ConnectionOptions = {
    clock,
    logger,
    buffers: sharedBuffers,
    handshakeTimeout,
    stallTimeout,
    streamBytes,
    controlBytes,
    repair,
    egress,
    egressBudget: sharedBudget,
  };
  return {
    clock,
    random,
    logger,
    connection,
    mtu,
    offload: options.offload ?? true,
    partialChecksums: options.partialChecksums ?? true,
    keepalive,
    highWater,
    agent: options.agent ?? 'kubebus',
  };
}

function check(ok: boolean, message: string): void {
  if (!ok) throw new KubeBusError('ERR_INVALID_ARGUMENT', message);
}

export type ResolvedOptions = ReturnType<typeof resolveOptions>;

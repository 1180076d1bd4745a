// The priority that a daemon runs with: an ordinary program, a real-time one, or real-time only beside bulk.
// docs/architecture.md "Priority" has the figures that the rule stands on.

import { InvalidArgumentError, Option } from 'commander';
import type { Logger } from '../../lib/core/index.js';
import { type Io, message, UsageError } from './common.js';

export type Priority = 'auto' | 'realtime' | 'ordinary';

export interface PriorityFlags {
  readonly nice?: number;
  readonly priority?: Priority;
}

/** Packets and bytes that a daemon has taken from its links and devices since it started. */
export interface Carried {
  readonly packets: number;
  readonly bytes: number;
}

/** Below this, whoever shares the processor with us is not in our way. */
const BULK_BYTES_PER_SECOND = 25_000_000;
/** Smaller ones gain more from gathering into batches than from being taken at once. */
const BULK_PACKET_BYTES = 4096;
/** Looks in a row without bulk that end it: a stream that waits for a retransmission has not ended. */
const LOOKS_WITHOUT = 4;
/** Time between two looks, in milliseconds: seldom while nothing has to be undone soon. */
const LOOK_MS = 250;
const LOOK_IN_BULK_MS = 50;

/** Tells bulk (super-packets of fast streams) from all else. No I/O: time in milliseconds and counters in, the answer out. */
export class BulkSense {
  bulk = false;
  private packets = 0;
  private bytes = 0;
  private without = 0;

  constructor(private at: number) {}

  /** The answer from now on, and the time until the next look. */
  look(now: number, { packets, bytes }: Carried): number {
    const newPackets = packets - this.packets;
    const newBytes = bytes - this.bytes;
    const fast = newBytes * 1000 >= BULK_BYTES_PER_SECOND * (now - this.at);
    const large = newBytes >= BULK_PACKET_BYTES * newPackets;
    this.at = now;
    this.packets = packets;
    this.bytes = bytes;
    this.without = fast && large && newPackets > 0 ? 0 : this.without + 1;
    this.bulk = this.without === 0 || (this.bulk && this.without < LOOKS_WITHOUT);
    return this.bulk ? LOOK_IN_BULK_MS : LOOK_MS;
  }
}

/** `--nice` and `--priority`, the same for every daemon. */
export function priorityOptions(): Option[] {
  return [
    new Option('--nice <n>', 'priority of the process, -20 (highest, needs CAP_SYS_NICE) to 19').argParser(niceLevel),
    new Option(
      '--priority <kind>',
      'when to run before all ordinary programs (needs CAP_SYS_NICE): auto (beside bulk), realtime (always) or ordinary (never) (default: auto, with --nice ordinary)',
    ).argParser(kind),
  ];
}

function niceLevel(text: string): number {
  const value = Number(text);
  if (!/^-?\d+$/.test(text) || value < -20 || value > 19) {
    throw new InvalidArgumentError(`not a whole number from -20 to 19: ${text}`);
  }
  return value;
}

function kind(text: string): Priority {
  if (text !== 'auto' && text !== 'realtime' && text !== 'ordinary') {
    throw new InvalidArgumentError(`not auto, realtime or ordinary: ${text}`);
  }
  return text;
}

/**
 * Applies the options. The function returned is given the counters once the daemon runs, and returns what ends the watching.
 * Without the right, `auto` stays ordinary; what was asked for by name is a `UsageError`.
 */
export function applyPriority(io: Io, o: PriorityFlags): (carried: () => Carried, logger: Logger) => () => void {
  const { nice, priority = nice === undefined ? 'auto' : 'ordinary' } = o;
  if (nice !== undefined && priority === 'realtime')
    throw new UsageError("option '--priority': realtime does not go with '--nice'");
  if (nice !== undefined) {
    try {
      io.setNice?.(nice);
    } catch (error) {
      throw new UsageError(`option '--nice': ${nice} needs CAP_SYS_NICE (${message(error)})`);
    }
  }
  if (priority === 'ordinary') return () => () => {};
  const able = io.setRealtime?.(true) === 0;
  if (!able && o.priority !== undefined)
    throw new UsageError(`option '--priority': ${priority} needs the addon and CAP_SYS_NICE`);
  if (!able || priority === 'realtime') return () => () => {};
  io.setRealtime!(false);
  return (carried, logger) => watch(carried, (on) => io.setRealtime!(on), logger);
}

function watch(carried: () => Carried, setRealtime: (on: boolean) => number, logger: Logger): () => void {
  const sense = new BulkSense(performance.now());
  let realtime = false;
  let timer: NodeJS.Timeout;
  const look = () => {
    const next = sense.look(performance.now(), carried());
    if (sense.bulk !== realtime) {
      const error = setRealtime(sense.bulk);
      if (error !== 0) return logger.warn({ error }, 'the priority can no longer be changed');
      realtime = sense.bulk;
    }
    timer = setTimeout(look, next).unref();
  };
  timer = setTimeout(look, LOOK_MS).unref();
  return () => {
    clearTimeout(timer);
    if (realtime) setRealtime(false);
  };
}

// What a file bench/micro/NAME.bench.ts exports: `export default { name, setup } satisfies MicroBench`. Each file runs
// in a process of its own, so one bench's types do not make another's calls megamorphic. Start from checksum.bench.ts.

/** A synchronous hot function, timed by benchmark.js. */
export interface SyncCase {
  readonly name: string;
  /** Operations that one call of `fn` does (packets in a batch, lookups in a loop). */
  readonly ops: number;
  /** What one operation is, in the singular: `packet`, `lookup`, `frame`. */
  readonly unit: string;
  /** Bytes that one operation handles; gives a column in GB/s. */
  readonly bytes?: number;
  fn(): void;
}

/** Something asynchronous: it times itself, because deferred benches of benchmark.js were seen to scatter by 170 %. */
export interface TimedCase {
  readonly name: string;
  readonly unit: string;
  readonly bytes?: number;
  /** Runs for about `seconds` and returns what it did in what time. */
  run(seconds: number): Promise<{ ops: number; seconds: number }>;
}

export type MicroCase = SyncCase | TimedCase;

export interface MicroBench {
  readonly name: string;
  /** With `smoke`, sizes are to be small: it must finish within a second or two. */
  setup(smoke: boolean): MicroCase[] | Promise<MicroCase[]>;
}

export interface MicroResult {
  readonly bench: string;
  readonly name: string;
  readonly unit: string;
  readonly opsPerSecond: number;
  readonly nsPerOp: number;
  readonly gigabytesPerSecond?: number;
  /** Relative margin of error in percent (benchmark.js, 95 %); absent for timed cases. */
  readonly rme?: number;
}

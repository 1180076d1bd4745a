#!/usr/bin/env node
// The command `kubebus`. Exit codes: 0 stopped in order, 1 failure, 2 mistake in the command line or configuration.

import { setPriority } from 'node:os';
import { loadNative } from '../native/loader.mjs';
import { main } from './cli/main.js';

const stop = new AbortController();
for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  // The first one stops in order, a second one at once.
  process.on(signal, () => (stop.signal.aborted ? process.exit(1) : stop.abort()));
}
process.exitCode = await main(process.argv.slice(2), {
  in: process.stdin,
  out: process.stdout,
  err: process.stderr,
  stop: stop.signal,
  setNice: (level) => setPriority(level),
  setRealtime: (on) => loadNative()?.setRealtime(on) ?? -1,
});
// What is still being written (a goodbye, the last line of a log) goes out first, but a peer that does not read cannot hold us.
setTimeout(() => process.exit(), 1_000).unref();

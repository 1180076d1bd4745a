export default {
  files: ['test/**/*.test.ts'],
  extensions: { ts: 'module' },
  nodeArguments: ['--import=tsx'],
  // tsx hooks the loader of the process, not of worker threads.
  workerThreads: false,
  concurrency: 2,
  timeout: '3m',
};

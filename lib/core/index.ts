export * from './bytes.js';
export * from './clock.js';
export * from './error.js';
export * from './log.js';
export * from './packet.js';
export * from './random.js';
export * from './slab.js';
export * from './token-bucket.js';

// Edge: undici, loaded when the first request needs it: it is a tenth of an edge's memory, and most edges proxy nothing.

import { createRequire } from 'node:module';

type Undici = typeof import('undici');

let loaded: Undici | null = null;

export function undici(): Undici {
  loaded ??= createRequire(import.meta.url)('undici') as Undici;
  return loaded;
}

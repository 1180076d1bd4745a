// Loads the compiled part: a prebuilt binary that fits, or what `npm install` compiled. Returns null when there is none.

import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

let loaded;

export function loadNative() {
  if (loaded === undefined) {
    loaded = null;
    if (process.platform === 'linux') {
      try {
        // From the checkout this file is in native/, from the package in dist/native/.
        let root = dirname(dirname(fileURLToPath(import.meta.url)));
        if (!existsSync(join(root, 'package.json'))) root = dirname(root);
        loaded = createRequire(import.meta.url)('node-gyp-build')(root);
      } catch {
        loaded = null;
      }
    }
  }
  return loaded;
}

// The choice of a congestion controller by name.

import type { CongestionController } from './congestion.js';
import { Cubic } from './cubic.js';
import { Reno } from './reno.js';

export function createController(
  kind: 'cubic' | 'reno',
  initialWindow: number,
  mss: number,
  paced: boolean,
): CongestionController {
  return kind === 'reno' ? new Reno(initialWindow, mss) : new Cubic(initialWindow, mss, paced);
}

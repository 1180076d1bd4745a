// Core: limits that were given, looked at before anything is opened.

import { KubeBusError } from './error.js';

/** Throws ERR_INVALID_ARGUMENT for what is no number above 0 (or, where none is allowed at all, 0): such a bound would bound nothing. */
export function checkBounds(bounds: Readonly<Record<string, number>>, prefix = '', none: 'none' | '' = ''): void {
  for (const [name, value] of Object.entries(bounds)) {
    if (Number.isFinite(value) && (value > 0 || (value === 0 && none === 'none'))) continue;
    const range = none === 'none' ? 'from' : 'above';
    throw new KubeBusError('ERR_INVALID_ARGUMENT', `${prefix}${name} must be a number ${range} 0, not ${value}`);
  }
}
